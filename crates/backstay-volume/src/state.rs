//! Sent state: what the sender remembers of the last acknowledged restore point of one volume.
//!
//! ```text
//! DIR/sent/<plan>/<volume>/current          which of the folders below is valid, for which point; checksummed
//!                          state-<n>/tree     chunks of its manifest
//!                          state-<n>/stats    one stat record per entry, in manifest order: the stat cache
//!                          state-<n>/sectors  64-bit fingerprint of every 4 KiB sector: what patches compare with
//!                          state-<n>/spool    while a scan runs: what it found
//! ```
//! 1. New state is written beside the old and adopted by one rename after the acknowledgement; a crash before
//!    leaves the old, a crash after the new (test `pending_state_counts_only_once_adopted`).
//! 2. Damage, a missing file, another key or other chunk parameters mean "no parent": everything is read again and
//!    nothing is ever wrong (test `damaged_sent_state_costs_a_full_read`). The sectors file carries no checksum: a
//!    wrong fingerprint makes a patch that the receiver refuses by its chunk's id.
//! 3. State of a release that wrote nothing out before it read says what the receiver holds, and not what is unchanged
//!    (test `state_of_an_earlier_release_proves_nothing_unchanged`).

mod elsewhere;
mod of_point;
mod parent;
mod pending;
mod sectors;
mod stats;
mod tree_log;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use backstay_types::{ChunkId, ChunkParams, Epoch, HashKey, RestorePointId};

pub use elsewhere::{Elsewhere, fingerprint_run};
pub use of_point::sent_of_point;
pub(crate) use parent::{Parent, ParentStream};
pub use pending::PendingState;
pub(crate) use pending::{Seal, StateWriter};
pub(crate) use sectors::{SectorWriter, Sectors, read_fingerprints, sector_count};
pub(crate) use stats::StatRecord;

use crate::VolumeError;

const MAGIC: &[u8; 4] = b"BSST";
/// 2: of what was read after everything was written out. Before, stat records tell nothing: a store through a mapping to a
/// page that was dirty when its file was read has changed no time stamp.
const VERSION: u8 = 2;
const VERSION_UNPROVEN: u8 = 1;
const CURRENT: &str = "current";

/// The sent state of one volume of one plan.
#[derive(Debug, Clone)]
pub struct SentState {
    dir: PathBuf,
    head: Option<Head>,
}

/// Contents of `current`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) folder: u64,
    pub(crate) point: RestorePointId,
    pub(crate) root: ChunkId,
    pub(crate) entries: u64,
    /// When the scan began, in seconds; an inode changed after this less a margin is read again. 0 where the stat records
    /// tell nothing: everything is read once, and what the receiver holds is not offered.
    pub(crate) scan_start: i64,
    /// Device the live tree was read from; 0 where a snapshot was read, whose device number means nothing.
    pub(crate) dev: u64,
    /// Ties the state to a key and chunk parameters.
    pub(crate) pair_mark: u64,
    pub(crate) tree_bytes: u64,
    pub(crate) stats_crc: u32,
}

impl SentState {
    /// Opens the state in `dir`, which is made if it does not exist. Damage is logged and means no parent.
    pub fn open(dir: &Path) -> Result<Self, VolumeError> {
        fs::create_dir_all(dir).map_err(|source| VolumeError::io("create", dir, source))?;
        let path = dir.join(CURRENT);
        let head = match fs::read(&path) {
            Ok(bytes) => Head::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(VolumeError::io("read", &path, source)),
        };
        if head.is_none() && path.exists() {
            tracing::warn!(path = %path.display(), "sent state is damaged; the next cycle reads everything");
        }
        Ok(Self { dir: dir.to_owned(), head })
    }

    /// The restore point the state belongs to: the parent of the next.
    pub fn parent_id(&self) -> Option<RestorePointId> {
        self.head.map(|head| head.point)
    }

    /// Drops the state: the next cycle reads everything.
    pub fn forget(&self) -> Result<(), VolumeError> {
        let path = self.dir.join(CURRENT);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(VolumeError::io("remove", &path, source))
            }
            _ => Ok(()),
        }
    }

    /// Moves the recorded start of the scan, which makes every inode old enough to be trusted.
    #[cfg(test)]
    pub(crate) fn pretend_scanned_later(&self, secs: i64) -> io::Result<()> {
        let Some(mut head) = self.head else { return Ok(()) };
        head.scan_start += secs;
        fs::write(self.dir.join(CURRENT), head.encode())
    }

    pub(crate) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn folder(&self, number: u64) -> PathBuf {
        self.dir.join(format!("state-{number}"))
    }
}

/// Marks state with what its chunk ids and cuts depend on, without revealing the key.
pub(crate) fn pair_mark(key: &HashKey, params: &ChunkParams) -> u64 {
    let mut text = b"sent state".to_vec();
    for part in [params.min_bytes, params.avg_bytes, params.max_bytes, params.block_bytes] {
        text.extend_from_slice(&part.to_le_bytes());
    }
    text.extend_from_slice(&params.seed.to_le_bytes());
    first_u64(&key.chunk_id(&text).0)
}

pub(crate) fn first_u64(bytes: &[u8; 32]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
}

impl Head {
    /// Magic, version, eight numbers of 8 bytes, the root, and a CRC-32C over all.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        let numbers = [
            self.folder,
            self.point.epoch.0,
            self.point.number,
            self.entries,
            self.scan_start.cast_unsigned(),
            self.dev,
            self.pair_mark,
            self.tree_bytes,
            u64::from(self.stats_crc),
        ];
        numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        bytes.extend_from_slice(&self.root.0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (version, mut rest) = content.strip_prefix(MAGIC)?.split_first()?;
        if ![VERSION, VERSION_UNPROVEN].contains(version) {
            return None;
        }
        let mut number = || {
            let (first, tail) = rest.split_first_chunk::<8>()?;
            rest = tail;
            Some(u64::from_le_bytes(*first))
        };
        let (folder, epoch, count, entries) = (number()?, number()?, number()?, number()?);
        let (scan_start, dev, pair_mark, tree_bytes) = (number()?, number()?, number()?, number()?);
        let stats_crc = u32::try_from(number()?).ok()?;
        Some(Self {
            folder,
            point: RestorePointId { epoch: Epoch(epoch), number: count },
            root: ChunkId(rest.try_into().ok()?),
            entries,
            scan_start: if *version == VERSION { scan_start.cast_signed() } else { 0 },
            dev,
            pair_mark,
            tree_bytes,
            stats_crc,
        })
    }
}
