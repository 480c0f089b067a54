//! Carrying a plan out: doom, mark again, delete what is dead, move what is needed, delete the rest.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use backstay_types::{PackId, PairId};

use super::{Claims, GcPlan, GcReport, mark_reachable, prepare, usage};
use crate::StoreError;
use crate::catalog::Change;
use crate::disk::{self, Disk};
use crate::index::{Doom, Marks, PackStage};
use crate::inner::{Inner, lock};
use crate::layout::Layout;
use crate::pack::{
    Entry, Loc, PACK_RECORDS_MAX, PackWriter, Pending, RECORD_HEADER_BYTES, RecordHeader, check_header,
    read_trailer,
};

/// Records of one write while moving; bounds the memory of it.
const MOVE_BYTES: u64 = 4 << 20;
/// All runs are written anew when this share of their entries is of packs that are gone.
const STALE_FRACTION: u64 = 4;

/// Carries out a plan. Packs that are needed by now are left.
pub(crate) fn execute(inner: &Inner, plan: &GcPlan) -> Result<GcReport, StoreError> {
    let _exclusive = inner.maintain()?;
    prepare(inner)?;
    let mut live = Marks::default();
    mark_reachable(inner, &mut live, &Claims::of(inner)?)?;
    // From here on no session comes to depend on a chunk of these packs that is not marked …
    let doomed = Doomed::set(inner, plan, &live);
    // … so what was claimed or committed while marking, which is little, is all that can be added.
    let claims = Claims::of(inner)?;
    mark_reachable(inner, &mut live, &claims)?;
    doomed.save(&live);
    let usage = usage(inner, &live)?;
    let mut report = GcReport::default();
    let mut dead = Vec::new();
    let mut sparse = Vec::new();
    for pack in &plan.packs {
        let live_bytes = usage.get(&pack.pack).map(|usage| usage.live_bytes);
        match live_bytes {
            _ if claims.claim(pack.pack) || !doomed.packs.contains(&pack.pack) => report.packs_kept += 1,
            Some(0) => dead.push(pack.pack),
            Some(_) if pack.live_bytes > 0 => sparse.push(pack.pack),
            // The plan promised that nothing of it was needed, or it is gone already.
            _ => report.packs_kept += 1,
        }
    }
    retire(inner, &dead, &mut report)?;
    let rewritten = Mover { inner, live: &live, report: &mut report }.rewrite(&sparse);
    drop(doomed);
    rewritten?;
    compact_if_stale(inner)?;
    Ok(report)
}

/// Packs marked for deletion; unmarked when dropped.
struct Doomed<'a> {
    inner: &'a Inner,
    packs: HashSet<PackId>,
}

impl<'a> Doomed<'a> {
    fn set(inner: &'a Inner, plan: &GcPlan, live: &Marks) -> Self {
        let saved = Arc::new(live.clone());
        let mut state = inner.index.write();
        let planned = plan.packs.iter().map(|pack| pack.pack);
        let packs: HashSet<PackId> =
            planned.filter(|pack| state.stage(*pack) == Some(PackStage::InRun)).collect();
        state.set_doom(Some(Doom { packs: packs.clone(), saved }));
        Self { inner, packs }
    }

    fn save(&self, live: &Marks) {
        let saved = Arc::new(live.clone());
        self.inner.index.write().set_doom(Some(Doom { packs: self.packs.clone(), saved }));
    }
}

impl Drop for Doomed<'_> {
    fn drop(&mut self) {
        self.inner.index.write().set_doom(None);
    }
}

/// Deletes packs of which nothing is needed.
fn retire(inner: &Inner, packs: &[PackId], report: &mut GcReport) -> Result<(), StoreError> {
    if packs.is_empty() {
        return Ok(());
    }
    let bad: Vec<Change> = {
        let state = inner.index.read();
        let in_packs = state.bad().iter().filter(|(_, pack)| packs.contains(pack));
        in_packs.map(|(id, _)| Change::Unbad(*id)).collect()
    };
    let mut changes = bad;
    for pack in packs {
        changes.extend([Change::Dead(*pack), Change::Unfresh(*pack), Change::UnbadPack(*pack)]);
    }
    inner.catalog.write(&changes)?;
    for pack in packs {
        let bytes = inner.index.read().packs().get(pack).map_or(0, |state| state.bytes);
        inner.index.write().drop_pack(*pack);
        inner.packs.forget(*pack);
        lock(&inner.fresh).remove(pack);
        lock(&inner.bad_packs).remove(pack);
        report.packs_deleted += 1;
        report.bytes_deleted += bytes;
    }
    // Not found by any lookup now; a reader that has one open keeps its file.
    remove_packs(&inner.disk, &inner.layout, packs)
}

/// Removes pack files, durably: one that came back after the catalog forgot about it would be taken for data.
pub(crate) fn remove_packs(disk: &Disk, layout: &Layout, packs: &[PackId]) -> Result<(), StoreError> {
    let mut folders = BTreeSet::new();
    for pack in packs {
        let path = layout.pack(*pack);
        disk::remove_file(&path)?;
        folders.extend(path.parent().filter(|folder| folder.is_dir()).map(Path::to_owned));
    }
    folders.iter().try_for_each(|folder| disk.sync_dir(folder))
}

