//! Sources that are not what they were: gone, empty, unreadable, never at rest.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backstay_tests::{FileSystem, LoopFs, Pair, Plan, assert_same, seed, skip, tree};

/// A path that does not exist is refused when the plan is applied, or at the latest by the cycle; it is named.
#[test]
fn a_path_that_does_not_exist_is_named() {
    let pair = Pair::start();
    let path = pair.work("missing");
    pair.east.allow_errors("missing");
    let applied = pair.east.apply(&Plan::new("shop").volume("data", &path).yaml());
    if applied.code == 0 {
        pair.east.cli(["sync", "shop"]).refused(&[2, 3, 7], &["missing"]);
    } else {
        applied.refused(&[2, 3], &["missing"]);
    }
    assert!(!pair.west.replica("shop", "data").join("anything").exists());
}

/// A file where a folder should be, and a folder where an image should be.
#[test]
fn a_path_of_another_kind_is_named() {
    let pair = Pair::start();
    let folder = pair.source("folder");
    let file = pair.work("file");
    fs::write(&file, b"x").unwrap();
    pair.east.allow_errors("");
    for plan in [Plan::new("one").volume("data", &file), Plan::new("two").device("data", &folder)] {
        let applied = pair.east.apply(&plan.yaml());
        if applied.code == 0 {
            let name = if plan.yaml().contains("one") { "one" } else { "two" };
            pair.east.cli(["sync", name]).refused(&[2, 7], &[]);
        } else {
            applied.refused(&[2], &[]);
        }
    }
}

/// A volume that is unmounted between cycles looks empty: refused, unless the plan allows it.
#[test]
fn an_unmounted_source_is_refused() {
    let mut pair = Pair::start();
    let mut disk = LoopFs::mount(FileSystem::Ext4, 16);
    let source = match &disk {
        Ok(disk) => disk.path().to_owned(),
        Err(reason) => {
            skip("unmounted source: a real mount", reason);
            pair.source("source")
        }
    };
    fs::write(source.join("file"), b"precious").unwrap();
    let copy = pair.work("copy");
    pair.east.allow_errors("empty");
    let plan = Plan::new("shop").volume("data", &source);
    pair.east.apply(&plan.yaml()).ok();
    let first = pair.east.sync("shop");
    backstay_tests::copy_tree(&source, &copy);
    if let Ok(disk) = &mut disk {
        let unmounted = std::process::Command::new("umount").arg(disk.path()).status().unwrap();
        assert!(unmounted.success());
    } else {
        fs::remove_file(source.join("file")).unwrap();
    }
    assert_eq!(fs::read_dir(&source).unwrap().count(), 0);
    pair.east.cli(["sync", "shop"]).refused(&[2], &["empty", "allowEmpty"]);
    assert_eq!(pair.west.restore_point_ids("shop"), [first["id"].as_str().unwrap()]);
    // The same, said to be right.
    let pair_plan = plan.field("allowEmpty: true");
    pair.east.apply(&pair_plan.yaml()).ok();
    pair.east.sync("shop");
    // And the older one still promotes.
    pair.east.kill();
    pair.west.promote("shop", &["--restore-point", first["id"].as_str().unwrap()]);
    assert_same(&copy, &pair.west.replica("shop", "data"));
}

/// A file that never holds still fails the cycle by name; `allowFuzzy` takes it and says so.
#[test]
fn a_file_that_keeps_changing_is_named() {
    let pair = Pair::start();
    let source = pair.source("source");
    let restless = source.join("restless");
    fs::write(source.join("quiet"), b"x").unwrap();
    fs::write(&restless, tree::random_bytes(&mut seed("restless"), 24 << 20)).unwrap();
    pair.east.allow_errors("restless");
    let plan = Plan::new("shop")
        .raw_volume(&format!("{{name: data, path: {source:?}, snapshot: {{provider: none}}}}"));
    pair.east.apply(&plan.yaml()).ok();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, path) = (Arc::clone(&stop), restless.clone());
        std::thread::spawn(move || {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            let mut at = 0;
            while !stop.load(Ordering::Relaxed) {
                at = (at + 4097) % (24 << 20);
                file.write_all_at(b"changed", at).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        })
    };
    pair.east.cli(["sync", "shop"]).refused(&[7], &["restless"]);
    assert!(pair.west.cli(["restore-points", "shop", "-o", "json"]).stdout.matches("\"id\"").count() == 0);
    pair.east.apply(&plan.field("allowFuzzy: true").yaml()).ok();
    let point = pair.east.sync("shop");
    assert_eq!(point["consistency"], "fuzzy", "{point}");
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

/// Invariant 4: a file that cannot be read fails the cycle by name, and the last restore point stays.
#[test]
fn an_unreadable_file_is_named() {
    if backstay_tests::is_root() {
        // Root reads everything; a folder that vanished below a mount point cannot be made so easily. A mount inside
        // the volume is refused by name instead: it is another file system.
        let disk = match LoopFs::mount(FileSystem::Ext4, 16) {
            Ok(disk) => disk,
            Err(reason) => return skip("unreadable file", &reason),
        };
        let pair = Pair::start();
        let source = pair.source("source");
        fs::create_dir(source.join("mounted")).unwrap();
        fs::write(source.join("file"), b"x").unwrap();
        pair.east.allow_errors("mounted");
        pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
        pair.east.sync("shop");
        let bind =
            |args: &[&str]| std::process::Command::new(args[0]).args(&args[1..]).status().unwrap().success();
        let (from, to) = (disk.path().to_str().unwrap(), source.join("mounted"));
        assert!(bind(&["mount", "--bind", from, to.to_str().unwrap()]));
        let output = pair.east.cli(["sync", "shop"]);
        assert!(bind(&["umount", to.to_str().unwrap()]));
        output.refused(&[2, 7], &["mounted"]);
        assert_eq!(pair.west.restore_points("shop").len(), 1);
    } else {
        let pair = Pair::start();
        let source = pair.source("source");
        tree::small_files(&source, 5, &mut seed("unreadable"));
        fs::write(source.join("locked"), b"x").unwrap();
        fs::set_permissions(source.join("locked"), std::os::unix::fs::PermissionsExt::from_mode(0o000))
            .unwrap();
        pair.east.allow_errors("locked");
        pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
        pair.east.cli(["sync", "shop"]).refused(&[7], &["locked"]);
    }
}
