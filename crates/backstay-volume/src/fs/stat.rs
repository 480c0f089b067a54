//! The facts of one inode, in our own types.

use std::os::fd::AsFd;

use backstay_types::manifest::{Device, Entry, Mtime, NodeKind, RelPath, Xattr};
use rustix::fs::{AtFlags, FileType};

/// What `stat` says of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) nlink: u64,
    pub(crate) file_type: FileType,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: Device,
    pub(crate) size: u64,
    /// Bytes on disk; less than `size` where there are holes.
    pub(crate) allocated: u64,
    pub(crate) mtime: Mtime,
    pub(crate) ctime: Mtime,
}

impl Stat {
    /// Of a name in an open folder; links are not followed.
    pub(crate) fn of_name(folder: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<Self> {
        rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map(Self::from)
    }

    /// Of something open.
    pub(crate) fn of_fd(fd: impl AsFd) -> rustix::io::Result<Self> {
        rustix::fs::fstat(fd).map(Self::from)
    }

    pub(crate) fn is_file(&self) -> bool {
        self.file_type == FileType::RegularFile
    }

    pub(crate) fn is_folder(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Whether two looks at one inode saw the same content and attributes.
    pub(crate) fn unchanged_since(&self, before: &Stat) -> bool {
        self.ino == before.ino
            && self.size == before.size
            && self.mtime == before.mtime
            && self.ctime == before.ctime
    }

    /// The manifest entry of this inode; with `links`, it is the first of several.
    pub(crate) fn entry(
        &self,
        path: RelPath,
        kind: NodeKind,
        links: Option<u64>,
        xattrs: Vec<Xattr>,
    ) -> Entry {
        let Self { mode, uid, gid, mtime, .. } = *self;
        Entry { path, kind, links, mode, uid, gid, mtime, xattrs }
    }
}

#[expect(clippy::unnecessary_cast, clippy::useless_conversion, reason = "field types differ between targets")]
impl From<rustix::fs::Stat> for Stat {
    fn from(stat: rustix::fs::Stat) -> Self {
        // Nanoseconds are below 10^9 and sizes are never negative: the conversions lose nothing.
        let time = |secs, nanos| Mtime { secs, nanos: u32::try_from(nanos).unwrap_or(0) };
        let raw = stat.st_mode as rustix::fs::RawMode;
        Self {
            dev: u64::from(stat.st_dev),
            ino: u64::from(stat.st_ino),
            nlink: u64::from(stat.st_nlink),
            file_type: FileType::from_raw_mode(raw),
            mode: u16::try_from(raw & 0o7777).unwrap_or(0),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: Device { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) },
            size: u64::try_from(stat.st_size).unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec),
        }
    }
}
