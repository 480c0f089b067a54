//! Clones of a replica: files that share its blocks, so that a second copy of a volume costs neither time nor room for
//! its content.
//!
//! What is cloned is the replica as it stands: whoever calls keeps it from being written meanwhile.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use backstay_types::manifest::{Entry, NodeKind, RelPath};
use rustix::fs::{Mode, OFlags};

use super::remove::remove;
use crate::error::shown;
use crate::fs::{FolderStack, Stat, safe};
use crate::{Progress, VolumeError};

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Files that are made to try a clone, and removed.
const PROBES: [&str; 2] = [".backstay-probe-from", ".backstay-probe-to"];

/// Whether what is in `replica`, a folder or an image, can be cloned into `folder`: both are of one file system, and it
/// clones. A device node has no file system to clone in.
pub fn clones_work(replica: &Path, folder: &Path) -> bool {
    let (Ok(from), Ok(to)) = (std::fs::metadata(replica), std::fs::metadata(folder)) else { return false };
    let is_clonable = from.is_dir() || from.is_file();
    is_clonable && from.dev() == to.dev() && probe(folder).is_ok()
}

fn probe(folder: &Path) -> io::Result<()> {
    let [from, to] = PROBES.map(|name| folder.join(name));
    let tried = || {
        create(&from)?.write_all(&[1; 4096])?;
        rustix::fs::ioctl_ficlone(create(&to)?, File::open(&from)?)?;
        Ok(())
    };
    let outcome = tried();
    for path in [from, to] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    outcome
}

fn create(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Clones the content of one file of a replica.
pub(super) fn clone_content(donor: &mut FolderStack, entry: &Entry, file: &File) -> Result<(), VolumeError> {
    let path = &entry.path;
    let name = donor.go_to_parent(path)?;
    let fail = |action, source: io::Error| VolumeError::at(action, donor.shown_root(), path, source);
    let from = rustix::fs::openat(donor.current(), name, READ, Mode::empty())
        .map_err(|source| fail("open", source.into()))?;
    let stat = Stat::of_fd(&from).map_err(|source| fail("stat", source.into()))?;
    if !stat.is_file() || entry.kind != (NodeKind::File { size: stat.size }) {
        return Err(VolumeError::Drifted {
            path: shown(donor.shown_root(), path),
            why: "it is not the file that was applied",
        });
    }
    rustix::fs::ioctl_ficlone(file, &from).map_err(|source| fail("clone", source.into()))
}

/// Clones an image to a file that does not exist.
pub(crate) fn clone_image(replica: &Path, to: &Path, progress: &Progress) -> Result<u64, VolumeError> {
    let fail = |action, path: &Path, source: io::Error| VolumeError::io(action, path, source);
    let from = File::from(safe::open(replica, READ, Mode::empty())?);
    let size = from.metadata().map_err(|source| fail("stat", replica, source))?.len();
    let file = File::from(safe::create_new(to)?);
    rustix::fs::ioctl_ficlone(&file, &from).map_err(|source| fail("clone", replica, source.into()))?;
    file.sync_all().map_err(|source| fail("sync", to, source))?;
    progress.add_entry();
    Ok(size)
}

/// Removes a folder or file with all that is below it, folders that deny entry to their owner as well; it is no error
/// if it is not there. Follows no links.
pub fn remove_tree(path: &Path) -> Result<(), VolumeError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        let path = path.display().to_string();
        return Err(VolumeError::WrongKind { path, expected: "something inside a folder" });
    };
    match FolderStack::open(parent) {
        Err(error) if error.is_missing() => Ok(()),
        Err(error) => Err(error),
        Ok(mut stack) => {
            let name = RelPath::parse(name.as_bytes())?;
            remove(&mut stack, name.as_bytes())
        }
    }
}
