//! Keeping what this side has: its volumes and objects as a restore point of its own store.
//!
//! A side that was active and becomes a standby keeps everything before the first byte of the other side's comes in.
//!
//! 1. Nothing is overwritten that was not first kept.
//! 2. If it still has exactly what the other side acknowledged last, that is the restore point, under its own id: both
//!    sides hold it, and the next cycle ships what is new and no more. Else it is a *diverged* restore point.
//!
//! At a crash: what came into the store stays there, and the next try reads everything again, for what is not held was
//! written meanwhile (test `promoted_and_returning_sides_die_at_each_step`).

use std::collections::BTreeMap;
use std::sync::Arc;

use backstay_store::Ingest;
use backstay_types::frame::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchRecord, BatchWriter};
use backstay_types::plan::MinimumConsistency;
use backstay_types::point::{Consistency, RestorePoint};
use backstay_types::{ChunkId, RestorePointId, SessionId, VolumeName};
use backstay_volume::Mark;
use tokio::sync::mpsc;

use super::encode::{Work, encode};
use super::objects::SentObjects;
use super::produce::{self, Chunk, End, Job, Produced};
use super::sources::Purpose;
use crate::plans::{Applied, AppliedObjects, PlanRecord};
use crate::runtime::Activity;
use crate::site::Site;
use crate::standstill::active_epoch;
use crate::{DaemonError, clock};

/// Chunks taken into the store at once, in bytes.
const GROUP_BYTES: usize = 4 << 20;

impl Site {
    /// Commits what is here, and notes that the replicas show it. The caller holds the cycle gate, and is active no more.
    pub(crate) async fn keep(
        self: &Arc<Self>,
        record: &Arc<PlanRecord>,
        activity: &Arc<Activity>,
    ) -> Result<RestorePoint, DaemonError> {
        // What is written from here on is not known to be in what is kept.
        let mut marks = self.marks_of(record);
        let point = self.keep_now(record, activity).await?;
        marks.retain(|name, _| point.volume(name).is_some());
        let objects = match (&point.bundle, record.spec.covers_cluster()) {
            (Some(bundle), false) => Some(AppliedObjects::new(bundle.root, &record.spec)),
            _ => None,
        };
        let applied = Applied {
            point: Some(point.id),
            target: None,
            volumes: point.volumes.iter().map(|volume| (volume.name.clone(), volume.root)).collect(),
            marks,
            kept: true,
            warning: None,
            objects,
            object_files: None,
            cluster: None,
            time: Some(clock::now()),
            pair: Some(point.pair),
            withheld: Default::default(),
        };
        self.plans.set_applied(&record.name, &applied)?;
        Ok(point)
    }

    /// Marks of the places of a plan's volumes. One that cannot be marked is compared in full when it is applied to.
    fn marks_of(&self, record: &PlanRecord) -> BTreeMap<VolumeName, Mark> {
        let listed = record.spec.volumes.iter().map(|listed| &listed.name);
        let mut marks = BTreeMap::new();
        for name in listed.chain(record.claims.keys()) {
            match Mark::set(&self.place(&record.name, name)) {
                Ok(mark) => {
                    marks.insert(name.clone(), mark);
                }
                Err(error) => tracing::info!(volume = %name, "it will be compared in full: {error}"),
            }
        }
        marks
    }

    /// What earlier tries committed before they were cut off.
    fn kept_before(&self, record: &PlanRecord) -> Result<Vec<RestorePoint>, DaemonError> {
        let last = self.last_of_this_time(record)?.map(|last| last.id);
        let epoch = active_epoch(record);
        let mut points = self.store.points(&record.name)?;
        points.retain(|point| {
            let is_own = point.origin == self.id && point.id.epoch == epoch;
            is_own && (point.consistency == Consistency::Diverged || Some(point.id) == last)
        });
        Ok(points)
    }

