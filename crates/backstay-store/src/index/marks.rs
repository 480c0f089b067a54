//! A set of chunks, as bitmaps over the index: one bit for each entry of a run, so 1.25 MB for 10 M chunks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backstay_types::ChunkId;

use super::{Hit, Place, Run};

/// Chunks that were seen, by where their entry is. A set keeps the runs it has bits over open, so a merge in the
/// meantime changes nothing about what it says.
#[derive(Debug, Default, Clone)]
pub(crate) struct Marks {
    runs: HashMap<u64, (Arc<Run>, Vec<u64>)>,
    map: HashSet<ChunkId>,
}

impl Marks {
    /// Adds a chunk; whether it was new.
    pub(crate) fn insert(&mut self, id: &ChunkId, hit: &Hit) -> bool {
        match &hit.place {
            Place::Map => self.map.insert(*id),
            Place::Run(run, position) => self.insert_at(run, *position),
        }
    }

    /// Adds a chunk unless its entry is in memory; for sets that need not know those.
    pub(crate) fn insert_if_in_run(&mut self, hit: &Hit) {
        if let Place::Run(run, position) = &hit.place {
            self.insert_at(run, *position);
        }
    }

    fn insert_at(&mut self, run: &Arc<Run>, position: u64) -> bool {
        let words = || vec![0; usize::try_from(run.count().div_ceil(64)).unwrap_or(0)];
        let (_, bits) = self.runs.entry(run.seq()).or_insert_with(|| (Arc::clone(run), words()));
        let Some(word) = usize::try_from(position / 64).ok().and_then(|at| bits.get_mut(at)) else {
            return false;
        };
        let bit = 1 << (position % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Whether the entry at that position of that run was seen.
    pub(crate) fn contains_at(&self, seq: u64, position: u64) -> bool {
        let word = |(_, bits): &(Arc<Run>, Vec<u64>)| {
            usize::try_from(position / 64).ok().and_then(|at| bits.get(at).copied())
        };
        self.runs.get(&seq).and_then(word).is_some_and(|word| word & (1 << (position % 64)) != 0)
    }

    /// Whether a chunk was seen.
    pub(crate) fn contains(&self, id: &ChunkId, hit: &Hit) -> bool {
        match &hit.place {
            Place::Map => self.map.contains(id),
            Place::Run(run, position) => self.contains_at(run.seq(), *position),
        }
    }

    /// Runs and positions that were seen.
    pub(crate) fn in_runs(&self) -> Vec<(Arc<Run>, Vec<u64>)> {
        self.runs.values().map(|(run, bits)| (Arc::clone(run), bits.clone())).collect()
    }
}

/// Positions of the set bits.
pub(crate) fn positions(bits: &[u64]) -> impl Iterator<Item = u64> + '_ {
    bits.iter().zip(0_u64..).flat_map(|(word, at)| {
        (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at * 64 + bit)
    })
}
