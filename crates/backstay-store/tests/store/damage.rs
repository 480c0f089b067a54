//! Damage: named, counted as missing, repaired, and never passed on.

use std::fs;

use backstay_store::{Store, StoreConfig};
use backstay_types::manifest::FetchChunk;
use backstay_types::{Class, Classify};

use crate::fixture::*;

/// A store with two points of the same plan, closed.
fn two_points() -> (Site, Volume, Volume) {
    let site = Site::new();
    let old = volume(&some_files(1, 60));
    let mut files = some_files(1, 60);
    files.extend(some_files(2, 30).into_iter().map(|(path, bytes)| (format!("more/{path}"), bytes)));
    let new = volume(&files);
    let store = site.open();
    commit(&store, 1, None, &old);
    commit(&store, 2, Some(1), &new);
    (site, old, new)
}

#[test]
fn a_flipped_bit_in_a_pack_is_named_and_repaired() {
    let (site, old, new) = two_points();
    let packs = site.files("packs", ".pack");
    let all: Vec<_> = old.chunks.iter().chain(&new.chunks).cloned().collect();
    for (pack, n) in packs.iter().zip(0..) {
        let len = fs::metadata(pack).unwrap().len() as usize;
        for at in [3, 20, 40, len / 3, len / 2, len - 60, len - 10] {
            let copy = tempfile::tempdir().unwrap();
            copy_dir(site.dir(), copy.path());
            let damaged = Site::at(copy.path());
            flip(&damaged.files("packs", ".pack")[n], at);
            let store = damaged.open();
            let report = store.verify(None, &mut |_| {}).unwrap();
            let name = pack.file_name().unwrap().to_str().unwrap();
            assert!(report.damaged_packs.iter().any(|p| p.file.ends_with(name)), "{name} at {at}: {report}");
            assert_eq!(report.damaged_packs.len(), 1, "{report}");
            repair(&store, &all);
            let report = store.verify(None, &mut |_| {}).unwrap();
            assert!(report.is_clean(), "{name} at {at}: {report}");
            assert_eq!(read(&store, 1).unwrap(), old.files);
            assert_eq!(read(&store, 2).unwrap(), new.files);
            // The damaged file itself goes with the next collection, if its header can still be read.
            let gc_plan = store.gc_plan().unwrap();
            store.gc(gc_plan).unwrap();
            assert_eq!(read(&store, 2).unwrap(), new.files);
            drop(store);
            let store = damaged.open();
            assert_eq!(read(&store, 2).unwrap(), new.files);
            assert!(store.verify(None, &mut |_| {}).unwrap().is_clean());
        }
    }
}

/// Puts good copies in the place of what verification names.
fn repair(store: &Store, good: &[(backstay_types::ChunkId, Vec<u8>)]) {
    let report = store.verify(None, &mut |_| {}).unwrap();
    for chunk in &report.damaged_chunks {
        let (_, bytes) = good.iter().find(|(id, _)| *id == chunk.id).unwrap();
        assert!(!store.repair_chunk(PAIR, chunk.id, b"not it").unwrap());
        assert!(store.repair_chunk(PAIR, chunk.id, bytes).unwrap());
    }
}

