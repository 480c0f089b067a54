//! Sending against a point of which this side holds a part: the rest is told by the side that holds it.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};

use backstay_types::frame::SectorRun;
use backstay_types::manifest::{Extent, FetchChunk, SegmentRef};
use backstay_types::{ChunkId, ChunkParams, Class, Classify, Epoch, RestorePointId, limits};
use rand::{RngExt, rngs::StdRng};

use super::hostile::{file, folder, manifest};
use super::support::*;
use crate::{Elsewhere, ParentUse, Progress, SentState, VolumeError, fingerprint_run, sent_of_point};

/// The side that holds the point whole. It counts what it is asked, and answers as it is told to.
struct Other<'a> {
    store: &'a Store,
    tree: Cell<u64>,
    lie: Lie,
    asked: RefCell<Vec<SectorRun>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    OtherTree,
    TreeCutShort,
    SectorsCutShort,
    Silent,
}

impl<'a> Other<'a> {
    fn new(store: &'a Store, lie: Lie) -> Self {
        Self { store, tree: Cell::new(0), lie, asked: RefCell::default() }
    }
}

impl Elsewhere for Other<'_> {
    fn tree(&self, wanted: &[SegmentRef]) -> Result<Vec<Vec<u8>>, VolumeError> {
        if self.lie == Lie::Silent {
            return Err(VolumeError::Untold { class: Class::Busy, source: "it is busy".into() });
        }
        let mut told: Vec<_> = wanted.iter().map(|chunk| self.store.fetch(&chunk.id).unwrap()).collect();
        for (chunk, bytes) in wanted.iter().zip(&told) {
            assert!(bytes.len() <= chunk.len as usize, "{} of {} bytes", bytes.len(), chunk.len);
            self.tree.set(self.tree.get() + bytes.len() as u64);
        }
        match self.lie {
            Lie::OtherTree => told[0][0] ^= 1,
            Lie::TreeCutShort => drop(told.pop()),
            _ => {}
        }
        Ok(told)
    }

    fn sectors(&self, runs: &[SectorRun]) -> Result<Vec<u64>, VolumeError> {
        let mut told = Vec::new();
        for run in runs {
            assert!(run.ids.len() <= limits::SECTOR_IDS_MAX && run.sectors() <= limits::SECTORS_MAX);
            let of_run = fingerprint_run(self.store, &key(), run)?;
            assert_eq!(of_run.len(), run.sectors());
            told.extend(of_run);
        }
        self.asked.borrow_mut().extend_from_slice(runs);
        if self.lie == Lie::SectorsCutShort {
            told.pop();
        }
        Ok(told)
    }
}

impl Other<'_> {
    fn sectors_told(&self) -> usize {
        self.asked.borrow().iter().map(SectorRun::sectors).sum()
    }
}

