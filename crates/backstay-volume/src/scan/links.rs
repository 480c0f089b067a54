//! Which names are further links to something already met.

use std::collections::HashMap;

use backstay_types::HashKey;
use backstay_types::manifest::RelPath;
use rustix::fs::FileType;

use crate::fs::Stat;
use crate::state::first_u64;

/// Groups of hard links met so far.
///
/// The number of a group comes from its first path, so that it is the same in every scan and on every site: the
/// first 64 bits of a keyed BLAKE3. Two of a million groups share one with probability 3 × 10⁻⁸.
///
/// Memory: 40 bytes for each group some of whose names were not met yet.
pub(super) struct Links {
    key: HashKey,
    open: HashMap<u64, Group>,
}

/// A group some of whose names were not met yet.
struct Group {
    number: u64,
    /// A name of another type found the inode freed and taken anew.
    file_type: FileType,
    /// Names not met yet.
    left: u64,
}

/// Where a name stands among those of its inode.
pub(super) enum Place {
    /// There is no other.
    Alone,
    /// It is the first of this group.
    First { group: u64 },
    /// It comes after the first of this group.
    Further { group: u64 },
}

impl Links {
    pub(super) fn new(key: HashKey) -> Self {
        Self { key, open: HashMap::new() }
    }

    /// The first name of a group vanished before it was read; the next name is the first.
    pub(super) fn forget(&mut self, stat: &Stat) {
        self.open.remove(&stat.ino);
    }

    /// Takes in a name of anything but a folder.
    pub(super) fn place(&mut self, stat: &Stat, path: &RelPath) -> Place {
        if stat.nlink < 2 {
            return Place::Alone;
        }
        match self.open.get_mut(&stat.ino) {
            Some(group) if group.file_type == stat.file_type => {
                let number = group.number;
                group.left -= 1;
                if group.left == 0 {
                    self.open.remove(&stat.ino);
                }
                Place::Further { group: number }
            }
            _ => {
                let number = first_u64(&self.key.chunk_id(path.as_bytes()).0);
                let group = Group { number, file_type: stat.file_type, left: stat.nlink - 1 };
                self.open.insert(stat.ino, group);
                Place::First { group: number }
            }
        }
    }
}