fn compact_if_stale(inner: &Inner) -> Result<(), StoreError> {
    let (stale, total) = {
        let state = inner.index.read();
        let (mut stale, mut total) = (0, 0);
        for run in state.runs() {
            let gone = run.packs().iter().filter(|pack| state.stage(**pack).is_none()).count() as u64;
            // Entries are not counted by pack; packs of one run are much alike.
            stale += run.count() * gone / (run.packs().len() as u64).max(1);
            total += run.count();
        }
        (stale, total)
    };
    if stale > 0 && stale * STALE_FRACTION >= total { inner.compact_index() } else { Ok(()) }
}

/// Moves what is needed into new packs.
struct Mover<'a> {
    inner: &'a Inner,
    live: &'a Marks,
    report: &'a mut GcReport,
}

impl Mover<'_> {
    fn rewrite(&mut self, packs: &[PackId]) -> Result<(), StoreError> {
        let mut by_pair: HashMap<PairId, Vec<PackId>> = HashMap::new();
        for pack in packs {
            let path = self.inner.layout.pack(*pack);
            match self.inner.packs.open(*pack).and_then(|file| check_header(&file, &path, *pack)) {
                Ok(pair) => by_pair.entry(pair).or_default().push(*pack),
                Err(error) if error.is_damage() => self.keep(*pack, &error),
                Err(error) => return Err(error),
            }
        }
        by_pair.into_iter().try_for_each(|(pair, packs)| self.rewrite_pair(pair, &packs))
    }

    fn rewrite_pair(&mut self, pair: PairId, packs: &[PackId]) -> Result<(), StoreError> {
        let mut writer: Option<PackWriter> = None;
        // Packs all of whose needed chunks are in `writer`.
        let mut moved = Vec::new();
        let outcome =
            packs.iter().try_for_each(|pack| self.rewrite_pack(pair, *pack, &mut writer, &mut moved));
        // Also after an error: what was copied whole can be used, and an open pack must not be lost track of.
        let finished = self.finish(&mut writer, &mut moved);
        if let Some(writer) = writer {
            lock(&self.inner.orphans).push(writer);
        }
        outcome.and(finished)
    }

    /// Copies what is needed of one pack.
    fn rewrite_pack(
        &mut self,
        pair: PairId,
        pack: PackId,
        writer: &mut Option<PackWriter>,
        moved: &mut Vec<PackId>,
    ) -> Result<(), StoreError> {
        let needed = self.needed(pack)?;
        let bytes: u64 = needed.iter().map(|entry| entry.loc.record_len() as u64).sum();
        self.inner.check_room(bytes)?;
        let full = |writer: &PackWriter| {
            let too_many = writer.records() + needed.len() > PACK_RECORDS_MAX;
            !writer.is_empty() && (too_many || writer.len() + bytes > self.inner.config.pack_bytes)
        };
        if writer.as_ref().is_some_and(full) {
            self.finish(writer, moved)?;
        }
        let mut pending = Pending::default();
        for entry in &needed {
            let record = match self.inner.packs.record(entry) {
                Ok(record) => record,
                Err(error) if error.is_damage() => {
                    // Moving the rest would hide which pack the damage is in.
                    self.keep(pack, &error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let Loc { stored_len, raw_len, codec, depth, .. } = entry.loc;
            let header = RecordHeader { id: entry.id, stored_len, raw_len, codec, depth };
            pending.push(header, record.get(RECORD_HEADER_BYTES..).unwrap_or_default())?;
            if pending.bytes() >= MOVE_BYTES {
                self.append(pair, writer, &std::mem::take(&mut pending))?;
            }
        }
        self.append(pair, writer, &pending)?;
        self.report.bytes_moved += bytes;
        moved.push(pack);
        Ok(())
    }

    fn append(
        &self,
        pair: PairId,
        writer: &mut Option<PackWriter>,
        pending: &Pending,
    ) -> Result<(), StoreError> {
        if pending.is_empty() {
            return Ok(());
        }
        let writer = match writer {
            Some(writer) => writer,
            None => writer.insert(self.inner.new_pack(pair)?),
        };
        writer.append(&self.inner.disk, pending)?;
        Ok(())
    }

    /// Seals the new pack, makes its entries visible, and deletes the packs they came from.
    fn finish(&mut self, writer: &mut Option<PackWriter>, moved: &mut Vec<PackId>) -> Result<(), StoreError> {
        if let Some(open) = writer {
            self.inner.seal(open)?;
            let entries: Vec<Entry> = open.entries().collect();
            self.inner.index.write().publish(entries)?;
            *writer = None;
        }
        self.report.packs_rewritten += moved.len() as u64;
        retire(self.inner, &std::mem::take(moved), self.report)
    }

    /// Entries of a pack that are needed and have no settled copy elsewhere.
    fn needed(&self, pack: PackId) -> Result<Vec<Entry>, StoreError> {
        let file = self.inner.packs.open(pack)?;
        let listed = match read_trailer(&file, &self.inner.layout.pack(pack), pack) {
            Ok((entries, _)) => entries,
            Err(error) if error.is_damage() => self.inner.listed_in_runs(pack)?,
            Err(error) => return Err(error),
        };
        let state = self.inner.index.read();
        let mut needed = Vec::new();
        for entry in listed {
            let hit = state.find_settled(&entry.id)?;
            if hit.is_some_and(|hit| hit.loc == entry.loc && self.live.contains(&entry.id, &hit)) {
                needed.push(entry);
            }
        }
        // In the order of the file: one pass over it.
        needed.sort_unstable_by_key(|entry| entry.loc.offset);
        Ok(needed)
    }

    fn keep(&mut self, pack: PackId, error: &StoreError) {
        tracing::error!(%pack, %error, "a damaged pack is not rewritten; run verify with repair");
        self.report.packs_kept += 1;
    }
}
