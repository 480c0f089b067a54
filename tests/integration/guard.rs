//! A cycle that finds far less than the last restore point is refused, so that the standby keeps its copy, and goes
//! on when the plan says that it is meant.

use std::fs;

use backstay_tests::{FileSystem, LoopFs, Pair, Plan, objects_under, skip};

/// A fresh file system in place of the volume's, mounted where the data was, empties nothing.
#[test]
fn a_fresh_file_system_is_refused() {
    let disks =
        LoopFs::mount(FileSystem::Ext4, 16).and_then(|one| Ok((one, LoopFs::mount(FileSystem::Ext4, 16)?)));
    let (first, second) = match &disks {
        Ok((first, second)) => (first.path(), second.path()),
        Err(reason) => return skip("a fresh file system", reason),
    };
    let pair = Pair::start();
    let source = pair.source("source");
    fs::write(first.join("precious"), b"precious").unwrap();
    pair.east.allow_errors("allowEmpty");
    pair.east.allow_errors("is empty");
    let mount = |from: &std::path::Path| {
        let status =
            std::process::Command::new("mount").arg("--bind").args([from, source.as_path()]).status();
        assert!(status.unwrap().success());
    };
    let unmount = || {
        let status = std::process::Command::new("umount").arg(&source).status();
        assert!(status.unwrap().success());
    };
    mount(first);
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let point = pair.east.sync("shop");
    unmount();
    mount(second);
    assert!(source.join("lost+found").exists());
    pair.east.cli(["sync", "shop"]).refused(&[2], &["empty", "allowEmpty"]);
    unmount();
    assert_eq!(pair.west.restore_point_ids("shop"), [point["id"].as_str().unwrap()]);
}

/// Over 90 % of the entries gone at once: refused with the numbers, and nothing was sent.
#[test]
fn a_nearly_emptied_volume_is_refused() {
    let pair = Pair::start();
    let source = pair.source("source");
    for at in 0..40 {
        fs::write(source.join(format!("file-{at}")), b"precious").unwrap();
    }
    pair.east.allow_errors("allowEmpty");
    pair.east.allow_errors("entries");
    let plan = Plan::new("shop").volume("data", &source);
    pair.east.apply(&plan.yaml()).ok();
    let first = pair.east.sync("shop");
    for at in 0..10 {
        fs::remove_file(source.join(format!("file-{at}"))).unwrap();
    }
    let second = pair.east.sync("shop");
    for at in 10..39 {
        fs::remove_file(source.join(format!("file-{at}"))).unwrap();
    }
    let id = second["id"].as_str().unwrap();
    pair.east
        .cli(["sync", "shop"])
        .refused(&[2], &["volume data has 2 of 31 entries and 8 of 240 bytes left", id, "allowEmpty: true"]);
    assert_eq!(pair.west.restore_point_ids("shop").len(), 2, "{first}");
    pair.east.apply(&plan.field("allowEmpty: true").yaml()).ok();
    pair.east.sync("shop");
}

/// An emptied folder of manifests takes no object of the standby along; nor one that lost all that runs, or most.
#[test]
fn an_emptied_folder_of_manifests_is_refused() {
    let pair = Pair::start();
    let folder = pair.source("k8s");
    let config = |at: u32| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{at}, namespace: shop}}\ndata: {{a: b}}\n"
        )
    };
    let web = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec: {replicas: 2}\n";
    for at in 0..11 {
        fs::write(folder.join(format!("c{at}.yaml")), config(at)).unwrap();
    }
    fs::write(folder.join("web.yaml"), web).unwrap();
    pair.east.allow_errors("allowEmpty");
    pair.east.allow_errors("objects");
    let plan = Plan::new("shop").manifests(&folder);
    pair.east.apply(&plan.yaml()).ok();
    pair.east.sync("shop");
    let away = pair.work("away");
    fs::rename(&folder, &away).unwrap();
    pair.east.cli(["sync", "shop"]).refused(&[3], &["read manifests"]);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(".hidden.yaml"), config(0)).unwrap();
    pair.east.cli(["sync", "shop"]).refused(&[2], &["none of its 12 objects is left", "allowEmpty: true"]);
    for at in 0..5 {
        fs::write(folder.join(format!("c{at}.yaml")), config(at)).unwrap();
    }
    pair.east
        .cli(["sync", "shop"])
        .refused(&[2], &["none of the 1 objects that run something is left", "allowEmpty: true"]);
    fs::remove_file(folder.join("c4.yaml")).unwrap();
    fs::write(folder.join("web.yaml"), web).unwrap();
    pair.east.cli(["sync", "shop"]).refused(&[2], &["5 of its 12 objects are left", "allowEmpty: true"]);
    assert_eq!(objects_under(&pair.west.manifests("shop")).len(), 12);
    pair.east.apply(&plan.field("allowEmpty: true").yaml()).ok();
    pair.east.sync("shop");
    let follows = || objects_under(&pair.west.manifests("shop")).len() == 5;
    backstay_tests::eventually("the standby follows", std::time::Duration::from_secs(20), follows);
}

/// What was said to be meant is told to whoever promotes it, with the point before.
#[test]
fn a_promotion_of_a_far_smaller_point_warns() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    for at in 0..40 {
        fs::write(source.join(format!("file-{at}")), b"precious").unwrap();
    }
    let plan = Plan::new("shop").volume("data", &source).field("allowEmpty: true");
    pair.east.apply(&plan.yaml()).ok();
    let before = pair.east.sync("shop");
    for at in 1..40 {
        fs::remove_file(source.join(format!("file-{at}"))).unwrap();
    }
    let point = pair.east.sync("shop");
    pair.east.kill();
    let id = |point: &serde_json::Value| point["id"].as_str().unwrap().to_owned();
    let expected = format!("{} is far smaller than {}", id(&point), id(&before));
    let report = pair.west.promote("shop", &[]);
    let warnings = report["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning.as_str().unwrap().starts_with(&expected)), "{report}");
}

/// A store that is not mounted stops the start, and nothing else happens to it.
#[test]
fn a_store_that_is_not_mounted_stops_the_start() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    fs::write(source.join("file"), b"precious").unwrap();
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let point = pair.east.sync("shop");
    pair.west.terminate();
    let (store, away) = (pair.west.dir().join("store"), pair.work("away"));
    fs::rename(&store, &away).unwrap();
    fs::create_dir(&store).unwrap();
    pair.west.cli(["serve"]).refused(&[3], &["holds this site's restore points", "mounted", "begin-anew"]);
    assert_eq!(fs::read_dir(&store).unwrap().count(), 0);
    fs::remove_dir(&store).unwrap();
    fs::rename(&away, &store).unwrap();
    pair.west.serve();
    assert_eq!(pair.west.restore_point_ids("shop"), [point["id"].as_str().unwrap()]);
}
