//! The index against a map, through flushes, merges, deletions and restarts.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::collections::BTreeMap;

use backstay_types::frame::batch::Codec;
use proptest::prelude::*;

use super::*;
use crate::catalog::Catalog;
use crate::disk::Disk;
use crate::index::upkeep::Upkeep;
use crate::layout::Layout;

#[derive(Debug, Clone)]
enum Op {
    /// A sealed pack with these chunks, some of them patches.
    Pack(Vec<(u8, bool)>),
    Flush,
    Merge,
    MergeAll,
    DropPack(usize),
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => prop::collection::vec((any::<u8>(), prop::bool::weighted(0.2)), 1..40).prop_map(Op::Pack),
        3 => Just(Op::Flush),
        2 => Just(Op::Merge),
        1 => Just(Op::MergeAll),
        2 => any::<usize>().prop_map(Op::DropPack),
        2 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..40)
}

/// Spread like hashes, so that the fan-out is used.
fn id(n: u8) -> ChunkId {
    ChunkId(*blake3::hash(&[n]).as_bytes())
}

/// All copies of each chunk; the preferred one is what must be found.
type Model = BTreeMap<u8, Vec<Loc>>;

fn preferred(copies: &[Loc]) -> Option<Loc> {
    copies.iter().copied().reduce(|best, loc| if loc.beats(&best) { loc } else { best })
}

struct World {
    disk: Arc<Disk>,
    layout: Layout,
    catalog: Catalog,
    index: Index,
    model: Model,
}

impl World {
    fn new(dir: &std::path::Path) -> Self {
        let disk = Arc::new(Disk::default());
        let layout = Layout::create(dir.join("store"), &disk).unwrap();
        let catalog = Catalog::open(&dir.join("catalog"), &disk).unwrap();
        let state = State { next_pack: 1, next_run: 1, ..State::default() };
        Self { disk, layout, catalog, index: Index::new(state), model: Model::new() }
    }

    fn step(&mut self, op: Op) {
        let keeper = Upkeep { disk: &self.disk, layout: &self.layout, catalog: &self.catalog };
        match op {
            Op::Pack(chunks) => {
                let mut state = self.index.write();
                let pack = state.new_pack().unwrap();
                let mut entries = BTreeMap::new();
                for ((n, patch), offset) in chunks.into_iter().zip(0..) {
                    let (codec, depth) = if patch { (Codec::Patch, 1) } else { (Codec::Raw, 0) };
                    let loc = Loc { pack, offset, stored_len: 7, raw_len: 9, codec, depth };
                    // As the writer lists them: one copy of each.
                    let old = entries.get(&n).copied();
                    if old.is_none_or(|old| loc.beats(&old)) {
                        entries.insert(n, loc);
                    }
                }
                state.set_pack(pack, PackStage::Sealed, 100);
                for (n, loc) in &entries {
                    self.model.entry(*n).or_default().push(*loc);
                }
                state
                    .publish_recovered(
                        entries.iter().map(|(n, loc)| Entry { id: id(*n), loc: *loc }).collect(),
                    )
                    .unwrap();
            }
            Op::Flush => drop(self.index.flush(keeper, 1).unwrap()),
            Op::Merge => self.index.merge_young(keeper).unwrap(),
            Op::MergeAll => self.index.merge_from(keeper, 0).unwrap(),
            Op::DropPack(n) => {
                // Only what is in runs is ever collected, and only when nothing in it is preferred.
                let mut state = self.index.write();
                let in_run: Vec<PackId> = state
                    .packs()
                    .iter()
                    .filter(|(_, state)| state.stage == PackStage::InRun)
                    .map(|(pack, _)| *pack)
                    .collect();
                let Some(pack) = in_run.get(n % in_run.len().max(1)) else { return };
                if self.model.values().any(|copies| preferred(copies).is_some_and(|loc| loc.pack == *pack)) {
                    return;
                }
                state.drop_pack(*pack);
                self.model.values_mut().for_each(|copies| copies.retain(|loc| loc.pack != *pack));
            }
            Op::Reopen => self.reopen(),
        }
    }

    /// As the store opens: runs from the catalog, everything else from trailers, in the order of packs.
    fn reopen(&mut self) {
        let contents = self.catalog.load().unwrap();
        let runs: Vec<Arc<Run>> = contents
            .runs
            .iter()
            .map(|seq| Arc::new(Run::open(&self.layout.run(*seq), *seq).unwrap()))
            .collect();
        runs.iter().for_each(|run| run.check().unwrap());
        let old = self.index.read();
        let (packs, next_pack, next_run) = (old.packs().clone(), old.next_pack, old.next_run);
        drop(old);
        let mut state = State { runs, packs, next_pack, next_run, ..State::default() };
        let sealed: Vec<PackId> =
            state.packs.iter().filter(|(_, s)| s.stage == PackStage::Sealed).map(|(pack, _)| *pack).collect();
        for pack in sealed {
            let entries = self.model.iter().flat_map(|(n, copies)| {
                copies.iter().filter(|loc| loc.pack == pack).map(|loc| Entry { id: id(*n), loc: *loc })
            });
            state.publish_recovered(entries.collect()).unwrap();
        }
        self.index = Index::new(state);
    }

    fn check(&self) {
        let state = self.index.read();
        for n in 0..=u8::MAX {
            let expected = self.model.get(&n).and_then(|copies| preferred(copies));
            assert_eq!(state.find(&id(n)).unwrap().map(|hit| hit.loc), expected, "chunk {n}");
        }
        // Runs grow towards the old end, so there are few.
        assert!(state.runs().len() <= 40);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_agrees_with_a_map(ops in ops()) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(dir.path());
        for op in ops {
            world.step(op);
            world.check();
        }
    }
}

#[test]
fn a_large_run_finds_every_entry() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::default();
    let mut ids: Vec<ChunkId> =
        (0..50_000_u32).map(|n| ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect();
    // A crowd in one value of the fan-out, which no hash makes but a file may hold.
    ids.extend((0..3000_u32).map(|n| {
        let mut crowded = [0xaa; 32];
        crowded[28..].copy_from_slice(&n.to_be_bytes());
        ChunkId(crowded)
    }));
    ids.sort_unstable();
    let loc = |n: usize| Loc {
        pack: PackId(1),
        offset: n as u32,
        stored_len: 1,
        raw_len: 1,
        codec: Codec::Raw,
        depth: 0,
    };
    let mut entries = ids.iter().enumerate().map(|(n, id)| Ok(Entry { id: *id, loc: loc(n) }));
    let packs = [PackId(1)].into();
    let run =
        Run::write(&disk, &dir.path().join("1.run"), 1, &packs, ids.len() as u64, &mut entries).unwrap();
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(run.find(id).unwrap(), Some((loc(n), n as u64)));
        assert_eq!(run.entry(n as u64).unwrap().id, *id);
    }
    for n in 50_000..60_000_u32 {
        assert_eq!(run.find(&ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())).unwrap(), None);
    }
    assert_eq!(run.iter().count(), ids.len());
    run.check().unwrap();
}
