//! One receive session: what is missing, taking it in, and the commit at its end.
//!
//! 1. A chunk becomes visible only after its bytes were rebuilt and matched its id (tests
//!    `a_chunk_with_a_wrong_id_is_refused`, `a_patch_that_does_not_rebuild_is_rejected`).
//! 2. Whatever the session was told is held stays until it ends, and counts as missing from the start if it is
//!    damaged or about to be deleted.
//! 3. A session that ends without a commit leaves what it received for the next one (test
//!    `a_broken_session_resumes`).
//!
//! Memory: a batch, 16 MiB of decoded chunks at a time, and the index entries of one pack: under 30 MiB.

mod complete;
mod prepare;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backstay_types::frame::batch::{BatchHeader, BatchReader, BatchRecord};
use backstay_types::point::RestorePoint;
use backstay_types::{ChunkId, HashKey, PackId, PairId, PlanName, RestorePointId, limits};

use crate::StoreError;
use crate::catalog::Change;
use crate::commit::{self, Durable};
use crate::index::{Hit, PackStage};
use crate::inner::{Inner, lock};
use crate::pack::{PackWriter, Pending};
use crate::session::Session;
use prepare::{Prepared, prepare};

/// Chunks decoded at once, in bytes before compression.
const GROUP_RAW_BYTES: u64 = 16 << 20;

/// A receive session. Dropping it keeps what it received for the next session of the pair.
pub struct Ingest {
    inner: Arc<Inner>,
    pair: PairId,
    plan: PlanName,
    id: RestorePointId,
    key: HashKey,
    session: Arc<Session>,
    number: u64,
    writer: Option<PackWriter>,
    /// Packs this session sealed.
    sealed: Vec<PackId>,
}

impl Ingest {
    pub(crate) fn begin(
        inner: &Arc<Inner>,
        pair: PairId,
        plan: &PlanName,
        id: RestorePointId,
    ) -> Result<Self, StoreError> {
        inner.disk.check()?;
        let key = inner.key(pair)?;
        if inner.points.get(plan, id).is_some() {
            return Err(StoreError::PointRefused {
                plan: plan.clone(),
                id,
                why: "there is one of that id already",
            });
        }
        let points = inner.points.of_plan(plan).into_iter().map(|held| held.point).collect();
        // The floor and the session appear together, so that no pack slips between them.
        let (session, number) = {
            let state = inner.index.read();
            let session = Arc::new(Session::new(state.floor(), points));
            (Arc::clone(&session), inner.sessions.add(session))
        };
        let writer = {
            let mut orphans = lock(&inner.orphans);
            let at = orphans.iter().position(|writer| writer.pair() == pair);
            at.map(|at| orphans.swap_remove(at))
        };
        Ok(Self {
            inner: Arc::clone(inner),
            pair,
            plan: plan.clone(),
            id,
            key,
            session,
            number,
            writer,
            sealed: Vec::new(),
        })
    }

    /// Which of these chunks must be sent: one bit per id, first id in the lowest bit of the first byte, set if it
    /// is missing. The others will not be freed while the session lives.
    pub fn missing(&mut self, ids: &[ChunkId]) -> Result<Vec<u8>, StoreError> {
        self.inner.disk.check()?;
        let mut bits = vec![0_u8; ids.len().div_ceil(8)];
        for (index, id) in ids.iter().enumerate() {
            let held = find_and_pin(&self.inner, &self.session, id)?.is_some();
            if let Some(byte) = bits.get_mut(index / 8).filter(|_| !held) {
                *byte |= 1 << (index % 8);
            }
        }
        Ok(bits)
    }

