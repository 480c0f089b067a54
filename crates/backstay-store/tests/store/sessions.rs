//! What a session takes, refuses, keeps and resumes.

use backstay_store::StoreError;
use backstay_types::{Class, Classify, PairId};

use crate::fixture::*;

#[test]
fn a_committed_point_reads_back_and_survives_reopening() {
    let site = Site::new();
    let first = volume(&some_files(1, 60));
    let second = volume(&{
        let mut files = some_files(1, 60);
        files.insert("dir0/file000".into(), noise(99, 3000));
        files.remove("dir1/file001");
        files
    });
    {
        let store = site.open();
        let all = commit(&store, 1, None, &first);
        assert!(all > 60);
        let some = commit(&store, 2, Some(1), &second);
        assert!(some < 10, "only what changed is asked for: {some}");
    }
    let store = site.open();
    assert_eq!(read(&store, 1).unwrap(), first.files);
    assert_eq!(read(&store, 2).unwrap(), second.files);
    assert_eq!(store.points(&plan()).unwrap().iter().map(|p| p.id).collect::<Vec<_>>(), [id(1), id(2)]);
    assert_eq!(store.newest(&plan()).unwrap().unwrap().id, id(2));
    let usage = store.usage();
    assert!(usage.packs > 1 && usage.points == 2 && usage.chunks > 60, "{usage:?}");
    assert_clean(&store);
}

#[test]
fn a_chunk_with_a_wrong_id_is_refused() {
    let site = Site::new();
    let store = site.open();
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    let good = noise(1, 900);
    let wrong = key().chunk_id(b"something else");
    let error = put(&mut ingest, &[raw(key().chunk_id(&good), &good), raw(wrong, &good)]).unwrap_err();
    assert!(matches!(error, StoreError::ChunkRefused { .. }), "{error}");
    assert_eq!(error.class(), Class::Corrupt);
    assert_eq!(store.usage().refused_chunks, 1);
    // The one before it is here, the bad one is not.
    assert_eq!(wanted(&mut ingest, &[key().chunk_id(&good), wrong]), [1]);
    // A zstd frame that is larger than it says must not be inflated past its word.
    let bomb = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
    let record =
        Record { id: wrong, raw_len: 100, codec: backstay_types::frame::batch::Codec::Zstd, stored: bomb };
    assert!(matches!(put(&mut ingest, &[record]), Err(StoreError::ChunkRefused { .. })));
}

#[test]
fn a_broken_session_resumes() {
    let site = Site::new();
    let volume = volume(&some_files(2, 60));
    let half = volume.chunks.len() / 2;
    let store = site.open();
    {
        let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
        send(&mut ingest, &volume.chunks[..half]).unwrap();
    }
    // The next session of the same process has it …
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    let ids: Vec<_> = volume.chunks[..half].iter().map(|(id, _)| *id).collect();
    assert!(wanted(&mut ingest, &ids).is_empty());
    drop(ingest);
    drop(store);
    // … and that of the next process too.
    let store = site.open();
    let sent = commit(&store, 1, None, &volume);
    assert_eq!(sent, volume.chunks.len() - half);
    assert_eq!(read(&store, 1).unwrap(), volume.files);
    assert_clean(&store);
}

#[test]
fn a_session_sees_what_another_received() {
    let site = Site::new();
    let store = site.open();
    let volume = volume(&some_files(3, 10));
    let mut one = store.begin(PAIR, &plan(), id(1)).unwrap();
    let mut other = store.begin(PAIR, &"other".parse().unwrap(), id(1)).unwrap();
    send(&mut one, &volume.chunks).unwrap();
    assert_eq!(send(&mut other, &volume.chunks).unwrap(), 0);
    // A commit that stands on the other's unsealed pack is durable all the same: a copy of the folder has it.
    let mut point = point(1, None, &volume);
    point.plan = "other".parse().unwrap();
    drop(other.commit(point.clone()).unwrap());
    let crashed = tempfile::tempdir().unwrap();
    copy_dir(site.dir(), crashed.path());
    let after = Site::at(crashed.path()).open();
    assert_eq!(after.newest(&point.plan).unwrap(), Some(point));
    assert_clean(&after);
}

