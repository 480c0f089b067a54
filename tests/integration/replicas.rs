//! Replicas that are not what was applied to them: unmounted, swapped, emptied, cut, or changed by somebody. None is promoted
//! as it is, and none stands in the way of what is wanted.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use backstay_tests::{
    FileSystem, LoopFs, Pair, Plan, assert_same, copy_tree, eventually, is_root, seed, skip, tree,
};
use serde_json::Value;

const WAIT: Duration = Duration::from_secs(30);

/// A pair with one plan of 50 files, whose replica is at `place` if there is one.
struct Volume {
    pair: Pair,
    source: PathBuf,
    replica: PathBuf,
    first: String,
}

impl Volume {
    fn new(place: Option<&Path>) -> Volume {
        let mut pair = Pair::start();
        let source = pair.source("source");
        tree::small_files(&source, 50, &mut seed("replicas"));
        let replica = place.map_or_else(|| pair.west.replica("shop", "data"), Path::to_owned);
        if place.is_some() {
            put_at(&mut pair, &replica);
        }
        pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
        let first = pair.east.sync("shop")["id"].as_str().unwrap().to_owned();
        let volume = Volume { pair, source, replica, first };
        volume.wait_applied();
        volume
    }

    fn wait_applied(&self) {
        wait_applied(&self.pair);
    }

    fn sync(&self) -> Value {
        let point = self.pair.east.sync("shop");
        self.wait_applied();
        point
    }

    /// What the standby tells of what it found.
    fn told(&self) -> String {
        self.pair.west.status("shop")["replicaWarning"]["messages"].to_string()
    }
}

fn put_at(pair: &mut Pair, replica: &Path) {
    pair.west.terminate();
    let config = pair.west.dir().join("site.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[replicas.shop]\ndata = {replica:?}\n")).unwrap();
    pair.west.serve();
    pair.wait_connected();
}

fn wait_applied(pair: &Pair) {
    eventually("the newest restore point is applied", WAIT, || {
        let status = pair.west.status("shop");
        status["appliedRestorePoint"] == status["lastRestorePoint"] && status["cycle"].is_null()
    });
}

fn roles(pair: &Pair) -> (Value, Value) {
    (pair.east.status("shop")["role"].clone(), pair.west.status("shop")["role"].clone())
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

fn remake(folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
    fs::create_dir(folder).unwrap();
}

/// The mount of a replica is missing after a restart: nothing is written below it, both sides say so, and neither a promotion
/// nor a switchover takes the empty folder for the volume. Mounted again, it goes on.
#[test]
fn an_unmounted_replica_is_neither_filled_nor_promoted() {
    let disk = match LoopFs::mount(FileSystem::Ext4, 32) {
        Ok(disk) => disk,
        Err(reason) => return skip("replicas unmounted", &reason),
    };
    let mut volume = Volume::new(Some(disk.path()));
    volume.pair.west.allow_errors("not mounted");
    volume.pair.east.allow_errors("not mounted");
    volume.pair.west.terminate();
    disk.unmount();
    volume.pair.west.serve();
    volume.pair.wait_connected();
    eventually("the standby says so by itself", WAIT, || {
        volume.pair.west.status("shop")["applyError"]["message"].to_string().contains("not mounted")
    });
    fs::write(volume.source.join("later"), "written later").unwrap();
    volume.pair.east.sync("shop");
    eventually("the active side says why its standby does not follow", WAIT, || {
        let status = volume.pair.east.status("shop");
        status["standby"]["applyError"]["message"].to_string().contains("not mounted")
    });
    volume.pair.east.cli(["switchover", "shop"]).refused(&[2], &["not mounted"]);
    assert_eq!(roles(&volume.pair), ("active".into(), "standby".into()));
    let verified = volume.pair.west.cli(["verify", "shop", "--repair"]).refused(&[6], &[]);
    assert!(verified.stdout.contains("is not mounted"), "{verified}");
    volume.pair.east.kill();
    volume.pair.west.cli(["promote", "shop", "--dry-run"]).refused(&[2], &["not mounted"]);
    volume.pair.west.cli(["promote", "shop"]).refused(&[2], &["not mounted"]);
    let status = volume.pair.west.status("shop");
    assert_eq!((&status["role"], &status["epoch"]), (&"standby".into(), &1.into()), "{status}");
    assert!(is_empty(disk.path()), "something was written below the mount point");
    disk.mount_again();
    volume.pair.west.promote("shop", &[]);
    assert_same(&volume.source, &volume.replica);
}

/// Another disk at the place of the replica is filled with everything, and told.
#[test]
fn another_disk_is_filled_in_full() {
    let (disk, other) = match (LoopFs::mount(FileSystem::Ext4, 32), LoopFs::mount(FileSystem::Ext4, 32)) {
        (Ok(disk), Ok(other)) => (disk, other),
        (Err(reason), _) | (_, Err(reason)) => return skip("replicas another disk", &reason),
    };
    let mut volume = Volume::new(Some(disk.path()));
    other.cover(disk.path());
    fs::write(volume.source.join("later"), "written later").unwrap();
    volume.sync();
    assert_same(&volume.source, &volume.replica);
    assert!(volume.told().contains("compared in full"), "{}", volume.told());
    volume.pair.take_over("shop");
    assert_same(&volume.source, &volume.replica);
    LoopFs::uncover(disk.path());
}

/// A replica that was emptied, or removed, is whole after a promotion, to the newest point and to an older one.
#[test]
fn an_emptied_replica_is_whole_when_promoted() {
    for (older, remade) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut volume = Volume::new(None);
        let copy = volume.pair.work("copy");
        copy_tree(&volume.source, &copy);
        fs::write(volume.source.join("later"), "written later").unwrap();
        volume.sync();
        if remade {
            remake(&volume.replica);
        } else {
            fs::remove_dir_all(&volume.replica).unwrap();
        }
        volume.pair.east.kill();
        let first = volume.first.clone();
        let flags: &[&str] = if older { &["--restore-point", &first] } else { &[] };
        let report = volume.pair.west.promote("shop", flags);
        assert_same(if older { &copy } else { &volume.source }, &volume.replica);
        assert!(report["warnings"].to_string().contains("compared in full"), "{report}");
    }
}

