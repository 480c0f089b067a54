//! Snapshot providers on real file systems.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use backstay_types::plan::SnapshotKind;
use backstay_types::{Class, Classify, Span};

use super::support::*;
use crate::{Cancel, ParentUse, Progress, VolumeError, snapshot};

/// A file system of its own on a loop device, unmounted when dropped.
pub(super) struct Mounted(pub(super) PathBuf);

impl Mounted {
    /// `None`, saying so, where the machine cannot.
    pub(super) fn new(dir: &Path, kind: &str) -> Option<Self> {
        let image = dir.join("fs.img");
        fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        let mkfs = Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image).output();
        let at = dir.join("mnt");
        fs::create_dir(&at).unwrap();
        let ready = is_root() && mkfs.is_ok_and(|output| output.status.success());
        let mount = || Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at).status();
        if !ready || !mount().is_ok_and(|status| status.success()) {
            skip(&format!("a {kind} file system on a loop device needs root and mkfs.{kind}"));
            return None;
        }
        Some(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

pub(super) fn site_on(fs: &Mounted, provider: SnapshotKind, source: &str) -> Site {
    let mut site = Site::new();
    site.spec = tree_spec(&fs.0.join(source), provider);
    site
}

pub(super) fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|item| item.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What is read is what was there when the snapshot was taken, however the source changes after.
fn shows_the_moment_of_the_snapshot(site: &Site) {
    let source = site.source();
    build_nasty_tree(&source, &mut seeded(1));
    let kept = site.dir.path().join("kept");
    copy_tree(&source, &kept);
    let taken = snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap();
    fs::write(source.join("big"), "all different").unwrap();
    fs::write(source.join("plain"), "all different").unwrap();
    fs::remove_dir_all(source.join("inherits")).unwrap();
    let scanned = taken.scan(&Cancel::new()).unwrap();
    let read = scanned.read(&mut Sink::new(&site.store), &Progress::new()).unwrap();
    assert!(!read.fuzzy && read.warning.is_none());
    let root = read.volume.root;
    read.pending.adopt("e1-000001".parse().unwrap()).unwrap();
    site.apply(None, &root);
    site.assert_replica_of(&root, &kept);
    // And the next cycle: only what changed is read.
    site.age();
    let (next, done) = site.cycle();
    assert!(done.stats.bytes_changed < 1000, "{:?}", done.stats);
    site.apply(Some(&root), &next);
    // A copy on the replica's own file system: XFS shows ACLs twice, and `rsync` compares both.
    let kept = site.dir.path().join("kept again");
    copy_tree(&source, &kept);
    site.assert_replica_of(&next, &kept);
}

#[test]
fn reflink_reads_from_clones() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fs) = Mounted::new(dir.path(), "xfs") else { return };
    for provider in [SnapshotKind::Reflink, SnapshotKind::Auto] {
        let source = format!("{provider:?}");
        fs::create_dir(fs.0.join(&source)).unwrap();
        let site = site_on(&fs, provider, &source);
        shows_the_moment_of_the_snapshot(&site);
    }
    assert_eq!(names(&fs.0), ["Auto", "Reflink"], "no clones are left");
    // The whole file system is the volume: the clones must stand inside it and not show.
    let site = site_on(&fs, SnapshotKind::Reflink, "");
    set_mtime(&fs.0, 1_500_000_000, 7);
    let (root, _) = site.cycle();
    site.apply(None, &root);
    let kept = site.dir.path().join("kept");
    copy_tree(&fs.0, &kept);
    site.assert_replica_of(&root, &kept);
}

#[test]
fn reflink_never_sees_a_torn_file() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fs) = Mounted::new(dir.path(), "xfs") else { return };
    fs::create_dir(fs.0.join("v")).unwrap();
    let site = site_on(&fs, SnapshotKind::Reflink, "v");
    let path = site.source().join("busy");
    write(&path, vec![1; 2 << 20]);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let cycle = site.try_read_with(|n| file.write_all_at(&n.to_le_bytes(), 4096).unwrap()).unwrap();
    assert!(!cycle.read.fuzzy);
    site.apply(None, &cycle.read.volume.root);
    assert!(fs::read(site.replica().join("busy")).unwrap() == vec![1; 2 << 20]);
}

