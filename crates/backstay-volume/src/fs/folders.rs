//! A path of open folders, to reach any entry of a tree in path order with a step or two.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use backstay_types::manifest::RelPath;
use rustix::fs::{Mode, OFlags};

use super::Stat;
use crate::VolumeError;

/// Folders kept open at once. Deeper ones are closed and found again through `..`, checked by identity, so that a
/// tree may be deeper than a process may have files open (1024 by default).
const OPEN_FOLDERS_MAX: usize = 96;

/// The folder a walk stands in, and those above it up to the root.
///
/// Every step opens one name with `O_NOFOLLOW`: a symbolic link anywhere on the way is an error, never followed.
pub(crate) struct FolderStack {
    shown_root: std::path::PathBuf,
    root: OwnedFd,
    levels: Vec<Level>,
    path: RelPath,
}

struct Level {
    name_len: usize,
    fd: Option<OwnedFd>,
    /// Device and inode, known once `fd` was closed.
    identity: (u64, u64),
}

impl FolderStack {
    /// Stands in the root.
    pub(crate) fn open(root: &Path) -> Result<Self, VolumeError> {
        Ok(Self::at(super::safe::open_folder(root)?, root))
    }

    /// Stands in a root that is open already; messages show it as `shown`.
    pub(crate) fn at(root: OwnedFd, shown: &Path) -> Self {
        Self { shown_root: shown.to_owned(), root, levels: Vec::new(), path: RelPath::root() }
    }

    /// The root as it was given, for messages.
    pub(crate) fn shown_root(&self) -> &Path {
        &self.shown_root
    }

    /// The folder it stands in.
    pub(crate) fn current(&self) -> BorrowedFd<'_> {
        self.levels.last().and_then(|level| level.fd.as_ref()).unwrap_or(&self.root).as_fd()
    }

    /// Its path.
    pub(crate) fn path(&self) -> &RelPath {
        &self.path
    }

    /// Goes into a folder of the current one.
    pub(crate) fn enter(&mut self, name: &[u8]) -> Result<(), VolumeError> {
        let path = self.path.join(name)?;
        let fd = rustix::fs::openat(self.current(), name, FOLDER, Mode::empty())
            .map_err(|source| VolumeError::at("open folder", &self.shown_root, &path, source))?;
        self.levels.push(Level { name_len: name.len(), fd: Some(fd), identity: (0, 0) });
        self.path = path;
        if let Some(at) = self.levels.len().checked_sub(OPEN_FOLDERS_MAX)
            && let Some(level) = self.levels.get_mut(at)
            && let Some(fd) = level.fd.take()
        {
            let stat =
                Stat::of_fd(&fd).map_err(|source| VolumeError::io("stat", &self.shown_root, source))?;
            level.identity = (stat.dev, stat.ino);
        }
        Ok(())
    }

    /// Goes up one folder.
    pub(crate) fn leave(&mut self) -> Result<(), VolumeError> {
        let Some(left) = self.levels.pop() else { return Ok(()) };
        let keep = self.path.as_bytes().len() - left.name_len;
        let parent = self.path.as_bytes().get(..keep.saturating_sub(1)).unwrap_or_default();
        self.path = RelPath::parse(parent)?;
        let (Some(level), Some(below)) = (self.levels.last_mut(), left.fd) else { return Ok(()) };
        if level.fd.is_none() {
            let fail = |source| VolumeError::at("open folder", &self.shown_root, &self.path, source);
            let fd = rustix::fs::openat(&below, "..", FOLDER, Mode::empty()).map_err(fail)?;
            let stat = Stat::of_fd(&fd).map_err(fail)?;
            if (stat.dev, stat.ino) != level.identity {
                return Err(VolumeError::Unsettled {
                    path: crate::error::shown(&self.shown_root, &self.path),
                });
            }
            level.fd = Some(fd);
        }
        Ok(())
    }

    /// Goes to the folder that holds `path` and returns the name of `path` in it; empty for the root itself.
    pub(crate) fn go_to_parent<'a>(&mut self, path: &'a RelPath) -> Result<&'a [u8], VolumeError> {
        let bytes = path.as_bytes();
        let (folder, name) = match bytes.iter().rposition(|b| *b == b'/') {
            Some(at) => {
                let (folder, name) = bytes.split_at(at);
                (folder, name.get(1..).unwrap_or_default())
            }
            None => (&[][..], bytes),
        };
        self.go_to(folder)?;
        Ok(name)
    }

    /// Goes to a folder.
    pub(crate) fn go_to_folder(&mut self, path: &RelPath) -> Result<(), VolumeError> {
        self.go_to(path.as_bytes())
    }

    fn go_to(&mut self, folder: &[u8]) -> Result<(), VolumeError> {
        while !is_within(folder, self.path.as_bytes()) {
            self.leave()?;
        }
        let done = self.path.as_bytes().len();
        let rest = folder.get(done..).unwrap_or_default();
        for name in rest.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            self.enter(name)?;
        }
        Ok(())
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Whether `path` is `folder` or below it.
fn is_within(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty()
        || path.strip_prefix(folder).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}
