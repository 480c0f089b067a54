//! Switchover, failback, and a side that returns: nothing is lost, nothing is sent twice, and never do both sides run.

use std::fs;
use std::time::Duration;

use backstay_tests::{
    FileSystem, LoopFs, Pair, Plan, assert_same, copy_tree, eventually, object, objects_under, seed, skip,
    tree,
};
use serde_json::{Value, json};

use crate::shop::{Shop, small};

fn done(command: &backstay_tests::Site, verb: &str) -> Value {
    command.cli([verb, "shop", "-o", "json"]).ok().json()
}

/// There and back: what was written last is there, objects run on one side alone, and replication turns round by itself.
#[test]
fn there_and_back() {
    let mut rng = seed("there and back");
    let shop = Shop::new(small);
    let Shop { pair, source, .. } = &shop;
    tree::mutate(source, 60, &mut rng);
    let report = done(&pair.east, "switchover");
    assert_eq!((&report["epoch"], &report["rpoSeconds"]), (&json!(2), &json!(0.0)), "{report}");
    assert_eq!(shop.roles(), ("standby".into(), "active".into()));
    assert_same(source, &shop.replica());
    assert_eq!(shop.running(), (Some(json!(0)), Some(json!(3))));

    // Given again it is done already.
    let again = done(&pair.east, "switchover");
    assert!(again["steps"].as_array().unwrap().is_empty(), "{again}");
    assert_eq!(shop.roles(), ("standby".into(), "active".into()));

    tree::mutate(&shop.replica(), 60, &mut rng);
    pair.west.sync("shop");
    eventually("the old active side shows what the new one sent", Duration::from_secs(30), || {
        pair.east.status("shop")["appliedRestorePoint"] == pair.west.status("shop")["lastRestorePoint"]
    });
    assert_same(&shop.replica(), source);
    tree::mutate(&shop.replica(), 60, &mut rng);

    let report = done(&pair.east, "failback");
    assert_eq!(report["epoch"], 3, "{report}");
    assert_eq!(shop.roles(), ("active".into(), "standby".into()));
    assert_same(&shop.replica(), source);
    assert_eq!(shop.running(), (Some(json!(3)), Some(json!(0))));
    let objects = objects_under(&shop.manifests);
    assert!(objects.contains_key("shop/Pod/tool"), "what was deferred is back: {:?}", objects.keys());
    assert_eq!(object(&objects, "shop/Deployment/web").pointer("/spec/replicas"), Some(&json!(3)));

    tree::mutate(source, 60, &mut rng);
    pair.east.sync("shop");
    eventually("west follows again", Duration::from_secs(30), || {
        pair.west.status("shop")["appliedRestorePoint"] == pair.east.status("shop")["lastRestorePoint"]
    });
    assert_same(source, &shop.replica());

    // And there again, and home.
    tree::mutate(source, 20, &mut rng);
    assert_eq!(done(&pair.east, "switchover")["epoch"], 4);
    assert_eq!(shop.roles(), ("standby".into(), "active".into()));
    assert_same(source, &shop.replica());
    assert_eq!(shop.running(), (Some(json!(0)), Some(json!(3))));
    tree::mutate(&shop.replica(), 20, &mut rng);
    assert_eq!(done(&pair.west, "failback")["epoch"], 5);
    assert_eq!(shop.roles(), ("active".into(), "standby".into()));
    assert_same(&shop.replica(), source);
    assert_eq!(shop.running(), (Some(json!(3)), Some(json!(0))));
}

