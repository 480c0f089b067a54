//! Invariant 6: everything in the catalog can be rebuilt.

use std::fs;

use backstay_tests::{Pair, Plan, assert_same, seed, tree};
use serde_json::Value;

/// What a restore point is, without what depends on when it is asked.
fn facts(points: &[Value]) -> Vec<String> {
    let mut facts: Vec<_> = points
        .iter()
        .map(|point| {
            let fields =
                ["id", "plan", "epoch", "snapshotTime", "committedTime", "consistency", "bytesScanned"];
            fields.map(|field| point[field].to_string()).join(" ")
        })
        .collect();
    facts.sort();
    facts
}

/// The receiver's catalog is deleted: rebuilt by command, nothing lost, and the next cycle is an increment.
#[test]
fn a_lost_catalog_of_the_receiver_is_rebuilt() {
    let mut pair = Pair::start();
    let mut rng = seed("catalog");
    let source = pair.source("source");
    tree::small_files(&source, 800, &mut rng);
    tree::random_image(&source.join("database"), 16, &mut rng);
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    for _ in 0..3 {
        tree::mutate(&source, 20, &mut rng);
        pair.east.sync("shop");
    }
    let before = facts(&pair.west.restore_points("shop"));
    pair.west.terminate();
    fs::remove_dir_all(pair.west.dir().join("catalog")).unwrap();
    pair.west.cli(["catalog", "rebuild"]).ok();
    pair.west.serve();
    pair.wait_connected();
    assert_eq!(before, facts(&pair.west.restore_points("shop")));
    pair.west.cli(["verify"]).ok();
    fs::write(source.join("one-more"), b"small").unwrap();
    let point = pair.east.sync("shop");
    assert!(point["wireBytes"].as_u64().unwrap() < 1_000_000, "the rebuilt store was not used: {point}");
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// The sender's catalog is deleted: rebuilt by command, and replication goes on. A sender's own state is not in any
/// pack; what it knew of its peer and plans must not depend on the catalog alone.
#[test]
fn a_lost_catalog_of_the_sender_is_rebuilt() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 300, &mut seed("sender catalog"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    pair.east.terminate();
    fs::remove_dir_all(pair.east.dir().join("catalog")).unwrap();
    pair.east.cli(["catalog", "rebuild"]).ok();
    pair.east.serve();
    pair.wait_connected();
    fs::write(source.join("one-more"), b"small").unwrap();
    pair.east.sync("shop");
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// A promoted site whose catalog is lost still is the active one: the epoch is not forgotten.
#[test]
fn a_lost_catalog_does_not_undo_a_promotion() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 50, &mut seed("promoted catalog"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    let report = pair.take_over("shop");
    pair.west.terminate();
    fs::remove_dir_all(pair.west.dir().join("catalog")).unwrap();
    pair.west.cli(["catalog", "rebuild"]).ok();
    pair.west.serve();
    let status = pair.west.status("shop");
    assert_eq!(status["epoch"], report["epoch"], "{status}");
    assert_eq!(status["role"], "active", "{status}");
    pair.east.allow_errors("");
    pair.east.serve();
    pair.wait_connected();
    pair.east.cli(["sync", "shop"]).refused(&[4], &[]);
}

/// A rebuild beside a running daemon would pull the floor from under it.
#[test]
fn a_rebuild_beside_a_running_daemon_is_refused() {
    let pair = Pair::start();
    pair.west.cli(["catalog", "rebuild"]).refused(&[1, 4], &[]);
}
