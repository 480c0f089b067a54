use std::os::unix::fs::PermissionsExt;

use backstay_types::{ChunkParams, HashKey, SiteId, Time};

use super::record::PEER_CAS_MAX;
use super::*;
use crate::identity::Authority;

fn record(pair: u8, site: u8, name: &str, paired_at: i64) -> PeerRecord {
    let (authority, _) = Authority::generate(name).unwrap();
    let ca = CaCert::parse(authority.certificate().to_vec()).unwrap();
    PeerRecord {
        pair: PairId([pair; 16]),
        site: SiteId([site; 16]),
        name: name.to_owned(),
        endpoints: vec!["127.0.0.1:1".to_owned()],
        told: Vec::new(),
        our_ca: ca.fingerprint(),
        our_next: None,
        peer_cas: vec![ca],
        hash_key: HashKey([pair; 32]),
        params: ChunkParams::with_seed(3),
        paired_at: Time(paired_at),
    }
}

#[test]
fn records_survive_a_restart_and_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    let west = book.insert(record(1, 1, "west", 5)).unwrap();
    let north = book.insert(record(2, 2, "north", 5)).unwrap();
    let changed = book.update(north.pair, |record| record.endpoints.clear()).unwrap();
    assert!(changed.endpoints.is_empty());

    let again = PeerBook::open(dir.path()).unwrap();
    assert_eq!(again.list(), book.list());
    assert_eq!(again.by_name("west"), Some(Arc::clone(&west)));
    let (found, ca) = again.by_authority(&west.our_ca).unwrap();
    assert_eq!((found.pair, ca.fingerprint()), (west.pair, west.our_ca));
    for entry in fs::read_dir(dir.path()).unwrap() {
        let meta = entry.unwrap().metadata().unwrap();
        let expected = if meta.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(meta.permissions().mode() & 0o777, expected);
    }

    again.remove(west.pair).unwrap();
    assert!(matches!(again.remove(west.pair), Err(BookError::NoPair { .. })));
    assert_eq!(PeerBook::open(dir.path()).unwrap().list().len(), 1);
}

/// Has a book fail to write what is over, as on a full disk, until what is given back is called.
fn fill(dir: &Path) -> impl FnOnce() {
    let retired = dir.join("retired");
    fs::remove_dir(&retired).unwrap();
    fs::write(&retired, "in the way").unwrap();
    move || fs::remove_file(&retired).unwrap()
}

/// A removal that the disk refused is over in memory, and stays over once it is asked for again.
#[test]
fn a_removal_that_was_not_written_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    let west = book.insert(record(1, 1, "west", 5)).unwrap();
    let make_room = fill(dir.path());
    assert!(matches!(book.remove(west.pair), Err(BookError::Io { .. })));
    assert!(book.list().is_empty() && book.finish_removals().is_err());
    make_room();
    assert_eq!(book.finish_removals().unwrap().len(), 1);
    assert!(book.finish_removals().unwrap().is_empty());
    let again = PeerBook::open(dir.path()).unwrap();
    assert!(again.list().is_empty());
    assert_eq!(again.retired().len(), 1);
}

#[test]
fn a_replacement_that_was_not_written_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    let west = book.insert(record(1, 1, "west", 5)).unwrap();
    let north = book.insert(record(2, 2, "north", 5)).unwrap();
    let make_room = fill(dir.path());
    assert!(book.replace("west", north.site).is_err());
    assert!(book.replace("west", north.site).is_err(), "a second try says the same");
    make_room();
    assert_eq!(book.replace("west", north.site).unwrap(), [west.pair]);
    let again = PeerBook::open(dir.path()).unwrap();
    assert_eq!(again.list(), [Arc::clone(&north)]);
    assert_eq!(again.successor(west.pair), Some(north));
}

