//! What tells a replica that was left alone from one that was not.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use backstay_types::ChunkId;
use backstay_types::manifest::VolumeKind;

use super::support::*;
use crate::{Comparison, Look, Mark, Progress, Shown, Standing, apply, inspect, sample, verify_replica};

fn applied() -> (Site, ChunkId) {
    let site = Site::new();
    for n in 0..20 {
        write(&site.source().join(format!("d{}/f{n}", n % 3)), format!("content of {n}"));
    }
    let (root, _) = site.cycle();
    site.apply(None, &root);
    (site, root)
}

fn mark(site: &Site) -> Mark {
    site.mark.borrow().clone().unwrap()
}

fn standing(site: &Site) -> Standing {
    mark(site).standing(&site.replica(), VolumeKind::Directory).unwrap()
}

/// Waits until a change has another time than the apply's last.
fn tick(site: &Site) {
    let probe = site.dir.path().join("probe");
    let before = fs::metadata(site.replica()).unwrap();
    loop {
        write(&probe, "x");
        let now = fs::metadata(&probe).unwrap();
        if (now.ctime(), now.ctime_nsec()) > (before.ctime(), before.ctime_nsec()) {
            return;
        }
    }
}

fn touched(site: &Site, root: &ChunkId) -> Vec<String> {
    let mark = mark(site);
    let shown = Shown { root, mark: &mark };
    let touched = inspect(&site.store, shown, VolumeKind::Directory, &site.replica()).unwrap().unwrap();
    assert_eq!(touched.count, touched.first.len() as u64);
    touched.first.iter().map(|(path, why)| format!("{path}: {why}")).collect()
}

#[test]
fn an_untouched_replica_is_the_one_that_was_left() {
    let (site, root) = applied();
    tick(&site);
    // Reading it and being reached by another way is no change.
    fs::read(site.replica().join("d0/f0")).unwrap();
    assert_eq!(standing(&site), Standing::Same);
    assert_eq!(touched(&site, &root), Vec::<String>::new());
}

#[test]
fn a_root_that_was_made_anew_is_another() {
    let (site, root) = applied();
    tick(&site);
    remove_any(&site.replica());
    assert!(matches!(standing(&site), Standing::Other { .. }));
    fs::create_dir(site.replica()).unwrap();
    assert!(matches!(standing(&site), Standing::Other { .. }), "an empty folder of its name is not it");
    let report = site.apply(Some(&root), &root);
    assert!(report.compared_in_full);
    site.assert_replica(&root);
    assert_eq!(standing(&site), Standing::Same);
}

#[test]
fn an_edit_with_its_time_put_back_is_found() {
    let (site, root) = applied();
    tick(&site);
    let path = site.replica().join("d1/f4");
    let before = fs::metadata(&path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"EVIL", 0).unwrap();
    set_mtime(&path, before.mtime(), before.mtime_nsec());
    assert_eq!(fs::metadata(&path).unwrap().len(), before.len());
    assert_eq!(touched(&site, &root), ["d1/f4: it was changed"]);
    let report = site.apply(Some(&root), &root);
    assert!(!report.compared_in_full);
    assert_eq!((report.touched.count, report.changed, report.bytes_written), (1, 1, 12), "{report:?}");
    site.assert_replica(&root);
}

