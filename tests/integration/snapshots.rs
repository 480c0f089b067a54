//! Snapshot providers on the file systems that have them: what is replicated is one moment, while writers go on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use backstay_tests::{FileSystem, LoopFs, Pair, Plan, assert_same, copy_tree, eventually, seed, skip, tree};

/// Two cycles with a provider over a source on its own file system, promoted and compared.
fn survives(kind: FileSystem, mib: u64, provider: &str, make: impl FnOnce(&Path)) {
    let disk = match LoopFs::mount(kind, mib) {
        Ok(disk) => disk,
        Err(reason) => return skip(&format!("snapshots {provider}"), &reason),
    };
    let mut pair = Pair::start();
    let mut rng = seed(provider);
    let source = disk.path().join("volume");
    make(&source);
    tree::small_files(&source, 400, &mut rng);
    tree::random_image(&source.join("database"), 16, &mut rng);
    let volume = format!("{{name: data, path: {source:?}, snapshot: {{provider: {provider}}}}}");
    pair.east.apply(&Plan::new("shop").raw_volume(&volume).yaml()).ok();
    pair.east.sync("shop");
    tree::mutate(&source, 60, &mut rng);
    pair.east.sync("shop");
    let left = leftovers(disk.path());
    assert!(left.is_empty(), "a snapshot was left behind: {left:?}");
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

fn leftovers(mount: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(mount)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.retain(|name| name != "volume" && name != "lost+found");
    names
}

fn make_folder(path: &Path) {
    fs::create_dir(path).unwrap();
}

#[test]
fn reflink_on_xfs() {
    survives(FileSystem::Xfs, 400, "reflink", make_folder);
}

#[test]
fn auto_on_xfs() {
    survives(FileSystem::Xfs, 400, "auto", make_folder);
}

#[test]
fn btrfs_subvolume() {
    survives(FileSystem::Btrfs, 400, "btrfs", |path| {
        let made = std::process::Command::new("btrfs")
            .args(["-q", "subvolume", "create"])
            .arg(path)
            .status()
            .unwrap();
        assert!(made.success());
    });
}

/// An operator's own commands: what `create` prints is read, and `release` runs, also when the cycle fails.
#[test]
fn own_commands() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 200, &mut seed("command"));
    let (view, create, release) = (pair.work("view"), pair.work("create"), pair.work("release"));
    write_script(&create, &format!("cp -a {source:?} {view:?} && echo {}", view.display()));
    write_script(&release, &format!("rm -r {view:?}"));
    let volume = format!(
        "{{name: data, path: {source:?}, snapshot: {{provider: command, create: [{create:?}], release: [{release:?}]}}}}"
    );
    pair.east.apply(&Plan::new("shop").raw_volume(&volume).yaml()).ok();
    let copy = pair.work("copy");
    copy_tree(&source, &copy);
    pair.east.sync("shop");
    assert!(!view.exists(), "the snapshot was not released");

    pair.east.allow_errors("");
    write_script(&create, "echo the storage says no >&2; exit 3");
    pair.east.cli(["sync", "shop"]).refused(&[1, 2, 5, 7], &["the storage says no"]);
    pair.take_over("shop");
    assert_same(&copy, &pair.west.replica("shop", "data"));
}

/// A daemon that dies with a snapshot standing releases it when it starts, and not when the next cycle ends.
#[test]
fn a_snapshot_of_a_killed_daemon_is_released_at_the_start() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 20, &mut seed("killed snapshot"));
    let (calls, create, release) = (pair.work("calls"), pair.work("create"), pair.work("release"));
    // Hangs with the snapshot taken, as long as this test wants.
    write_script(&create, &format!("echo create >> {calls:?}; exec sleep 600"));
    write_script(&release, &format!("echo release >> {calls:?}"));
    let volume = format!(
        "{{name: data, path: {source:?}, snapshot: {{provider: command, create: [{create:?}], release: [{release:?}]}}}}"
    );
    pair.east.apply(&Plan::new("shop").raw_volume(&volume).yaml()).ok();
    pair.east.cli(["sync", "shop", "--no-wait"]).ok();
    let called = || fs::read_to_string(&calls).unwrap_or_default();
    eventually("the snapshot to be taken", Duration::from_secs(60), || called() == "create\n");
    pair.east.kill();
    pair.east.serve();
    eventually("the snapshot to be released", Duration::from_secs(60), || called() == "create\nrelease\n");
}

fn write_script(path: &Path, body: &str) {
    fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