#[test]
fn a_hole_is_named_and_nothing_is_committed() {
    let site = Site::new();
    let store = site.open();
    let volume = volume(&some_files(4, 20));
    let missing = volume.chunks[0].0;
    let rest: Vec<_> = volume.chunks.iter().filter(|(id, _)| *id != missing).cloned().collect();
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    send(&mut ingest, &rest).unwrap();
    let error = ingest.commit(point(1, None, &volume)).unwrap_err();
    assert_eq!(error.class(), Class::Incomplete, "{error}");
    let text = error.to_string();
    assert!(text.contains("volume data") && text.contains("path dir0/file000"), "{text}");
    assert!(store.points(&plan()).unwrap().is_empty());
    // What came is kept: only the hole is asked for.
    assert_eq!(commit(&store, 1, None, &volume), 1);
    assert_clean(&store);
}

#[test]
fn a_hole_in_what_changed_since_the_parent_is_found() {
    let site = Site::new();
    let store = site.open();
    let files = some_files(5, 40);
    commit(&store, 1, None, &volume(&files));
    let mut changed = files;
    let content = noise(77, 900);
    changed.insert("dir3/new".into(), content.clone());
    let changed = volume(&changed);
    let without: Vec<_> = changed.chunks.iter().filter(|(_, bytes)| *bytes != content).cloned().collect();
    let mut ingest = store.begin(PAIR, &plan(), id(2)).unwrap();
    send(&mut ingest, &without).unwrap();
    let error = ingest.commit(point(2, Some(1), &changed)).unwrap_err();
    assert!(error.to_string().contains("path dir3/new"), "{error}");
    assert_eq!(store.newest(&plan()).unwrap().unwrap().id, id(1));
}

#[test]
fn a_manifest_that_lies_is_refused() {
    let site = Site::new();
    let store = site.open();
    let volume = volume(&some_files(6, 5));
    // Another volume's manifest under this name.
    let mut named = point(1, None, &volume);
    named.volumes[0].name = "other".parse().unwrap();
    let mut ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    send(&mut ingest, &volume.chunks).unwrap();
    assert_eq!(ingest.commit(named).unwrap_err().class(), Class::Incomplete);
    // A chunk of content in the place of the root.
    let mut rootless = point(1, None, &volume);
    rootless.volumes[0].root = volume.chunks[0].0;
    let ingest = store.begin(PAIR, &plan(), id(1)).unwrap();
    assert_eq!(ingest.commit(rootless).unwrap_err().class(), Class::Corrupt);
    // A point of another plan than the session's.
    let mut ingest = store.begin(PAIR, &"other".parse().unwrap(), id(1)).unwrap();
    send(&mut ingest, &volume.chunks).unwrap();
    assert_eq!(ingest.commit(point(1, None, &volume)).unwrap_err().class(), Class::Invalid);
    assert!(store.points(&plan()).unwrap().is_empty());
}

#[test]
fn errors_say_what_to_do() {
    let site = Site::new();
    let store = site.open();
    let again = site.try_open().err().unwrap();
    assert_eq!(again.class(), Class::Busy);
    assert!(again.hint().is_some());
    let volume = volume(&some_files(7, 3));
    commit(&store, 5, None, &volume);
    let missing = store.point(&plan(), id(9)).unwrap_err();
    assert_eq!(missing.class(), Class::NotFound);
    assert!(missing.to_string().contains("newest is e1-000005"), "{missing}");
    let twice = store.begin(PAIR, &plan(), id(5)).err().unwrap();
    assert_eq!(twice.class(), Class::Invalid);
    assert!(store.begin(PairId([9; 16]), &plan(), id(6)).is_err(), "a pair without a key");
    drop(store);
    drop(site.open());
}

#[test]
fn state_is_kept() {
    let site = Site::new();
    let store = site.open();
    assert_eq!(store.state_get("schedule/shop").unwrap(), None);
    store.state_put("schedule/shop", b"one").unwrap();
    store.state_put("schedule/shop", b"two").unwrap();
    drop(store);
    assert_eq!(site.open().state_get("schedule/shop").unwrap().as_deref(), Some(b"two".as_slice()));
}

#[test]
fn deleted_points_stay_deleted() {
    let site = Site::new();
    let store = site.open();
    let volume = volume(&some_files(8, 3));
    commit(&store, 1, None, &volume);
    commit(&store, 2, Some(1), &volume);
    store.delete_points(&plan(), &[id(1), id(7)]).unwrap();
    store.delete_points(&"never".parse().unwrap(), &[id(1)]).unwrap();
    drop(store);
    let store = site.open();
    assert_eq!(store.points(&plan()).unwrap().len(), 1);
    assert_eq!(read(&store, 2).unwrap(), volume.files);
}
