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
