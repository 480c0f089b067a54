//! Changes arrive exactly, older restore points stay, and only what changed crosses the wire.

use std::fs;
use std::time::Duration;

use backstay_tests::{Pair, Plan, assert_same, copy_tree, env_or, eventually, seed, tree};

/// What an unchanged cycle, or the protocol around a small change, may put on the wire.
const QUIET_WIRE_BYTES: u64 = 96 << 10;

fn wire_bytes(point: &serde_json::Value) -> u64 {
    point["wireBytes"].as_u64().unwrap_or_else(|| panic!("no wireBytes in {point}"))
}

/// Invariants 1 and 4: several cycles of seeded changes; each restore point restores to what was there then, and the
/// newest promotes.
#[test]
fn every_restore_point_is_the_source_of_its_moment() {
    let mut pair = Pair::start();
    let mut rng = seed("every restore point");
    let source = pair.source("source");
    tree::small_files(&source.join("small"), 1200, &mut rng);
    tree::system_copy(&source.join("system"), 20_000_000);
    tree::random_image(&source.join("database"), 16, &mut rng);
    pair.east.apply(&Plan::new("shop").volume("data", &source).keep(50).yaml()).ok();
    let mut saved = Vec::new();
    for cycle in 0..env_or("BACKSTAY_CYCLES", 6) {
        if cycle > 0 {
            tree::mutate(&source, 70, &mut rng);
            let database = source.join("database");
            if database.is_file() && fs::metadata(&database).unwrap().len() > 4096 {
                tree::rewrite_sectors(&database, 30, &mut rng);
            }
        }
        let copy = pair.work(&format!("copy{cycle}"));
        copy_tree(&source, &copy);
        let point = pair.east.sync("shop");
        saved.push((point["id"].as_str().unwrap().to_owned(), copy));
    }
    for (id, copy) in &saved {
        let to = pair.work(&format!("restored-{id}"));
        let args =
            ["restore", "shop", "--restore-point", id, "--volume", "data", "--to", to.to_str().unwrap()];
        pair.west.cli(args).ok();
        assert_same(copy, &to);
    }
    pair.west.cli(["verify"]).ok();
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// Nothing changed, nothing sent.
#[test]
fn an_unchanged_cycle_is_quiet() {
    let pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 2000, &mut seed("unchanged"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let first = pair.east.sync("shop");
    assert!(first["filesScanned"].as_u64().unwrap() >= 2000, "{first}");
    assert!(wire_bytes(&first) > 500_000, "the counter of wire bytes does not count: {first}");
    let second = pair.east.sync("shop");
    assert!(wire_bytes(&second) < QUIET_WIRE_BYTES, "{second}");
    assert_ne!(first["id"], second["id"]);
}

/// The reason for patches: scattered 4 KiB rewrites of a large file cost little more than their own bytes, in a
/// folder and in an image.
#[test]
fn scattered_rewrites_cost_their_own_bytes() {
    let mut pair = Pair::start();
    let mut rng = seed("rewrites");
    let source = pair.source("source");
    let (database, image) = (source.join("database"), pair.work("disk.img"));
    tree::random_image(&database, 64, &mut rng);
    tree::random_image(&image, 64, &mut rng);
    let files = Plan::new("files").volume("data", &source);
    let blocks = Plan::new("blocks").device("disk", &image);
    pair.east.apply(&format!("{}---\n{}", files.yaml(), blocks.yaml())).ok();
    pair.east.sync("files");
    pair.east.sync("blocks");
    for (plan, path) in [("files", &database), ("blocks", &image)] {
        // Three rounds: a patch on a patch costs no more.
        for _ in 0..3 {
            let written = tree::rewrite_sectors(path, 164, &mut rng);
            let point = pair.east.sync(plan);
            let allowed = written * 12 / 10 + QUIET_WIRE_BYTES;
            assert!(
                wire_bytes(&point) < allowed,
                "{plan}: {written} bytes written, at most {allowed}: {point}"
            );
        }
    }
    pair.take_over("files");
    assert_same(&source, &pair.west.replica("files", "data"));
    pair.west.promote("blocks", &[]);
    assert_same(&image, &pair.west.replica("blocks", "disk"));
}

/// Moving a folder with all it holds sends names, not contents.
#[test]
fn a_rename_sends_no_content() {
    let mut pair = Pair::start();
    let mut rng = seed("rename");
    let source = pair.source("source");
    tree::random_image(&source.join("big"), 24, &mut rng);
    fs::create_dir(source.join("old")).unwrap();
    for file in 0..50 {
        fs::write(source.join(format!("old/file{file}")), tree::random_bytes(&mut rng, 100_000)).unwrap();
    }
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    fs::rename(source.join("old"), source.join("new")).unwrap();
    fs::rename(source.join("big"), source.join("new/big")).unwrap();
    let point = pair.east.sync("shop");
    assert!(wire_bytes(&point) < QUIET_WIRE_BYTES, "{point}");
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// `diff` tells what was added, changed and removed.
#[test]
fn diff_names_what_changed() {
    let pair = Pair::start();
    let source = pair.source("source");
    for name in ["stays", "changes", "goes"] {
        fs::write(source.join(name), name).unwrap();
    }
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let a = pair.east.sync("shop");
    fs::write(source.join("comes"), b"new").unwrap();
    fs::write(source.join("changes"), b"changed, and longer").unwrap();
    fs::remove_file(source.join("goes")).unwrap();
    let b = pair.east.sync("shop");
    let (a, b) = (a["id"].as_str().unwrap(), b["id"].as_str().unwrap());
    let items = pair.west.cli(["diff", "shop", a, b, "-o", "json"]).ok().items();
    let change = |path: &str| {
        let found = items.iter().find(|item| item["path"] == path);
        found.map(|item| item["change"].as_str().unwrap().to_lowercase())
    };
    assert!(change("comes").is_some_and(|change| change.starts_with("add")), "{items:?}");
    assert!(change("goes").is_some_and(|change| change.starts_with("remove")), "{items:?}");
    assert!(change("changes").is_some(), "{items:?}");
    assert_eq!(change("stays"), None, "{items:?}");
}

/// Retention lets go of the oldest restore points and of what only they held.
#[test]
fn retention_and_gc_free_what_nothing_holds() {
    let mut pair = Pair::start();
    let mut rng = seed("retention");
    let source = pair.source("source");
    fs::write(source.join("kept"), tree::random_bytes(&mut rng, 1_000_000)).unwrap();
    pair.east.apply(&Plan::new("shop").volume("data", &source).keep(2).yaml()).ok();
    for _ in 0..5 {
        fs::write(source.join("replaced"), tree::random_bytes(&mut rng, 8_000_000)).unwrap();
        pair.east.sync("shop");
    }
    eventually("retention leaves two restore points", Duration::from_secs(30), || {
        pair.west.restore_points("shop").len() == 2
    });
    let packs = pair.west.dir().join("store/packs");
    pair.west.cli(["gc"]).ok();
    eventually("the store shrinks to what two restore points hold", Duration::from_secs(30), || {
        pair.west.cli(["gc"]).ok();
        tree::total_bytes(&packs) < 26_000_000
    });
    pair.west.cli(["verify"]).ok();
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}