/// The sectors file of the adopted state.
fn sectors_of(state: &Path) -> Vec<u8> {
    let folders = fs::read_dir(state).unwrap().map(|item| item.unwrap().path());
    let folders: Vec<PathBuf> = folders.filter(|path| path.is_dir()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    fs::read(folders[0].join("sectors")).unwrap()
}

/// A store with these of the chunks of another.
fn some_of(store: &Store, mut keep: impl FnMut(&ChunkId) -> bool) -> Store {
    let some = Store::default();
    let all = store.lock();
    let mut ids: Vec<_> = all.keys().copied().collect();
    ids.sort();
    some.lock().extend(ids.into_iter().filter(|id| keep(id)).map(|id| (id, all[&id].clone())));
    drop(all);
    some
}

/// What was changed since a split: pages, an insertion, an end cut off, zeros that become holes, files that come and go.
fn write_after_the_split(root: &Path, rng: &mut StdRng) {
    let pages = root.join("pages");
    let mut bytes = fs::read(&pages).unwrap();
    for _ in 0..20 {
        let at = rng.random_range(0..bytes.len() - 4096) / 4096 * 4096;
        bytes[at..at + 4096].copy_from_slice(&random_bytes(rng, 4096));
    }
    let at = rng.random_range(0..bytes.len() - (100 << 10));
    bytes[at..at + (100 << 10)].fill(0);
    fs::write(&pages, bytes).unwrap();
    let mut text = fs::read(root.join("text")).unwrap();
    let at = rng.random_range(0..text.len());
    text.splice(at..at, random_bytes(rng, 777));
    text.truncate(text.len() - 5000);
    fs::write(root.join("text"), text).unwrap();
    write(&root.join("new/one"), random_bytes(rng, 300_001));
    fs::remove_file(root.join("big")).unwrap();
}

fn split_site(rng: &mut StdRng, params: ChunkParams) -> Site {
    let mut site = Site::new();
    site.ctx.params = params;
    build_nasty_tree(&site.source(), rng);
    write(&site.source().join("pages"), random_bytes(rng, 4 << 20));
    write(&site.source().join("text"), random_bytes(rng, 1_234_567));
    site
}

fn made(site: &Site, here: &Store, other: &Other<'_>, root: &ChunkId) -> (PathBuf, SentState) {
    let dir = site.dir.path().join("made");
    let sent = SentState::open(&dir).unwrap();
    sent.forget().unwrap();
    let made = sent_of_point(here, Some(other), root, &site.ctx, &sent, &Progress::new()).unwrap();
    made.adopt(RestorePointId { epoch: Epoch(1), number: 2 }).unwrap();
    (dir.clone(), SentState::open(&dir).unwrap())
}

/// Whatever of a point is here, its sent state is the one that a scan of it makes, and is as good to send against.
#[test]
fn the_sent_state_of_a_point_that_is_partly_here_is_that_of_a_scan() {
    let tiny = ChunkParams { min_bytes: 64, avg_bytes: 1024, max_bytes: 8192, ..params() };
    for (params, seed) in [(params(), 11), (tiny, 12)] {
        let mut rng = seeded(seed);
        let site = split_site(&mut rng, params);
        site.cycle();
        let shared = some_of(&site.store, |_| true);
        write_after_the_split(&site.source(), &mut rng);
        let (root, _) = site.cycle();
        let scanned = sectors_of(&site.state_dir());
        // What both sides had at the split; then less and less of everything.
        let lucky: Vec<Store> = [0.9, 0.5, 0.0]
            .map(|share| some_of(&site.store, |_| rng.random_bool(share)))
            .into_iter()
            .collect();
        for here in std::iter::once(shared).chain(lucky) {
            let other = Other::new(&site.store, Lie::None);
            let (dir, _) = made(&site, &here, &other, &root);
            assert!(sectors_of(&dir) == scanned, "fingerprints differ");
            assert!(other.sectors_told() > 0, "nothing was missing");
            // Nothing of the point itself is offered to the side that holds it.
            assert_eq!(read_against(&site, &dir), (0, root));
        }
    }
}

/// Reads the volume against another sent state; chunks that were offered, and the root.
fn read_against(site: &Site, state: &Path) -> (u64, ChunkId) {
    let sent = SentState::open(state).unwrap();
    let mut sink = Sink::new(&site.store);
    let snapshot = crate::snapshot(&site.spec, &site.ctx, &sent, ParentUse::Held).unwrap();
    let read = snapshot.scan(&Progress::new()).unwrap().read(&mut sink, &Progress::new()).unwrap();
    (sink.chunks, read.volume.root)
}

/// Of a large file in which pages were written, no more is asked than the manifest and what the chunks around those pages
/// are like.
#[test]
fn what_is_asked_is_what_was_written() {
    for device in [false, true] {
        let mut rng = seeded(21);
        let mut site = Site::new();
        let path = site.source().join("db");
        write(&path, random_bytes(&mut rng, (16 << 20) + 5000));
        if device {
            (site.spec.path, site.spec.device) = (None, Some(path.clone()));
        }
        site.cycle();
        let shared = some_of(&site.store, |_| true);
        let mut bytes = fs::read(&path).unwrap();
        for page in 0..16 {
            let at = page << 20;
            bytes[at..at + 4096].copy_from_slice(&random_bytes(&mut rng, 4096));
        }
        fs::write(&path, bytes).unwrap();
        let (root, _) = site.cycle();
        let other = Other::new(&site.store, Lie::None);
        let (dir, _) = made(&site, &shared, &other, &root);
        assert!(sectors_of(&dir) == sectors_of(&site.state_dir()));
        // 64 KiB on average and 256 KiB at most have 16 and 64 sectors, and one more where they begin inside one.
        let sectors = other.sectors_told();
        assert!((16 * 10..16 * 65).contains(&sectors), "{sectors} sectors for 16 chunks");
        assert!(other.tree.get() < 64 << 10, "{} bytes of manifest", other.tree.get());
    }
}

/// A side that lies, is cut short or does not answer leaves nothing behind, and what was known before counts on.
#[test]
fn what_is_told_wrong_is_not_used() {
    let mut rng = seeded(31);
    let site = split_site(&mut rng, params());
    site.cycle();
    let here = some_of(&site.store, |_| true);
    write_after_the_split(&site.source(), &mut rng);
    let before = site.sent().parent_id();
    let (root, _) = site.cycle();
    let cases = [
        (Lie::OtherTree, Class::Corrupt),
        (Lie::TreeCutShort, Class::Corrupt),
        (Lie::SectorsCutShort, Class::Corrupt),
        (Lie::Silent, Class::Busy),
    ];
    let dir = site.dir.path().join("made");
    let sent = SentState::open(&dir).unwrap();
    sent_of_point(&site.store, None, &root, &site.ctx, &sent, &Progress::new())
        .unwrap()
        .adopt(before.unwrap())
        .unwrap();
    let sent = SentState::open(&dir).unwrap();
    for (lie, class) in cases {
        let other = Other::new(&site.store, lie);
        let error =
            sent_of_point(&here, Some(&other), &root, &site.ctx, &sent, &Progress::new()).unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "`current` and its folder");
        assert_eq!(SentState::open(&dir).unwrap().parent_id(), before);
    }
    let cancelled = Progress::new();
    cancelled.cancel();
    let other = Other::new(&site.store, Lie::None);
    let error = sent_of_point(&here, Some(&other), &root, &site.ctx, &sent, &cancelled).unwrap_err();
    assert!(matches!(error, VolumeError::Cancelled), "{error}");
    let nobody = sent_of_point(&here, None, &root, &site.ctx, &sent, &Progress::new()).unwrap_err();
    assert_eq!(nobody.class(), Class::Corrupt, "a chunk that nobody has is damage: {nobody}");
}

