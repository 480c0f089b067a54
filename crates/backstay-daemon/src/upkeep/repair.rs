//! Putting damaged chunks back from the replicas, where a file still has the bytes.

use std::collections::HashSet;

use backstay_store::{StoreError, VerifyReport};
use backstay_types::{ChunkId, PairId};
use backstay_volume::{SinkClosed, VolumeError, salvage};

use super::Verifier;
use crate::DaemonError;

/// Looks for every damaged chunk in the replicas and gives those found back to the store, which checks them too.
pub(super) fn from_replicas(site: &Verifier<'_>, report: &VerifyReport) -> Result<(), DaemonError> {
    if report.damaged_chunks.is_empty() {
        return Ok(());
    }
    for record in site.plans.list() {
        let applied = site.plans.applied(&record.name)?;
        let Some(id) = applied.point else { continue };
        let point = site.store.point(&record.name, id)?;
        let lost = lost_of(report, point.pair);
        let (Some(key), false) = (site.book.hash_key(point.pair), lost.is_empty()) else { continue };
        let reader = site.store.reader(point.pair);
        let withheld = &applied.withheld.volumes;
        for volume in point.volumes.iter().filter(|volume| !withheld.contains(&volume.name)) {
            let target = (site.replica)(&record.name, &volume.name);
            let mut refused: Option<StoreError> = None;
            let found = salvage(&reader, &volume.root, &target, &key, &lost, |id, bytes| {
                match site.store.repair_chunk(point.pair, id, &bytes) {
                    Ok(_) => Ok(()),
                    Err(error) => {
                        refused = Some(error);
                        Err(SinkClosed.into())
                    }
                }
            });
            match (found, refused) {
                (_, Some(error)) => return Err(error.into()),
                (Ok(found), None) => {
                    tracing::info!(plan = %record.name, volume = %volume.name, found, "chunks put back")
                }
                // A manifest that is itself damaged cannot lead to its files; other volumes still can.
                (Err(error @ (VolumeError::Cancelled | VolumeError::SinkClosed)), None) => {
                    return Err(error.into());
                }
                (Err(error), None) => {
                    tracing::warn!(plan = %record.name, volume = %volume.name, "nothing put back: {error}")
                }
            }
        }
    }
    Ok(())
}

fn lost_of(report: &VerifyReport, pair: PairId) -> HashSet<ChunkId> {
    let of_pair = report.damaged_chunks.iter().filter(|chunk| chunk.pair.is_none_or(|of| of == pair));
    of_pair.map(|chunk| chunk.id).collect()
}
