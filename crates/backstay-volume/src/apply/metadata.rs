//! Owner, mode, attributes and times of what is at the target.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use backstay_types::manifest::{Entry, Mtime, NodeKind, Xattr};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RawMode, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::{Errno, Result};

use crate::fs::{Stat, TimesHeld, XattrReader, make_fd_equal, make_name_equal, set_on_fd};

/// How the attributes of something are brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attributes {
    /// It was just made and can have none that it did not get from us.
    Add,
    /// It may have others; those are removed.
    Compare,
}

/// Gives something open the attributes of an entry.
pub(super) fn set_fd(fd: impl AsFd, entry: &Entry, how: Attributes, xattrs: &mut XattrReader) -> Result<()> {
    let fd = fd.as_fd();
    let (uid, gid) = owner(entry);
    rustix::fs::fchown(fd, uid, gid)?;
    rustix::fs::fchmod(fd, mode(entry))?;
    match how {
        Attributes::Add => entry.xattrs.iter().try_for_each(|xattr| set_on_fd(fd, xattr))?,
        Attributes::Compare => make_fd_equal(xattrs, fd, &entry.xattrs)?,
    }
    rustix::fs::futimens(fd, &times(entry.mtime))
}

/// Gives a name in an open folder the attributes of an entry, without opening what is behind it.
pub(super) fn set_name(
    folder: impl AsFd,
    name: &[u8],
    entry: &Entry,
    xattrs: &mut XattrReader,
) -> Result<()> {
    let folder = folder.as_fd();
    let (uid, gid) = owner(entry);
    rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    // Links have no mode of their own.
    if !matches!(entry.kind, NodeKind::Symlink { .. }) {
        chmod_name(folder, name, mode(entry))?;
    }
    make_name_equal(xattrs, folder, name, &entry.xattrs)?;
    rustix::fs::utimensat(folder, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

/// Whether what is there has the attributes of an entry, as far as its file system can hold them. `found` is asked for only if the rest agrees.
pub(super) fn is_same(
    stat: &Stat,
    entry: &Entry,
    times: &TimesHeld,
    found: impl FnOnce() -> Result<Vec<Xattr>>,
) -> Result<bool> {
    let is_link = matches!(entry.kind, NodeKind::Symlink { .. });
    let same = (is_link || stat.mode == entry.mode)
        && stat.uid == entry.uid
        && stat.gid == entry.gid
        && stat.mtime == times.held(entry.mtime);
    Ok(same && found()? == entry.xattrs)
}

/// Changes the mode of a name that is not a link; a link put there meanwhile is not followed.
pub(super) fn chmod_name(folder: impl AsFd, name: &[u8], mode: Mode) -> Result<()> {
    let fd = open_path(folder, name)?;
    if Stat::of_fd(&fd)?.file_type == rustix::fs::FileType::Symlink {
        return Err(Errno::LOOP);
    }
    rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode)
}

/// Makes sure that a folder of our own can be listed and written to. Root needs no permission.
pub(super) fn make_enterable(folder: impl AsFd, name: &[u8]) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let stat = Stat::of_name(folder.as_fd(), name)?;
    if stat.is_folder() && stat.mode & 0o700 != 0o700 {
        return chmod_name(folder, name, Mode::from_raw_mode(RawMode::from(stat.mode | 0o700)));
    }
    Ok(())
}

fn open_path(folder: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

pub(super) fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(RawMode::from(entry.mode))
}

fn times(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: i64::from(mtime.nanos) },
    }
}