/// Another site takes the name of one whose removal the disk refused, and nobody asked again.
#[test]
fn a_new_pair_finishes_removals() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    let west = book.insert(record(1, 1, "west", 5)).unwrap();
    let make_room = fill(dir.path());
    assert!(book.remove(west.pair).is_err());
    make_room();
    let new = book.insert(record(2, 2, "west", 6)).unwrap();
    assert_eq!(PeerBook::open(dir.path()).unwrap().list(), [new]);
}

#[test]
fn a_site_paired_again_replaces_its_record_and_a_taken_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    book.insert(record(1, 1, "west", 5)).unwrap();
    book.insert(record(2, 1, "west", 6)).unwrap();
    assert_eq!(book.list().len(), 1);
    assert_eq!(book.by_name("west").unwrap().pair, PairId([2; 16]));
    let error = book.insert(record(3, 9, "west", 7)).unwrap_err();
    assert!(matches!(error, BookError::NameTaken { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--replaces west"));
    assert!(error.hint().unwrap().contains("backstay pair remove west"));
    assert_eq!(PeerBook::open(dir.path()).unwrap().list(), book.list());
}

#[test]
fn a_crash_between_the_new_record_and_the_removal_of_the_old_leaves_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    book.insert(record(1, 1, "west", 5)).unwrap();
    let old = record_path(dir.path(), PairId([1; 16]));
    let kept = fs::read(&old).unwrap();
    book.insert(record(2, 1, "west", 6)).unwrap();
    fs::write(&old, kept).unwrap();
    fs::write(dir.path().join("half.json.tmp"), b"{").unwrap();

    let book = PeerBook::open(dir.path()).unwrap();
    assert_eq!(book.list().len(), 1);
    assert_eq!(book.by_name("west").unwrap().pair, PairId([2; 16]));
    assert!(!old.exists());
}

#[test]
fn a_damaged_record_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    book.insert(record(1, 1, "west", 5)).unwrap();
    let path = record_path(dir.path(), PairId([1; 16]));
    let whole = fs::read_to_string(&path).unwrap();
    for bad in [
        &whole[..whole.len() / 2],
        "{}",
        &whole.replace("65536", "65535"),
        &whole.replace("\"name\"", "\"nome\""),
    ] {
        fs::write(&path, bad).unwrap();
        let error = PeerBook::open(dir.path()).unwrap_err();
        assert!(matches!(&error, BookError::Damaged { path: found, .. } if *found == path), "{error}");
    }
}

#[test]
fn the_hash_key_is_not_printed() {
    let record = record(9, 1, "west", 5);
    let printed = format!("{record:?}");
    assert!(!printed.contains("9, 9") && !printed.contains(&crate::base64::encode(&[9; 32])), "{printed}");
}

#[test]
fn at_most_three_authorities_are_pinned_and_the_one_in_use_stays() {
    let mut record = record(1, 1, "west", 5);
    let in_use = record.peer_cas[0].fingerprint();
    for round in 0..5 {
        let (authority, _) = Authority::generate("west").unwrap();
        let ca = CaCert::parse(authority.certificate().to_vec()).unwrap();
        record.pin(ca.clone());
        record.pin(ca.clone());
        assert_eq!(record.newest_ca(), Some(&ca));
        assert_eq!(record.peer_cas[0].fingerprint(), in_use);
        assert_eq!(record.peer_cas.len(), (round + 2).min(PEER_CAS_MAX));
    }
}

