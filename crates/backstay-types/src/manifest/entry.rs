//! One entry of a manifest, and the extents of a file's content.

use serde::{Deserialize, Serialize};

use super::RelPath;
use crate::ChunkId;

/// Modification time, to the nanosecond; seconds may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mtime {
    /// Seconds since 1970-01-01 UTC.
    pub secs: i64,
    /// Nanoseconds, below 1 000 000 000.
    pub nanos: u32,
}

/// One extended attribute; ACLs and capabilities are such attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// Full name with its namespace, such as `user.note` or `system.posix_acl_access`.
    pub name: Vec<u8>,
    /// Value as the kernel gives it.
    pub value: Vec<u8>,
}

/// Numbers of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// A folder.
    Directory,
    /// A regular file; its extents follow, in order, and cover `size` bytes exactly.
    File {
        /// Length in bytes.
        size: u64,
    },
    /// A further hard link to the entry whose `links` is `group`; what it is and its attributes are those of the first.
    HardLink {
        /// The group.
        group: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as bytes; never followed.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice(Device),
    /// A block device node inside a folder tree.
    BlockDevice(Device),
}

/// One object of a volume with its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where, below the volume's root.
    pub path: RelPath,
    /// What.
    pub kind: NodeKind,
    /// Set on the first of several hard links: a number unique in the manifest, which the others name. Never on a
    /// folder, nor on a further link.
    pub links: Option<u64>,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
}

/// A piece of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// Bytes of a chunk, the whole of it.
    Data {
        /// The chunk.
        id: ChunkId,
        /// Its length in bytes; never 0.
        len: u32,
    },
    /// Zeros, or a hole: the replica stays sparse there.
    Hole {
        /// Length in bytes; never 0.
        len: u64,
    },
}

impl Extent {
    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        match self {
            Extent::Data { len, .. } => *len as u64,
            Extent::Hole { len } => *len,
        }
    }

    /// Whether it covers nothing; such an extent is refused by the codec.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
