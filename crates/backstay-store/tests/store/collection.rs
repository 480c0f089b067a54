//! Garbage collection: never too much, and in the end everything.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use backstay_store::{GcReason, Ingest, Store};
use backstay_types::manifest::FetchChunk;
use backstay_types::{ChunkId, Time};
use proptest::prelude::*;

use crate::fixture::*;

fn collect(store: &Store) {
    let plan = store.gc_plan().unwrap();
    store.gc(plan).unwrap();
}

/// A volume of some of 12 possible files, so that volumes share chunks.
fn pick(bits: u16) -> Volume {
    let files = (0..12).filter(|n| bits & (1 << n) != 0);
    volume(&files.map(|n| (format!("f{n:02}"), noise(n, 6000))).collect())
}

#[derive(Debug, Clone)]
enum Op {
    Commit(u16),
    /// Everything is sent and the session dropped.
    Abandon(u16),
    Delete(usize),
    /// A session asks what is missing and stays.
    Begin(u16),
    /// The session commits what it asked for.
    End,
    Collect,
    /// A plan is made now and carried out at the next `Execute`.
    Plan,
    Execute,
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let bits = || any::<u16>();
    let op = prop_oneof![
        4 => bits().prop_map(Op::Commit),
        1 => bits().prop_map(Op::Abandon),
        3 => any::<usize>().prop_map(Op::Delete),
        2 => bits().prop_map(Op::Begin),
        2 => Just(Op::End),
        3 => Just(Op::Collect),
        2 => Just(Op::Plan),
        2 => Just(Op::Execute),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..30)
}

/// What must be there.
#[derive(Default)]
struct Model {
    next: u64,
    points: Vec<(u64, Volume)>,
    session: Option<(Ingest, u64, Volume, Vec<ChunkId>)>,
}

impl Model {
    fn check(&self, store: &Store) {
        for (number, volume) in &self.points {
            assert_eq!(read(store, *number).as_ref(), Ok(&volume.files), "point {number}");
        }
        let reader = store.reader(PAIR);
        for id in self.session.iter().flat_map(|(_, _, _, held)| held) {
            assert!(reader.fetch(id).is_ok(), "the session was told that {id} is held");
        }
    }

