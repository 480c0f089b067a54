//! Putting damaged chunks back from the replicas, where a file still has the bytes.

use std::collections::HashSet;

use backstay_store::VerifyReport;
use backstay_types::manifest::{Cursor, Extent, Item, RelPath, VolumeKind};
use backstay_types::ChunkId;

use super::Verifier;
use crate::DaemonError;

/// Reads every damaged chunk that a replica shows and gives it back to the store, which checks it. Returns how
/// many were taken.
pub(super) fn from_replicas(site: &Verifier<'_>, report: &VerifyReport) -> Result<u64, DaemonError> {
    let mut repaired = 0;
    for record in site.plans.list() {
        let applied = site.plans.applied(&record.name)?;
        let Some(id) = applied.point else { continue };
        let point = site.store.point(&record.name, id)?;
        let lost: HashSet<ChunkId> =
            report.damaged_chunks.iter().filter(|chunk| chunk.pair.is_none_or(|pair| pair == point.pair)).map(|chunk| chunk.id).collect();
        if lost.is_empty() {
            continue;
        }
        for volume in &point.volumes {
            let target = (site.replica)(&record.name, &volume.name);
            let reader = site.store.reader(point.pair);
            // A manifest that is itself damaged cannot lead to its files: other volumes still can.
            let Ok(mut cursor) = Cursor::open(&reader, &volume.root) else { continue };
            let mut path = RelPath::root();
            let mut offset = 0;
            while let Ok(Some(item)) = cursor.next_item() {
                match item {
                    Item::Entry(entry) => {
                        path = entry.path;
                        offset = 0;
                    }
                    Item::Extents(extents) => {
                        for extent in extents {
                            if let Extent::Data { id, len } = extent
                                && lost.contains(&id)
                            {
                                repaired += u64::from(put_back(site, &point.pair, &target, volume.kind, &path, offset, (id, len))?);
                            }
                            offset += extent.len();
                        }
                    }
                }
            }
        }
    }
    Ok(repaired)
}

fn put_back(
    site: &Verifier<'_>,
    pair: &backstay_types::PairId,
    target: &std::path::Path,
    kind: VolumeKind,
    path: &RelPath,
    offset: u64,
    (id, len): (ChunkId, u32),
) -> Result<bool, DaemonError> {
    // A file that was changed or is gone has no good copy; the store refuses bytes that do not match.
    match backstay_volume::read_range(target, kind, path, offset, len) {
        Ok(bytes) => Ok(site.store.repair_chunk(*pair, id, &bytes)?),
        Err(error) => {
            tracing::warn!(%path, "no good copy in the replica: {error}");
            Ok(false)
        }
    }
}
