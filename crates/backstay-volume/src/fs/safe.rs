//! Opening an operator's path where others own folders on the way to it.
//!
//! The daemon is root, and the folder of a volume, of a replica or of a restore often lies in that of a tenant, who may
//! put a symbolic link in the place of any name there, at any moment.
//!
//! 1. Every name is opened by itself, from the folder before it, without following links; what was opened is used from
//!    then on, and no path is resolved a second time.
//! 2. A symbolic link on the way counts only if it belongs to root or to the user that the daemon runs as: one that a
//!    tenant has made says where the tenant wants root to go (test `a_link_of_somebody_else_is_not_followed`).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::VolumeError;

/// Links on one way, as the kernel has it (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a folder to read it.
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd, VolumeError> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens what is at the end of a path.
pub(crate) fn open(path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, VolumeError> {
    let (folder, name) = walk(path, LastLink::Follow, Missing::Fail)?;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // A root folder has no name of its own.
    let name = if name.is_empty() { OsStr::new(".") } else { &name };
    rustix::fs::openat(&folder, name, flags, mode).map_err(|source| VolumeError::io("open", path, source))
}

/// Opens the folder that the last name of a path is in, with those above it made where they are missing, and gives that
/// name. Nothing is said about what bears it.
pub(crate) fn make_parent(path: &Path) -> Result<(OwnedFd, OsString), VolumeError> {
    walk(path, LastLink::Leave, Missing::Make)
}

/// Makes the file at the end of a path, for nobody else to read. What bears its name, a link among others, is an error.
pub(crate) fn create_new(path: &Path) -> Result<OwnedFd, VolumeError> {
    let (folder, name) = make_parent(path)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&folder, &name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|source| VolumeError::io("create", path, source))
}

/// Opens a folder, which is made, for nobody else to read, with those above it, where it is missing.
pub(crate) fn open_or_make_folder(path: &Path) -> Result<OwnedFd, VolumeError> {
    match open_folder(path) {
        Err(error) if error.is_missing() => {}
        opened => return opened,
    }
    let (parent, name) = make_parent(path)?;
    match rustix::fs::mkdirat(&parent, &name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(source) => return Err(VolumeError::io("create", path, source)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&parent, &name, flags, Mode::empty())
        .map_err(|source| VolumeError::io("open", path, source))
}

/// A path by which this process, and its children while this process lives, reach what is open, and nothing else.
pub(crate) fn path_of(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_fd().as_raw_fd()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LastLink {
    Follow,
    Leave,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Fail,
    Make,
}

/// Goes to the folder of the last name.
fn walk(path: &Path, last: LastLink, missing: Missing) -> Result<(OwnedFd, OsString), VolumeError> {
    let fail = |source: Errno| VolumeError::io("open", path, source);
    let path = &std::path::absolute(path).map_err(|source| VolumeError::io("open", path, source))?;
    let root = || rustix::fs::open("/", STEP, Mode::empty()).map_err(fail);
    let (mut folder, mut ahead) = match of_open_folder(path) {
        // The link is the kernel's own, and leads to what is open whatever its name is by now.
        Some((open, rest)) => {
            (rustix::fs::open(open, STEP - OFlags::NOFOLLOW, Mode::empty()).map_err(fail)?, rest)
        }
        None => (root()?, names(path)),
    };
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        let is_last = ahead.is_empty();
        let target = match rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                if is_last && last == LastLink::Leave {
                    return Ok((folder, name));
                }
                if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
                    let path = path.display().to_string();
                    return Err(VolumeError::ForeignLink {
                        path,
                        link: name.display().to_string(),
                        uid: stat.st_uid,
                    });
                }
                rustix::fs::readlinkat(&folder, &name, Vec::new()).map_err(fail)?
            }
            Ok(_) | Err(Errno::NOENT) if is_last => return Ok((folder, name)),
            Ok(_) => {
                folder = rustix::fs::openat(&folder, &name, STEP, Mode::empty()).map_err(fail)?;
                continue;
            }
            Err(Errno::NOENT) if missing == Missing::Make => {
                make_folder(&folder, &name).map_err(fail)?;
                folder = rustix::fs::openat(&folder, &name, STEP, Mode::empty()).map_err(fail)?;
                continue;
            }
            Err(source) => return Err(fail(source)),
        };
        links += 1;
        if links > LINKS_MAX {
            return Err(fail(Errno::LOOP));
        }
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            folder = root()?;
        }
        for name in names(&target).into_iter().rev() {
            ahead.push_front(name);
        }
    }
    Ok((folder, OsString::new()))
}

