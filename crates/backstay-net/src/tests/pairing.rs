use std::net::UdpSocket;

use backstay_types::{Class, Classify, Time};

use super::*;
use crate::PairError;
use crate::pair::testing;

async fn refused(joiner: &Site, key: &str) -> PairError {
    let error = joiner.net.join(key, None).await.unwrap_err();
    assert!(error.hint().is_some(), "{error} has no hint");
    error
}

#[tokio::test]
async fn two_sites_pair_with_one_key_and_agree_on_everything() {
    let (east, west, at_west) = pair().await;
    let at_east = east.net.core().book.by_name("west").unwrap();
    assert_eq!(at_east.pair, at_west.pair);
    assert_eq!(at_east.hash_key, at_west.hash_key);
    assert_eq!(at_east.params, at_west.params);
    assert_eq!((at_east.site, at_west.site), (SiteId([2; 16]), SiteId([1; 16])));
    assert_eq!(at_west.name, "east");
    assert_eq!(at_west.peer_cas[0].fingerprint(), at_east.our_ca);
    assert_eq!(at_east.peer_cas[0].fingerprint(), at_west.our_ca);
    assert_eq!(at_west.endpoints, [east.net.local_addr().to_string()]);
    assert_eq!(at_east.endpoints, [west.net.local_addr().to_string()], "as seen, with the joiner's port");
    assert_eq!(east.stored(), [at_east]);
    assert_eq!(west.stored(), [Arc::clone(&at_west)]);

    let (_e, _w) = (answer_all(&east), answer_all(&west));
    ask(&west.connected(&at_west).await).await.unwrap();
    ask(&east.connected(&at_west).await).await.unwrap();
}

#[tokio::test]
async fn a_joiner_that_advertises_is_reached_there() {
    let east = Site::new(1, "east");
    let west = Site::with(2, "west", |config| config.advertise = vec!["west.invalid:7444".to_owned()]);
    west.net.join(&east.key(), None).await.unwrap();
    assert_eq!(east.net.core().book.by_name("west").unwrap().endpoints, ["west.invalid:7444"]);
}

#[tokio::test]
async fn a_cut_or_mistyped_key_is_found_before_anything_is_dialed() {
    let (east, west) = (Site::new(1, "east"), Site::new(2, "west"));
    let key = east.key();
    for bad in [&key[..key.len() - 1], "bsk1_", "", "hello", &key.replace("bsk1_", "bsk2_")] {
        let error = refused(&west, bad).await;
        assert!(matches!(error, PairError::Malformed { .. }), "{error}");
        assert_eq!(error.class(), Class::Invalid);
        assert!(bad.len() < 10 || !error.to_string().contains(&bad[5..]), "the key is a secret");
    }
    west.net.join(&key, None).await.unwrap();
}

#[tokio::test]
async fn a_key_is_good_once() {
    let (east, west, north) = (Site::new(1, "east"), Site::new(2, "west"), Site::new(3, "north"));
    let key = east.key();
    west.net.join(&key, None).await.unwrap();
    let error = refused(&north, &key).await;
    assert!(matches!(error, PairError::Used), "{error}");
    assert!(north.stored().is_empty());
    assert_eq!(east.stored().len(), 1);
}

#[tokio::test]
async fn of_two_who_join_at_once_one_is_paired() {
    let (east, west, north) = (Site::new(1, "east"), Site::new(2, "west"), Site::new(3, "north"));
    let key = east.key();
    let (one, two) = tokio::join!(west.net.join(&key, None), north.net.join(&key, None));
    assert!(one.is_ok() != two.is_ok());
    let error = one.err().or(two.err()).unwrap();
    assert!(matches!(error, PairError::Used), "{error}");
    assert_eq!(east.stored().len(), 1);
}

