//! Read-only btrfs subvolume snapshots, by the `btrfs` command of btrfs-progs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Timespec;

use super::command::{Failure, run};
use crate::VolumeError;

/// A snapshot of a subvolume.
pub(crate) struct BtrfsSnapshot {
    source: PathBuf,
    path: PathBuf,
    /// The snapshot had to be made inside the volume: its root's modification time before.
    inside: Option<Timespec>,
    released: bool,
}

/// `BTRFS_SUPER_MAGIC`.
const MAGIC: u32 = 0x9123_683e;
/// The root folder of every subvolume (`BTRFS_FIRST_FREE_OBJECTID`).
const ROOT_INO: u64 = 256;
const TIMEOUT: Duration = Duration::from_secs(120);

/// Whether a folder is the root of a btrfs subvolume.
pub(crate) fn is_subvolume(path: &Path) -> bool {
    let magic = rustix::fs::statfs(path).ok().and_then(|fs| u32::try_from(fs.f_type).ok());
    magic == Some(MAGIC) && rustix::fs::stat(path).is_ok_and(|stat| stat.st_ino == ROOT_INO)
}

impl BtrfsSnapshot {
    /// Takes a snapshot beside the subvolume, or inside it where there is no such place on the file system.
    pub(super) fn take(source: &Path, name: &str) -> Result<Self, VolumeError> {
        let fail = |why: String| VolumeError::Snapshot {
            action: "take",
            provider: "btrfs",
            path: source.display().to_string(),
            why,
        };
        if !is_subvolume(source) {
            return Err(fail("it is not the root of a btrfs subvolume".to_owned()));
        }
        let source = std::fs::canonicalize(source).map_err(|e| fail(e.to_string()))?;
        let mtime = rustix::fs::stat(&source).map_err(|e| fail(e.to_string()))?;
        let mtime = Timespec { tv_sec: mtime.st_mtime, tv_nsec: mtime.st_mtime_nsec.try_into().unwrap_or(0) };
        let places =
            [source.parent().map(|parent| (parent.join(name), None)), Some((source.join(name), Some(mtime)))];
        let mut why = String::new();
        for (path, inside) in places.into_iter().flatten() {
            if path.exists() {
                delete(&path).map_err(|e| fail(format!("remove the one left at {}: {e}", path.display())))?;
            }
            let argv: [&OsStr; 6] = [
                OsStr::new("btrfs"),
                OsStr::new("subvolume"),
                OsStr::new("snapshot"),
                OsStr::new("-r"),
                source.as_os_str(),
                path.as_os_str(),
            ];
            match run(&argv, &[], TIMEOUT) {
                Ok(_) => {
                    let snapshot = Self { source, path, inside, released: false };
                    snapshot.restore_mtime();
                    return Ok(snapshot);
                }
                Err(error) => why = error.to_string(),
            }
        }
        Err(fail(why))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn release(&mut self) -> Result<(), VolumeError> {
        if self.released {
            return Ok(());
        }
        self.released = true;
        let deleted = delete(&self.path);
        self.restore_mtime();
        deleted.map_err(|why| VolumeError::Snapshot {
            action: "release",
            provider: "btrfs",
            path: self.source.display().to_string(),
            why: why.to_string(),
        })
    }

    /// The snapshot is not part of the volume: making and removing it must not show in its root.
    fn restore_mtime(&self) {
        let Some(mtime) = self.inside else { return };
        let atime = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let times = rustix::fs::Timestamps { last_access: atime, last_modification: mtime };
        let result =
            std::fs::File::open(&self.source).and_then(|root| Ok(rustix::fs::futimens(root, &times)?));
        if let Err(error) = result {
            tracing::warn!(path = %self.source.display(), %error, "cannot restore the volume's modification time");
        }
    }
}

fn delete(path: &Path) -> Result<(), Failure> {
    let argv = [OsStr::new("btrfs"), OsStr::new("subvolume"), OsStr::new("delete"), path.as_os_str()];
    run(&argv, &[], TIMEOUT).map(|_| ())
}