/// A folder on the way, as others expect it: the umask is the daemon's, and this is not its state.
fn make_folder(folder: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
    match rustix::fs::mkdirat(folder, name, mode) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::fchmod(rustix::fs::openat(folder, name, flags, Mode::empty())?, mode)
}

/// A path that [`path_of`] gave, and the names below it.
fn of_open_folder(path: &Path) -> Option<(PathBuf, VecDeque<OsString>)> {
    let open = PathBuf::from(format!("/proc/{}/fd", std::process::id()));
    let below = path.strip_prefix(&open).ok()?;
    let mut names = names(below);
    let number = names.pop_front()?;
    Some((open.join(number), names))
}

/// The names of a path, `..` among them, which is a name of every folder.
fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, lchown, symlink};

    use super::*;
    use crate::tests::support::is_root;

    fn ino(fd: &OwnedFd) -> u64 {
        rustix::fs::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn paths_are_resolved_as_by_the_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        symlink("a", at("relative")).unwrap();
        symlink(at("a/b"), at("absolute")).unwrap();
        symlink("../../absolute", at("a/b/back")).unwrap();
        symlink("loop", at("loop")).unwrap();
        for path in ["a", "relative/b", "absolute", "a/b/../b", "a/b/back", "relative/b/back/../b"] {
            let expected = fs::metadata(at(path)).unwrap().ino();
            assert_eq!(ino(&open_folder(&at(path)).unwrap()), expected, "{path}");
        }
        assert_eq!(ino(&open_folder(Path::new("/")).unwrap()), fs::metadata("/").unwrap().ino());
        assert!(open_folder(&at("loop")).is_err());
        assert!(open_folder(&at("a/none")).unwrap_err().is_missing());
        let (folder, name) = make_parent(&at("relative/none")).unwrap();
        assert_eq!((ino(&folder), name), (fs::metadata(at("a")).unwrap().ino(), "none".into()));
        make_parent(&at("new/er/none")).unwrap();
        assert_eq!(fs::read_dir(at("new/er")).unwrap().count(), 0);
        // What is open is reached also when another bears its name.
        let (by_path, inode) = (path_of(&folder).join("b"), fs::metadata(at("a/b")).unwrap().ino());
        fs::rename(at("a"), at("moved")).unwrap();
        fs::create_dir_all(at("a/b")).unwrap();
        assert_eq!(ino(&open_folder(&by_path).unwrap()), inode);
    }

    #[test]
    fn a_link_of_somebody_else_is_not_followed() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("secret/b")).unwrap();
        fs::create_dir(at("tenant")).unwrap();
        for (name, target) in [("data", at("secret")), ("file", at("secret/f"))] {
            symlink(target, at("tenant").join(name)).unwrap();
            lchown(at("tenant").join(name), Some(65534), Some(65534)).unwrap();
        }
        fs::write(at("secret/f"), "x").unwrap();
        let refused = |outcome: Result<OwnedFd, VolumeError>| {
            assert!(matches!(outcome, Err(VolumeError::ForeignLink { uid: 65534, .. })), "{outcome:?}");
        };
        refused(open_folder(&at("tenant/data")));
        refused(open_folder(&at("tenant/data/b")));
        refused(open(&at("tenant/file"), OFlags::RDONLY, Mode::empty()));
        // The operator's own links are.
        lchown(at("tenant/data"), Some(0), Some(0)).unwrap();
        open_folder(&at("tenant/data/b")).unwrap();
    }
}
