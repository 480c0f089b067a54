//! Pair keys that must not work, and what else a stranger can send.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use backstay_tests::{Pair, Plan, Site, assert_same, eventually, seed, tree};
use rand::RngExt as _;

fn key(site: &Site, ttl: &str) -> String {
    let endpoint = site.listen().to_string();
    let output = site.cli(["pair", "key", "--endpoint", &endpoint, "--ttl", ttl]).ok().stdout;
    let key = output.trim().to_owned();
    assert!(key.starts_with("bsk1_") && output.lines().count() == 1, "{output}");
    key
}

fn assert_unpaired(sites: [&Site; 2]) {
    for site in sites {
        assert!(
            site.cli(["pair", "list", "-o", "json"]).ok().items().is_empty(),
            "{} is paired",
            site.name()
        );
    }
}

/// Cut short, with a typing error, or no key at all: found before anything is sent.
#[test]
fn a_garbled_key_is_found_locally() {
    let (east, west) = (Site::start("east"), Site::start("west"));
    let good = key(&west, "5m");
    let cut = &good[..good.len() - 7];
    let mut typo = good.clone().into_bytes();
    let middle = typo.len() / 2;
    typo[middle] = if typo[middle] == b'A' { b'B' } else { b'A' };
    let typo = String::from_utf8(typo).unwrap();
    for bad in ["", "hello", "bsk1_", "bsk9_AAAA", cut, &typo] {
        east.cli(["pair", "join", bad]).refused(&[2], &[]);
    }
    assert_unpaired([&east, &west]);
    east.cli(["pair", "join", &good]).ok();
}

/// A key lives as long as it says.
#[test]
fn an_expired_key_says_so() {
    let (east, west) = (Site::start("east"), Site::start("west"));
    let key = key(&west, "1s");
    std::thread::sleep(Duration::from_millis(1500));
    east.cli(["pair", "join", &key]).refused(&[2, 4], &["expired"]);
    assert_unpaired([&east, &west]);
}

/// A key works once; its second use says so, from the same site or another.
#[test]
fn a_key_works_once() {
    let (east, west, third) = (Site::start("east"), Site::start("west"), Site::start("third"));
    let key = key(&west, "5m");
    east.cli(["pair", "join", &key]).ok();
    third.cli(["pair", "join", &key]).refused(&[2, 4], &["used"]);
    assert!(third.cli(["pair", "list", "-o", "json"]).ok().items().is_empty());
    assert_eq!(west.cli(["pair", "list", "-o", "json"]).ok().items().len(), 1);
}

/// A key that its site no longer knows: the daemon forgot it when it ended.
#[test]
fn a_key_of_a_restarted_site_is_wrong() {
    let (east, mut west) = (Site::start("east"), Site::start("west"));
    let key = key(&west, "5m");
    west.restart();
    east.cli(["pair", "join", &key]).refused(&[2, 4, 5], &[]);
    assert_unpaired([&east, &west]);
}

/// Nobody answers at the key's endpoint.
#[test]
fn a_key_to_nowhere_names_the_endpoints() {
    let (east, mut west) = (Site::start("east"), Site::start("west"));
    let key = key(&west, "5m");
    west.terminate();
    east.cli(["pair", "join", &key]).refused(&[5], &[&west.listen().to_string()]);
    assert!(east.cli(["pair", "list", "-o", "json"]).ok().items().is_empty());
}

/// A removed peer is cut off at once, and stays out until it is paired again.
#[test]
fn a_removed_peer_is_out() {
    let pair = Pair::start();
    let source = pair.source("source");
    fs::write(source.join("file"), b"x").unwrap();
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    pair.west.cli(["pair", "remove", "east"]).ok();
    pair.west.cli(["pair", "remove", "east"]).exits(&[0]);
    pair.east.allow_errors("");
    eventually("the removed peer is cut off", Duration::from_secs(10), || {
        let pairs = pair.east.cli(["pair", "list", "-o", "json"]).ok().items();
        pairs.iter().all(|pair| pair["connected"] == false)
    });
    pair.east.cli(["sync", "shop"]).refused(&[4, 5], &[]);
}

/// Certificates are replaced while plans go on.
#[test]
fn rotation_leaves_no_gap() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 100, &mut seed("rotate"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    pair.east.cli(["pair", "rotate", "west"]).ok();
    tree::mutate(&source, 20, &mut seed("rotate"));
    pair.east.sync("shop");
    pair.west.cli(["pair", "rotate", "east"]).ok();
    pair.east.restart();
    pair.west.restart();
    pair.wait_connected();
    pair.east.sync("shop");
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// Random bytes at the daemon's port change nothing: no error in the log, no pair, and the next cycle works.
#[test]
fn random_bytes_on_the_port_do_nothing() {
    let mut pair = Pair::start();
    let mut rng = seed("garbage");
    let source = pair.source("source");
    tree::small_files(&source, 100, &mut rng);
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for site in [&pair.east, &pair.west] {
        for _ in 0..3000 {
            let len = rng.random_range(0..1500);
            let mut bytes = tree::random_bytes(&mut rng, len);
            // Half of them look like QUIC: a long header, version 1.
            if rng.random() && bytes.len() > 5 {
                bytes[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
            }
            socket.send_to(&bytes, site.listen()).unwrap();
        }
    }
    assert!(pair.east.is_running() && pair.west.is_running());
    pair.east.sync("shop");
    assert_eq!(pair.west.cli(["pair", "list", "-o", "json"]).ok().items().len(), 1);
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}
