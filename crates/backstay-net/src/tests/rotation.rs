use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

fn authorities(site: &Site, record: &PeerRecord) -> (String, Vec<String>) {
    let stored = site.stored();
    let record = stored.iter().find(|stored| stored.pair == record.pair).unwrap();
    let theirs = record.peer_cas.iter().map(|ca| ca.fingerprint().to_string()).collect();
    assert_eq!(record.our_next, None);
    (record.our_ca.to_string(), theirs)
}

fn authority_files(site: &Site) -> usize {
    let entries = std::fs::read_dir(site.dir.path().join("identity")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "pem")).count()
}

/// Both sides hold one new authority of each, and nothing else.
async fn settled(east: &Site, west: &Site, record: &PeerRecord) {
    let one = |site: &Site| {
        let record = site.net.core().book.get(record.pair).unwrap();
        record.peer_cas.len() == 1 && record.our_next.is_none()
    };
    until("old authorities are forgotten", || one(east) && one(west)).await;
    let (at_east, at_west) = (authorities(east, record), authorities(west, record));
    assert_eq!(at_east.1, [at_west.0]);
    assert_eq!(at_west.1, [at_east.0]);
    until("old keys are gone", || authority_files(east) == 1 && authority_files(west) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_are_replaced_while_requests_go_on() {
    let (east, west, record) = pair().await;
    west.connected(&record).await;
    let _answers = (answer_all(&east), answer_all(&west));
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut traffic = JoinSet::new();
    for site in [&east, &west] {
        let (net, pair, stop, asked) = (site.net.clone(), record.pair, Arc::clone(&stop), Arc::clone(&asked));
        traffic.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let connection = net.wait_connection(pair, LIMIT).await.unwrap();
                ask(&connection).await.unwrap();
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for _ in 0..3 {
        let old = (authorities(&east, &record).0, authorities(&west, &record).0);
        let before = asked.load(Ordering::Relaxed);
        east.net.rotate(record.pair).await.unwrap();
        settled(&east, &west, &record).await;
        let new = (authorities(&east, &record).0, authorities(&west, &record).0);
        assert!(old.0 != new.0 && old.1 != new.1, "both sides have new ones");
        until("traffic went on", || asked.load(Ordering::Relaxed) > before + 10).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = traffic.join_next().await {
        ended.unwrap();
    }
    // What is on the disk is enough to connect.
    let (east, west) = (east.restart(|_| {}).await, west.restart(|_| {}).await);
    west.connected(&record).await;
    east.connected(&record).await;
}

#[tokio::test]
async fn both_sides_may_rotate_at_once() {
    let (east, west, record) = pair().await;
    west.connected(&record).await;
    east.connected(&record).await;
    let (one, two) = tokio::join!(east.net.rotate(record.pair), west.net.rotate(record.pair));
    assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
    settled(&east, &west, &record).await;
}

/// The states that a crash of either side leaves behind, in the order they are passed.
#[tokio::test]
async fn a_rotation_broken_off_anywhere_leaves_a_pair_that_connects_and_rotates_again() {
    for step in 0..4 {
        let (east, west, record) = pair().await;
        let (pair_east, pair_west) = (east.net.core(), west.net.core());
        let next = |core: &Arc<crate::core::Core>| core.identity.renew().unwrap();
        let ca = |authority: &crate::identity::Authority| {
            crate::CaCert::parse(authority.certificate().to_vec()).unwrap()
        };
        // A announced …
        let east_next = next(pair_east);
        pair_east.book.update(record.pair, |r| r.our_next = Some(east_next.fingerprint())).unwrap();
        if step >= 1 {
            // … B pinned and answered …
            let west_next = next(pair_west);
            let pinned = ca(&east_next);
            pair_west
                .book
                .update(record.pair, |r| {
                    r.pin(pinned);
                    r.our_next = Some(west_next.fingerprint());
                })
                .unwrap();
            if step >= 2 {
                // … A pinned and switched …
                let pinned = ca(&west_next);
                pair_east
                    .book
                    .update(record.pair, |r| {
                        r.pin(pinned);
                        r.our_ca = east_next.fingerprint();
                        r.our_next = None;
                    })
                    .unwrap();
            }
            if step >= 3 {
                // … B switched.
                pair_west
                    .book
                    .update(record.pair, |r| {
                        r.our_ca = west_next.fingerprint();
                        r.our_next = None;
                    })
                    .unwrap();
            }
        }
        let (east, west) = (east.restart(|_| {}).await, west.restart(|_| {}).await);
        let _answers = (answer_all(&east), answer_all(&west));
        ask(&west.connected(&record).await).await.unwrap();
        ask(&east.connected(&record).await).await.unwrap();
        let (one, other) = if step % 2 == 0 { (&east, &west) } else { (&west, &east) };
        one.net.rotate(record.pair).await.unwrap_or_else(|error| panic!("step {step}: {error}"));
        settled(one, other, &record).await;
    }
}

#[tokio::test]
async fn a_second_pair_keeps_its_own_authority_and_the_files_it_needs() {
    let (east, west, record) = pair().await;
    let north = Site::new(3, "north");
    let with_north = north.net.join(&east.key(), None).await.unwrap();
    west.connected(&record).await;
    east.net.rotate(record.pair).await.unwrap();
    until("west is settled", || west.net.core().book.get(record.pair).unwrap().peer_cas.len() == 1).await;
    assert_eq!(authority_files(&east), 2, "the old one still serves the other pair");
    let (east, north) = (east.restart(|_| {}).await, north.restart(|_| {}).await);
    north.connected(&with_north).await;
    // The other pair moves to the authority that is there already.
    east.net.rotate(with_north.pair).await.unwrap();
    until("one is left", || authority_files(&east) == 1).await;
    west.connected(&record).await;
    north.connected(&with_north).await;
}