/// A volume that its side may only read goes away all the same, with a warning, and comes back once it may be written.
#[test]
fn a_volume_that_is_mounted_read_only_is_told() {
    let disk = match LoopFs::mount(FileSystem::Ext4, 64) {
        Ok(disk) => disk,
        Err(reason) => return skip("handover read-only", &reason),
    };
    let remount = |how: &str| {
        let mut command = std::process::Command::new("mount");
        assert!(command.args(["-o", how]).arg(disk.path()).status().unwrap().success());
    };
    let pair = Pair::start();
    let (source, replica) = (disk.path().join("data"), pair.west.replica("shop", "data"));
    fs::create_dir(&source).unwrap();
    tree::small_files(&source, 20, &mut seed("read-only"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    remount("remount,ro");
    pair.east.allow_errors("replica not brought up to date");
    let report = done(&pair.east, "switchover");
    assert!(report["warnings"].to_string().contains("mounted read-only here: east"), "{report}");

    fs::write(replica.join("away"), "written away").unwrap();
    pair.west.sync("shop");
    eventually("it says why it does not follow", Duration::from_secs(30), || {
        pair.east.status("shop")["applyError"]["message"].to_string().contains("Read-only file system")
    });
    remount("remount,rw");
    pair.west.sync("shop");
    let report = done(&pair.east, "failback");
    let warnings = report["warnings"].as_array().unwrap();
    // Nobody says what stops the application of a plan without a hold.
    assert!(matches!(warnings.as_slice(), [one] if one.to_string().contains("nothing was held")), "{report}");
    assert_same(&replica, &source);
}

/// Invariant 8: a side that comes back after a promotion holds what it runs, keeps what it wrote, and follows.
#[test]
fn a_returning_side_keeps_its_writes_and_follows() {
    let mut rng = seed("returning");
    let mut shop = Shop::new(small);
    shop.pair.take_over("shop");
    // Written after the split, on both sides.
    tree::mutate(&shop.source, 100, &mut rng);
    fs::write(shop.source.join("unreplicated"), tree::random_bytes(&mut rng, 50 << 20)).unwrap();
    let kept = shop.pair.work("kept");
    copy_tree(&shop.source, &kept);
    tree::mutate(&shop.replica(), 100, &mut rng);
    shop.pair.east.serve();
    shop.wait_roles("standby", "active");
    assert_eq!(shop.running(), (Some(json!(0)), Some(json!(3))));

    let points = shop.pair.east.restore_points("shop");
    let diverged: Vec<_> = points.iter().filter(|point| point["consistency"] == "diverged").collect();
    assert_eq!(diverged.len(), 1, "{points:?}");
    let id = diverged[0]["id"].as_str().unwrap();
    shop.pair.west.sync("shop");
    eventually("the returned side shows what the other sent", Duration::from_secs(30), || {
        shop.pair.east.status("shop")["appliedRestorePoint"]
            == shop.pair.west.status("shop")["lastRestorePoint"]
    });
    assert_same(&shop.replica(), &shop.source);
    let out = shop.pair.work("out");
    let to = out.to_str().unwrap();
    shop.pair.east.cli(["restore", "shop", "--restore-point", id, "--volume", "data", "--to", to]).ok();
    assert_same(&kept, &out);
    shop.pair.east.cli(["verify"]).ok();
}

/// A side that comes back with nothing of its own has the restore point that the other side has, and no diverged one.
#[test]
fn a_returning_side_without_writes_has_nothing_to_keep() {
    let mut shop = Shop::new(small);
    shop.pair.take_over("shop");
    shop.pair.east.serve();
    shop.wait_roles("standby", "active");
    let points = shop.pair.east.restore_points("shop");
    assert!(points.iter().all(|point| point["consistency"] != "diverged"), "{points:?}");
    fs::write(shop.replica().join("one"), b"more").unwrap();
    let point = shop.pair.west.sync("shop");
    assert!(point["wireBytes"].as_u64().unwrap() < 64 << 10, "{point}");
    eventually("it follows", Duration::from_secs(30), || {
        shop.pair.east.status("shop")["appliedRestorePoint"] == point["id"]
    });
    assert_same(&shop.replica(), &shop.source);
}

/// Only what changed since the split goes home, also when both sides have changed pages of one large file.
#[test]
fn going_home_ships_what_changed_and_no_more() {
    const MIB: u64 = 64;
    let mut rng = seed("going home");
    let mut shop = Shop::new(|source| {
        fs::write(source.join("db"), tree::random_bytes(&mut seed("db"), (MIB << 20) as usize)).unwrap();
    });
    shop.pair.take_over("shop");
    // One page in a hundred there, and one here that was never shipped.
    tree::rewrite_sectors(&shop.replica().join("db"), MIB * 256 / 100, &mut rng);
    tree::rewrite_sectors(&shop.source.join("db"), 1, &mut rng);
    shop.pair.east.serve();
    shop.wait_roles("standby", "active");
    let point = shop.pair.west.sync("shop");
    let share = point["wireBytes"].as_f64().unwrap() / (MIB << 20) as f64;
    assert!(share < 0.015, "{:.2} % of the volume was on the wire: {point}", share * 100.0);
    let report = done(&shop.pair.west, "failback");
    assert_eq!(report["epoch"], 3, "{report}");
    assert_same(&shop.replica(), &shop.source);
}

/// Nothing happens without the other side; what is refused says why, and what to do.
#[test]
fn it_takes_both_sides() {
    let mut shop = Shop::new(small);
    shop.pair.west.kill();
    shop.pair.east.cli(["switchover", "shop"]).refused(&[5], &["both sides", "promote"]);
    assert_eq!(shop.pair.east.status("shop")["role"], "active");
    assert_eq!(shop.running().0, Some(json!(3)));
    let already = done(&shop.pair.east, "failback");
    assert!(already["warnings"][0].as_str().unwrap().contains("already"), "{already}");
    shop.pair.east.cli(["failback", "nothing"]).refused(&[3], &["nothing"]);
    shop.pair.west.serve();
    shop.pair.wait_connected();
    // Asked of the standby it is carried out by the active side.
    let report = done(&shop.pair.west, "switchover");
    assert_eq!(report["epoch"], 2, "{report}");
    shop.wait_roles("standby", "active");
}
