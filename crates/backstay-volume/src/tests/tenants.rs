//! Volumes in folders of users who put something else in the place of what root is about to use.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

use backstay_types::manifest::VolumeKind;
use backstay_types::plan::SnapshotKind;

use super::providers::{Mounted, command_site, names, site_on, subvolume};
use super::support::*;
use crate::{
    Cancel, Look, ParentUse, Progress, VolumeError, apply, release_left_over, restore, snapshot,
    verify_replica,
};

const TENANT: Option<u32> = Some(65534);

fn give(path: &Path) {
    chown(path, TENANT, TENANT).unwrap();
}

/// The name that a snapshot of the volume of tests takes first.
const NAME: &str = ".backstay-snapshot-shop-data";

#[test]
fn a_planted_link_deletes_no_subvolume() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fs) = Mounted::new(dir.path(), "btrfs") else { return };
    for name in ["precious", "beside"] {
        subvolume(&fs.0.join(name));
        write(&fs.0.join(name).join("f"), name);
    }
    // The volume is its own file system's root, so the snapshot must stand inside it, where its owner may write.
    subvolume(&fs.0.join("sub"));
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let bind = Command::new("mount").arg("--bind").arg(fs.0.join("sub")).arg(&inner).status().unwrap();
    assert!(bind.success());
    let mut site = site_on(&fs, SnapshotKind::Auto, "sub");
    site.spec.path = Some(inner.clone());
    write(&inner.join("f"), "x");
    symlink(fs.0.join("precious"), inner.join(NAME)).unwrap();
    lchown(inner.join(NAME), TENANT, TENANT).unwrap();
    give(&inner);
    let outcome = site.try_read().map(|_| ());
    let listed = names(&fs.0);
    let left = names(&inner);
    assert!(Command::new("umount").arg("-l").arg(&inner).status().unwrap().success());
    outcome.unwrap();
    assert_eq!(listed, ["beside", "precious", "sub"], "nothing but the snapshot was deleted");
    assert_eq!(left, [NAME, "f"], "the link stays its owner's, and no snapshot is left");
    assert_eq!(fs::read(fs.0.join("precious/f")).unwrap(), b"precious");
}

#[test]
fn what_somebody_put_in_the_place_of_a_snapshot_stays() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fs) = Mounted::new(dir.path(), "xfs") else { return };
    let around = fs.0.join("tenant");
    fs::create_dir_all(around.join("data")).unwrap();
    fs::create_dir(around.join(NAME)).unwrap();
    write(&around.join(NAME).join("0"), "the tenant's");
    let site = site_on(&fs, SnapshotKind::Reflink, "tenant/data");
    write(&site.source().join("f"), "content");
    let (root, _) = site.cycle();
    site.apply(None, &root);
    site.assert_replica(&root);
    assert_eq!(names(&around), [NAME, "data"]);
    assert_eq!(fs::read(around.join(NAME).join("0")).unwrap(), b"the tenant's");
}

/// The folder of clones is moved away once the clones are made, and one with links to what only root may read stands in
/// its place.
#[test]
fn a_swapped_scratch_folder_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fs) = Mounted::new(dir.path(), "xfs") else { return };
    let secret = dir.path().join("secret");
    fs::write(&secret, "TOP SECRET").unwrap();
    let around = fs.0.join("tenant");
    fs::create_dir_all(around.join("data")).unwrap();
    give(&around);
    let site = site_on(&fs, SnapshotKind::Reflink, "tenant/data");
    for n in 0..4 {
        write(&site.source().join(format!("f{n}")), "TOP-SECRET");
    }
    let taken = snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap();
    let scratch = around.join(NAME);
    let made = fs::metadata(&scratch).unwrap();
    assert_eq!((made.mode() & 0o777, made.uid()), (0o700, 0));
    fs::rename(&scratch, around.join("moved")).unwrap();
    fs::create_dir(&scratch).unwrap();
    for n in 0..6 {
        symlink(&secret, scratch.join(n.to_string())).unwrap();
    }
    let scanned = taken.scan(&Cancel::new()).unwrap();
    let read = scanned.read(&mut Sink::new(&site.store), &Progress::new()).unwrap();
    assert!(read.warning.is_none(), "{:?}", read.warning);
    site.apply(None, &read.volume.root);
    for n in 0..4 {
        assert_eq!(fs::read(site.replica().join(format!("f{n}"))).unwrap(), b"TOP-SECRET");
    }
    assert_eq!(names(&scratch).len(), 6, "what stands in its place is not ours to remove");
    assert_eq!(names(&around.join("moved")), [""; 0], "no clone is left where it went");
}

