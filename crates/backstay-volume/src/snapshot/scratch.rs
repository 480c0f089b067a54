//! The folder that clones and subvolume snapshots stand in: on the volume's file system, beside its root where that is
//! possible, else inside it.
//!
//! The folder around it may be a tenant's, who can move it or put something else in its place.
//!
//! 1. It is made for root alone and held open: what is made, read or removed in it goes by the open folder and never by
//!    a path through the tenant's (test `a_swapped_scratch_folder_changes_nothing`).
//! 2. What bears its name already is removed only if it is a folder of ours that a killed cycle left, as recorded; anything
//!    else stays, and another name is taken (test `what_somebody_put_in_the_place_of_a_snapshot_stays`).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::command::run;
use super::duty::{Duty, DutyFile};
use crate::VolumeError;
use crate::fs::safe;
use crate::walk::SCRATCH_MARK;

/// Names tried when the first is taken.
const NAMES_MAX: u32 = 16;
/// Inode of the root folder of every btrfs subvolume (`BTRFS_FIRST_FREE_OBJECTID`).
pub(super) const SUBVOLUME_INO: u64 = 256;
const DELETE_TIMEOUT: Duration = Duration::from_secs(120);

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder of ours, gone when it is released or dropped.
pub(super) struct Scratch {
    around: OwnedFd,
    name: OsString,
    folder: OwnedFd,
    /// Modification time of the volume's root, if the folder had to be made inside it.
    inside: Option<Timestamps>,
    duty: DutyFile,
    released: bool,
}

/// Where a folder of ours is, for whoever removes it after a crash.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScratchDuty {
    around: PathBuf,
    name: String,
    /// Its inode; none where the crash came before it was made known.
    inode: Option<u64>,
}

impl Scratch {
    /// Makes the folder for the volume `source`, which is open as `root`: its root folder, or the image itself.
    pub(super) fn create(
        source: &Path,
        root: &OwnedFd,
        name: &str,
        duty: DutyFile,
    ) -> Result<Self, VolumeError> {
        let fail =
            |source_error: Errno| VolumeError::io("make a folder for a snapshot of", source, source_error);
        let stat = rustix::fs::fstat(root).map_err(fail)?;
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let shown = || std::fs::read_link(safe::path_of(root));
        let place = shown().map_err(|e| VolumeError::io("find the place of", source, e))?;
        if let Some(beside) = place.parent() {
            let around = safe::open_folder(beside)?;
            let is_same = rustix::fs::fstat(&around).is_ok_and(|around| around.st_dev == stat.st_dev);
            if is_same && let Ok(scratch) = Self::make(around, beside, name, None, duty.clone()) {
                return Ok(scratch);
            }
        }
        if !is_folder {
            let why = io::Error::other("no room for a clone beside the image");
            return Err(VolumeError::io("make a folder for a snapshot of", source, why));
        }
        let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0) };
        let atime = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: atime, last_modification: mtime };
        let around = rustix::fs::openat(root, ".", FOLDER, Mode::empty()).map_err(fail)?;
        Self::make(around, &place, name, Some(times), duty)
    }

    fn make(
        around: OwnedFd,
        place: &Path,
        name: &str,
        inside: Option<Timestamps>,
        duty: DutyFile,
    ) -> Result<Self, VolumeError> {
        let fail = |source: Errno| VolumeError::io("make a folder for a snapshot in", place, source);
        for number in 1..=NAMES_MAX {
            let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
            let recorded =
                |inode| Duty::Scratch(ScratchDuty { around: place.to_owned(), name: name.clone(), inode });
            if rustix::fs::statat(&around, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                tracing::warn!(place = %place.display(), name, "not removed: it was not made by this site; another name is taken");
                continue;
            }
            duty.write(&recorded(None))?;
            match rustix::fs::mkdirat(&around, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(source) => {
                    duty.clear()?;
                    return Err(fail(source));
                }
            }
            // What was put in its place since is refused: a link by the flags, a folder of others by its owner, and
            // one of ours that is in use by what is in it.
            let folder = rustix::fs::openat(&around, &name, FOLDER, Mode::empty()).map_err(fail)?;
            let inode = private_inode(&folder).map_err(fail)?;
            if !entries(&folder).map_err(fail)?.is_empty() {
                return Err(fail(Errno::NOTEMPTY));
            }
            // A walk that meets it leaves it out by this.
            rustix::fs::fsetxattr(&folder, SCRATCH_MARK, b"1", XattrFlags::empty()).map_err(fail)?;
            duty.write(&recorded(Some(inode)))?;
            let name = OsString::from(name);
            let scratch = Self { around, name, folder, inside, duty, released: false };
            scratch.restore_mtime().map_err(|e| VolumeError::io("set the time of", place, e))?;
            return Ok(scratch);
        }
        Err(fail(Errno::EXIST))
    }

    /// The folder, for this process and its children: nobody but root can put anything into it.
    pub(super) fn path(&self) -> PathBuf {
        safe::path_of(&self.folder)
    }

    /// The open folder once more, for whoever fills it.
    pub(super) fn folder(&self) -> io::Result<OwnedFd> {
        self.folder.try_clone()
    }

    /// Makes a file in it.
    pub(super) fn create_new(&self, name: &str) -> io::Result<File> {
        create_new(&self.folder, name)
    }

    /// Opens a file in it.
    pub(super) fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.folder, name, flags, Mode::empty())?))
    }

    /// Removes a file in it.
    pub(super) fn remove_file(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.folder, name, AtFlags::empty())?)
    }

    /// The folder is not part of the volume: making and removing it must not show in its root.
    fn restore_mtime(&self) -> io::Result<()> {
        match &self.inside {
            Some(times) => Ok(rustix::fs::futimens(&self.around, times)?),
            None => Ok(()),
        }
    }

    /// Removes it with all that is in it.
    pub(super) fn release(&mut self) -> Result<(), VolumeError> {
        if self.released {
            return Ok(());
        }
        self.released = true;
        empty(&self.folder)?;
        let fail = |source: io::Error| VolumeError::io("remove", Path::new(&self.name), source);
        remove_folder(&self.around, &self.name, &self.folder).map_err(|e| fail(e.into()))?;
        self.restore_mtime().map_err(fail)?;
        self.duty.clear()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!(%error, "a snapshot's folder is left behind; the next cycle removes it");
        }
    }
}