#[test]
fn damaged_points_are_marked_until_they_are_whole_again() {
    let (site, _, new) = two_points();
    // A chunk that only the second point has.
    let bytes = &new.files["more/dir0/file000"];
    let chunk = key().chunk_id(&bytes[..bytes.len().min(CHUNK)]);
    let needle = &bytes[..64];
    let hurt = site
        .files("packs", ".pack")
        .into_iter()
        .find_map(|path| {
            let content = fs::read(&path).unwrap();
            content.windows(64).position(|window| window == needle).map(|at| (path, at))
        })
        .expect("a raw chunk; every other one is");
    flip(&hurt.0, hurt.1 + 5);
    let store = site.open();
    assert_eq!(store.damage(&plan(), id(2)).unwrap(), None, "not known yet");
    assert_eq!(store.reader(PAIR).fetch(&chunk).unwrap_err().class(), Class::Corrupt);
    let mut seen = Vec::new();
    let report = store.verify(Some(&plan()), &mut |progress| seen.push(progress)).unwrap();
    assert!(seen.last().unwrap().bytes_done == seen.last().unwrap().bytes_total && seen.len() > 2);
    assert_eq!(report.damaged_chunks.iter().map(|c| c.id).collect::<Vec<_>>(), [chunk]);
    assert_eq!(report.damaged_points.iter().map(|p| p.id).collect::<Vec<_>>(), [id(2)], "{report}");
    assert!(report.to_string().contains("path more/dir0/file000"), "{report}");
    drop(store);
    // The mark outlives the process, and the sender is asked for the chunk again.
    let store = site.open();
    assert!(store.damage(&plan(), id(2)).unwrap().unwrap().contains("more/dir0/file000"));
    assert_eq!(store.damage(&plan(), id(1)).unwrap(), None);
    let mut ingest = store.begin(PAIR, &plan(), id(3)).unwrap();
    let ids: Vec<_> = new.chunks.iter().map(|(id, _)| *id).collect();
    let asked: Vec<_> = wanted(&mut ingest, &ids).into_iter().map(|n| ids[n]).collect();
    assert_eq!(asked, [chunk]);
    send(&mut ingest, &new.chunks).unwrap();
    // A damaged parent is no excuse to skip anything.
    drop(ingest.commit(point(3, Some(2), &new)).unwrap());
    assert!(store.verify(None, &mut |_| {}).unwrap().is_clean());
    assert_eq!(store.damage(&plan(), id(2)).unwrap(), None);
    assert_eq!(read(&store, 2).unwrap(), new.files);
    drop(store);
    assert_eq!(site.open().damage(&plan(), id(2)).unwrap(), None);
}

#[test]
fn a_pack_that_is_gone_is_named() {
    let (site, old, new) = two_points();
    let lost = site.files("packs", ".pack").remove(0);
    fs::remove_file(&lost).unwrap();
    let store = site.open();
    let report = store.verify(None, &mut |_| {}).unwrap();
    let name = lost.file_name().unwrap().to_str().unwrap();
    assert!(!report.damaged_points.is_empty(), "{report}");
    let in_run = report.damaged_packs.iter().any(|pack| pack.file.ends_with(name));
    assert!(in_run, "{report}");
    // Everything in it is asked for again.
    let sent = commit(&store, 3, Some(2), &new);
    assert!(sent > 0);
    repair(&store, &old.chunks);
    assert!(store.verify(None, &mut |_| {}).unwrap().is_clean());
    assert_eq!(read(&store, 1).unwrap(), old.files);
    let gc_plan = store.gc_plan().unwrap();
    store.gc(gc_plan).unwrap();
    assert_clean(&store);
    drop(store);
    assert_clean(&site.open());
}

#[test]
fn a_damaged_point_file_is_mended_from_the_catalog() {
    let (site, old, _) = two_points();
    let file = site.files("points", "e1-000001.rp").remove(0);
    let good = fs::read(&file).unwrap();
    // Found while open …
    let store = site.open();
    flip(&file, 30);
    let report = store.verify(None, &mut |_| {}).unwrap();
    assert!(report.to_string().contains("points/shop/e1-000001.rp"), "{report}");
    assert!(report.is_clean());
    assert_eq!(fs::read(&file).unwrap(), good);
    drop(store);
    // … and at the next start.
    flip(&file, 40);
    let store = site.open();
    assert_eq!(read(&store, 1).unwrap(), old.files);
    assert_eq!(fs::read(&file).unwrap(), good);
    assert_clean(&store);
}

#[test]
fn a_point_file_damaged_beyond_repair_is_named_and_stops_collection() {
    let (site, _, new) = two_points();
    flip(&site.files("points", "e1-000001.rp")[0], 30);
    fs::remove_dir_all(site.dir().join("catalog")).unwrap();
    let store = site.open();
    assert!(store.damage(&plan(), id(1)).unwrap().is_some());
    let report = store.verify(None, &mut |_| {}).unwrap();
    assert!(!report.is_clean() && report.to_string().contains("e1-000001.rp"), "{report}");
    let error = store.gc_plan().unwrap_err();
    assert!(error.to_string().contains("e1-000001"), "{error}");
    store.delete_points(&plan(), &[id(1)]).unwrap();
    assert!(store.gc_plan().is_ok());
    assert_eq!(read(&store, 2).unwrap(), new.files);
    assert_clean(&store);
}

