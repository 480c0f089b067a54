//! What can go wrong in a store, in the operator's words.

use std::io;
use std::path::{Path, PathBuf};

use backstay_types::frame::batch::BatchError;
use backstay_types::point::PointError;
use backstay_types::{ChunkId, Class, Classify, PackId, PairId, PlanName, RestorePointId};

/// A failure of the store. The text completes "failed to …" behind the operation the caller names.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done, such as `read`.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk, or the quota, is full.
    #[error("no space left on the file system of {path}", path = path.display())]
    NoSpace {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// Another process has the store.
    #[error("store {path} is in use by another process", path = path.display())]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// Another store than the one this site's restore points are in, or none.
    #[error("store {path} is not the one that holds this site's restore points: expected {expected}, found {}",
        found.as_deref().unwrap_or("none"), path = path.display())]
    OtherStore {
        /// The store's folder.
        path: PathBuf,
        /// The name that the site remembers.
        expected: String,
        /// The name that is there.
        found: Option<String>,
    },
    /// The catalog knows restore points of which no file is there.
    #[error("store {path} holds none of the {points} restore points of this site", path = path.display())]
    StoreGone {
        /// The store's folder.
        path: PathBuf,
        /// How many there should be.
        points: usize,
    },
    /// Garbage collection or verification runs already.
    #[error("garbage collection or verification of the store is running already")]
    MaintenanceRunning,
    /// A sync failed before; what the kernel dropped is unknown.
    #[error("store was stopped after a failed sync: {why}")]
    Poisoned {
        /// The sync that failed.
        why: String,
    },
    /// A pack's own structure is damaged.
    #[error("pack {pack}: {why}")]
    PackDamaged {
        /// Which pack.
        pack: PackId,
        /// What is wrong.
        why: String,
    },
    /// One chunk of a pack is damaged.
    #[error("chunk {id} in pack {pack}: {why}")]
    ChunkDamaged {
        /// Which chunk.
        id: ChunkId,
        /// Where it is.
        pack: PackId,
        /// What is wrong.
        why: String,
    },
    /// A chunk is not in the store.
    #[error("chunk {id} is not in the store")]
    ChunkMissing {
        /// Which chunk.
        id: ChunkId,
    },
    /// A run's own structure is damaged.
    #[error("index run {path}: {why}", path = path.display())]
    RunDamaged {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A chunk that came in is not what its id says.
    #[error("received chunk {id}: {why}")]
    ChunkRefused {
        /// The id it was sent under.
        id: ChunkId,
        /// What is wrong.
        why: &'static str,
    },
    /// A batch that came in does not decode.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The catalog cannot be used.
    #[error("catalog {path}: {why}", path = path.display())]
    Catalog {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A restore-point file cannot be read.
    #[error("restore-point file {path}: {source}", path = path.display())]
    PointFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PointError,
    },
    /// A restore point is not whole; nothing was committed.
    #[error("restore point {id} of plan {plan} is not complete: volume {volume}, path {path}: {why}")]
    Incomplete {
        /// The plan.
        plan: PlanName,
        /// The point.
        id: RestorePointId,
        /// The volume, or `bundle`.
        volume: String,
        /// The entry, `.` for the volume's root, `(manifest)` for the manifest's own chunks.
        path: String,
        /// What is missing or wrong.
        why: String,
    },
    /// A restore point that cannot be committed as it is.
    #[error("restore point {id} of plan {plan}: {why}")]
    PointRefused {
        /// The plan.
        plan: PlanName,
        /// The point.
        id: RestorePointId,
        /// Why not.
        why: &'static str,
    },
    /// The plan has no such restore point.
    #[error("plan {plan} has no restore point {id}{}", newest_text(*newest))]
    NoSuchPoint {
        /// The plan.
        plan: PlanName,
        /// What was asked for.
        id: RestorePointId,
        /// The newest there is.
        newest: Option<RestorePointId>,
    },
    /// A manifest does not decode, though its chunks are what their ids say.
    #[error("manifest {root}: {why}")]
    Manifest {
        /// Its root.
        root: ChunkId,
        /// What is wrong.
        why: String,
    },
    /// Garbage cannot be told from data while a restore point cannot be read.
    #[error("restore point {id} of plan {plan} cannot be walked: {source}")]
    Unwalkable {
        /// The plan.
        plan: PlanName,
        /// The point.
        id: RestorePointId,
        /// What stopped the walk.
        source: Box<StoreError>,
    },
    /// Nobody knows the hashing key of a pair.
    #[error("{LOST_KEY} (pair {pair})")]
    NoKey {
        /// Which pair.
        pair: PairId,
    },
    /// A bound of the store's own formats was reached.
    #[error("{what} is over its limit of {max}")]
    Limit {
        /// What grew too large.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// A broken assumption of our own.
    #[error("{what}")]
    Broken {
        /// What does not hold.
        what: &'static str,
    },
}

fn newest_text(newest: Option<RestorePointId>) -> String {
    newest.map_or_else(|| " and none at all".to_owned(), |newest| format!("; the newest is {newest}"))
}

/// What is said of everything whose ids nobody can check any more.
pub(crate) const LOST_KEY: &str = "the hashing key that its chunks were made with is lost";

impl StoreError {
    /// An I/O error with what was being done; a full disk becomes its own kind.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path: path.to_owned() }
            }
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }

    /// Whether stored data is at fault, rather than the way to it.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::PackDamaged { .. }
                | Self::ChunkDamaged { .. }
                | Self::ChunkMissing { .. }
                | Self::Manifest { .. }
        )
    }
}

