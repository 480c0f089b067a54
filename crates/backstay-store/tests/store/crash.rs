//! Crashes: a copy of the folder, taken in the middle of things, is what a killed process leaves.

use std::fs;
use std::sync::{Arc, Mutex};

use backstay_store::CommitStep;
use tempfile::TempDir;

use crate::fixture::*;

/// Lengths of the file format; a change of them is a change of the format.
const PACK_HEADER: usize = 32;
const RECORD_HEADER: usize = 52;

#[test]
fn a_pack_cut_anywhere_keeps_what_is_whole() {
    let site = Site::new();
    let store = site.open();
    let chunks: Vec<Vec<u8>> = (0..8).map(|n| noise(n, 100 + 30 * n as usize)).collect();
    let ids: Vec<_> = chunks.iter().map(|bytes| key().chunk_id(bytes)).collect();
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    for (bytes, id) in chunks.iter().zip(&ids) {
        put(&mut ingest, &[raw(*id, bytes)]).unwrap();
    }
    let ends: Vec<usize> = chunks
        .iter()
        .scan(PACK_HEADER, |at, bytes| {
            *at += RECORD_HEADER + bytes.len();
            Some(*at)
        })
        .collect();
    let pack = site.files("packs", ".open").pop().unwrap();
    assert_eq!(fs::metadata(&pack).unwrap().len(), *ends.last().unwrap() as u64);
    let mut cuts: Vec<usize> = ends.iter().flat_map(|end| [end - 1, *end, end + 1]).collect();
    cuts.extend([0, 1, PACK_HEADER - 1, PACK_HEADER, PACK_HEADER + 1, PACK_HEADER + RECORD_HEADER]);
    for cut in cuts {
        let crashed = tempfile::tempdir().unwrap();
        copy_dir(site.dir(), crashed.path());
        let after = Site::at(crashed.path());
        let pack = after.files("packs", ".open").pop().unwrap();
        let file = fs::OpenOptions::new().write(true).open(&pack).unwrap();
        // Longer than it was: what a preallocated or half-written block leaves.
        file.set_len(cut as u64).unwrap();
        let store = after.open();
        assert!(after.files("packs", ".open").is_empty(), "sealed or removed");
        let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
        let lost: Vec<usize> = (0..ids.len()).filter(|n| ends[*n] > cut).collect();
        assert_eq!(wanted(&mut ingest, &ids), lost, "cut at {cut}");
        drop(ingest);
        assert_clean(&store);
        drop(store);
        // Sealed, it opens again without any recovery.
        assert_clean(&after.open());
    }
}

#[test]
fn a_damaged_record_ends_what_is_recovered() {
    let site = Site::new();
    let store = site.open();
    let chunks: Vec<Vec<u8>> = (0..5).map(|n| noise(n, 300)).collect();
    let ids: Vec<_> = chunks.iter().map(|bytes| key().chunk_id(bytes)).collect();
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    for (bytes, id) in chunks.iter().zip(&ids) {
        put(&mut ingest, &[raw(*id, bytes)]).unwrap();
    }
    let crashed = tempfile::tempdir().unwrap();
    copy_dir(site.dir(), crashed.path());
    let after = Site::at(crashed.path());
    flip(&after.files("packs", ".open")[0], PACK_HEADER + 2 * (RECORD_HEADER + 300) + 100);
    let store = after.open();
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    assert_eq!(wanted(&mut ingest, &ids), [2, 3, 4]);
    drop(ingest);
    assert_clean(&store);
}

#[test]
fn a_crash_after_any_step_leaves_all_or_nothing() {
    let mut site = Site::new();
    let old = volume(&some_files(1, 30));
    let new = volume(&some_files(2, 30));
    commit(&site.open(), 1, None, &old);

    let copies: Arc<Mutex<Vec<(CommitStep, TempDir)>>> = Arc::default();
    let (taken, dir) = (Arc::clone(&copies), site.dir().to_owned());
    site.config.on_step = Some(Arc::new(move |step| {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(&dir, copy.path());
        taken.lock().unwrap().push((step, copy));
    }));
    commit(&site.open(), 2, Some(1), &new);

    let copies = copies.lock().unwrap();
    use CommitStep::*;
    let steps: Vec<CommitStep> = copies.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [PacksSynced, PackSealed, PointWritten, PointRenamed, CatalogFlushed]);
    for (step, copy) in copies.iter() {
        let after = Site::at(copy.path());
        let store = after.open();
        let newest = store.newest(&plan()).unwrap().unwrap().id;
        // The name of the file is the moment.
        assert_eq!(newest, if *step < PointRenamed { id(1) } else { id(2) }, "after {step:?}");
        assert_eq!(read(&store, 1).unwrap(), old.files);
        assert_clean(&store);
        if newest == id(2) {
            assert_eq!(read(&store, 2).unwrap(), new.files);
        } else {
            assert_eq!(commit(&store, 2, Some(1), &new), 0, "everything is there: the cycle resumes");
        }
        drop(store);
        let store = after.open();
        assert_eq!(read(&store, 2).unwrap(), new.files);
        assert!(after.files("points", ".tmp").is_empty());
        assert_clean(&store);
    }
}

#[test]
fn a_deletion_that_was_not_finished_is_finished() {
    let site = Site::new();
    // Little is deleted, so the runs that name it stay as they are.
    let (old, new) = (volume(&some_files(1, 60)), volume(&some_files(2, 400)));
    let store = site.open();
    commit(&store, 1, None, &old);
    commit(&store, 2, None, &new);
    store.delete_points(&plan(), &[id(1)]).unwrap();
    let before = tempfile::tempdir().unwrap();
    copy_dir(site.dir(), before.path());
    let gc_plan = store.gc_plan().unwrap();
    assert!(store.gc(gc_plan).unwrap().packs_deleted > 0);
    drop(store);
    let packs = site.files("packs", ".pack");
    // The files come back, as if the catalog had been flushed and nothing been removed yet.
    copy_dir(&before.path().join("store/packs"), &site.dir().join("store/packs"));
    assert!(site.files("packs", ".pack").len() > packs.len());
    let store = site.open();
    assert_eq!(site.files("packs", ".pack"), packs);
    assert_eq!(read(&store, 2).unwrap(), new.files);
    assert_clean(&store);
}
