//! Who has a volume open: processes (open files, working and root folders, programs, mappings), file systems mounted on it,
//! loop devices and device mappings made of it.
//!
//! Backstay writes into a volume that an application may still believe to be its own; here that application is found and
//! named. One look at all processes and mounts answers for all volumes of a plan.
//!
//! 1. A file is known by the file system it is on and its place there, so that one opened through another mount, such as
//!    that of a container, is found as well (test `a_writer_behind_another_mount_is_found`).
//! 2. Our own process does not count, nor does a handle that reads and writes nothing (`O_PATH`).
//! 3. What cannot be looked at is no reason to refuse: a process that has just ended, or one of another user where the
//!    daemon is not root.
//!
//! Left to others: what follows from it. Not found: what other machines have open (a shared disk, NFS), and who comes after
//! the look.

mod device;
mod mount;
mod process;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use self::device::Devices;
use self::mount::{Mounts, OnFileSystem};

/// Users that are named; the rest would only repeat the reason.
pub(crate) const NAMED_MAX: usize = 8;

/// Who counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    /// Whoever has anything open: what is there was written by an application of this side, which may believe that it
    /// still runs.
    Everybody,
    /// Whoever can write: readers of a replica are welcome.
    Writers,
    /// Processes that can write. A file system that is mounted writes nothing that was acknowledged by itself.
    WritingProcesses,
}

/// Somebody who has a volume open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// The process, if it is one.
    pub(crate) pid: Option<u32>,
    /// Its command, or what else it is.
    who: String,
    /// What it has, such as `/srv/db/base/1 open for writing`.
    what: String,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "{} (pid {pid}) has {}", self.who, self.what),
            None => write!(f, "{} {}", self.who, self.what),
        }
    }
}

/// Everybody who counts and has one of `places` open, but the processes in `but`. Blocks.
pub(crate) fn users(places: &[PathBuf], counts: Counts, but: &BTreeSet<u32>) -> io::Result<Vec<User>> {
    let own = Mounts::of(Path::new("/proc/self/mountinfo"))?;
    let mut targets = Vec::new();
    for place in places {
        targets.extend(Target::of(place, &own)?);
    }
    let mut found = Vec::new();
    if !targets.is_empty() {
        let mut skip = but.clone();
        skip.insert(std::process::id());
        if counts != Counts::WritingProcesses {
            device::find(&targets, &own, counts, &mut found)?;
        }
        process::find(&targets, counts, &skip, &mut found)?;
    }
    Ok(found)
}

/// A volume, as it is recognised.
struct Target {
    /// As the operator knows it.
    path: PathBuf,
    on: Option<OnFileSystem>,
    kind: Kind,
}

enum Kind {
    /// A folder, and all below it.
    Tree,
    /// An image: one file, by its device and inode.
    File { dev: u64, ino: u64 },
    /// A block device, with its partitions.
    Device(Devices),
}

impl Target {
    /// `None` if there is nothing at that place.
    fn of(place: &Path, own: &Mounts) -> io::Result<Option<Self>> {
        let path = match place.canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let meta = fs::metadata(&path)?;
        let kind = if meta.file_type().is_block_device() {
            Kind::Device(Devices::of(meta.rdev()))
        } else if meta.is_dir() {
            Kind::Tree
        } else {
            Kind::File { dev: meta.dev(), ino: meta.ino() }
        };
        let on = own.locate(&path);
        Ok(Some(Self { path, on, kind }))
    }

    /// Whether a file is this volume, or of it. `on`: where it is; `meta`: what is there now.
    fn holds(&self, on: Option<&OnFileSystem>, meta: Option<&fs::Metadata>) -> bool {
        match &self.kind {
            Kind::Tree => match (&self.on, on) {
                (Some(root), Some(on)) => on.is_in(root),
                _ => false,
            },
            Kind::File { dev, ino } => {
                meta.is_some_and(|meta| (meta.dev(), meta.ino()) == (*dev, *ino))
                    || on.is_some_and(|on| self.on.as_ref() == Some(on))
            }
            Kind::Device(devices) => {
                let is_it =
                    |meta: &fs::Metadata| meta.file_type().is_block_device() && devices.contains(meta.rdev());
                meta.is_some_and(is_it) || on.is_some_and(|on| on.is_backed_by(devices))
            }
        }
    }

    /// Whether it is told by what is at a path rather than by the path alone.
    const fn needs_meta(&self) -> bool {
        !matches!(self.kind, Kind::Tree)
    }
}

#[cfg(test)]
mod tests;
