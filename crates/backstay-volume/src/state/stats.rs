//! The stat cache: what an entry's inode looked like when it was read.

use backstay_types::manifest::Mtime;

use crate::fs::Stat;

/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = 40;

/// No fingerprints: not a file, or one too small for a patch.
const NO_SECTORS: u64 = u64::MAX;

/// The record of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StatRecord {
    pub(crate) ino: u64,
    pub(crate) ctime: Mtime,
    /// Whether the content held still while it was read; if not, it must be read again.
    pub(crate) settled: bool,
    /// Index of the file's first fingerprint.
    pub(crate) sectors: Option<u64>,
}

impl StatRecord {
    pub(crate) fn new(stat: &Stat) -> Self {
        Self { ino: stat.ino, ctime: stat.ctime, settled: true, sectors: None }
    }

    pub(crate) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let parts = [
            self.ino,
            self.ctime.secs.cast_unsigned(),
            u64::from(self.ctime.nanos),
            u64::from(self.settled),
            self.sectors.unwrap_or(NO_SECTORS),
        ];
        for (place, part) in bytes.chunks_exact_mut(8).zip(parts) {
            place.copy_from_slice(&part.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; RECORD_BYTES]) -> Self {
        let mut parts =
            bytes.chunks_exact(8).filter_map(|part| part.first_chunk::<8>()).map(|p| u64::from_le_bytes(*p));
        let mut part = || parts.next().unwrap_or(0);
        let (ino, secs, nanos, settled, sectors) = (part(), part(), part(), part(), part());
        Self {
            ino,
            ctime: Mtime { secs: secs.cast_signed(), nanos: u32::try_from(nanos).unwrap_or(u32::MAX) },
            settled: settled == 1,
            sectors: (sectors != NO_SECTORS).then_some(sectors),
        }
    }
}