/// The volume's folder itself is a link that its owner has turned to a place of root's.
#[test]
fn a_volume_behind_a_tenants_link_is_refused() {
    if !is_root() {
        return;
    }
    let mut site = Site::new();
    let around = site.dir.path().join("home");
    let secret = site.dir.path().join("etc");
    fs::create_dir_all(&secret).unwrap();
    fs::write(secret.join("shadow"), "hashes").unwrap();
    fs::create_dir(&around).unwrap();
    give(&around);
    symlink(&secret, around.join("data")).unwrap();
    lchown(around.join("data"), TENANT, TENANT).unwrap();
    for provider in [SnapshotKind::None, SnapshotKind::Auto] {
        site.spec = tree_spec(&around.join("data"), provider);
        let error = site.try_read().map(|_| ()).unwrap_err();
        assert!(matches!(error, VolumeError::ForeignLink { .. }), "{provider:?}: {error}");
    }
}

/// The place of a replica, or a folder on the way to it, is a link that its owner has turned to a place of root's.
#[test]
fn a_replica_behind_a_tenants_link_is_refused() {
    if !is_root() {
        return;
    }
    let mut site = Site::new();
    write(&site.source().join("f"), "of the volume");
    let (tree, _) = site.cycle();
    let image = site.dir.path().join("disk.img");
    write(&image, random_bytes(&mut seeded(1), 100_000));
    (site.spec.path, site.spec.device) = (None, Some(image.clone()));
    site.sent().forget().unwrap();
    let (block, _) = site.cycle();

    let at = |name: &str| site.dir.path().join(name);
    fs::create_dir_all(at("etc/data")).unwrap();
    fs::write(at("etc/shadow"), "hashes").unwrap();
    fs::create_dir(at("home")).unwrap();
    give(&at("home"));
    let link = |name: &str, to: &str, owner| {
        symlink(at(to), at(name)).unwrap();
        lchown(at(name), owner, owner).unwrap();
    };
    link("home/link", "etc", TENANT);
    link("home/image", "etc/shadow", TENANT);
    let kinds = [(VolumeKind::Block, &block), (VolumeKind::Directory, &tree)];
    let places = ["home/image", "home/link", "home/link/shadow", "home/link/new", "home/link/new/deep"];
    for (kind, root) in kinds {
        let bring = |to: &Path| apply(&site.store, None, root, kind, to, &Progress::new());
        let mark = bring(&at(&format!("replica-{kind:?}"))).unwrap().mark.unwrap();
        for place in places.map(at) {
            let refused =
                |error| assert!(matches!(error, VolumeError::ForeignLink { .. }), "{place:?}: {error}");
            refused(bring(&place).unwrap_err());
            refused(mark.standing(&place, kind).unwrap_err());
            refused(verify_replica(&site.store, root, kind, &place, Look::default()).unwrap_err());
        }
    }
    assert_eq!(fs::read(at("etc/shadow")).unwrap(), b"hashes");
    assert_eq!(names(&at("etc")), ["data", "shadow"]);
    assert_eq!(names(&at("etc/data")), [""; 0]);
    // The operator's own links lead where they say.
    link("home/ours", "etc/data", Some(0));
    apply(&site.store, None, &block, VolumeKind::Block, &at("home/ours/disk.img"), &Progress::new()).unwrap();
    assert!(fs::read(at("etc/data/disk.img")).unwrap() == fs::read(&image).unwrap());
    assert_eq!(fs::metadata(at("etc/data/disk.img")).unwrap().mode() & 0o777, 0o600);
    fs::remove_file(at("etc/data/disk.img")).unwrap();
    apply(&site.store, None, &tree, VolumeKind::Directory, &at("home/ours"), &Progress::new()).unwrap();
    assert_eq!(names(&at("etc/data")), ["f"]);
}