/// A switchover onto an emptied replica brings everything there, and nothing is lost on the way back.
#[test]
fn a_switchover_never_lands_on_an_empty_replica() {
    let volume = Volume::new(None);
    let copy = volume.pair.work("copy");
    copy_tree(&volume.source, &copy);
    remake(&volume.replica);
    volume.pair.east.cli(["switchover", "shop"]).ok();
    assert_eq!(roles(&volume.pair), ("standby".into(), "active".into()));
    assert_same(&copy, &volume.replica);
    fs::write(volume.replica.join("away"), "written away").unwrap();
    volume.pair.west.sync("shop");
    eventually("east follows", WAIT, || volume.source.join("away").exists());
    assert_eq!(fs::read_dir(&volume.source).unwrap().count(), fs::read_dir(&copy).unwrap().count() + 1);
    volume.pair.east.cli(["failback", "shop"]).ok();
    assert_same(&volume.source, &volume.replica);
}

/// An image that was cut short or written to is the source again after the next cycle.
#[test]
fn a_cut_image_is_made_whole() {
    let mut pair = Pair::start();
    let image = pair.work("disk.img");
    fs::write(&image, tree::random_bytes(&mut seed("image"), 2 << 20)).unwrap();
    pair.east.apply(&Plan::new("shop").device("data", &image).yaml()).ok();
    pair.east.sync("shop");
    wait_applied(&pair);
    let replica = pair.west.replica("shop", "data");
    fs::write(&replica, [0; 10]).unwrap();
    let change = |byte: u8| {
        OpenOptions::new().write(true).open(&image).unwrap().write_all_at(&[byte], 70_000).unwrap();
    };
    change(1);
    pair.east.sync("shop");
    wait_applied(&pair);
    assert_same(&image, &replica);
    OpenOptions::new().write(true).open(&replica).unwrap().write_all_at(b"EVIL", 1 << 20).unwrap();
    pair.take_over("shop");
    assert_same(&image, &replica);
}

/// What somebody does to a replica who takes it for a copy to look at: files edited, one with its time put back, added,
/// removed, renamed, their modes changed.
fn tamper(replica: &Path) {
    let (mut files, mut folders) = (Vec::new(), vec![replica.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::metadata(&path).unwrap().len() >= 4 {
                files.push(path);
            }
        }
    }
    files.sort();
    let before = fs::metadata(&files[0]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&files[0]).unwrap();
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).unwrap();
    file.write_all_at(&bytes.map(|byte| byte ^ 0x55), 0).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    let after = fs::metadata(&files[0]).unwrap();
    assert_eq!((before.len(), before.mtime_nsec()), (after.len(), after.mtime_nsec()));
    fs::write(&files[1], "edited on the standby").unwrap();
    fs::remove_file(&files[2]).unwrap();
    fs::set_permissions(&files[3], fs::Permissions::from_mode(0o777)).unwrap();
    fs::rename(&files[4], replica.join("renamed")).unwrap();
    fs::write(replica.join("postmaster.pid"), "4711").unwrap();
}