    /// What the other side acknowledged last, of the time that this side was active and now is not.
    fn last_of_this_time(&self, record: &PlanRecord) -> Result<Option<RestorePoint>, DaemonError> {
        let last = self.plans.last_success(&record.name)?.map(|last| last.point);
        Ok(last.filter(|last| last.id.epoch == active_epoch(record)))
    }

    fn diverged_id(&self, record: &PlanRecord) -> Result<RestorePointId, DaemonError> {
        let held = self.store.newest(&record.name)?.map_or(0, |point| point.id.number);
        let number = record.number.max(held) + 1;
        Ok(RestorePointId { epoch: active_epoch(record), number })
    }

    async fn keep_now(
        self: &Arc<Self>,
        record: &Arc<PlanRecord>,
        activity: &Arc<Activity>,
    ) -> Result<RestorePoint, DaemonError> {
        let record = &Arc::new(to_be_kept(record));
        let mut sources = self.sources(record, Purpose::Keep).await?;
        // What is not there any more cannot be overwritten.
        sources.volumes.retain(|volume| {
            let place = volume.path.as_ref().or(volume.device.as_ref());
            let is_there = place.is_some_and(|place| place.exists());
            if !is_there {
                tracing::warn!(plan = %record.name, volume = %volume.name, "not there any more: nothing of it is kept");
            }
            is_there
        });
        let job = Job {
            record: record.clone(),
            sent: self.sent_states(record, &sources)?,
            objects: SentObjects::open(self.sent_objects(&record.name))?,
            sources,
            parent: None,
            describe_by_parent: false,
            activity: activity.clone(),
        };
        let (producer, chunks) = produce::start(self, job);
        let taken = {
            let (site, record) = (self.clone(), record.clone());
            self.blocking("keeping what is here", move || take_in(&site, &record, chunks)).await
        };
        let produced = producer.await.map_err(|_| DaemonError::Worker { what: "reading the volumes" })?;
        match (produced, taken) {
            (Err(error), _) if !error.is_consequence() => Err(error),
            // One that was stopped says so, rather than that nothing came from it any more.
            (Err(error), Err(other)) if other.is_consequence() => Err(error),
            (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
            (Ok(_), Ok(taken)) => {
                let (site, record) = (self.clone(), record.clone());
                self.blocking("committing what is kept", move || site.commit_kept(&record, taken)).await
            }
        }
    }

    fn commit_kept(&self, record: &PlanRecord, taken: TakenIn) -> Result<RestorePoint, DaemonError> {
        let TakenIn { end, ingest } = taken;
        // Volumes are not held: what an earlier try has kept counts only if nothing was written since.
        if let Some(point) = self.kept_before(record)?.into_iter().rfind(|point| shows(point, &end)) {
            return Ok(point);
        }
        let last = self.last_of_this_time(record)?;
        let (point, ingest) = match last.filter(|last| shows(last, &end)) {
            Some(last) => {
                // What was taken in stays for the next session of the pair, which is this one.
                drop(ingest);
                let ingest = self.store.begin(record.pair, &record.name, last.id)?;
                (RestorePoint { committed_time: clock::now(), parent: None, ..last }, ingest)
            }
            None => (self.diverged(record, end)?, ingest),
        };
        let point = ingest.commit(point)?.into_inner();
        let number = point.id.number;
        self.plans.update(&record.name, |record| record.number = record.number.max(number))?;
        match point.consistency {
            Consistency::Diverged => tracing::warn!(
                plan = %record.name, restore_point = %point.id, bytes = point.stats.bytes_scanned,
                "what this site wrote after the last shared restore point is kept as a diverged one"
            ),
            _ => {
                tracing::info!(plan = %record.name, restore_point = %point.id, "this site has nothing the other lacks")
            }
        }
        Ok(point)
    }

    fn diverged(&self, record: &PlanRecord, end: End) -> Result<RestorePoint, DaemonError> {
        Ok(RestorePoint {
            id: self.diverged_id(record)?,
            pair: record.pair,
            plan: record.name.clone(),
            origin: self.id,
            parent: None,
            snapshot_time: end.snapshot_time,
            committed_time: clock::now(),
            consistency: Consistency::Diverged,
            volumes: end.volumes,
            bundle: end.bundle,
            stats: end.stats,
        })
    }
}

/// The plan as it is read to be kept: whatever is there, in whatever state.
fn to_be_kept(record: &PlanRecord) -> PlanRecord {
    let mut record = record.clone();
    record.spec.minimum_consistency = Some(MinimumConsistency::Fuzzy);
    record.spec.allow_empty = true;
    record
}

/// Whether a point shows what was read.
fn shows(point: &RestorePoint, end: &End) -> bool {
    let volumes = |volumes: &[backstay_types::point::PointVolume]| -> std::collections::BTreeMap<_, _> {
        volumes.iter().map(|volume| (volume.name.clone(), volume.root)).collect()
    };
    !end.disturbed
        && volumes(&point.volumes) == volumes(&end.volumes)
        && point.bundle.as_ref().map(|bundle| bundle.root) == end.bundle.as_ref().map(|bundle| bundle.root)
}

/// Everything that was read is in the store, and not yet a restore point.
struct TakenIn {
    end: End,
    ingest: Ingest,
}

fn take_in(
    site: &Site,
    record: &PlanRecord,
    mut chunks: mpsc::Receiver<Produced>,
) -> Result<TakenIn, DaemonError> {
    let ingest = site.store.begin(record.pair, &record.name, site.diverged_id(record)?)?;
    let mut group =
        Group { ingest, session: SessionId(rand::random()), chunks: Vec::new(), bytes: 0, seq: 0 };
    loop {
        match chunks.blocking_recv() {
            Some(Produced::Chunk(chunk)) => group.push(chunk)?,
            Some(Produced::End(end)) => {
                group.flush()?;
                return Ok(TakenIn { end: *end, ingest: group.ingest });
            }
            // Its own error says why.
            None => return Err(backstay_volume::VolumeError::SinkClosed.into()),
        }
    }
}

/// Chunks on their way into the store.
struct Group {
    ingest: Ingest,
    session: SessionId,
    chunks: Vec<Arc<Chunk>>,
    bytes: usize,
    seq: u32,
}

impl Group {
    fn push(&mut self, chunk: Chunk) -> Result<(), DaemonError> {
        self.bytes += chunk.bytes.len();
        self.chunks.push(Arc::new(chunk));
        if self.bytes >= GROUP_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DaemonError> {
        self.bytes = 0;
        let chunks = std::mem::take(&mut self.chunks);
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
        let bits = self.ingest.missing(&ids)?;
        let is_missing =
            |index: usize| bits.get(index / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0);
        let new = chunks.into_iter().enumerate().filter(|(index, _)| is_missing(*index));
        let work = new.map(|(index, chunk)| Work { slot: index as u64, chunk, whole: true }).collect();
        let encoded = encode(work).map_err(|source| DaemonError::Encode { source })?;
        let mut batch = BatchWriter::new();
        for chunk in &encoded {
            if batch.is_full() {
                self.put(std::mem::take(&mut batch))?;
            }
            let (id, raw_len, codec) = (chunk.id, chunk.raw_len, chunk.codec);
            batch.push(BatchRecord { id, raw_len, codec, stored: &chunk.stored })?;
        }
        if batch.is_empty() { Ok(()) } else { self.put(batch) }
    }

    fn put(&mut self, batch: BatchWriter) -> Result<(), DaemonError> {
        let bytes = batch.finish(self.session, self.seq);
        self.seq += 1;
        let Some((header, records)) = bytes.split_first_chunk::<BATCH_HEADER_BYTES>() else { return Ok(()) };
        self.ingest.put_batch(&BatchHeader::decode(header)?, records)?;
        Ok(())
    }
}