#[test]
fn a_damaged_run_is_named_and_made_anew() {
    let (site, old, new) = two_points();
    let runs = site.files("runs", ".run");
    assert!(!runs.is_empty());
    for run in &runs {
        let len = fs::metadata(run).unwrap().len() as usize;
        for at in [2, 50, len / 2, len - 100, len - 40, len - 3] {
            let copy = tempfile::tempdir().unwrap();
            copy_dir(site.dir(), copy.path());
            let damaged = Site::at(copy.path());
            let name = run.file_name().unwrap().to_str().unwrap();
            // While it is open: a store that is running notices it.
            let store = damaged.open();
            flip(&damaged.dir().join("store/runs").join(name), at);
            let report = store.verify(None, &mut |_| {}).unwrap();
            // Bytes 0 to 8 are looked at when it is opened; the digest covers them too.
            assert!(report.to_string().contains(name), "{name} at {at}: {report}");
            assert!(report.is_clean(), "{report}");
            assert_eq!(read(&store, 1).unwrap(), old.files);
            assert_clean(&store);
            drop(store);
            let store = damaged.open();
            assert_eq!(read(&store, 2).unwrap(), new.files);
            assert_clean(&store);
            drop(store);
            // While it is closed: either the start notices it, or verification does.
            for run in damaged.files("runs", ".run") {
                let len = fs::metadata(&run).unwrap().len() as usize;
                flip(&run, at.min(len - 1));
            }
            let store = damaged.open();
            store.verify(None, &mut |_| {}).unwrap();
            assert_eq!(read(&store, 1).unwrap(), old.files);
            assert_eq!(read(&store, 2).unwrap(), new.files);
            assert_clean(&store);
        }
    }
}

#[test]
fn a_rebuilt_catalog_says_the_same() {
    let (site, old, new) = two_points();
    let store = site.open();
    store.state_put("schedule", b"soon").unwrap();
    let points = store.points(&plan()).unwrap();
    let usage = store.usage();
    assert!(Store::rebuild_catalog(site.dir()).is_err(), "somebody has it open");
    drop(store);

    let report = Store::rebuild_catalog_with(site.config.clone()).unwrap();
    assert_eq!((report.points, report.packs, report.state_kept), (2, usage.packs, 1), "{report}");
    assert!(report.old_catalog.is_some() && report.unreadable_points.is_empty());
    let store = site.open();
    assert_eq!(store.points(&plan()).unwrap(), points);
    assert_eq!(store.state_get("schedule").unwrap().as_deref(), Some(b"soon".as_slice()));
    assert_eq!(store.usage().packs, usage.packs);
    assert_clean(&store);
    drop(store);

    // Deleted, or overwritten with anything.
    for garbage in [false, true] {
        let catalog = site.dir().join("catalog");
        if garbage {
            for entry in fs::read_dir(&catalog).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    fs::write(&path, noise(1, 300_000)).unwrap();
                }
            }
        } else {
            fs::remove_dir_all(&catalog).unwrap();
        }
        let store = site.open();
        assert_eq!(store.points(&plan()).unwrap(), points, "garbage {garbage}");
        assert_eq!(read(&store, 1).unwrap(), old.files);
        assert_eq!(read(&store, 2).unwrap(), new.files);
        assert_clean(&store);
        let aside = fs::read_dir(site.dir()).unwrap().filter(|entry| {
            entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("catalog.damaged")
        });
        assert_eq!(aside.count() > 0, garbage, "never deleted");
    }
}

#[test]
fn a_store_elsewhere_works_the_same() {
    let site = tempfile::tempdir().unwrap();
    let big = tempfile::tempdir().unwrap();
    let mut config = StoreConfig::new(site.path());
    config.store_dir = Some(big.path().join("chunks"));
    let at = Site { config, ..Site::at(site.path()) };
    let volume = volume(&some_files(1, 5));
    commit(&at.open(), 1, None, &volume);
    assert!(big.path().join("chunks/packs").is_dir() && !site.path().join("store").exists());
    Store::rebuild_catalog_with(at.config.clone()).unwrap();
    assert_eq!(read(&at.open(), 1).unwrap(), volume.files);
}
