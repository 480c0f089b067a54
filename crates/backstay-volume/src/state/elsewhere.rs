//! What this side lacks of a restore point that another side holds, and what the other side is asked for it.
//!
//! To send against a point one needs its manifest and what the sectors of its files are like, not their content: 36 bytes
//! for a chunk and 8 for a sector. Nothing of it is taken on trust: chunks of a manifest are checked by their ids, and a
//! wrong fingerprint makes a patch that the receiver refuses.

use backstay_types::frame::SectorRun;
use backstay_types::frame::patch::SECTOR_BYTES;
use backstay_types::manifest::{FetchChunk, SegmentRef};
use backstay_types::{Classify, HashKey};

use super::Sectors;
use crate::VolumeError;

/// Another side that holds a restore point whole.
pub trait Elsewhere {
    /// The bytes of chunks of its manifests, in the order asked for; each is at most as long as it says.
    fn tree(&self, wanted: &[SegmentRef]) -> Result<Vec<Vec<u8>>, VolumeError>;

    /// The fingerprints of the sectors of these runs, one after the other.
    fn sectors(&self, runs: &[SectorRun]) -> Result<Vec<u64>, VolumeError>;
}

/// Looks at the sectors of a run, on the side that has its chunks.
pub fn fingerprint_run<F>(reader: &F, key: &HashKey, run: &SectorRun) -> Result<Vec<u64>, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    let fingerprints = Sectors::new(key);
    let (mut skip, mut left) = (run.skip as usize, run.len as usize);
    let mut told = Vec::with_capacity(run.sectors());
    let mut partial = Vec::with_capacity(SECTOR_BYTES);
    for id in &run.ids {
        let chunk = reader.fetch(id).map_err(VolumeError::fetch)?;
        let (skipped, bytes) = chunk.split_at(skip.min(chunk.len()));
        skip -= skipped.len();
        let (mut bytes, _) = bytes.split_at(left.min(bytes.len()));
        left -= bytes.len();
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(SECTOR_BYTES - partial.len()));
            partial.extend_from_slice(now);
            bytes = rest;
            if partial.len() == SECTOR_BYTES {
                told.push(fingerprints.fingerprint(&partial));
                partial.clear();
            }
        }
    }
    if left > 0 {
        return Err(VolumeError::Told { why: "a run of sectors is longer than its chunks" });
    }
    if !partial.is_empty() {
        told.push(fingerprints.fingerprint(&partial));
    }
    Ok(told)
}