    /// Takes in a batch. Returns the positions of patches that did not rebuild, to be sent whole.
    ///
    /// A whole chunk that is not what its id says is an error of class `Corrupt`; the chunks before it stay.
    pub fn put_batch(&mut self, header: &BatchHeader, records: &[u8]) -> Result<Vec<u32>, StoreError> {
        self.inner.disk.check()?;
        let mut reader = BatchReader::new(header, records);
        let mut rejected = Vec::new();
        let mut group: Vec<(u32, BatchRecord<'_>)> = Vec::new();
        let mut group_bytes = 0_u64;
        let mut index = 0;
        while let Some(record) = reader.next_record()? {
            if group_bytes + u64::from(record.raw_len) > GROUP_RAW_BYTES {
                rejected.extend(self.put_group(&std::mem::take(&mut group))?);
                group_bytes = 0;
            }
            group_bytes += u64::from(record.raw_len);
            group.push((index, record));
            index += 1;
        }
        rejected.extend(self.put_group(&group)?);
        Ok(rejected)
    }

    /// Checks and writes chunks of at most `GROUP_RAW_BYTES` together.
    fn put_group(&mut self, group: &[(u32, BatchRecord<'_>)]) -> Result<Vec<u32>, StoreError> {
        let mut pending = Pending::default();
        let mut rejected = Vec::new();
        let mut failed = None;
        let mut above = PackId(0);
        let mut seen = std::collections::HashSet::new();
        for ((index, record), prepared) in group.iter().zip(self.prepare_group(group)) {
            match prepared {
                Ok(Prepared::Held) => {}
                Ok(Prepared::Rejected) => {
                    self.inner.refused_chunks.fetch_add(1, Ordering::Relaxed);
                    rejected.push(*index);
                }
                Ok(Prepared::Store { header, stored, instead_of }) => {
                    // The same chunk twice in one batch is written once.
                    if seen.insert(header.id) {
                        above = above.max(instead_of.unwrap_or(above));
                        pending.push(header, stored.as_deref().unwrap_or(record.stored))?;
                    }
                }
                Err(error) => {
                    if matches!(error, StoreError::ChunkRefused { .. }) {
                        self.inner.refused_chunks.fetch_add(1, Ordering::Relaxed);
                    }
                    failed = Some(error);
                    break;
                }
            }
        }
        self.write(&pending, above)?;
        failed.map_or(Ok(rejected), Err)
    }

    /// Decoding and hashing are the work of taking a batch in; both cores share it when there is enough.
    fn prepare_group<'a>(&self, group: &[(u32, BatchRecord<'a>)]) -> Vec<Result<Prepared, StoreError>> {
        let one = |part: &[(u32, BatchRecord<'a>)]| -> Vec<Result<Prepared, StoreError>> {
            part.iter().map(|(_, record)| prepare(&self.inner, &self.session, &self.key, record)).collect()
        };
        let bytes: u64 = group.iter().map(|(_, record)| u64::from(record.raw_len)).sum();
        if bytes < 256 << 10 || group.len() < 2 {
            return one(group);
        }
        let (left, right) = group.split_at(group.len() / 2);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| one(right));
            let mut prepared = one(left);
            match other.join() {
                Ok(rest) => prepared.extend(rest),
                Err(_) => {
                    prepared.push(Err(StoreError::Broken { what: "a thread checking chunks panicked" }))
                }
            }
            prepared
        })
    }

    /// Writes records and makes them visible, in a pack with a number above `above`.
    fn write(&mut self, pending: &Pending, above: PackId) -> Result<(), StoreError> {
        if pending.is_empty() {
            return Ok(());
        }
        self.inner.check_room(pending.bytes())?;
        let fits = |writer: &PackWriter| {
            writer.has_room(pending, self.inner.config.pack_bytes) && writer.pack() > above
        };
        if self.writer.as_ref().is_some_and(|writer| !fits(writer)) {
            self.seal()?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(self.inner.new_pack(self.pair)?),
        };
        let entries = writer.append(&self.inner.disk, pending)?;
        let mut state = self.inner.index.write();
        state.set_pack(writer.pack(), PackStage::Open, writer.len());
        state.publish(entries)
    }

    /// Seals the pack being written, and notes that nothing committed stands on it yet.
    fn seal(&mut self) -> Result<(), StoreError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if writer.is_empty() {
            self.inner.discard(writer)?;
            self.writer = None;
            return Ok(());
        }
        self.inner.seal(writer)?;
        let (pack, now) = (writer.pack(), self.inner.now());
        self.writer = None;
        self.sealed.push(pack);
        lock(&self.inner.fresh).insert(pack, now);
        let next = self.inner.index.read().next_pack();
        self.inner.catalog.write(&[Change::Fresh(pack, now), Change::NextPack(next)])?;
        self.inner.tidy_index(self.inner.config.run_entries)
    }

    /// Makes the restore point durable, after a check that every chunk it needs is here. On an error nothing is
    /// committed, and what was received is kept for the next session.
    ///
    /// `point.parent` lets the check skip what that point is known to have.
    pub fn commit(mut self, point: RestorePoint) -> Result<Durable<RestorePoint>, StoreError> {
        self.inner.disk.check()?;
        let refused = |why| StoreError::PointRefused { plan: self.plan.clone(), id: self.id, why };
        if point.plan != self.plan || point.id != self.id || point.pair != self.pair {
            return Err(refused("it is not the one this session was opened for"));
        }
        if self.inner.points.get(&self.plan, self.id).is_some() {
            return Err(refused("a restore point of this name was committed in the meantime"));
        }
        if point.volumes.len() > limits::PLAN_VOLUMES_MAX {
            return Err(refused("it has too many volumes"));
        }
        complete::check(&self.inner, &self.session, &self.key, &point)?;
        let durable = commit::commit(&self.inner, &mut self.writer, &self.sealed, point)?;
        // The point is durable and visible; an index that could not be tidied is tidied next time.
        if let Err(error) = self.inner.tidy_index(self.inner.config.run_entries) {
            tracing::warn!(%error, "the index was not tidied after a commit");
        }
        Ok(durable)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            lock(&self.inner.orphans).push(writer);
        }
        self.inner.sessions.remove(self.number);
    }
}

/// The sound copy of a chunk, claimed for the session while the index is held.
fn find_and_pin(inner: &Inner, session: &Session, id: &ChunkId) -> Result<Option<Hit>, StoreError> {
    let state = inner.index.read();
    let hit = state.find_sound(id, |hit| session.has_pinned(id, hit))?;
    if let Some(hit) = &hit {
        session.pin(hit);
    }
    Ok(hit)
}