impl ScratchDuty {
    /// Removes what is left, if it is what was made.
    pub(super) fn settle(&self) -> Result<(), VolumeError> {
        let shown = self.around.join(&self.name);
        let around = match safe::open_folder(&self.around) {
            Ok(around) => around,
            // The volume is gone, or not mounted: then the record counts for nothing.
            Err(error) if error.is_missing() => return Ok(()),
            Err(error) => return Err(error),
        };
        let stat = rustix::fs::fstat(&around).map_err(|e| VolumeError::io("stat", &self.around, e))?;
        let folder = match rustix::fs::openat(&around, &self.name, FOLDER, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(()),
            Err(source) => return Err(VolumeError::io("open", &shown, source)),
        };
        let is_ours = match (private_inode(&folder), self.inode) {
            (Ok(found), Some(made)) => found == made,
            // Killed between the making and the record of it: then there is nothing in it yet.
            (Ok(_), None) => entries(&folder).is_ok_and(|entries| entries.is_empty()),
            (Err(_), _) => false,
        };
        if !is_ours {
            tracing::warn!(path = %shown.display(), "left alone: it is not the folder that this site made there");
            return Ok(());
        }
        empty(&folder)?;
        remove_folder(&around, OsStr::new(&self.name), &folder)
            .map_err(|e| VolumeError::io("remove", &shown, e))?;
        let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0) };
        let atime = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: atime, last_modification: mtime };
        rustix::fs::futimens(&around, &times).map_err(|e| VolumeError::io("set the time of", &self.around, e))
    }
}

/// Makes a file in a folder of ours.
pub(super) fn create_new(folder: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?))
}

/// Inode of a folder that is this user's alone.
fn private_inode(folder: &OwnedFd) -> rustix::io::Result<u64> {
    let stat = rustix::fs::fstat(folder)?;
    let is_private = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o7777 == 0o700;
    if is_private { Ok(stat.st_ino) } else { Err(Errno::PERM) }
}

fn entries(folder: &OwnedFd) -> rustix::io::Result<Vec<OsString>> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Removes the files and subvolumes in a folder of ours; there is nothing else in one.
fn empty(folder: &OwnedFd) -> Result<(), VolumeError> {
    let path = safe::path_of(folder);
    for name in entries(folder).map_err(|e| VolumeError::io("list", &path, e))? {
        let shown = path.join(&name);
        let stat = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| VolumeError::io("stat", &shown, e))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && stat.st_ino == SUBVOLUME_INO {
            let argv = ["btrfs", "subvolume", "delete"].map(OsStr::new);
            let argv: Vec<&OsStr> = argv.into_iter().chain([shown.as_os_str()]).collect();
            run(&argv, &[], DELETE_TIMEOUT).map_err(|why| {
                VolumeError::io("delete subvolume", &shown, io::Error::other(why.to_string()))
            })?;
        } else {
            rustix::fs::unlinkat(folder, &name, AtFlags::empty())
                .map_err(|e| VolumeError::io("remove", &shown, e))?;
        }
    }
    Ok(())
}

/// Removes the empty folder `folder` if it still bears its name. One that was moved away is empty, and its mover's.
fn remove_folder(around: &OwnedFd, name: &OsStr, folder: &impl AsFd) -> rustix::io::Result<()> {
    let made = rustix::fs::fstat(folder)?;
    match rustix::fs::statat(around, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino) => {
            rustix::fs::unlinkat(around, name, AtFlags::REMOVEDIR)
        }
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}