#[test]
fn whatever_somebody_did_is_found_and_put_right() {
    let (site, root) = applied();
    write(&site.source().join("d2/f2"), "new in the next point");
    let (next, _) = site.cycle();
    tick(&site);
    let at = |path: &str| site.replica().join(path);
    fs::set_permissions(at("d0/f0"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::remove_file(at("d1/f1")).unwrap();
    write(&at("d0/added"), "mine");
    write(&at("d1/f7"), "longer than it was before, by far");
    fs::rename(at("d0/f3"), at("d0/f3-moved")).unwrap();
    fs::hard_link(at("d0/f6"), site.dir.path().join("outside")).unwrap();
    let found = touched(&site, &root);
    for wanted in ["d0/f0: its mode", "d1/f1: it is missing", "d0/added: it was added", "d1/f7: its size"] {
        assert!(found.iter().any(|found| found.starts_with(wanted)), "{wanted}: {found:?}");
    }
    let report = site.apply(Some(&root), &next);
    assert_eq!(report.touched.count, found.len() as u64, "{:?}", report.touched);
    site.assert_replica(&next);
    assert_eq!(
        fs::read(site.dir.path().join("outside")).unwrap(),
        b"content of 6",
        "what was shared is left"
    );
}

#[test]
fn a_failed_apply_blocks_no_other() {
    let (site, root) = applied();
    write(&site.source().join("d0/f0"), random_bytes(&mut seeded(1), 300_000));
    write(&site.source().join("d2/new"), random_bytes(&mut seeded(2), 300_000));
    let (second, _) = site.cycle();
    remove_any(&site.source().join("d2/new"));
    write(&site.source().join("d0/f0"), "small again");
    let (third, _) = site.cycle();
    for steps in [3, 9, 20, 30] {
        let mark = site.mark.borrow().clone();
        assert!(site.try_apply(Some(&root), &second, &Progress::stop_after(steps)).is_err());
        *site.mark.borrow_mut() = mark;
        site.apply(Some(&root), &third);
        site.assert_replica(&third);
        site.apply(Some(&third), &root);
    }
}

#[test]
fn an_image_that_was_cut_or_written_is_another() {
    let mut site = Site::new();
    let source = site.dir.path().join("disk.img");
    write(&source, random_bytes(&mut seeded(3), 1 << 20));
    (site.spec.path, site.spec.device) = (None, Some(source.clone()));
    let (root, _) = site.cycle();
    let target = site.dir.path().join("replica.img");
    let bring = |shown: Option<(&ChunkId, &Mark)>| {
        let shown = shown.map(|(root, mark)| Shown { root, mark });
        apply(&site.store, shown, &root, VolumeKind::Block, &target, &Progress::new()).unwrap()
    };
    let mut mark = bring(None).mark.unwrap();
    let damages: [&dyn Fn(); 3] = [
        &|| fs::OpenOptions::new().write(true).open(&target).unwrap().set_len(10).unwrap(),
        &|| fs::OpenOptions::new().write(true).open(&target).unwrap().write_all_at(b"EVIL", 70_000).unwrap(),
        &|| fs::remove_file(&target).unwrap(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        assert_eq!(mark.standing(&target, VolumeKind::Block).unwrap(), Standing::Same, "{number}");
        std::thread::sleep(std::time::Duration::from_millis(15));
        damage();
        let found = mark.standing(&target, VolumeKind::Block).unwrap();
        assert!(matches!(found, Standing::Other { .. }), "{number}: {found:?}");
        let report = bring(Some((&root, &mark)));
        assert!(report.compared_in_full);
        assert!(fs::read(&target).unwrap() == fs::read(&source).unwrap(), "{number}");
        mark = report.mark.unwrap();
    }
    let found = sample(&site.store, &root, &target, 1, 7).unwrap();
    assert_eq!(found, None);
    fs::OpenOptions::new().write(true).open(&target).unwrap().write_all_at(b"EVIL", 70_000).unwrap();
    assert!(sample(&site.store, &root, &target, 1, 7).unwrap().is_some());
}

#[test]
fn a_replica_that_lives_is_compared_where_it_was_not_written() {
    let (site, root) = applied();
    tick(&site);
    let at = |path: &str| site.replica().join(path);
    write(&at("d0/f0"), "written by the application");
    fs::remove_file(at("d1/f1")).unwrap();
    write(&at("d2/new"), "and this too");
    let mark = mark(&site);
    let look = |lives| {
        let look = Look { mark: Some(&mark), lives };
        compared(&site.store, &root, VolumeKind::Directory, &site.replica(), look)
    };
    assert_eq!(look(true), []);
    assert!(look(false).len() >= 3, "{:?}", look(false));
}

/// What is not compared is not said to be well.
#[test]
fn a_replica_that_lives_and_is_not_known_is_not_compared() {
    let (site, root) = applied();
    let mark = mark(&site);
    let why = |mark, place: &Path| {
        let look = Look { mark, lives: true };
        match verify_replica(&site.store, &root, VolumeKind::Directory, place, look).unwrap() {
            Comparison::NotMade { why } => why,
            made => panic!("{made:?}"),
        }
    };
    assert_eq!(why(None, &site.replica()), "it is not known how it was left");
    assert_eq!(why(Some(&mark), &site.source()), "it is another one");
    assert_eq!(why(Some(&mark), &site.dir.path().join("gone")), "it is not there");
}

/// A file system of its own, unmounted with this value.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()));
    }
}

fn ext4(dir: &Path, name: &str, at: &Path, mib: u64, flags: &[&str]) -> Option<Mounted> {
    if !is_root() {
        eprintln!("skipped: mounting needs root");
        return None;
    }
    let image = dir.join(name);
    fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-m", "0", "-F"]).args(flags).arg(&image).status();
    assert!(made.unwrap().success());
    fs::create_dir_all(at).unwrap();
    assert!(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at).status().unwrap().success());
    Some(Mounted(at.to_owned()))
}

