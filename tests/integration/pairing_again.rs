//! Pairs that are made the other way round, made again, removed, moved and replaced: no restore point becomes unreadable,
//! no plan is lost, and whoever makes the key, a failover works. Every test restarts the daemons: what is only in memory
//! would hide the fault.

use std::fs;
use std::path::Path;
use std::time::Duration;

use backstay_tests::{KeyOf, Pair, Plan, Site, SiteOptions, assert_same, copy_tree, eventually, seed, tree};
use serde_json::{Value, json};

use crate::shop::{Shop, small};

const BOTH: [KeyOf; 2] = [KeyOf::East, KeyOf::West];

/// A pair with one plan of 200 files, synced once, and a copy of what the restore point shows.
fn synced() -> (Pair, std::path::PathBuf, Value) {
    let pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 200, &mut seed("pairing again"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let point = pair.east.sync("shop");
    copy_tree(&source, &pair.work("first"));
    wait_applied(&pair.west, &point["id"]);
    (pair, source, point)
}

fn wait_applied(site: &Site, id: &Value) {
    eventually("the standby has applied the restore point", Duration::from_secs(30), || {
        site.status("shop")["appliedRestorePoint"] == *id
    });
}

fn pair_id(site: &Site, peer: &str) -> Value {
    let pairs = site.cli(["pair", "list", "-o", "json"]).ok().items();
    pairs.iter().find(|pair| pair["name"] == peer).map(|pair| pair["pairId"].clone()).unwrap()
}

fn restart(pair: &mut Pair) {
    pair.east.restart();
    pair.west.restart();
}

/// Whatever is kept of the plan can be checked, collected, and taken out exactly.
fn assert_readable(site: &Site, id: &Value, expected: &Path, to: &Path) {
    site.cli(["verify"]).ok();
    site.cli(["gc"]).ok();
    let id = id.as_str().unwrap();
    site.cli(["restore", "shop", "--restore-point", id, "--volume", "data", "--to", to.to_str().unwrap()])
        .ok();
    assert_same(expected, to);
}

/// The side that made the key keeps what it wrote when it steps down, and it has never been restarted since.
#[test]
fn a_failover_works_whichever_side_made_the_key() {
    for issuer in BOTH {
        let mut rng = seed("either key");
        let shop = Shop::on(Pair::start_with_key_of(issuer), small);
        let pair = &shop.pair;
        pair.west.promote("shop", &["--force"]);
        shop.wait_roles("standby", "active");
        tree::mutate(&shop.replica(), 30, &mut rng);
        let point = pair.west.sync("shop");
        wait_applied(&pair.east, &point["id"]);
        assert_same(&shop.replica(), &shop.source);
        pair.east.cli(["failback", "shop"]).ok();
        shop.wait_roles("active", "standby");
        tree::mutate(&shop.source, 30, &mut rng);
        pair.east.cli(["switchover", "shop"]).ok();
        shop.wait_roles("standby", "active");
        assert_same(&shop.source, &shop.replica());
        pair.west.cli(["failback", "shop"]).ok();
        shop.wait_roles("active", "standby");
        for site in [&pair.east, &pair.west] {
            site.cli(["verify"]).ok();
            site.cli(["gc"]).ok();
        }
    }
}

/// The same key once more, as after "check the pairing": the pair is the one it was.
#[test]
fn pairing_the_same_sites_again_changes_nothing() {
    let (mut pair, source, first) = synced();
    let before = pair_id(&pair.east, "west");
    for issuer in BOTH {
        pair.join_with_key_of(issuer);
        restart(&mut pair);
        pair.wait_connected();
        assert_eq!(
            (pair_id(&pair.east, "west"), pair_id(&pair.west, "east")),
            (before.clone(), before.clone())
        );
        let again = pair.east.sync("shop");
        assert!(again["wireBytes"].as_u64().unwrap() < 4096, "nothing is sent again: {again}");
        assert_eq!(again["epoch"], first["epoch"], "{again}");
    }
    assert_readable(&pair.west, &first["id"], &pair.work("first"), &pair.work("restored"));
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// Removing the pair, which is what one does about a peer that is not trusted any more, on either side and on both.
#[test]
fn a_removed_pair_leaves_everything_readable_and_goes_on_when_it_is_made_again() {
    let (mut pair, source, first) = synced();
    let before = pair_id(&pair.east, "west");
    for (round, (at_east, at_west)) in [(false, true), (true, false), (true, true)].into_iter().enumerate() {
        for site in [&pair.east, &pair.west] {
            site.allow_errors("");
        }
        if at_west {
            let told = pair.west.cli(["pair", "remove", "east"]).ok().stdout;
            assert!(told.contains("shop") && told.contains("--replaces east"), "{told}");
        }
        if at_east {
            let told = pair.east.cli(["pair", "remove", "west"]).ok().stdout;
            assert!(told.contains("shop") && told.contains("cycles fail"), "{told}");
        }
        restart(&mut pair);
        let to = pair.work(&format!("removed-{round}"));
        assert_readable(&pair.west, &first["id"], &pair.work("first"), &to);
        if at_east {
            let refused = pair.east.cli(["sync", "shop"]).refused(&[3], &["west", "pair again"]);
            assert!(!refused.stderr.contains(before.as_str().unwrap()), "{}", refused.stderr);
            assert!(!refused.stderr.contains("plan delete"), "{}", refused.stderr);
            assert_eq!(pair.east.status("shop")["peer"], "west (removed)");
        }
        pair.join_with_key_of(BOTH[round % 2]);
        assert_eq!(pair_id(&pair.east, "west"), before);
        let again = pair.east.sync("shop");
        assert!(again["wireBytes"].as_u64().unwrap() < 4096, "nothing is sent again: {again}");
        restart(&mut pair);
        pair.wait_connected();
        let to = pair.work(&format!("again-{round}"));
        assert_readable(&pair.west, &first["id"], &pair.work("first"), &to);
    }
    let promoted = pair.west.promote("shop", &["--force", "--restore-point", first["id"].as_str().unwrap()]);
    assert_eq!(promoted["epoch"], 2, "{promoted}");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// The standby's disk died; it was installed anew under its name, or another site is there in its place.
#[test]
fn a_dead_standby_is_replaced_and_its_plans_go_on() {
    for name in ["west", "north"] {
        let mut rng = seed("replaced");
        let (mut pair, source, _) = synced();
        // Some history: the plan is at epoch 3.
        pair.east.cli(["switchover", "shop"]).ok();
        pair.east.cli(["failback", "shop"]).ok();
        let last = pair.east.sync("shop");
        assert_eq!(last["epoch"], 3, "{last}");
        pair.east.allow_errors("");
        if name == "north" {
            // Beside one that is there its place is taken by nobody.
            pair.east.cli(["pair", "replace", "west", "west"]).refused(&[2], &["--replaces"]);
        }
        pair.west.kill();
        let mut new = Site::init(name, SiteOptions::default());
        new.serve();
        let endpoint = pair.east.listen().to_string();
        if name == "west" {
            let key = pair.east.cli(["pair", "key", "--endpoint", &endpoint]).ok().stdout;
            new.cli(["pair", "join", key.trim()]).refused(&[2], &["name"]);
            pair.east.cli(["pair", "key", "--replaces", "mars"]).refused(&[3], &["mars"]);
            let key =
                pair.east.cli(["pair", "key", "--replaces", "west", "--endpoint", &endpoint]).ok().stdout;
            new.cli(["pair", "join", key.trim()]).ok();
        } else {
            let key = pair.east.cli(["pair", "key", "--endpoint", &endpoint]).ok().stdout;
            new.cli(["pair", "join", key.trim()]).ok();
            pair.east.cli(["pair", "replace", "mars", name]).refused(&[3], &["mars"]);
            eventually("east sees that west is gone", Duration::from_secs(60), || {
                let pairs = pair.east.cli(["pair", "list", "-o", "json"]).ok().items();
                pairs.iter().any(|pair| pair["name"] == "west" && pair["connected"] == false)
            });
            let moved = pair.east.cli(["pair", "replace", "west", name, "-o", "json"]).ok().json();
            assert_eq!(moved["plans"], json!(["shop"]));
        }
        assert_eq!(pair.east.cli(["pair", "list", "-o", "json"]).ok().items().len(), 1);
        pair.east.restart();
        tree::mutate(&source, 20, &mut rng);
        let point = pair.east.sync("shop");
        assert_eq!(point["epoch"], 3, "{point}");
        assert!(point["id"].as_str() > last["id"].as_str(), "{point}");
        let status = pair.east.status("shop");
        assert_eq!((&status["peer"], &status["role"]), (&json!(name), &json!("active")), "{status}");
        wait_applied(&new, &point["id"]);
        assert_same(&source, &new.replica("shop", "data"));
        tree::mutate(&source, 20, &mut rng);
        let next = pair.east.sync("shop");
        assert!(next["wireBytes"].as_u64() < point["wireBytes"].as_u64(), "{next} after {point}");
        new.restart();
        new.cli(["verify"]).ok();
        pair.east.kill();
        let promoted = new.promote("shop", &[]);
        assert_eq!(promoted["epoch"], 4, "{promoted}");
        assert_same(&source, &new.replica("shop", "data"));
    }
}

/// What an older version left behind: the record of the pair is gone, with its key, and another one was made.
#[test]
fn a_site_that_has_lost_a_key_names_what_is_lost_and_goes_on() {
    let (mut pair, source, first) = synced();
    for site in [&pair.east, &pair.west] {
        site.allow_errors("");
    }
    for site in [&mut pair.east, &mut pair.west] {
        site.terminate();
        fs::remove_dir_all(site.dir().join("pairs")).unwrap();
        // It did not know the peer of a plan by itself either.
        let path = site.dir().join("plans/shop/plan.json");
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record.as_object_mut().unwrap().remove("peerSite");
        fs::write(&path, record.to_string()).unwrap();
        site.serve();
    }
    pair.join();
    restart(&mut pair);
    pair.wait_connected();
    let point = pair.east.sync("shop");
    assert_eq!(point["epoch"], 1, "{point}");
    wait_applied(&pair.west, &point["id"]);
    assert_same(&source, &pair.west.replica("shop", "data"));

    let lost = first["id"].as_str().unwrap();
    let verified = pair.west.cli(["verify"]).refused(&[6], &[]);
    assert!(verified.stdout.contains(lost), "{}", verified.stdout);
    let collected = pair.west.cli(["gc", "-o", "json"]).ok().json();
    assert_eq!(collected["skippedRestorePoints"], json!([format!("shop/{lost}")]));
    let to = pair.work("lost");
    pair.west
        .cli(["restore", "shop", "--restore-point", lost, "--to", to.to_str().unwrap()])
        .refused(&[6], &["--purge"]);
    let to = pair.work("kept");
    let id = point["id"].as_str().unwrap();
    pair.west
        .cli(["restore", "shop", "--restore-point", id, "--volume", "data", "--to", to.to_str().unwrap()])
        .ok();
    assert_same(&source, &to);

    pair.west.cli(["plan", "delete", "shop", "--purge"]).ok();
    let collected = pair.west.cli(["gc", "-o", "json"]).ok().json();
    assert_eq!(collected["skippedRestorePoints"], json!([]), "{collected}");
    assert!(collected["bytesFreed"].as_u64().unwrap() > 0, "{collected}");
    pair.west.cli(["verify"]).ok();
}

/// One site moves and is found by itself; then both, and the operator says where.
#[test]
fn sites_that_move_find_each_other() {
    let (mut pair, _, _) = synced();
    for site in [&pair.east, &pair.west] {
        site.allow_errors("");
    }
    pair.west.terminate();
    pair.west.move_away();
    pair.west.serve();
    pair.wait_connected();
    let here = pair.west.listen().to_string();
    let endpoints = |site: &Site, peer: &str| {
        let pairs = site.cli(["pair", "list", "-o", "json"]).ok().items();
        pairs.iter().find(|pair| pair["name"] == peer).map(|pair| pair["endpoints"].clone()).unwrap()
    };
    eventually("east knows where west is now", Duration::from_secs(30), || {
        endpoints(&pair.east, "west")[0] == here.as_str()
    });
    pair.east.sync("shop");

    for site in [&mut pair.east, &mut pair.west] {
        site.terminate();
        site.move_away();
    }
    pair.east.serve();
    pair.west.serve();
    pair.east.cli(["sync", "shop"]).refused(&[5], &[]);
    pair.east.cli(["pair", "set", "west", "--endpoint", "nonsense"]).refused(&[2], &["nonsense"]);
    let here = pair.west.listen().to_string();
    let set = pair.east.cli(["pair", "set", "west", "--endpoint", &here, "-o", "json"]).ok().json();
    assert_eq!(set["endpoints"], json!([here]));
    pair.wait_connected();
    pair.east.sync("shop");
    restart(&mut pair);
    pair.wait_connected();
}

/// Who joined is written down on both sides, with what it is known by.
#[test]
fn both_sides_write_down_who_joined() {
    for issuer in BOTH {
        let pair = Pair::start_with_key_of(issuer);
        let (issuer, joiner) = match issuer {
            KeyOf::East => (&pair.east, &pair.west),
            KeyOf::West => (&pair.west, &pair.east),
        };
        let fingerprint = |site: &Site| {
            let pairs = site.cli(["pair", "list", "-o", "json"]).ok().items();
            pairs[0]["fingerprint"].as_str().unwrap().to_owned()
        };
        let joined = |site: &Site| {
            let records = site.cli(["audit", "-o", "json"]).ok().items();
            records.into_iter().find(|record| record["action"] == "pairJoin").unwrap()
        };
        let (here, there) = (joined(issuer), joined(joiner));
        assert_eq!(here["actor"], format!("peer:{}", joiner.name()), "{here}");
        for (record, site) in [(&here, issuer), (&there, joiner)] {
            assert!(record["detail"].as_str().unwrap().contains(&fingerprint(site)), "{record}");
            assert_eq!(record["outcome"], "done", "{record}");
        }
        assert_eq!(fingerprint(issuer).len(), 64);
        let table = issuer.cli(["pair", "list"]).ok().stdout;
        assert!(table.contains(&fingerprint(issuer)[..16]), "{table}");
    }
}

/// A peer that was taken over claims an epoch from which there is no way up. Nothing steps down for it, nothing of what is
/// known is lost, and with the honest peer back there is one active side at any time.
#[test]
fn an_epoch_that_nobody_reaches_is_not_believed() {
    let (mut pair, _, first) = synced();
    for site in [&pair.east, &pair.west] {
        site.allow_errors("");
    }
    let path = pair.west.dir().join("plans/shop");
    let honest = pair.work("honest");
    pair.west.terminate();
    copy_tree(&path, &honest);
    let mut record: Value = serde_json::from_slice(&fs::read(path.join("plan.json")).unwrap()).unwrap();
    record["epoch"] = json!((1_u64 << 48) - 1);
    fs::write(path.join("plan.json"), record.to_string()).unwrap();
    pair.west.serve();
    pair.wait_connected();
    // The peer says at its connection what it claims, and then that it is active there.
    eventually("east has heard of it", Duration::from_secs(30), || {
        pair.east.status("shop")["applyError"]["class"] == "fenced"
    });
    let report = pair.west.promote("shop", &["--force"]);
    assert_eq!(report["epoch"], json!(1_u64 << 48), "{report}");
    let status = pair.east.status("shop");
    assert_eq!((&status["role"], &status["epoch"]), (&json!("active"), &json!(1)), "{status}");
    pair.east.cli(["sync", "shop"]).refused(&[4], &["281474976710655", "promote shop --force"]);
    pair.east.restart();
    pair.east.cli(["sync", "shop"]).refused(&[4], &["281474976710655"]);

    // The honest peer is back, and the operator of east says that it is right.
    pair.west.terminate();
    fs::remove_dir_all(&path).unwrap();
    copy_tree(&honest, &path);
    pair.west.serve();
    pair.wait_connected();
    pair.east.cli(["sync", "shop"]).refused(&[4], &["promote shop --force"]);
    let report = pair.east.promote("shop", &["--force"]);
    assert!(report["warnings"].to_string().contains("281474976710655"), "{report}");
    let point = pair.east.sync("shop");
    assert_eq!((&point["epoch"], first["epoch"].as_u64()), (&json!(1), Some(1)), "{point}");
    let report = pair.west.promote("shop", &["--force"]);
    assert_eq!(report["epoch"], 2, "{report}");
    eventually("east steps down for an epoch that follows", Duration::from_secs(30), || {
        let status = pair.east.status("shop");
        status["role"] == "standby" && status["epoch"] == 2
    });
    pair.west.sync("shop");
    let audit = pair.east.cli(["audit", "-o", "json"]).ok().items();
    assert!(
        audit.iter().any(|line| line["action"] == "epochLeap" && line["actor"] == "peer:west"),
        "{audit:?}"
    );
    assert!(audit.iter().any(|line| line["action"] == "demote" && line["actor"] == "peer:west"), "{audit:?}");
}
