use std::net::UdpSocket;

use backstay_types::{Class, Classify};

use super::*;
use crate::{CloseReason, NetError};

#[tokio::test]
async fn a_peer_that_went_away_and_came_back_is_connected_again() {
    let (east, west, record) = pair().await;
    let before = west.connected(&record).await;
    let east = east.restart(|_| {}).await;
    let reason = before.closed().await;
    assert!(
        matches!(reason, CloseReason::ShutDown | CloseReason::Restarted | CloseReason::Failed { .. }),
        "{reason}"
    );
    let _answers = (answer_all(&east), answer_all(&west));
    let after = west.connected(&record).await;
    assert!(!after.is(&before));
    ask(&after).await.unwrap();
    ask(&east.connected(&record).await).await.unwrap();
}

#[tokio::test]
async fn requests_both_ways_hold_while_both_sides_have_dialed() {
    let (east, west, record) = pair().await;
    let (_e, _w) = (answer_all(&east), answer_all(&west));
    // As after a time when each side could be reached by the other.
    for site in [&east, &west] {
        site.net.core().link(record.pair).unwrap().want();
    }
    until("there are two", || east.net.core().link(record.pair).unwrap().live().len() >= 2).await;
    for _ in 0..20 {
        for site in [&east, &west] {
            ask(&site.connected(&record).await).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_named_with_what_was_tried() {
    let (east, west, record) = pair().await;
    let endpoint = east.net.local_addr().to_string();
    west.connected(&record).await;
    east.net.shutdown().await;
    let address = east.net.local_addr();
    drop(east);
    let _silent = loop {
        match UdpSocket::bind(address) {
            Ok(socket) => break socket,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    until("the connection is gone", || west.net.connection(record.pair).is_none()).await;
    let error = west.net.wait_connection(record.pair, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(&error, NetError::Unreachable { peer, .. } if peer == "east"), "{error}");
    assert_eq!(error.class(), Class::Transient);
    assert!(error.to_string().contains(&endpoint) && error.hint().is_some(), "{error}");
    let status = &west.net.peers()[0];
    assert!(!status.connected && status.last_seen.is_some());
}

#[tokio::test]
async fn a_site_that_cannot_be_dialed_is_reached_over_the_connection_it_makes() {
    let (east, west, record) = pair().await;
    east.net.core().book.update(record.pair, |record| record.endpoints.clear()).unwrap();
    let west = west.restart(|_| {}).await;
    let east = east.restart(|_| {}).await;
    let _answers = answer_all(&west);
    ask(&east.connected(&record).await).await.unwrap();
}

#[tokio::test]
async fn status_tells_who_is_connected_where() {
    let (east, west, record) = pair().await;
    west.connected(&record).await;
    let status = &west.net.peers()[0];
    assert!(status.connected && status.last_failure.is_none());
    assert_eq!(status.remote, Some(east.net.local_addr()));
    assert!(status.rtt.is_some() && status.last_seen.is_some());
}

#[tokio::test]
async fn shutting_down_lets_a_request_under_way_end() {
    let (east, west, record) = pair().await;
    let connection = west.connected(&record).await;
    let mut requests = east.net.incoming().unwrap();
    let mut control = connection.open(Frame::Done(Done {})).await.unwrap();
    let mut request = requests.recv().await.unwrap();
    let (answered, ()) = tokio::join!(
        async {
            let served = async {
                request.control.send(&Frame::Done(Done {})).await.unwrap();
                request.control.finish().unwrap();
                request.control.delivered().await.unwrap();
                drop(request);
            };
            let (answer, ()) = tokio::join!(control.recv(), served);
            drop(control);
            answer
        },
        east.net.shutdown()
    );
    assert_eq!(answered.unwrap(), Some(Frame::Done(Done {})));
    assert_eq!(connection.closed().await, CloseReason::ShutDown);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = UdpSocket::bind(loopback()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::create(&dir.path().join("identity"), SiteId([1; 16]), "east").unwrap();
    let book = PeerBook::open(&dir.path().join("pairs")).unwrap();
    let listen = taken.local_addr().unwrap();
    let error = Net::start(NetConfig::new(listen), identity, book).err().unwrap();
    assert!(error.to_string().contains(&listen.to_string()) && error.hint().is_some(), "{error}");
}

/// West moves while east does not know where to: it dials, tells, and is dialed there from then on, after a restart too.
#[tokio::test]
async fn a_site_that_moves_is_found_from_then_on() {
    let (east, west, record) = pair().await;
    east.connected(&record).await;
    let old = west.net.local_addr();
    // It dials alone: what it is dialed at from here on is what it told.
    let west = west.restart(|config| config.listen = loopback()).await;
    assert_ne!(west.net.local_addr(), old);
    let here = west.net.local_addr().to_string();
    until("east is told", || {
        let at_east = east.net.book().get(record.pair).unwrap();
        at_east.reached_at() == [here.clone(), old.to_string()]
    })
    .await;
    // Only east can dial now.
    west.net.core().book.update(record.pair, |record| record.endpoints.clear()).unwrap();
    west.net.core().book.update(record.pair, |record| record.told.clear()).unwrap();
    let east = east.restart(|config| config.advertise = vec!["east.invalid:7443".to_owned()]).await;
    east.connected(&record).await;
    until("west is told what is advertised", || {
        west.net.book().get(record.pair).unwrap().reached_at() == ["east.invalid:7443"]
    })
    .await;
}

/// Both have moved: neither finds the other until an operator says where it is.
#[tokio::test]
async fn the_operator_says_where_a_peer_is() {
    let (east, west, record) = pair().await;
    east.net.core().book.update(record.pair, |record| record.endpoints.clear()).unwrap();
    let west = west.restart(|config| config.listen = loopback()).await;
    west.net.core().book.update(record.pair, |record| record.endpoints.clear()).unwrap();
    let here = west.net.local_addr().to_string();
    for bad in [vec!["nonsense".to_owned()], vec!["a:1".to_owned(); crate::ENDPOINTS_MAX + 1]] {
        let error = east.net.set_endpoints(record.pair, bad).await.unwrap_err();
        assert!(matches!(error, crate::NetError::Endpoint { .. }), "{error}");
    }
    let set = east.net.set_endpoints(record.pair, vec![here.clone()]).await.unwrap();
    assert_eq!(set.reached_at(), [here]);
    east.connected(&record).await;
    west.connected(&record).await;
}