pub(super) fn subvolume(path: &Path) {
    let output = Command::new("btrfs").args(["subvolume", "create"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn btrfs_snapshots_a_subvolume() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fs) = Mounted::new(dir.path(), "btrfs") else { return };
    for (source, provider) in [("sub", SnapshotKind::Btrfs), ("auto", SnapshotKind::Auto)] {
        subvolume(&fs.0.join(source));
        shows_the_moment_of_the_snapshot(&site_on(&fs, provider, source));
    }
    assert_eq!(names(&fs.0), ["auto", "sub"], "no snapshot is left");
    // A subvolume inside is a volume of its own, and must not be replaced by an empty folder in silence.
    let site = site_on(&fs, SnapshotKind::Btrfs, "sub");
    subvolume(&site.source().join("nested"));
    let error = site.try_read().map(|_| ()).unwrap_err();
    assert!(matches!(&error, VolumeError::MountPoint { path } if path.ends_with("nested")), "{error}");
    assert_eq!(names(&fs.0), ["auto", "sub"], "also after a failure");
    // A plain folder is none.
    fs::create_dir(fs.0.join("plain")).unwrap();
    let error = site_on(&fs, SnapshotKind::Btrfs, "plain").try_read().map(|_| ()).unwrap_err();
    assert!(matches!(error, VolumeError::Snapshot { provider: "btrfs", .. }), "{error}");
}

#[test]
fn leftover_snapshots_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fs) = Mounted::new(dir.path(), "btrfs") else { return };
    subvolume(&fs.0.join("sub"));
    for provider in [SnapshotKind::Btrfs, SnapshotKind::Reflink] {
        let site = site_on(&fs, provider, "sub");
        write(&site.source().join("f"), format!("{provider:?}"));
        // Killed with the snapshot standing.
        std::mem::forget(snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap());
        let everywhere = [names(&fs.0), names(&site.source())].concat();
        assert!(everywhere.iter().any(|name| name.starts_with(".backstay-snapshot-")));
        let (root, _) = site.cycle();
        site.apply(None, &root);
        site.assert_replica(&root);
        let everywhere = [names(&fs.0), names(&site.source())].concat();
        assert!(!everywhere.iter().any(|name| name.starts_with(".backstay-snapshot-")), "{everywhere:?}");
    }
}

#[test]
fn a_place_without_clones_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fs) = Mounted::new(dir.path(), "ext4") else { return };
    fs::create_dir(fs.0.join("v")).unwrap();
    let site = site_on(&fs, SnapshotKind::Reflink, "v");
    let error = site.try_read().map(|_| ()).unwrap_err();
    assert!(matches!(error, VolumeError::Snapshot { provider: "reflink", .. }), "{error}");
    assert!(error.to_string().contains("cannot clone"), "{error}");
    // The best there is, is to read in place.
    let site = site_on(&fs, SnapshotKind::Auto, "v");
    write(&site.source().join("f"), "x");
    let (root, _) = site.cycle();
    site.apply(None, &root);
    site.assert_replica(&root);
    assert!(!names(&fs.0).iter().any(|name| name.starts_with(".backstay")));
}

pub(super) fn command_site(create: &str, release: &str) -> Site {
    let mut site = Site::new();
    write(&site.source().join("f"), "content");
    let shell = |script: &str| Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()]);
    site.spec.snapshot.provider = SnapshotKind::Command;
    site.spec.snapshot.create = shell(create);
    site.spec.snapshot.release = shell(release);
    site
}

#[test]
fn commands_take_and_release() {
    let site = command_site(
        r#"cp -a "$BACKSTAY_SOURCE" "$BACKSTAY_SOURCE/../$BACKSTAY_PLAN-$BACKSTAY_VOLUME"; cd "$BACKSTAY_SOURCE/.."; echo "$PWD/shop-data"; echo more"#,
        r#"rm -r "$BACKSTAY_SOURCE/../shop-data""#,
    );
    let taken = snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap();
    assert!(site.dir.path().join("shop-data/f").exists());
    let kept = site.dir.path().join("kept");
    copy_tree(&site.source(), &kept);
    fs::write(site.source().join("f"), "changed since").unwrap();
    let read =
        taken.scan(&Cancel::new()).unwrap().read(&mut Sink::new(&site.store), &Progress::new()).unwrap();
    assert!(read.warning.is_none());
    assert!(!site.dir.path().join("shop-data").exists(), "released");
    site.apply(None, &read.volume.root);
    assert_rsync_equal(&kept, &site.replica());
    // Released also when it is dropped half-way.
    drop(snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap());
    assert!(!site.dir.path().join("shop-data").exists());
}

#[test]
fn commands_that_fail_are_told_in_their_own_words_and_released() {
    let released = r#"touch "$BACKSTAY_SOURCE/../released""#;
    let cases = [
        ("echo no space left in pool >&2; exit 3", "no space left in pool"),
        ("echo relative/path", "not an absolute path"),
        ("true", "not an absolute path"),
        ("echo /no/such/place", "does not exist"),
    ];
    for (create, expected) in cases {
        let site = command_site(create, released);
        let error = site.try_read().map(|_| ()).unwrap_err();
        assert_eq!(error.class(), Class::Transient);
        assert!(error.to_string().contains(expected), "{create}: {error}");
        assert!(site.dir.path().join("released").exists(), "{create}");
    }
    let mut site = command_site("sleep 600 & sleep 600", released);
    site.spec.snapshot.timeout = Some(Span(300));
    let error = site.try_read().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("killed"), "{error}");
    let site = command_site(r#"echo "$BACKSTAY_SOURCE""#, "echo stuck >&2; exit 1");
    let read = site.try_read().unwrap().read;
    assert!(
        read.warning.is_some_and(|error| error.to_string().contains("stuck")),
        "the operator hears of it"
    );
}
