use std::net::UdpSocket;

use backstay_types::frame::{HEADER_BYTES, WireVersion};
use backstay_types::{Class, Classify, HashKey, PairId, SessionId, limits};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::pair::testing;
use crate::{CaCert, ControlRecv, HelloError, NetError, VersionRange};

fn speaks(oldest: u16, newest: u16) -> impl FnOnce(&mut NetConfig) {
    move |config| {
        config.versions = VersionRange { oldest: WireVersion(oldest), newest: WireVersion(newest) };
    }
}

#[tokio::test]
async fn a_proof_made_in_another_session_is_worth_nothing() {
    let (east, west) = (Site::new(1, "east"), Site::new(2, "west"));
    let key = east.key();
    assert!(!testing::proves_for_another_session(west.net.core(), &key, false).await);
    assert!(testing::proves_for_another_session(west.net.core(), &key, true).await);
    assert!(east.stored().is_empty(), "an offer alone stores nothing");
}

/// A site that trusts `victim` and dials it without ever having been paired with it.
fn intruder(victim: &Site) -> (Site, PeerRecord) {
    let intruder = Site::new(7, "intruder");
    let core = intruder.net.core();
    let certificate = victim.net.core().identity.current().certificate().to_vec();
    let record = PeerRecord {
        pair: PairId([7; 16]),
        site: victim.net.core().identity.site(),
        name: "victim".to_owned(),
        endpoints: vec![victim.net.local_addr().to_string()],
        told: Vec::new(),
        peer_cas: vec![CaCert::parse(certificate).unwrap()],
        our_ca: core.identity.fingerprint(),
        our_next: None,
        hash_key: HashKey([0; 32]),
        params: backstay_types::ChunkParams::with_seed(0),
        paired_at: crate::clock::now(),
    };
    core.book.insert(record.clone()).unwrap();
    (intruder, record)
}

#[tokio::test]
async fn a_site_that_is_not_paired_gets_no_connection_window_or_not() {
    let victim = Site::new(1, "victim");
    let mut requests = victim.net.incoming().unwrap();
    for open in [false, true] {
        if open {
            victim.key();
        }
        let (intruder, record) = intruder(&victim);
        let error = intruder.net.wait_connection(record.pair, LIMIT).await.unwrap_err();
        assert_eq!(error.class(), Class::Unauthorized, "{error}");
        assert!(error.hint().is_some() && error.to_string().contains(&victim.net.local_addr().to_string()));
    }
    assert!(requests.try_recv().is_err());
    assert!(victim.net.peers().is_empty());
}

