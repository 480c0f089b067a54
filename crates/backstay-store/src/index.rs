//! The index: which chunk is where.
//!
//! Chunks of recent packs are in a map in memory; everything older is in runs, newest last. A lookup asks the map,
//! then the runs from the newest back.
//!
//! 1. What is found first is the preferred copy: an entry enters the map only if it beats the one that is there
//!    (test `the_index_agrees_with_a_map`).
//! 2. Only entries of sealed packs are written to runs, so a run never names bytes a crash can take back.
//! 3. An entry of a pack that is gone does not exist, whatever a run says; so packs can be deleted without
//!    rewriting runs first.
//!
//! Memory: the map holds at most `run_entries` sealed entries (64 Ki) before they become a run, and 64 Ki for
//! each pack being written; at about 100 bytes each, 6.5 MB and 6.5 MB a session. The pack table is 40 bytes for each pack:
//! 6.5 MB for 10 TiB. A garbage collection holds merging back, not writing, so the bound stays.

mod marks;
mod merge;
mod run;
mod upkeep;

pub(crate) use marks::{Marks, positions};
pub(crate) use merge::Merge;
pub(crate) use run::Run;
pub(crate) use upkeep::Upkeep;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use backstay_types::{ChunkId, PackId};

use crate::StoreError;
use crate::pack::{Entry, Loc};

/// How far a pack has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackStage {
    /// Being written; its entries are in the map.
    Open,
    /// Sealed; its entries are in the map.
    Sealed,
    /// Sealed; its entries are in a run.
    InRun,
}

/// What is known of a pack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackState {
    pub(crate) stage: PackStage,
    /// Length of the file.
    pub(crate) bytes: u64,
}

/// A chunk that was found.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    pub(crate) loc: Loc,
    pub(crate) place: Place,
}

/// Where its entry is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Map,
    Run(Arc<Run>, u64),
}

/// Packs a garbage collection is about to delete, and the chunks in them it is going to save. Sessions must not
/// come to depend on the others.
#[derive(Debug)]
pub(crate) struct Doom {
    pub(crate) packs: HashSet<PackId>,
    pub(crate) saved: Arc<Marks>,
}

/// All that a lookup looks at.
#[derive(Debug, Default)]
pub(crate) struct State {
    map: HashMap<ChunkId, Loc>,
    /// Oldest first.
    runs: Vec<Arc<Run>>,
    packs: BTreeMap<PackId, PackState>,
    doom: Option<Doom>,
    /// Chunks whose copy in that pack is damaged. Another copy is not.
    bad: HashMap<ChunkId, PackId>,
    /// Packs that runs name and whose file is missing.
    lost: HashSet<PackId>,
    next_pack: u32,
    next_run: u64,
}

/// The index behind its lock. Readers hold it over a lookup, writers over a change of the maps.
#[derive(Debug, Default)]
pub(crate) struct Index {
    state: RwLock<State>,
}

impl Index {
    pub(crate) fn new(state: State) -> Self {
        Self { state: RwLock::new(state) }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        // A writer changes one map entry at a time, so a panic leaves nothing half-done.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(crate) fn new(
        runs: Vec<Arc<Run>>,
        packs: BTreeMap<PackId, PackState>,
        lost: HashSet<PackId>,
        bad: HashMap<ChunkId, PackId>,
        next_pack: u32,
        next_run: u64,
    ) -> Self {
        Self { runs, packs, lost, bad, next_pack, next_run, ..Self::default() }
    }

    /// The preferred copy of a chunk.
    pub(crate) fn find(&self, id: &ChunkId) -> Result<Option<Hit>, StoreError> {
        match self.map.get(id) {
            Some(loc) => Ok(Some(Hit { loc: *loc, place: Place::Map })),
            None => self.find_in_runs(id),
        }
    }

    /// The preferred copy that a crash cannot take back, if there is one.
    pub(crate) fn find_settled(&self, id: &ChunkId) -> Result<Option<Hit>, StoreError> {
        match self.map.get(id) {
            Some(loc) if self.stage(loc.pack) == Some(PackStage::Open) => {
                let settled = self.find_in_runs(id)?;
                Ok(settled.or(Some(Hit { loc: *loc, place: Place::Map })))
            }
            _ => self.find(id),
        }
    }

    /// The copy a new restore point may stand on: not damaged, and either not about to be deleted or claimed
    /// before by whoever asks, as `claimed` says.
    pub(crate) fn find_sound(
        &self,
        id: &ChunkId,
        claimed: impl FnOnce(&Hit) -> bool,
    ) -> Result<Option<Hit>, StoreError> {
        let Some(hit) = self.find(id)? else { return Ok(None) };
        let damaged = self.is_bad(id, &hit.loc) || self.lost.contains(&hit.loc.pack);
        let doomed = self
            .doom
            .as_ref()
            .is_some_and(|doom| doom.packs.contains(&hit.loc.pack) && !doom.saved.contains(id, &hit));
        Ok(if damaged || (doomed && !claimed(&hit)) { None } else { Some(hit) })
    }