#[tokio::test]
async fn an_expired_key_says_so_on_either_clock() {
    let (east, west) = (Site::new(1, "east"), Site::new(2, "west"));
    let key = east.net.pair_key(Vec::new(), Span(0), None).unwrap();
    until("the key has expired", || crate::clock::now() > testing::expiry(&key)).await;
    let error = refused(&west, &key).await;
    assert!(matches!(error, PairError::Expired { .. }), "{error}");
    // A joiner whose clock is behind believes in the key; the issuer does not.
    let error = refused(&west, &testing::with_expiry(&key, Time(i64::MAX / 2))).await;
    assert!(matches!(error, PairError::Expired { .. }), "{error}");
    assert!(east.stored().is_empty() && west.stored().is_empty());
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_five_close_the_window() {
    let (east, west) = (Site::new(1, "east"), Site::new(2, "west"));
    let key = east.key();
    for _ in 0..crate::pair::BAD_ATTEMPTS_MAX {
        let error = refused(&west, &testing::with_other_secret(&key)).await;
        assert!(matches!(error, PairError::Wrong { .. }), "{error}");
        assert_eq!(error.class(), Class::Unauthorized);
    }
    let error = refused(&west, &key).await;
    assert!(matches!(error, PairError::Closed { .. }), "{error}");
    assert!(east.stored().is_empty() && west.stored().is_empty());
    west.net.join(&east.key(), None).await.unwrap();
}

#[tokio::test]
async fn a_site_that_restarted_has_no_window_open() {
    let (east, west) = (Site::new(1, "east"), Site::new(2, "west"));
    let key = east.key();
    let east = east.restart(|_| {}).await;
    let error = refused(&west, &key).await;
    assert!(matches!(error, PairError::NoWindow { .. }), "{error}");
    west.net.join(&east.key(), None).await.unwrap();
}

#[tokio::test]
async fn another_site_at_the_endpoint_is_named_and_gets_no_proof() {
    let (east, west, north) = (Site::new(1, "east"), Site::new(2, "west"), Site::new(3, "north"));
    let _open = north.key();
    let key = east.net.pair_key(vec![north.net.local_addr().to_string()], TTL, None).unwrap();
    let error = refused(&west, &key).await;
    let found = north.net.core().identity.fingerprint();
    assert!(matches!(&error, PairError::OtherAuthority { found: met, .. } if *met == found), "{error}");
    assert!(west.stored().is_empty());
}

#[tokio::test]
async fn every_endpoint_that_was_tried_is_listed() {
    let (east, west) = (Site::new(1, "east"), Site::new(2, "west"));
    // A socket that never answers keeps its port from being taken by another test.
    let silent = UdpSocket::bind(loopback()).unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let names = vec!["no.such.host.invalid:1".to_owned(), silent.clone()];
    let error = refused(&west, &east.net.pair_key(names.clone(), TTL, None).unwrap()).await;
    let PairError::Unreachable { tried, .. } = &error else { panic!("{error}") };
    assert_eq!(
        tried.iter().map(|tried| &tried.endpoint).collect::<Vec<_>>(),
        names.iter().collect::<Vec<_>>()
    );
    assert_eq!(error.class(), Class::Transient);
    for name in &names {
        assert!(error.to_string().contains(name), "{error}");
    }
    // The next endpoint of the key is used if one does not answer.
    let key = east.net.pair_key(vec![silent, east.net.local_addr().to_string()], TTL, None).unwrap();
    let record = west.net.join(&key, None).await.unwrap();
    assert_eq!(record.endpoints[0], east.net.local_addr().to_string());
}

#[tokio::test]
async fn a_site_does_not_join_itself() {
    let east = Site::new(1, "east");
    let error = refused(&east, &east.key()).await;
    assert!(matches!(error, PairError::Own), "{error}");
}

/// Whatever was bound to the pair goes on: plans by its id, stored chunks by its hashing key.
#[tokio::test]
async fn the_same_two_sites_keep_their_pair_whichever_of_them_asks() {
    let (mut east, mut west, old) = pair().await;
    for round in 0..4 {
        let (issuer, joiner) = if round % 2 == 0 { (&west, &east) } else { (&east, &west) };
        if round == 2 {
            // Removed on the side that makes the key, then on both.
            west.net.remove(old.pair).await.unwrap();
        } else if round == 3 {
            west.net.remove(old.pair).await.unwrap();
            east.net.remove(old.pair).await.unwrap();
        }
        let new = joiner.net.join(&issuer.key(), None).await.unwrap();
        assert_eq!(
            (new.pair, &new.hash_key, new.params),
            (old.pair, &old.hash_key, old.params),
            "round {round}"
        );
        let theirs = issuer.net.core().book.get(old.pair).unwrap();
        assert_eq!((&theirs.hash_key, theirs.params), (&old.hash_key, old.params), "round {round}");
        assert_eq!((east.stored().len(), west.stored().len()), (1, 1));
        west.connected(&old).await;
        east.connected(&old).await;
        (east, west) = (east.restart(|_| {}).await, west.restart(|_| {}).await);
        west.connected(&old).await;
    }
}

/// Authorities are replaced pair by pair: what is shown is the one that the other side knows.
#[tokio::test]
async fn a_site_that_has_rotated_with_another_peer_is_known_all_the_same() {
    let (east, west, old) = pair().await;
    let north = Site::new(3, "north");
    for site in [&east, &west] {
        let with_north = north.net.join(&site.key(), None).await.unwrap();
        site.net.rotate(with_north.pair).await.unwrap();
    }
    for (issuer, joiner) in [(&east, &west), (&west, &east)] {
        let new = joiner.net.join(&issuer.key(), None).await.unwrap();
        assert_eq!(new.pair, old.pair);
    }
}

/// The holder of any key could say that it is another peer: its plans, its restore points and its place would be his.
#[tokio::test]
async fn a_known_site_id_is_believed_to_its_own_authority_alone() {
    let (east, west, old) = pair().await;
    let impostor = Site::new(2, "west");
    for is_removed in [false, true] {
        let key = east.key();
        let error = refused(&impostor, &key).await;
        assert!(matches!(error, PairError::KnownByAnother { .. }), "{error}");
        assert_eq!(error.class(), Class::Unauthorized);
        assert!(error.hint().unwrap().contains("--replaces"), "{:?}", error.hint());
        assert!(impostor.stored().is_empty());
        // The key was not at fault: the real one can use it.
        if !is_removed {
            assert_eq!(east.stored().len(), 1);
            east.connected(&old).await;
            east.net.remove(old.pair).await.unwrap();
        }
    }
    assert!(east.stored().is_empty());
    let again = west.net.join(&east.key(), None).await.unwrap();
    assert_eq!(again.pair, old.pair);
}

/// The same the other way round: the key may come from one who says that he is a peer of ours.
#[tokio::test]
async fn an_issuer_that_claims_to_be_a_peer_is_refused() {
    let (_east, west, old) = pair().await;
    let impostor = Site::new(1, "east");
    let error = refused(&west, &impostor.key()).await;
    assert!(matches!(&error, PairError::NotThePeer { name, .. } if name == "east"), "{error}");
    assert_eq!(west.stored(), [Arc::clone(&old)]);
    assert!(impostor.stored().is_empty());
    let new = west.net.join(&impostor.key(), Some("east")).await.unwrap();
    assert_ne!(new.pair, old.pair);
    assert_eq!(west.net.book().successor(old.pair), Some(new));
}

/// A peer that is gone for good, and was made anew under its name.
#[tokio::test]
async fn the_operator_says_who_takes_the_place_of_whom() {
    let (east, west, old) = pair().await;
    drop(west);
    let error = east.net.pair_key(Vec::new(), TTL, Some("mars".to_owned())).unwrap_err();
    assert!(matches!(error, PairError::NothingToReplace { .. }), "{error}");
    let mut joined = east.net.joined();
    let anew = Site::new(9, "west");
    let key = east.net.pair_key(Vec::new(), TTL, Some("west".to_owned())).unwrap();
    let (told, new) = tokio::join!(joined.recv(), async { anew.net.join(&key, None).await.unwrap() });
    let told = told.unwrap();
    assert_eq!(told.known, crate::JoinedAs::InPlaceOf("west".to_owned()));
    assert_eq!(told.record.site, SiteId([9; 16]));
    assert_ne!(new.pair, old.pair);
    for book in [east.net.book(), &PeerBook::open(&east.dir.path().join("pairs")).unwrap()] {
        assert_eq!(book.list().len(), 1);
        assert_eq!(book.successor(old.pair).map(|record| record.pair), Some(new.pair));
        assert_eq!(book.hash_key(old.pair).as_ref(), Some(&old.hash_key));
    }
}

/// What is told of a site that is known: that it takes another's place, and not that it is the same as before.
#[tokio::test]
async fn a_known_site_that_takes_the_place_of_another_is_told_so() {
    let (east, west, old) = pair().await;
    let north = Site::new(3, "north");
    north.net.join(&east.key(), None).await.unwrap();
    drop(west);
    let mut joined = east.net.joined();
    for (replaces, expected) in [
        ("west", crate::JoinedAs::InPlaceOf("west".to_owned())),
        // Its own place is nobody else's.
        ("north", crate::JoinedAs::Again),
    ] {
        let key = east.net.pair_key(Vec::new(), TTL, Some(replaces.to_owned())).unwrap();
        let (told, record) = tokio::join!(joined.recv(), async { north.net.join(&key, None).await.unwrap() });
        assert_eq!(told.unwrap().known, expected);
        assert_eq!(east.net.book().successor(old.pair).map(|record| record.pair), Some(record.pair));
        assert_eq!(east.net.book().list().len(), 1);
    }
}

#[tokio::test]
async fn a_name_taken_by_another_site_is_refused_on_either_side_and_the_key_stays_good() {
    let (east, west, _) = pair().await;
    let other_west = Site::new(9, "west");
    let key = east.key();
    let error = refused(&other_west, &key).await;
    assert!(matches!(error, PairError::Refused { .. }), "{error}");
    assert!(other_west.stored().is_empty());
    let taken = east.net.core().book.by_name("west").unwrap();
    east.net.remove(taken.pair).await.unwrap();
    other_west.net.join(&key, None).await.unwrap();

    let other_east = Site::new(8, "east");
    let error = refused(&west, &other_east.key()).await;
    assert!(error.hint().unwrap().contains("pair remove east"), "{error}");
    assert!(error.hint().unwrap().contains("--replaces east"), "{error}");
    assert_eq!(west.stored().len(), 1);
    assert!(other_east.stored().is_empty());
}

#[tokio::test]
async fn bad_endpoints_make_no_key() {
    let east = Site::new(1, "east");
    for bad in [vec!["nonsense".to_owned()], vec!["a:1".to_owned(); crate::ENDPOINTS_MAX + 1]] {
        let error = east.net.pair_key(bad, TTL, None).unwrap_err();
        assert!(matches!(error, PairError::Endpoint { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_issuer_that_dies_before_it_stores_leaves_a_pair_that_a_fresh_key_repairs() {
    let (east, west) = (Site::new(1, "east"), Site::new(2, "west"));
    let key = east.key();
    // The issuer's folder cannot be written: it fails after the joiner has stored.
    let pairs = east.dir.path().join("pairs");
    std::fs::remove_dir_all(&pairs).unwrap();
    std::fs::write(&pairs, b"in the way").unwrap();
    let error = refused(&west, &key).await;
    assert!(matches!(error, PairError::Unconfirmed { .. }), "{error}");
    assert_eq!(west.stored().len(), 1);
    std::fs::remove_file(&pairs).unwrap();
    std::fs::create_dir(&pairs).unwrap();
    assert!(east.net.core().book.list().is_empty());

    let error = refused(&west, &key).await;
    assert!(matches!(error, PairError::Used), "{error}");
    let record = west.net.join(&east.key(), None).await.unwrap();
    assert_eq!(west.stored(), [Arc::clone(&record)]);
    west.connected(&record).await;
}
