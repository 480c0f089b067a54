//! Which names are further links to a file already met.

use std::collections::HashMap;

use backstay_types::HashKey;
use backstay_types::manifest::{NodeKind, RelPath};

use crate::fs::Stat;
use crate::state::first_u64;

/// Groups of hard links met so far.
///
/// The number of a group comes from its first path, so that it is the same in every scan and on every site: the
/// first 64 bits of a keyed BLAKE3. Two of a million groups share one with probability 3 × 10⁻⁸.
///
/// Memory: 40 bytes for each group some of whose names were not met yet.
pub(crate) struct Links {
    key: HashKey,
    open: HashMap<u64, (u64, u64)>,
}

impl Links {
    pub(crate) fn new(key: HashKey) -> Self {
        Self { key, open: HashMap::new() }
    }

    /// The first name of a group vanished before it was read; the next name is the first.
    pub(crate) fn forget(&mut self, stat: &Stat) {
        self.open.remove(&stat.ino);
    }

    /// The kind of a regular file's entry.
    pub(crate) fn kind(&mut self, stat: &Stat, path: &RelPath) -> NodeKind {
        let size = stat.size;
        if stat.nlink < 2 {
            return NodeKind::File { size, links: None };
        }
        match self.open.get_mut(&stat.ino) {
            Some((group, left)) => {
                let group = *group;
                *left -= 1;
                if *left == 0 {
                    self.open.remove(&stat.ino);
                }
                NodeKind::HardLink { group }
            }
            None => {
                let group = first_u64(&self.key.chunk_id(path.as_bytes()).0);
                self.open.insert(stat.ino, (group, stat.nlink - 1));
                NodeKind::File { size, links: Some(group) }
            }
        }
    }
}
