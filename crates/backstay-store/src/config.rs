//! Where a store is and the few things about it that can be set.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use backstay_types::{Time, limits};

/// What was just made durable by a commit, in the order of [`crate::Ingest::commit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitStep {
    /// Every pack the point stands on is synced.
    PacksSynced,
    /// The session's pack is sealed under its final name, and its folder synced.
    PackSealed,
    /// The restore-point file is synced under its temporary name.
    PointWritten,
    /// The restore-point file has its final name, and its folder is synced.
    PointRenamed,
    /// The catalog is flushed.
    CatalogFlushed,
}

/// Called after each durable step; for crash tests, which copy the folder there.
pub type StepHook = Arc<dyn Fn(CommitStep) + Send + Sync>;

/// How to open a store.
#[derive(Clone)]
pub struct StoreConfig {
    /// The site folder.
    pub dir: PathBuf,
    /// Folder of packs, runs and restore points, if not `DIR/store`.
    pub store_dir: Option<PathBuf>,
    /// Bytes of decoded chunks kept in memory by all readers together.
    pub cache_bytes: usize,
    /// Chunks are refused when the file system has less than this left, so that the catalog, the restore-point
    /// file and garbage collection still have room.
    pub reserve_bytes: u64,
    /// A pack is sealed at this size.
    pub pack_bytes: u64,
    /// Entries in memory at which they are written as a run.
    pub run_entries: usize,
    /// The time now.
    pub clock: fn() -> Time,
    /// Called after each durable step of a commit.
    pub on_step: Option<StepHook>,
}

impl StoreConfig {
    /// The defaults, for this site folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            store_dir: None,
            cache_bytes: 16 << 20,
            // One catalog segment is 512 KiB; a run of 64 Ki entries 3 MiB; a trailer 3 MiB. Twice that.
            reserve_bytes: 16 << 20,
            pack_bytes: limits::PACK_BYTES_TARGET,
            // 64 Ki entries of about 100 bytes: 6.5 MB.
            run_entries: 64 << 10,
            clock: wall_clock,
            on_step: None,
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.store_dir.clone().unwrap_or_else(|| self.dir.join("store"))
    }

    pub(crate) fn catalog(&self) -> PathBuf {
        self.dir.join("catalog")
    }
}

impl From<&Path> for StoreConfig {
    fn from(dir: &Path) -> Self {
        Self::new(dir)
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place of this crate that reads the wall clock")]
fn wall_clock() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
