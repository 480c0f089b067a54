//! Second copies of replicas, made of their blocks.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use backstay_types::manifest::VolumeKind;
use backstay_types::{Class, Classify};

use super::providers::Mounted;
use super::support::*;
use crate::{Progress, VolumeError, apply, clones_work, remove_tree, restore_cloned};

#[test]
fn a_clone_is_the_replica_and_leaves_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(dir.path(), "xfs") else { return };
    let site = Site::new();
    build_nasty_tree(&site.source(), &mut seeded(11));
    let (root, _) = site.cycle();
    let (replica, clone) = (disk.0.join("replica"), disk.0.join("clone"));
    let kind = VolumeKind::Directory;
    apply(&site.store, None, &root, kind, &replica, &Progress::new()).unwrap();
    assert!(clones_work(&replica, &disk.0));
    assert!(!clones_work(&replica, dir.path()), "another file system");
    assert_eq!(fs::read_dir(&disk.0).unwrap().count(), 1, "the probes are gone");

    let report = restore_cloned(&site.store, &root, kind, &replica, &clone, &Progress::new()).unwrap();
    assert_eq!(report.bytes, 0, "nothing is fetched");
    assert_rsync_equal(&replica, &clone);
    fs::write(clone.join("plain"), "changed in the clone").unwrap();
    assert_eq!(fs::read(replica.join("plain")).unwrap(), b"some text\n");
    assert_ne!(
        fs::metadata(clone.join("plain")).unwrap().ino(),
        fs::metadata(replica.join("plain")).unwrap().ino()
    );

    // A replica that somebody wrote to is not what would be promoted: that is told.
    fs::write(replica.join("plain"), "longer than what was applied").unwrap();
    let again = disk.0.join("again");
    let error = restore_cloned(&site.store, &root, kind, &replica, &again, &Progress::new()).unwrap_err();
    assert!(matches!(&error, VolumeError::Drifted { path, .. } if path.ends_with("plain")), "{error}");
    assert_eq!(error.class(), Class::Corrupt);
}

#[test]
fn an_image_is_cloned() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(dir.path(), "xfs") else { return };
    let mut site = Site::new();
    let image = site.dir.path().join("disk.img");
    let bytes = random_bytes(&mut seeded(12), 3 << 20);
    fs::write(&image, &bytes).unwrap();
    site.spec.path = None;
    site.spec.device = Some(image);
    let (root, _) = site.cycle();
    let (replica, clone) = (disk.0.join("disk.img"), disk.0.join("clone.img"));
    let kind = VolumeKind::Block;
    apply(&site.store, None, &root, kind, &replica, &Progress::new()).unwrap();
    restore_cloned(&site.store, &root, kind, &replica, &clone, &Progress::new()).unwrap();
    assert_eq!(fs::read(&clone).unwrap(), bytes);
    fs::File::options().write(true).open(&replica).unwrap().set_len(4 << 20).unwrap();
    let error = restore_cloned(&site.store, &root, kind, &replica, &disk.0.join("x"), &Progress::new());
    assert_eq!(error.unwrap_err().class(), Class::Corrupt);
}

#[test]
fn a_tree_is_removed_whatever_its_modes() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    write(&tree.join("a/b/file"), "x");
    std::os::unix::fs::symlink(dir.path(), tree.join("a/link")).unwrap();
    for locked in ["a/b", "a"] {
        fs::set_permissions(tree.join(locked), fs::Permissions::from_mode(0o000)).unwrap();
    }
    remove_tree(&tree).unwrap();
    assert!(!tree.exists() && dir.path().exists());
    remove_tree(&tree).unwrap();
    remove_tree(&tree.join("below/nothing")).unwrap();
}