    fn find_in_runs(&self, id: &ChunkId) -> Result<Option<Hit>, StoreError> {
        for run in self.runs.iter().rev() {
            if let Some((loc, position)) = run.find(id)?
                && self.packs.contains_key(&loc.pack)
            {
                return Ok(Some(Hit { loc, place: Place::Run(Arc::clone(run), position) }));
            }
        }
        Ok(None)
    }

    /// Whether that copy of the chunk is known to be damaged.
    pub(crate) fn is_bad(&self, id: &ChunkId, loc: &Loc) -> bool {
        self.bad.get(id) == Some(&loc.pack)
    }

    pub(crate) fn bad(&self) -> &HashMap<ChunkId, PackId> {
        &self.bad
    }

    pub(crate) fn bad_mut(&mut self) -> &mut HashMap<ChunkId, PackId> {
        &mut self.bad
    }

    pub(crate) fn set_doom(&mut self, doom: Option<Doom>) {
        self.doom = doom;
    }

    /// Makes entries visible. Those that do not beat what is there are dropped.
    pub(crate) fn publish(&mut self, entries: impl IntoIterator<Item = Entry>) -> Result<(), StoreError> {
        for Entry { id, loc } in entries {
            let old = match self.map.get(&id) {
                Some(old) => Some(*old),
                // A whole chunk is only written when no sound copy was found, and the worst two at once can do
                // is to keep the same bytes twice. A patch must not hide a whole chunk.
                None if loc.depth == 0 => None,
                None => self.find_in_runs(&id)?.map(|hit| hit.loc),
            };
            let enters = old.is_none_or(|old| {
                let settles = self.stage(old.pack) == Some(PackStage::Open)
                    && self.stage(loc.pack) != Some(PackStage::Open)
                    && loc.depth <= old.depth;
                loc.beats(&old) || settles || self.is_bad(&id, &old)
            });
            if enters {
                self.map.insert(id, loc);
            }
        }
        Ok(())
    }

    /// Makes the entries of a pack read back at open visible; there, runs may hold better copies.
    pub(crate) fn publish_recovered(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        for entry in entries {
            let better = self.find(&entry.id)?.is_none_or(|hit| entry.loc.beats(&hit.loc));
            if better {
                self.map.insert(entry.id, entry.loc);
            }
        }
        Ok(())
    }

    pub(crate) fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    pub(crate) fn packs(&self) -> &BTreeMap<PackId, PackState> {
        &self.packs
    }

    pub(crate) fn stage(&self, pack: PackId) -> Option<PackStage> {
        self.packs.get(&pack).map(|state| state.stage)
    }

    /// Takes the number of a new pack, being written from now on.
    pub(crate) fn new_pack(&mut self) -> Result<PackId, StoreError> {
        let pack = PackId(self.next_pack);
        let limit = StoreError::Limit { what: "number of packs ever made", max: u64::from(u32::MAX) };
        self.next_pack = self.next_pack.checked_add(1).ok_or(limit)?;
        self.packs.insert(pack, PackState { stage: PackStage::Open, bytes: 0 });
        Ok(pack)
    }

    pub(crate) fn next_pack(&self) -> PackId {
        PackId(self.next_pack)
    }

    /// Takes the number of a new run.
    pub(crate) fn new_run(&mut self) -> u64 {
        let seq = self.next_run;
        self.next_run += 1;
        seq
    }

    /// Notes how far a pack has come.
    pub(crate) fn set_pack(&mut self, pack: PackId, stage: PackStage, bytes: u64) {
        self.packs.insert(pack, PackState { stage, bytes });
    }

    /// A pack is gone, and with it every entry in it.
    pub(crate) fn drop_pack(&mut self, pack: PackId) {
        self.packs.remove(&pack);
        self.lost.remove(&pack);
        self.bad.retain(|_, bad| *bad != pack);
    }

    /// The first pack number that is not covered by a run, or will be given next.
    pub(crate) fn floor(&self) -> PackId {
        let recent = self.packs.iter().find(|(_, state)| state.stage != PackStage::InRun);
        recent.map_or(self.next_pack(), |(pack, _)| *pack)
    }

    /// Entries in memory that may be written to a run.
    pub(crate) fn sealed_entries(&self) -> Vec<Entry> {
        let sealed = |loc: &Loc| self.stage(loc.pack) == Some(PackStage::Sealed);
        let mut entries: Vec<Entry> = self
            .map
            .iter()
            .filter(|(_, loc)| sealed(loc))
            .map(|(id, loc)| Entry { id: *id, loc: *loc })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.id);
        entries
    }

    /// Ids of the chunks whose entries are not in a run.
    pub(crate) fn ids_in_memory(&self) -> Vec<ChunkId> {
        self.map.keys().copied().collect()
    }

    /// How many entries are in memory.
    pub(crate) fn in_memory(&self) -> usize {
        self.map.len()
    }

    /// Entries, counting a chunk with several copies once for each.
    pub(crate) fn count(&self) -> u64 {
        self.map.len() as u64 + self.runs.iter().map(|run| run.count()).sum::<u64>()
    }
}

#[cfg(test)]
mod tests;