/// … is put right by the next cycle, though it touches other files, and told with names.
#[test]
fn what_somebody_changed_is_put_right_by_the_next_cycle() {
    let volume = Volume::new(None);
    tamper(&volume.replica);
    fs::write(volume.source.join("later"), "written later").unwrap();
    volume.sync();
    assert_same(&volume.source, &volume.replica);
    let told = volume.told();
    assert!(told.contains("were changed here") && told.contains("postmaster.pid"), "{told}");
    volume.pair.west.cli(["verify", "shop"]).ok();
    tamper(&volume.replica);
    volume.sync();
    assert_same(&volume.source, &volume.replica);
}

/// … and by a promotion or a switchover that comes first.
#[test]
fn what_somebody_changed_is_put_right_before_a_takeover() {
    let mut volume = Volume::new(None);
    tamper(&volume.replica);
    let report = volume.pair.take_over("shop");
    assert_same(&volume.source, &volume.replica);
    assert!(report["warnings"].to_string().contains("postmaster.pid"), "{report}");

    let volume = Volume::new(None);
    let copy = volume.pair.work("copy");
    copy_tree(&volume.source, &copy);
    tamper(&volume.replica);
    volume.pair.east.cli(["switchover", "shop"]).ok();
    assert_same(&copy, &volume.replica);
}

/// Once promoted, what the application writes is no damage; what it did not write and is not as it was, is.
#[test]
fn verify_leaves_what_the_application_wrote() {
    let mut volume = Volume::new(None);
    volume.pair.take_over("shop");
    tamper(&volume.replica);
    let verified = volume.pair.west.cli(["verify", "shop", "-o", "json"]).ok().json();
    assert_eq!(verified["replicas"], 1, "{verified}");
}

/// A site whose state says nothing of the roots, as those of earlier versions, compares them once and goes on.
#[test]
fn a_site_without_marks_goes_on() {
    let mut volume = Volume::new(None);
    volume.pair.west.terminate();
    let path = volume.pair.west.dir().join("plans/shop/applied.json");
    let mut applied: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for field in ["marks", "kept", "warning", "objectFiles"] {
        applied.as_object_mut().unwrap().remove(field).unwrap();
    }
    fs::write(&path, applied.to_string()).unwrap();
    tamper(&volume.replica);
    volume.pair.west.serve();
    volume.pair.wait_connected();
    fs::write(volume.source.join("later"), "written later").unwrap();
    volume.sync();
    assert_same(&volume.source, &volume.replica);
}

/// A file that does not fit and is gone by the next restore point delays that point alone, and no promotion.
#[test]
fn a_point_that_does_not_fit_blocks_no_later_one() {
    let disk = match LoopFs::mount(FileSystem::Ext4, 24) {
        Ok(disk) => disk,
        Err(reason) => return skip("replicas too small", &reason),
    };
    let mut volume = Volume::new(Some(&disk.path().join("replica")));
    volume.pair.west.allow_errors("space");
    let kept = volume.pair.work("kept");
    copy_tree(&volume.source, &kept);
    let big = volume.source.join("big");
    fs::write(&big, tree::random_bytes(&mut seed("big"), 40 << 20)).unwrap();
    let second = volume.pair.east.sync("shop")["id"].as_str().unwrap().to_owned();
    eventually("the active side says why its standby does not follow", WAIT, || {
        let status = volume.pair.east.status("shop");
        status["standby"]["applyError"]["message"].to_string().contains("space")
    });
    fs::remove_file(&big).unwrap();
    let third = volume.sync();
    assert_same(&volume.source, &volume.replica);
    assert_eq!(volume.pair.west.status("shop")["appliedRestorePoint"], third["id"]);
    eventually("the active side says that it follows", WAIT, || {
        let standby = volume.pair.east.status("shop")["standby"].clone();
        standby["applyError"].is_null() && standby["appliedRestorePoint"] == third["id"]
    });
    // Once more, and this time the standby must take over with the point that does not fit as its newest.
    let first = volume.first.clone();
    fs::write(&big, tree::random_bytes(&mut seed("big again"), 40 << 20)).unwrap();
    volume.pair.east.sync("shop");
    eventually("it does not fit", WAIT, || !volume.pair.west.status("shop")["applyError"].is_null());
    volume.pair.east.kill();
    volume.pair.west.cli(["promote", "shop"]).refused(&[1, 5, 7], &["space"]);
    volume.pair.west.promote("shop", &["--restore-point", &first]);
    assert!(second > first);
    assert_same(&kept, &volume.replica);
}