#[test]
fn a_restore_removes_nothing_and_follows_no_link() {
    let site = Site::new();
    write(&site.source().join("keep"), "restored");
    write(&site.source().join("sub/f"), "f");
    let (root, _) = site.cycle();
    let to = |name: &str| site.dir.path().join(name);
    let run = |to: &Path| {
        restore(&site.store, &root, VolumeKind::Directory, None, to, &Progress::new()).map(|_| ())
    };
    // As the last name and on the way to it.
    fs::create_dir(to("rootdir")).unwrap();
    symlink(to("rootdir"), to("link")).unwrap();
    if is_root() {
        lchown(to("link"), TENANT, TENANT).unwrap();
        let error = run(&to("link/new/out")).unwrap_err();
        assert!(matches!(error, VolumeError::ForeignLink { .. }), "{error}");
    }
    let error = run(&to("link")).unwrap_err();
    assert!(matches!(&error, VolumeError::NotEmpty { path } if path.ends_with("/link")), "{error}");
    assert_eq!(names(&to("rootdir")), [""; 0]);
    // What comes into the folder while the restore runs.
    let fetch = Planting { store: &site.store, at: to("out") };
    let error =
        restore(&fetch, &root, VolumeKind::Directory, None, &to("out"), &Progress::new()).unwrap_err();
    assert!(matches!(&error, VolumeError::NotEmpty { path } if path.ends_with("out/sub")), "{error}");
    assert_eq!(fs::read(to("out/sub")).unwrap(), b"somebody's");
    // A new folder several levels down, for nobody else until it has its own mode.
    run(&to("a/b/out")).unwrap();
    assert_rsync_equal(&site.source(), &to("a/b/out"));
    assert_eq!(fs::metadata(to("a")).unwrap().permissions().mode() & 0o022, 0);
}

/// Puts a file in the way once the folder of the restore is there.
struct Planting<'a> {
    store: &'a Store,
    at: std::path::PathBuf,
}

impl backstay_types::manifest::FetchChunk for Planting<'_> {
    type Error = Missing;
    fn fetch(&self, id: &backstay_types::ChunkId) -> Result<Vec<u8>, Missing> {
        if self.at.exists() {
            fs::write(self.at.join("sub"), "somebody's").unwrap();
        }
        self.store.fetch(id)
    }
}

/// A killed daemon runs no destructor: what `create` made is released at the next start, or by the next cycle.
#[test]
fn a_command_is_released_after_a_kill() {
    let log = r#"echo "$0" >> "$BACKSTAY_SOURCE/../calls""#;
    let create = format!(r#"set -- create; {log}; echo "$BACKSTAY_SOURCE""#).replace("$0", "create");
    let release = log.replace("$0", "release");
    let site = command_site(&create, &release);
    let calls = || fs::read_to_string(site.dir.path().join("calls")).unwrap();
    let take = || snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap();
    std::mem::forget(take());
    assert!(release_left_over(&site.sent()).unwrap());
    assert_eq!(calls(), "create\nrelease\n");
    assert!(!release_left_over(&site.sent()).unwrap(), "once");
    std::mem::forget(take());
    drop(take());
    assert_eq!(calls(), "create\nrelease\ncreate\nrelease\ncreate\nrelease\n");
}