/// Manifests that no honest side writes: files off the grid, larger than any volume, or of chunks of another length.
#[test]
fn a_manifest_that_cannot_be_is_refused_and_never_panics() {
    let site = Site::new();
    let store = &site.store;
    let data = |bytes: &[u8]| Extent::Data {
        id: store.put(&key(), bytes.to_vec()),
        len: u32::try_from(bytes.len()).unwrap(),
    };
    let hole = |len| Extent::Hole { len };
    let (odd, even) = (data(&[1; 5000]), data(&[2; 8192]));
    let Extent::Data { id: wrong, .. } = odd else { unreachable!() };
    let lies = Extent::Data { id: wrong, len: 6000 };
    let far = (1 << 63) + 4096;
    let cases: Vec<(u64, Vec<Extent>, bool)> = vec![
        (5000 + 8192, vec![odd, even], true),
        (5000 + 8192 + 100, vec![odd, even, hole(100)], false),
        (100 + 8192, vec![hole(100), even], false),
        (4096 + 8192, vec![hole(4096), even], true),
        (8192 + 4096, vec![even, hole(4096)], true),
        (far, vec![even, hole(far - 8192)], false),
        (6000, vec![lies], false),
    ];
    let only_tree = |root: &ChunkId| {
        let all: Vec<_> = [odd, even].iter().filter_map(id_of).collect();
        (some_of(store, |id| !all.contains(id)), *root)
    };
    for (size, extents, good) in cases {
        let shown = format!("{extents:?}");
        let root = manifest(store, vec![(folder(""), vec![]), (file("file", size), extents)]);
        let (here, root) = only_tree(&root);
        let sent = SentState::open(&site.dir.path().join("made")).unwrap();
        let other = Other::new(store, Lie::None);
        let made = sent_of_point(&here, Some(&other), &root, &site.ctx, &sent, &Progress::new());
        assert_eq!(made.is_ok(), good, "{shown}: {:?}", made.err());
    }
    let run = SectorRun { ids: vec![wrong], skip: 0, len: 6000 };
    assert_eq!(fingerprint_run(store, &key(), &run).unwrap_err().class(), Class::Corrupt);
    let run = SectorRun { ids: vec![wrong], skip: u32::MAX, len: 1 };
    assert_eq!(fingerprint_run(store, &key(), &run).unwrap_err().class(), Class::Corrupt);
}

fn id_of(extent: &Extent) -> Option<ChunkId> {
    match extent {
        Extent::Data { id, .. } => Some(*id),
        Extent::Hole { .. } => None,
    }
}