#[tokio::test]
async fn a_stranger_at_a_known_address_is_not_taken_for_the_peer() {
    let (east, west, record) = pair().await;
    west.connected(&record).await;
    let address = east.net.local_addr();
    let core = Arc::clone(east.net.core());
    east.net.shutdown().await;
    drop((core, east));
    // Another site takes over the address.
    let stranger = loop {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::create(&dir.path().join("identity"), SiteId([9; 16]), "stranger").unwrap();
        let book = PeerBook::open(&dir.path().join("pairs")).unwrap();
        match Net::start(NetConfig::new(address), identity, book) {
            Ok(net) => break Site { dir, net },
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    until("the old connection is gone", || west.net.connection(record.pair).is_none()).await;
    let error = west.net.wait_connection(record.pair, LIMIT).await.unwrap_err();
    let met = stranger.net.core().identity.fingerprint().to_string();
    assert!(error.to_string().contains(&met), "{error}");
    assert_eq!(error.class(), Class::Unauthorized);
}

#[tokio::test]
async fn a_removed_peer_is_cut_off_at_once_and_cannot_come_back() {
    let (east, west, record) = pair().await;
    let connection = west.connected(&record).await;
    let _answers = answer_all(&east);
    ask(&connection).await.unwrap();
    east.net.remove(record.pair).await.unwrap();
    assert!(east.net.connection(record.pair).is_none());
    assert!(east.stored().is_empty());
    let reason = connection.closed().await;
    assert_eq!(reason.class(), Class::Unauthorized, "{reason}");
    assert!(ask(&connection).await.is_err());
    until("west sees that it is gone", || west.net.connection(record.pair).is_none()).await;
    let error = west.net.wait_connection(record.pair, LIMIT).await.unwrap_err();
    assert_eq!(error.class(), Class::Unauthorized, "{error}");
    assert!(matches!(east.net.wait_connection(record.pair, LIMIT).await, Err(NetError::Book(_))));
}

#[tokio::test]
async fn disjoint_versions_are_named_on_both_sides() {
    let (east, west, record) = pair().await;
    let east = east.restart(speaks(3, 4)).await;
    let west = west.restart(speaks(1, 2)).await;
    for (site, ours, theirs) in [(&west, "1 to 2", "3 to 4"), (&east, "3 to 4", "1 to 2")] {
        until("the mismatch is known", || {
            let failure = site.net.peers()[0].last_failure.clone();
            failure.is_some_and(|text| text.contains(ours) && text.contains(theirs))
        })
        .await;
        assert!(!site.net.peers()[0].connected);
    }
    let error = west.net.wait_connection(record.pair, LIMIT).await.unwrap_err();
    assert_eq!(error.class(), Class::Incompatible, "{error}");
    assert!(error.hint().unwrap().contains("upgrade"), "{error}");

    // Overlapping ranges meet at the newest of both.
    let east = east.restart(speaks(2, 4)).await;
    let connection = east.connected(&record).await;
    assert_eq!(connection.version(), WireVersion(2));
    assert_eq!(west.connected(&record).await.version(), WireVersion(2));
    let none = HelloError::Timeout;
    assert_eq!(none.class(), Class::Transient);
}

#[tokio::test]
async fn a_frame_over_the_limit_is_refused_before_it_is_read() {
    let (east, west, record) = pair().await;
    let connection = west.connected(&record).await;
    let mut requests = east.net.incoming().unwrap();
    for over in [limits::FRAME_BYTES_MAX + 1, u32::MAX as usize] {
        let (mut send, recv) = connection.quinn().open_bi().await.unwrap();
        let mut header = [0; HEADER_BYTES];
        header[0] = 1;
        header[1..].copy_from_slice(&u32::try_from(over).unwrap().to_le_bytes());
        send.write_all(&header).await.unwrap();
        let mut answers: ControlRecv = connection.control(send, recv).split().1;
        match answers.recv().await.unwrap() {
            Some(Frame::Refused(refused)) => {
                assert_eq!(Class::from_wire_code(refused.class), Class::LimitExceeded);
            }
            other => panic!("{other:?}"),
        }
    }
    // The connection is none the worse for it.
    let control = connection.open(Frame::Done(Done {})).await.unwrap();
    assert_eq!(requests.recv().await.unwrap().first, Frame::Done(Done {}));
    drop(control);
}

#[tokio::test]
async fn a_batch_that_lies_about_its_length_ends_the_connection() {
    let (east, west, record) = pair().await;
    let (connection, receiving) = ends(&east, &west, &record).await;
    let _batches = receiving.register(SessionId(1));
    let mut batch = backstay_types::frame::batch::BatchWriter::new().finish(SessionId(1), 0);
    let end = batch.len();
    batch[end - 4..].copy_from_slice(&5u32.to_le_bytes());
    let mut stream = connection.quinn().open_uni().await.unwrap();
    stream.write_all(&batch).await.unwrap();
    stream.finish().unwrap();
    let reason = connection.closed().await;
    assert!(reason.to_string().contains("batch"), "{reason}");
}

#[tokio::test]
async fn random_bytes_on_the_port_are_ignored() {
    let (east, west, record) = pair().await;
    let _answers = answer_all(&east);
    let connection = west.connected(&record).await;
    let noise = UdpSocket::bind(loopback()).unwrap();
    noise.set_nonblocking(true).unwrap();
    let mut rng = SmallRng::seed_from_u64(11);
    let mut bytes = [0; 1472];
    for round in 0..4000 {
        let length = rng.random_range(0..=bytes.len());
        rng.fill_bytes(&mut bytes[..length]);
        if round % 4 == 0 && length > 5 {
            // Looks like the first packet of a QUIC connection, as far as its first bytes go.
            bytes[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        noise.send_to(&bytes[..length], east.net.local_addr()).unwrap();
        if round % 256 == 0 {
            ask(&connection).await.unwrap();
        }
    }
    ask(&connection).await.unwrap();
    assert!(connection.is_live());
    assert_eq!(east.net.peers().len(), 1);
    until("nothing is left of the noise", || {
        let link = &east.net.core().all_links()[0];
        east.net.core().endpoint.open_connections() == link.live().len()
    })
    .await;
}