impl Classify for StoreError {
    fn class(&self) -> Class {
        match self {
            Self::Io { .. } | Self::NoSpace { .. } | Self::Poisoned { .. } => Class::Transient,
            Self::Locked { .. } | Self::MaintenanceRunning => Class::Busy,
            Self::PackDamaged { .. }
            | Self::ChunkDamaged { .. }
            | Self::ChunkMissing { .. }
            | Self::RunDamaged { .. }
            | Self::ChunkRefused { .. }
            | Self::Manifest { .. }
            | Self::Catalog { .. } => Class::Corrupt,
            Self::PointFile { source, .. } => source.class(),
            Self::Unwalkable { source, .. } => source.class(),
            Self::Batch(source) => source.class(),
            Self::Incomplete { .. } => Class::Incomplete,
            Self::PointRefused { .. } => Class::Invalid,
            Self::NoKey { .. } => Class::Corrupt,
            Self::NoSuchPoint { .. } | Self::OtherStore { .. } | Self::StoreGone { .. } => Class::NotFound,
            Self::Limit { .. } => Class::LimitExceeded,
            Self::Broken { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io { .. } => "check the disk and the permissions of the site folder",
            Self::NoSpace { .. } => {
                "free space on that file system, or shorten retention and run `backstay gc`; the next cycle resumes"
            }
            Self::OtherStore { path, .. } | Self::StoreGone { path, .. } => {
                let file = path.join(crate::identity::BEGIN_ANEW);
                return Some(format!(
                    "is `[store] path` mounted? To go on with an empty store and without those restore points, make the \
                     file {}",
                    file.display()
                ));
            }
            Self::Poisoned { .. } => "check the disk, then restart the daemon and run `backstay verify`",
            Self::Locked { .. } => "stop the other daemon, or use its commands",
            Self::MaintenanceRunning => "wait for it to end, then try again",
            Self::PackDamaged { .. } | Self::ChunkDamaged { .. } | Self::ChunkMissing { .. } => {
                "run `backstay verify --repair`"
            }
            Self::RunDamaged { .. } | Self::Catalog { .. } => {
                "stop the daemon and run `backstay catalog rebuild`"
            }
            Self::PointFile { .. } => "run `backstay verify`; older restore points are not affected",
            Self::Unwalkable { .. } => "run `backstay verify --repair`, or delete that restore point",
            Self::Incomplete { .. } => "the last restore point stays; run the cycle again",
            Self::NoSuchPoint { .. } => "list them with `backstay restore-points PLAN`",
            Self::ChunkRefused { .. } | Self::Batch(_) | Self::Manifest { .. } => {
                "the peer sent bad data; check that both sites run the same version"
            }
            Self::NoKey { .. } => {
                "its file in the site's `pairs` folder is lost: put it back from a backup, or give the plan's restore \
                 points up with `backstay plan delete PLAN --purge`"
            }
            Self::PointRefused { .. } | Self::Limit { .. } | Self::Broken { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
