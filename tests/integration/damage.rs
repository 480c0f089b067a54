//! Damaged stores: found, named, never served, repaired where another copy exists.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use backstay_tests::{Pair, Plan, assert_same, copy_tree, eventually, fingerprint, seed, tree};
use serde_json::Value;

/// Two restore points; the first holds 8 MB that nothing else holds any more.
struct Two {
    pair: Pair,
    source: PathBuf,
    copy: PathBuf,
    first: Value,
}

fn two() -> Two {
    let pair = Pair::start();
    let mut rng = seed("damage");
    let source = pair.source("source");
    fs::write(source.join("old"), tree::random_bytes(&mut rng, 8_000_000)).unwrap();
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let first = pair.east.sync("shop");
    let copy = pair.work("copy");
    copy_tree(&source, &copy);
    fs::remove_file(source.join("old")).unwrap();
    fs::write(source.join("new"), tree::random_bytes(&mut rng, 8_000_000)).unwrap();
    let second = pair.east.sync("shop");
    eventually("the newest restore point is applied", Duration::from_secs(30), || {
        pair.west.status("shop")["appliedRestorePoint"] == second["id"]
    });
    Two { pair, source, copy, first }
}

/// The packs, oldest first.
fn packs(two: &Two) -> Vec<PathBuf> {
    let root = two.pair.west.dir().join("store/packs");
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
    {
        found.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    found.sort_by_key(|path| (fs::metadata(path).unwrap().modified().unwrap(), path.clone()));
    found
}

/// Flips a few bytes in the middle of a file.
fn flip(path: &std::path::Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, middle).unwrap();
    file.write_all_at(&bytes.map(|byte| byte ^ 0x5a), middle).unwrap();
}