/// Its chunks are still stored, and only the key can read them.
#[test]
fn a_removed_pair_keeps_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    let west = book.insert(record(1, 1, "west", 5)).unwrap();
    book.insert(record(2, 2, "north", 5)).unwrap();
    book.remove(west.pair).unwrap();
    // Paired again as another pair, as an older version did.
    book.insert(record(3, 2, "north", 6)).unwrap();
    for book in [&book, &PeerBook::open(dir.path()).unwrap()] {
        assert_eq!(book.hash_key(west.pair), Some(HashKey([1; 32])));
        assert_eq!(book.hash_key(PairId([2; 16])), Some(HashKey([2; 32])));
        assert_eq!(book.name_of(west.pair).as_deref(), Some("west"));
        assert!(book.by_name("west").is_none() && book.successor(west.pair).is_none());
        assert_eq!(book.successor(PairId([2; 16])).map(|record| record.pair), Some(PairId([3; 16])));
        assert!(book.by_authority(&west.our_ca).is_none(), "it is trusted no more");
    }
    let path = dir.path().join(format!("retired/{}.json", west.pair));
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_pair_that_stands_again_is_not_over() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    let west = book.insert(record(1, 1, "west", 5)).unwrap();
    book.remove(west.pair).unwrap();
    book.insert(PeerRecord::clone(&west)).unwrap();
    for book in [&book, &PeerBook::open(dir.path()).unwrap()] {
        assert!(book.retired().is_empty());
        assert_eq!(book.successor(west.pair), Some(Arc::clone(&west)));
    }
}

#[test]
fn a_site_that_takes_the_place_of_another_goes_on_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    book.insert(record(1, 1, "west", 5)).unwrap();
    let new = record(2, 2, "west", 6);
    assert!(matches!(book.insert(new.clone()), Err(BookError::NameTaken { .. })));
    let old = record_path(dir.path(), PairId([1; 16]));
    let kept = fs::read(&old).unwrap();
    let new = book.insert_in_place_of(new, Some(SiteId([1; 16]))).unwrap();
    // A crash before the old record went.
    fs::write(&old, kept).unwrap();
    for book in [&book, &PeerBook::open(dir.path()).unwrap()] {
        assert_eq!(book.list(), [Arc::clone(&new)]);
        assert_eq!(book.successor(PairId([1; 16])), Some(Arc::clone(&new)));
        assert_eq!(book.hash_key(PairId([1; 16])), Some(HashKey([1; 32])));
    }
    // And a third for the second, which was removed before: all the way.
    let book = PeerBook::open(dir.path()).unwrap();
    book.remove(new.pair).unwrap();
    assert!(book.successor(PairId([1; 16])).is_none());
    let third = book.insert(record(3, 3, "third", 7)).unwrap();
    assert_eq!(book.replace("west", third.site).unwrap(), [PairId([1; 16]), PairId([2; 16])]);
    for book in [&book, &PeerBook::open(dir.path()).unwrap()] {
        assert_eq!(book.successor(PairId([1; 16])), Some(Arc::clone(&third)));
        assert_eq!(book.successor(PairId([2; 16])), Some(Arc::clone(&third)));
    }
}

#[test]
fn a_change_that_was_cut_off_before_the_new_record_leaves_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    let west = book.insert(record(1, 1, "west", 5)).unwrap();
    book.write_retired(&west, Some(SiteId([2; 16]))).unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    assert_eq!(book.list(), [west]);
    assert!(book.retired().is_empty());
}

/// Whoever issues a key names the pair and its key: one that is ours keeps the key that its chunks were made with.
#[test]
fn a_pair_is_not_given_another_key() {
    let dir = tempfile::tempdir().unwrap();
    let book = PeerBook::open(dir.path()).unwrap();
    let west = book.insert(record(1, 1, "west", 5)).unwrap();
    let other_key = PeerRecord { hash_key: HashKey([9; 32]), ..PeerRecord::clone(&west) };
    let other_site =
        PeerRecord { site: SiteId([7; 16]), name: "mars".to_owned(), ..PeerRecord::clone(&west) };
    for is_over in [false, true] {
        for claimed in [&other_key, &other_site] {
            let error = book.insert(claimed.clone()).unwrap_err();
            assert!(matches!(error, BookError::PairTaken { .. }), "{error}");
        }
        assert_eq!(book.hash_key(west.pair), Some(HashKey([1; 32])));
        if !is_over {
            book.remove(west.pair).unwrap();
        }
    }
}
