//! Hashing keys: asked for when they are needed, and what becomes of a store that has lost one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use backstay_store::{Store, StoreError};
use backstay_types::point::RestorePoint;
use backstay_types::{Class, Classify, HashKey, PairId, PlanName};

use crate::fixture::*;

const LOST: PairId = PairId([8; 16]);

fn other_plan() -> PlanName {
    "other".parse().unwrap()
}

/// A point of another pair, of another plan.
fn commit_other(store: &Store, number: u64, volume: &Volume) {
    let mut ingest = store.begin(LOST, &other_plan(), id(number)).unwrap();
    send(&mut ingest, &volume.chunks).unwrap();
    let point = RestorePoint { pair: LOST, plan: other_plan(), ..point(number, None, volume) };
    assert_eq!(ingest.commit(point).unwrap().into_inner().id, id(number));
}

/// A pair that is made while the store is open: nobody has to tell the store.
#[test]
fn a_key_is_asked_for_at_the_moment_it_is_needed() {
    let site = Site::new();
    let store = Store::open(site.config.clone()).unwrap();
    let keys: Arc<Mutex<HashMap<PairId, HashKey>>> = Arc::default();
    let known = keys.clone();
    store.set_key_source(move |pair| known.lock().unwrap().get(&pair).cloned());
    let error = store.begin(PAIR, &plan(), id(1)).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::NoKey { .. }), "{error}");
    keys.lock().unwrap().insert(PAIR, key());
    commit(&store, 1, None, &volume(&some_files(1, 5)));
    assert_clean(&store);
}

/// A site of an older version that has lost the key of a pair: what it made cannot be read; everything else goes on.
#[test]
fn a_lost_key_stops_nothing_else() {
    let site = Site::new();
    let (kept, newer, lost) =
        (volume(&some_files(1, 20)), volume(&some_files(2, 20)), volume(&some_files(3, 20)));
    {
        let store = site.open();
        // The same key: what is lost is who it belongs to.
        store.set_key(LOST, key());
        commit(&store, 1, None, &kept);
        commit_other(&store, 1, &lost);
        commit(&store, 2, None, &newer);
    }
    let store = site.open();
    store.delete_points(&plan(), &[id(1)]).unwrap();
    let planned = store.gc_plan().unwrap();
    let named: Vec<_> = planned.keyless.iter().map(|point| (point.plan.clone(), point.id)).collect();
    assert_eq!(named, [(other_plan(), id(1))]);
    assert!(planned.to_string().contains("other e1-000001"), "{planned}");
    assert!(planned.freed_bytes() > 0, "{planned}");
    store.gc(planned).unwrap();
    assert_eq!(read(&store, 2), Ok(newer.files.clone()));

    let report = store.verify(None, &mut |_| {}).unwrap();
    let damaged: Vec<_> = report.damaged_points.iter().map(|point| (point.plan.clone(), point.id)).collect();
    assert_eq!(damaged, [(other_plan(), id(1))], "{report}");
    assert_eq!((report.damaged_chunks_total, report.damaged_packs.len()), (0, 0), "{report}");
    store.verify(Some(&other_plan()), &mut |_| {}).unwrap();
    assert!(store.verify(Some(&plan()), &mut |_| {}).unwrap().is_clean());

    // A session of the plan goes on beside the point that nobody can read.
    let session = store.begin(PAIR, &other_plan(), id(2)).unwrap();
    store.gc(store.gc_plan().unwrap()).unwrap();
    drop(session);

    // Nothing of it was freed: with the key back it is whole.
    drop(store);
    {
        let store = site.open();
        store.set_key(LOST, key());
        assert_clean(&store);
    }

    // Given up, it is garbage like any other.
    let store = site.open();
    let before = store.usage().bytes;
    store.delete_points(&other_plan(), &[id(1)]).unwrap();
    let planned = store.gc_plan().unwrap();
    assert!(planned.keyless.is_empty() && planned.freed_bytes() > 0, "{planned}");
    store.gc(planned).unwrap();
    assert!(store.usage().bytes < before);
    assert_clean(&store);
    assert_eq!(read(&store, 2), Ok(newer.files));
}

#[test]
fn what_a_lost_key_made_is_refused_with_the_way_out() {
    let site = Site::new();
    let store = site.open();
    let error = store.begin(LOST, &plan(), id(1)).map(drop).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt);
    assert!(error.hint().unwrap().contains("--purge"), "{:?}", error.hint());
}