fn name(path: &std::path::Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// A damaged pack is named by `verify`, running or not, and a restore point that needs it is neither promoted nor
/// restored in part.
#[test]
fn a_damaged_pack_is_named_and_its_point_refused() {
    let mut two = two();
    let pack = packs(&two).remove(0);
    two.pair.west.allow_errors("");
    two.pair.west.terminate();
    two.pair.east.kill();
    flip(&pack);
    let offline = two.pair.west.cli(["verify", "--offline"]).refused(&[6], &[]);
    let said = format!("{}{}", offline.stdout, offline.stderr);
    assert!(said.contains(&name(&pack)), "the pack {} is not named\n{offline}", name(&pack));
    two.pair.west.serve();
    two.pair.west.cli(["verify"]).exits(&[6]);
    let replica = two.pair.west.replica("shop", "data");
    let before = fingerprint(&replica);
    let first = two.first["id"].as_str().unwrap();
    two.pair.west.cli(["promote", "shop", "--restore-point", first]).refused(&[4, 6], &[]);
    assert_eq!(before, fingerprint(&replica), "a refused promotion touched the replica");
    assert_eq!(two.pair.west.status("shop")["role"], "standby");
    let to = two.pair.work("restored");
    two.pair
        .west
        .cli(["restore", "shop", "--restore-point", first, "--volume", "data", "--to", to.to_str().unwrap()])
        .refused(&[6], &[]);
    // The newest does not need it, and is whole.
    two.pair.west.promote("shop", &[]);
    assert_same(&two.source, &replica);
}

/// The newest restore point's own pack is damaged, and its data is still on the replica and at the sender: `--repair`
/// makes it whole again.
#[test]
fn a_damaged_pack_is_repaired_from_another_copy() {
    let mut two = two();
    two.pair.west.allow_errors("");
    two.pair.west.terminate();
    let pack = packs(&two).pop().unwrap();
    flip(&pack);
    two.pair.west.serve();
    two.pair.wait_connected();
    two.pair.west.cli(["verify"]).refused(&[6], &[]);
    two.pair.west.cli(["verify", "--repair"]).ok();
    two.pair.west.cli(["verify"]).ok();
    two.pair.take_over("shop");
    assert_same(&two.source, &two.pair.west.replica("shop", "data"));
}

/// An apply that was cut off and whose point is damaged since stands in nobody's way: another point is promoted, also
/// in the place of one whose promotion got stuck.
#[test]
fn an_apply_that_cannot_be_finished_blocks_nothing() {
    let mut two = two();
    two.pair.west.allow_errors("");
    two.pair.west.terminate();
    two.pair.east.kill();
    let path = two.pair.west.dir().join("plans/shop/applied.json");
    let mut applied: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    applied["target"] = applied["point"].take();
    applied["volumes"] = serde_json::json!({});
    fs::write(&path, applied.to_string()).unwrap();
    flip(&packs(&two).pop().unwrap());
    two.pair.west.serve();
    two.pair.west.cli(["promote", "shop"]).refused(&[6], &[]);
    assert_eq!(two.pair.west.status("shop")["role"], "standby", "refused before the epoch rose");
    let first = two.first["id"].as_str().unwrap();
    two.pair.west.promote("shop", &["--restore-point", first]);
    assert_same(&two.copy, &two.pair.west.replica("shop", "data"));
}

/// Damage nobody noticed yet: promotion either finds it and refuses, or gives the exact data. Never a mix.
#[test]
fn unnoticed_damage_is_never_served() {
    let mut two = two();
    two.pair.west.allow_errors("");
    two.pair.west.terminate();
    two.pair.east.kill();
    for pack in packs(&two) {
        flip(&pack);
    }
    two.pair.west.serve();
    let first = two.first["id"].as_str().unwrap();
    let output = two.pair.west.cli(["promote", "shop", "--restore-point", first]).exits(&[0, 4, 6]);
    let replica = two.pair.west.replica("shop", "data");
    if output.code == 0 {
        assert_same(&two.copy, &replica);
    } else {
        assert_same(&two.source, &replica);
    }
}

/// A damaged restore-point file is named in the log and mended from the catalog's copy.
#[test]
fn a_damaged_restore_point_file_is_mended() {
    let mut two = two();
    two.pair.west.terminate();
    let first = two.first["id"].as_str().unwrap().to_owned();
    flip(&two.pair.west.dir().join(format!("store/points/shop/{first}.rp")));
    two.pair.west.allow_errors(&format!("{first}.rp"));
    two.pair.west.serve();
    assert!(two.pair.west.log().contains(&format!("{first}.rp")), "{}", two.pair.west.log());
    two.pair.west.cli(["verify"]).ok();
    let to = two.pair.work("restored");
    let args =
        ["restore", "shop", "--restore-point", &first, "--volume", "data", "--to", to.to_str().unwrap()];
    two.pair.west.cli(args).ok();
    assert_same(&two.copy, &to);
}

/// With the catalog gone too, nothing can mend it: the rebuild names it, and the others stay.
#[test]
fn a_restore_point_file_that_nothing_can_mend_is_named() {
    let mut two = two();
    two.pair.west.allow_errors("");
    two.pair.west.terminate();
    let first = two.first["id"].as_str().unwrap().to_owned();
    flip(&two.pair.west.dir().join(format!("store/points/shop/{first}.rp")));
    fs::remove_dir_all(two.pair.west.dir().join("catalog")).unwrap();
    let output = two.pair.west.cli(["catalog", "rebuild"]).exits(&[0, 6]);
    assert!(format!("{}{}", output.stdout, output.stderr).contains(&first), "{output}");
    two.pair.west.serve();
    assert!(!two.pair.west.restore_point_ids("shop").contains(&first));
    two.pair.take_over("shop");
    assert_same(&two.source, &two.pair.west.replica("shop", "data"));
}

/// A repair does not write under somebody who has the replica open.
#[test]
fn a_replica_in_use_is_not_repaired() {
    let two = two();
    two.pair.west.allow_errors("");
    let replica = two.pair.west.replica("shop", "data");
    flip(&replica.join("new"));
    let open = OpenOptions::new().write(true).open(replica.join("new")).unwrap();
    let damaged = fs::read(replica.join("new")).unwrap();
    let output = two.pair.west.cli(["verify", "shop", "--repair"]).refused(&[6], &[]);
    let text = format!("{}{}", output.stdout, output.stderr);
    assert!(text.contains("not repaired") && text.contains("open for writing"), "{output}");
    assert!(fs::read(replica.join("new")).unwrap() == damaged, "it was written");
    drop(open);
    two.pair.west.cli(["verify", "shop", "--repair"]).ok();
    assert_same(&two.source, &replica);
}

/// A replica that somebody wrote to is found by `verify`, and put right by `--repair` or the next promotion.
#[test]
fn a_changed_replica_is_found() {
    let mut two = two();
    two.pair.west.allow_errors("");
    let replica = two.pair.west.replica("shop", "data");
    flip(&replica.join("new"));
    let output = two.pair.west.cli(["verify", "shop"]).refused(&[6], &[]);
    assert!(format!("{}{}", output.stdout, output.stderr).contains("new"), "{output}");
    two.pair.west.cli(["verify", "shop", "--repair"]).ok();
    two.pair.take_over("shop");
    assert_same(&two.source, &replica);
}