    fn step(&mut self, op: Op, store: &Store, planned: &mut Option<backstay_store::GcPlan>) {
        self.next += 1;
        let number = self.next;
        let parent = self.points.last().map(|(number, _)| *number);
        match op {
            Op::Commit(bits) => {
                let volume = pick(bits);
                commit(store, number, parent, &volume);
                self.points.push((number, volume));
            }
            Op::Abandon(bits) => {
                let mut ingest = store.begin(PAIR, &plan(), id(number)).unwrap();
                send(&mut ingest, &pick(bits).chunks).unwrap();
            }
            Op::Delete(n) if !self.points.is_empty() => {
                let (number, _) = self.points.remove(n % self.points.len());
                store.delete_points(&plan(), &[id(number)]).unwrap();
            }
            Op::Begin(bits) => {
                let volume = pick(bits);
                let mut ingest = store.begin(PAIR, &plan(), id(number)).unwrap();
                let ids: Vec<ChunkId> = volume.chunks.iter().map(|(id, _)| *id).collect();
                let missing = wanted(&mut ingest, &ids);
                let held = (0..ids.len()).filter(|n| !missing.contains(n)).map(|n| ids[n]).collect();
                self.session = Some((ingest, number, volume, held));
            }
            Op::End => {
                if let Some((mut ingest, number, volume, held)) = self.session.take() {
                    let rest: Vec<_> =
                        volume.chunks.iter().filter(|(id, _)| !held.contains(id)).cloned().collect();
                    send(&mut ingest, &rest).unwrap();
                    drop(ingest.commit(point(number, None, &volume)).unwrap());
                    self.points.push((number, volume));
                }
            }
            Op::Collect => collect(store),
            Op::Plan => *planned = Some(store.gc_plan().unwrap()),
            Op::Execute => {
                if let Some(plan) = planned.take() {
                    store.gc(plan).unwrap();
                }
            }
            Op::Delete(_) | Op::Reopen => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn collection_never_frees_what_is_needed(ops in ops()) {
        let mut site = Site::new();
        site.config.pack_bytes = 12 << 10;
        let mut store = site.open();
        let mut model = Model::default();
        let mut planned = None;
        for op in ops {
            if matches!(op, Op::Reopen) {
                model.session = None;
                drop(store);
                store = site.open();
            }
            model.step(op, &store, &mut planned);
            model.check(&store);
        }
        model.session = None;
        assert_clean(&store);
        drop(store);
        let store = site.open();
        model.check(&store);
        assert_clean(&store);
    }
}

#[test]
fn what_nobody_needs_goes() {
    let site = Site::new();
    let store = site.open();
    let (one, two) = (volume(&some_files(1, 60)), volume(&some_files(2, 60)));
    commit(&store, 1, None, &one);
    commit(&store, 2, None, &two);
    assert!(store.gc_plan().unwrap().packs.is_empty());
    store.delete_points(&plan(), &[id(1)]).unwrap();
    let gc_plan = store.gc_plan().unwrap();
    assert!(gc_plan.packs.iter().any(|pack| pack.reason == GcReason::Dead), "{gc_plan}");
    assert!(gc_plan.freed_bytes() > 50_000 && gc_plan.to_string().contains("free"), "{gc_plan}");
    let before = store.usage();
    let report = store.gc(gc_plan).unwrap();
    assert_eq!(before.packs - store.usage().packs, report.packs_deleted);
    assert_eq!(read(&store, 2).unwrap(), two.files);
    store.delete_points(&plan(), &[id(2)]).unwrap();
    collect(&store);
    assert_eq!((store.usage().packs, store.usage().bytes), (0, 0));
    assert!(site.files("packs", ".pack").is_empty());
    drop(store);
    let store = site.open();
    assert_eq!(store.usage().chunks, 0);
    // And the numbers of packs that are gone are not given again.
    commit(&store, 3, None, &one);
    assert!(site.files("packs", ".pack").iter().all(|path| !path.ends_with("00000001.pack")));
    assert_clean(&store);
}

#[test]
fn a_pack_that_is_mostly_dead_is_rewritten() {
    let site = Site::new();
    let store = site.open();
    let mut files = some_files(1, 20);
    commit(&store, 1, None, &volume(&files));
    let keep: Vec<String> = files.keys().take(4).cloned().collect();
    files.retain(|path, _| keep.contains(path));
    let small = volume(&files);
    commit(&store, 2, Some(1), &small);
    store.delete_points(&plan(), &[id(1)]).unwrap();
    let gc_plan = store.gc_plan().unwrap();
    assert!(gc_plan.packs.iter().any(|pack| pack.reason == GcReason::Sparse), "{gc_plan}");
    let report = store.gc(gc_plan).unwrap();
    assert!(report.packs_rewritten > 0 && report.bytes_moved > 0, "{report}");
    assert_eq!(read(&store, 2).unwrap(), files);
    assert_clean(&store);
    drop(store);
    let store = site.open();
    assert_eq!(read(&store, 2).unwrap(), files);
    assert!(store.gc_plan().unwrap().packs.is_empty());
    assert_clean(&store);
}

#[test]
fn many_small_packs_become_one() {
    let site = Site::new();
    let store = site.open();
    let mut files = Files::new();
    for number in 1..=20 {
        files.insert(format!("file{number}"), noise(number, 400));
        commit(&store, number, number.checked_sub(1).filter(|n| *n > 0), &volume(&files));
    }
    assert_eq!(store.usage().packs, 20);
    collect(&store);
    assert!(store.usage().packs <= 2, "{:?}", store.usage());
    assert_eq!(read(&store, 20).unwrap(), files);
    assert_eq!(read(&store, 1).unwrap().len(), 1);
    assert_clean(&store);
}

#[test]
fn the_packs_of_a_broken_session_are_kept_for_a_day() {
    static NOW: AtomicI64 = AtomicI64::new(1_000_000);
    const HOUR: i64 = 3_600_000;
    let mut site = Site::new();
    site.config.clock = || Time(NOW.load(Ordering::SeqCst));
    let volume = volume(&some_files(1, 60));
    let ids: Vec<ChunkId> = volume.chunks.iter().map(|(id, _)| *id).collect();
    let store = site.open();
    {
        let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
        send(&mut ingest, &volume.chunks).unwrap();
    }
    drop(store);
    let store = site.open();
    NOW.fetch_add(23 * HOUR, Ordering::SeqCst);
    collect(&store);
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    assert!(wanted(&mut ingest, &ids).is_empty(), "all is kept");
    drop(ingest);
    NOW.fetch_add(2 * HOUR, Ordering::SeqCst);
    // A session that was told so keeps them, however old they are.
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    assert!(wanted(&mut ingest, &ids).is_empty());
    collect(&store);
    assert_eq!(send(&mut ingest, &volume.chunks).unwrap(), 0);
    drop(ingest);
    collect(&store);
    assert_eq!(store.usage().packs, 0);
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    assert_eq!(wanted(&mut ingest, &ids).len(), ids.len());
}

#[test]
fn a_parent_deleted_under_a_session_stays_until_it_ends() {
    let site = Site::new();
    let store = site.open();
    let files = some_files(1, 40);
    commit(&store, 1, None, &volume(&files));
    let mut changed = files;
    changed.insert("new".into(), noise(50, 700));
    let changed = volume(&changed);
    let mut ingest = store.begin(PAIR, &plan(), id(2)).unwrap();
    store.delete_points(&plan(), &[id(1)]).unwrap();
    collect(&store);
    // The sender does not offer what it knows to be in the parent; only the new chunks come.
    let old: Vec<ChunkId> = volume(&some_files(1, 40)).chunks.iter().map(|(id, _)| *id).collect();
    let fresh: Vec<_> = changed.chunks.iter().filter(|(id, _)| !old.contains(id)).cloned().collect();
    send(&mut ingest, &fresh).unwrap();
    drop(ingest.commit(point(2, Some(1), &changed)).unwrap());
    assert_eq!(read(&store, 2).unwrap(), changed.files);
    assert_clean(&store);
}

#[test]
fn collection_beside_sessions_loses_nothing() {
    let mut site = Site::new();
    site.config.pack_bytes = 12 << 10;
    let store = site.open();
    let done = AtomicBool::new(false);
    let newest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::SeqCst) || rounds == 0 {
                let newest = newest.load(Ordering::SeqCst);
                // Keep three points.
                let gone: Vec<_> = (1..newest.saturating_sub(2)).map(id).collect();
                store.delete_points(&plan(), &gone).unwrap();
                collect(&store);
                rounds += 1;
            }
        });
        let mut state = 12345_u64;
        for number in 1..=60 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let volume = pick((state >> 40) as u16);
            commit(&store, number, number.checked_sub(1).filter(|n| *n > 0), &volume);
            assert_eq!(read(&store, number).unwrap(), volume.files, "point {number}");
            newest.store(number, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_clean(&store);
    drop(store);
    let store = site.open();
    for point in store.points(&plan()).unwrap() {
        read(&store, point.id.number).unwrap();
    }
    assert_clean(&store);
}
