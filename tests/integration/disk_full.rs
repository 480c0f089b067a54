//! Invariant 12: a full disk on the receiver fails the cycle, says so, keeps the last restore point, and is over once
//! there is room.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use backstay_tests::{
    FileSystem, LoopFs, Pair, Plan, SiteOptions, assert_same, copy_tree, eventually, object, objects_under,
    seed, skip, tree,
};

#[test]
fn a_full_disk_costs_a_cycle_and_nothing_else() {
    let disk = match LoopFs::mount(FileSystem::Ext4, 160) {
        Ok(disk) => disk,
        Err(reason) => return skip("disk_full", &reason),
    };
    let west = SiteOptions { dir: Some(disk.path().join("site")), ..SiteOptions::default() };
    let mut pair = Pair::with(SiteOptions::default(), west);
    pair.east.allow_errors("space");
    pair.west.allow_errors("space");
    let mut rng = seed("disk full");
    let source = pair.source("source");
    fs::write(source.join("first"), tree::random_bytes(&mut rng, 15_000_000)).unwrap();
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let first = pair.east.sync("shop");
    let copy = pair.work("copy");
    copy_tree(&source, &copy);

    // Room for the store, but not for the replica beside it; then not even for the store.
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 70 << 20]).unwrap();
    fs::write(source.join("second"), tree::random_bytes(&mut rng, 50_000_000)).unwrap();
    for _ in 0..2 {
        pair.east.cli(["sync", "shop"]).refused(&[1, 5, 7], &["space"]);
    }
    assert!(pair.west.is_running(), "the receiver died of a full disk\n{}", pair.west.log());
    let ids = pair.west.restore_point_ids("shop");
    assert_eq!(ids, [first["id"].as_str().unwrap()], "the last good restore point stays, and no other came");
    let restored = pair.work("restored");
    pair.west.cli(["restore", "shop", "--volume", "data", "--to", restored.to_str().unwrap()]).ok();
    assert_same(&copy, &restored);

    fs::remove_file(&ballast).unwrap();
    let second = pair.east.sync("shop");
    assert_ne!(first["id"], second["id"]);
    pair.west.cli(["verify"]).ok();
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// Everything fits into the store, but the replica has no room: the restore point is committed all the same, and the
/// replica follows once there is room.
#[test]
fn a_full_replica_disk_delays_the_replica_alone() {
    let disk = match LoopFs::mount(FileSystem::Ext4, 96) {
        Ok(disk) => disk,
        Err(reason) => return skip("disk_full replica", &reason),
    };
    let mut pair = Pair::start();
    let mut rng = seed("replica disk full");
    let source = pair.source("source");
    pair.west.terminate();
    let config = pair.west.dir().join("site.toml");
    let text = fs::read_to_string(&config).unwrap();
    let target = disk.path().join("replica");
    fs::write(&config, format!("{text}\n[replicas.shop]\ndata = {target:?}\n")).unwrap();
    pair.west.allow_errors("space");
    pair.east.allow_errors("space");
    pair.west.serve();
    pair.wait_connected();
    fs::write(source.join("first"), tree::random_bytes(&mut rng, 10_000_000)).unwrap();
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 50 << 20]).unwrap();
    fs::write(source.join("second"), tree::random_bytes(&mut rng, 40_000_000)).unwrap();
    pair.east.cli(["sync", "shop"]).exits(&[0, 1, 5, 7]);
    assert!(pair.west.is_running(), "{}", pair.west.log());
    fs::remove_file(&ballast).unwrap();
    pair.east.sync("shop");
    pair.west.cli(["verify"]).ok();
    pair.take_over("shop");
    assert_same(&source, &target);
}

/// A standby whose disk others have filled starts and takes over all the same, with its manifests: for that it has a
/// reserve.
#[test]
fn a_full_disk_does_not_stop_a_takeover() {
    let disk = match LoopFs::mount(FileSystem::Ext4, 256) {
        Ok(disk) => disk,
        Err(reason) => return skip("disk_full takeover", &reason),
    };
    let west = SiteOptions { dir: Some(disk.path().join("site")), ..SiteOptions::default() };
    let mut pair = Pair::with(SiteOptions::default(), west);
    pair.west.allow_errors("reserve is given up");
    let (source, manifests) = (pair.source("source"), pair.source("k8s"));
    tree::small_files(&source, 100, &mut seed("full standby"));
    for number in 0..40 {
        let yaml = DEPLOYMENT.replace("NUMBER", &number.to_string());
        fs::write(manifests.join(format!("{number}.yaml")), yaml).unwrap();
    }
    pair.east.apply(&Plan::new("shop").volume("data", &source).manifests(&manifests).yaml()).ok();
    let point = pair.east.sync("shop")["id"].clone();
    let patience = Duration::from_secs(20);
    eventually("it is applied", patience, || pair.west.status("shop")["appliedRestorePoint"] == point);
    let reserve = pair.west.dir().join("reserve");
    eventually("the reserve is there", patience, || reserve.exists());
    pair.east.kill();
    pair.west.terminate();
    let ballast = disk.path().join("ballast");
    fill(&ballast);
    pair.west.serve();
    assert!(!reserve.exists(), "the disk was not full");
    pair.west.cli(["promote", "shop"]).ok();
    assert_same(&source, &pair.west.replica("shop", "data"));
    let objects = objects_under(&pair.west.manifests("shop"));
    let runs =
        |name: &String| object(&objects, name).pointer("/spec/replicas") == Some(&serde_json::json!(2));
    assert_eq!(objects.keys().filter(|name| name.contains("/Deployment/") && runs(name)).count(), 40);

    fs::remove_file(&ballast).unwrap();
    pair.west.restart();
    eventually("the reserve is there again", patience, || reserve.exists());
    assert_eq!(pair.west.status("shop")["role"], "active");
}

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-NUMBER, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: x}]}}
";

/// Writes to a file until there is no room for one byte more.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    file.sync_all().unwrap();
}
