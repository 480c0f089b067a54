//! Keeping the index in shape: entries in memory become runs, and small runs become larger ones.
//!
//! A run whose neighbour is less than four times as long is merged with it, so there are at most
//! log4(entries / 64 Ki) runs (6 at 200 M entries), and an entry is rewritten about three times at each of those
//! levels: 1 KB written for each 64 KiB chunk over its life.

use std::collections::BTreeSet;
use std::sync::Arc;

use backstay_types::PackId;

use super::{Index, Merge, PackStage, Run};
use crate::StoreError;
use crate::catalog::{Catalog, Change};
use crate::disk::{self, Disk};
use crate::layout::Layout;

/// Runs grow by this factor from the newest to the oldest.
const GROWTH: u64 = 4;

/// What upkeep needs around it.
#[derive(Clone, Copy)]
pub(crate) struct Upkeep<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) layout: &'a Layout,
    pub(crate) catalog: &'a Catalog,
}

impl Index {
    /// Writes the entries of sealed packs in memory as a run, if there are at least `least`.
    /// The caller sees to it that only one upkeep runs at a time.
    pub(crate) fn flush(&self, keeper: Upkeep<'_>, least: usize) -> Result<bool, StoreError> {
        let (entries, packs) = {
            let state = self.read();
            let sealed = state.packs.iter().filter(|(_, pack)| pack.stage == PackStage::Sealed);
            let packs: BTreeSet<PackId> = sealed.map(|(pack, _)| *pack).collect();
            let entries = state.sealed_entries();
            if packs.is_empty() || entries.len() < least {
                return Ok(false);
            }
            (entries, packs)
        };
        let seq = self.write().new_run();
        let count = entries.len() as u64;
        let path = keeper.layout.run(seq);
        let run = Run::write(keeper.disk, &path, seq, &packs, count, &mut entries.iter().map(|e| Ok(*e)))?;
        keeper.catalog.write(&[Change::PutRun(seq)])?;
        let mut state = self.write();
        state.runs.push(Arc::new(run));
        for entry in &entries {
            // What a session put there in the meantime is newer than the run, and stays.
            if state.map.get(&entry.id) == Some(&entry.loc) {
                state.map.remove(&entry.id);
            }
        }
        for pack in packs {
            if let Some(pack) = state.packs.get_mut(&pack) {
                pack.stage = PackStage::InRun;
            }
        }
        Ok(true)
    }

    /// Merges runs at the young end until their lengths grow by the factor.
    pub(crate) fn merge_young(&self, keeper: Upkeep<'_>) -> Result<(), StoreError> {
        loop {
            let from = {
                let state = self.read();
                let mut lengths = state.runs.iter().rev().map(|run| run.count());
                match (lengths.next(), lengths.next()) {
                    (Some(last), Some(before)) if before < last.saturating_mul(GROWTH) => {
                        state.runs.len() - 2
                    }
                    _ => return Ok(()),
                }
            };
            self.merge_from(keeper, from)?;
        }
    }

    /// Merges all runs from that position on into one, without the entries of packs that are gone.
    pub(crate) fn merge_from(&self, keeper: Upkeep<'_>, from: usize) -> Result<(), StoreError> {
        let (inputs, existing) = {
            let state = self.read();
            let inputs = state.runs.get(from..).unwrap_or_default().to_vec();
            (inputs, state.packs.keys().copied().collect::<BTreeSet<_>>())
        };
        if inputs.is_empty() {
            return Ok(());
        }
        let seq = self.write().new_run();
        let keep = |pack: PackId| existing.contains(&pack);
        let packs: BTreeSet<PackId> =
            inputs.iter().flat_map(|run| run.packs()).copied().filter(|pack| keep(*pack)).collect();
        let gone: BTreeSet<PackId> =
            inputs.iter().flat_map(|run| run.packs()).copied().filter(|pack| !keep(*pack)).collect();
        let count = inputs.iter().map(|run| run.count()).sum();
        let mut merge = Merge::new(inputs.iter().map(AsRef::as_ref), &keep);
        let run = Run::write(keeper.disk, &keeper.layout.run(seq), seq, &packs, count, &mut merge)?;
        let mut changes: Vec<Change> = inputs.iter().map(|run| Change::DropRun(run.seq())).collect();
        changes.push(Change::PutRun(seq));
        // No run names them any more, so nothing has to remember that they are gone.
        changes.extend(gone.into_iter().map(Change::Undead));
        keeper.catalog.write(&changes)?;
        {
            let mut state = self.write();
            state.runs.truncate(from);
            state.runs.push(Arc::new(run));
        }
        inputs.iter().try_for_each(|run| disk::remove_file(run.path()))
    }

    /// Puts runs in the place of a damaged one.
    pub(crate) fn replace_run(
        &self,
        keeper: Upkeep<'_>,
        damaged: &Arc<Run>,
        made: Vec<Arc<Run>>,
    ) -> Result<(), StoreError> {
        let mut changes: Vec<Change> = made.iter().map(|run| Change::PutRun(run.seq())).collect();
        changes.push(Change::DropRun(damaged.seq()));
        keeper.catalog.write(&changes)?;
        {
            let mut state = self.write();
            let at = state.runs.iter().position(|run| run.seq() == damaged.seq());
            let at = at.ok_or(StoreError::Broken { what: "a damaged run is not among the runs" })?;
            state.runs.splice(at..=at, made);
        }
        disk::remove_file(damaged.path())
    }
}
