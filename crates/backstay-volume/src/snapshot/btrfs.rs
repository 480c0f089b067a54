//! Read-only btrfs subvolume snapshots, by the `btrfs` command of btrfs-progs.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::run;
use super::duty::DutyFile;
use super::scratch::{SUBVOLUME_INO, Scratch};
use crate::VolumeError;
use crate::fs::safe;

/// A snapshot of a subvolume, in a folder of ours: whatever happens to the folders around it, nobody but root can put
/// something else in its place (test `a_planted_link_deletes_no_subvolume`).
pub(crate) struct BtrfsSnapshot {
    source: PathBuf,
    scratch: Scratch,
}

/// `BTRFS_SUPER_MAGIC`.
const MAGIC: u32 = 0x9123_683e;
const TIMEOUT: Duration = Duration::from_secs(120);
/// Name of the snapshot in its folder.
const SNAPSHOT: &str = "snapshot";

/// Whether an open folder is the root of a btrfs subvolume.
pub(crate) fn is_subvolume(root: &OwnedFd) -> bool {
    let magic = rustix::fs::fstatfs(root).ok().and_then(|fs| u32::try_from(fs.f_type).ok());
    magic == Some(MAGIC) && rustix::fs::fstat(root).is_ok_and(|stat| stat.st_ino == SUBVOLUME_INO)
}

impl BtrfsSnapshot {
    /// Takes a snapshot beside the subvolume, or inside it where there is no such place on the file system.
    pub(super) fn take(source: &Path, name: &str, duty: DutyFile) -> Result<Self, VolumeError> {
        let fail = |why: String| VolumeError::Snapshot {
            action: "take",
            provider: "btrfs",
            path: source.display().to_string(),
            why,
        };
        let root = safe::open_folder(source)?;
        if !is_subvolume(&root) {
            return Err(fail("it is not the root of a btrfs subvolume".to_owned()));
        }
        let scratch = Scratch::create(source, &root, name, duty).map_err(|e| fail(e.to_string()))?;
        let (from, to) = (safe::path_of(&root), scratch.path().join(SNAPSHOT));
        let verb = ["btrfs", "subvolume", "snapshot", "-r"].map(OsStr::new);
        let argv: Vec<&OsStr> = verb.into_iter().chain([from.as_os_str(), to.as_os_str()]).collect();
        run(&argv, &[], TIMEOUT).map_err(|error| fail(error.to_string()))?;
        Ok(Self { source: source.to_owned(), scratch })
    }

    /// The root of the snapshot.
    pub(super) fn path(&self) -> PathBuf {
        self.scratch.path().join(SNAPSHOT)
    }

    pub(super) fn release(&mut self) -> Result<(), VolumeError> {
        self.scratch.release().map_err(|why| VolumeError::Snapshot {
            action: "release",
            provider: "btrfs",
            path: self.source.display().to_string(),
            why: why.to_string(),
        })
    }
}