#[test]
fn a_missing_mount_and_another_disk_are_seen() {
    let (site, root) = applied();
    remove_any(&site.replica());
    let Some(first) = ext4(site.dir.path(), "one.img", &site.replica(), 16, &[]) else { return };
    site.apply(None, &root);
    assert_eq!(standing(&site), Standing::Same);
    drop(first);
    assert!(matches!(standing(&site), Standing::NotMounted { .. }), "{:?}", standing(&site));
    let second = ext4(site.dir.path(), "two.img", &site.replica(), 16, &[]);
    assert!(matches!(standing(&site), Standing::Other { .. }), "{:?}", standing(&site));
    let report = site.apply(Some(&root), &root);
    assert!(report.compared_in_full);
    site.assert_replica(&root);
    drop(second);
}

#[test]
fn times_that_cannot_be_held_are_named_and_no_damage() {
    let site = Site::new();
    for n in 0..5 {
        write(&site.source().join(format!("f{n}")), "x");
        set_mtime(&site.source().join(format!("f{n}")), 1_600_000_000 + n, 123_456_789);
    }
    set_mtime(&site.source().join("f3"), 3_000_000_000, 5);
    let (root, _) = site.cycle();
    let Some(_disk) = ext4(site.dir.path(), "old.img", &site.replica(), 16, &["-I", "128"]) else { return };
    let report = site.apply(None, &root);
    assert!(report.not_held.as_ref().is_some_and(|path| path.ends_with("f0")), "{:?}", report.not_held);
    let mark = mark(&site);
    let look = Look { mark: Some(&mark), lives: false };
    let found = compared(&site.store, &root, VolumeKind::Directory, &site.replica(), look);
    assert_eq!(found, []);
    tick_on(&site.replica());
    assert_eq!(touched(&site, &root), Vec::<String>::new());
}

/// Such a file system counts whole seconds: the next one must come.
fn tick_on(folder: &Path) {
    let start = fs::metadata(folder).unwrap().ctime();
    while rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec <= start {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn room_is_made_before_it_is_used() {
    let site = Site::new();
    let mut rng = seeded(4);
    write(&site.source().join("z-old"), random_bytes(&mut rng, 6 << 20));
    let (a, _) = site.cycle();
    remove_any(&site.source().join("z-old"));
    write(&site.source().join("a-new"), random_bytes(&mut rng, 6 << 20));
    let (b, _) = site.cycle();
    let Some(_disk) = ext4(site.dir.path(), "small.img", &site.replica(), 10, &["-O", "^has_journal"]) else {
        return;
    };
    site.apply(None, &a);
    site.apply(Some(&a), &b);
    let found = compared(&site.store, &b, VolumeKind::Directory, &site.replica(), Look::default());
    assert_eq!(found, []);
}