/// A device too small for one restore point takes the next that fits.
#[test]
fn a_device_too_small_for_one_point_takes_the_next() {
    if !is_root() {
        return skip("replicas device", "loop devices need root");
    }
    let mut pair = Pair::start();
    pair.west.allow_errors("expected a device");
    let (image, disk) = (pair.work("disk.img"), pair.work("replica.img"));
    let sized = |bytes: u64| OpenOptions::new().write(true).open(&image).unwrap().set_len(bytes).unwrap();
    fs::write(&image, tree::random_bytes(&mut seed("device"), 8 << 20)).unwrap();
    fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
    let attached = Command::new("losetup").args(["--find", "--show"]).arg(&disk).output().unwrap();
    assert!(attached.status.success(), "{attached:?}");
    let device = PathBuf::from(String::from_utf8(attached.stdout).unwrap().trim());
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        put_at(&mut pair, &device);
        pair.east.apply(&Plan::new("shop").device("data", &image).yaml()).ok();
        pair.east.sync("shop");
        wait_applied(&pair);
        sized((8 << 20) + 4096);
        pair.east.sync("shop");
        eventually("it does not fit", WAIT, || {
            pair.west.status("shop")["applyError"]["message"].to_string().contains("expected a device")
        });
        sized(8 << 20);
        OpenOptions::new().write(true).open(&image).unwrap().write_all_at(b"later", 1 << 20).unwrap();
        pair.east.sync("shop");
        wait_applied(&pair);
        assert!(fs::read(&device).unwrap() == fs::read(&image).unwrap());
        // Somebody wrote to the device itself.
        OpenOptions::new().write(true).open(&device).unwrap().write_all_at(b"EVIL", 3 << 20).unwrap();
        OpenOptions::new().write(true).open(&device).unwrap().sync_all().unwrap();
        pair.take_over("shop");
        assert!(fs::read(&device).unwrap() == fs::read(&image).unwrap());
    }));
    drop(pair);
    assert!(Command::new("losetup").arg("-d").arg(&device).status().unwrap().success());
    outcome.unwrap();
}

/// An immutable file of the replica blocks the points that change it, says how to take that away, and no other point.
#[test]
fn an_immutable_file_blocks_only_what_changes_it() {
    let disk = match LoopFs::mount(FileSystem::Ext4, 32) {
        Ok(disk) => disk,
        Err(reason) => return skip("replicas immutable", &reason),
    };
    let mut volume = Volume::new(Some(&disk.path().join("replica")));
    volume.pair.west.allow_errors("not permitted");
    fs::write(volume.source.join("fixed"), "as it was").unwrap();
    let before = volume.sync();
    let chattr = |how: &str| {
        let done = Command::new("chattr").arg(how).arg(volume.replica.join("fixed")).status();
        assert!(done.unwrap().success());
    };
    let kept = volume.pair.work("kept");
    copy_tree(&volume.source, &kept);
    chattr("+i");
    fs::write(volume.source.join("fixed"), "changed").unwrap();
    volume.pair.east.sync("shop");
    eventually("the hint says how", WAIT, || {
        volume.pair.west.status("shop")["applyError"]["hint"].to_string().contains("chattr -i")
    });
    // As in the point before, to the last bit: the file need not be written.
    copy_tree(&kept, &volume.source);
    fs::write(volume.source.join("other"), "written later").unwrap();
    volume.sync();
    assert_same(&volume.source, &volume.replica);
    fs::write(volume.source.join("fixed"), "changed again").unwrap();
    volume.pair.east.sync("shop");
    volume.pair.east.kill();
    volume.pair.west.promote("shop", &["--restore-point", before["id"].as_str().unwrap()]);
    assert_same(&kept, &volume.replica);
    chattr("-i");
}
