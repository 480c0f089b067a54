//! What is rebuilt equals what was read.

use backstay_types::manifest::VolumeKind;

use super::support::*;
use crate::Look;

/// Only folders of ours are left out, and they are known by more than their name.
#[test]
fn what_is_called_like_a_snapshot_is_content() {
    let site = Site::new();
    write(&site.source().join(".backstay-snapshot-notes"), "a file");
    write(&site.source().join("deep/down/.backstay-snapshot-shop-data/0"), "a folder");
    let (root, _) = site.cycle();
    site.apply(None, &root);
    site.assert_replica(&root);
    for path in [".backstay-snapshot-notes", "deep/down/.backstay-snapshot-shop-data/0"] {
        assert!(site.replica().join(path).is_file(), "{path}");
    }
}

#[test]
fn fidelity_round_trip() {
    let site = Site::new();
    build_nasty_tree(&site.source(), &mut seeded(1));
    let (root, done) = site.cycle();
    assert!(!done.fuzzy);
    site.apply(None, &root);
    site.assert_replica(&root);

    // Again over the same place, knowing nothing: nothing needs to be written.
    let report = site.apply(None, &root);
    // Files with several names are made anew, because who shares them is not known.
    assert!(report.bytes_written < 100, "{report:?}");
    site.assert_replica(&root);

    // An unchanged source reads nothing and gives the same restore point.
    site.age();
    let (again, done) = site.cycle();
    assert_eq!(again, root);
    assert_eq!((done.stats.bytes_changed, done.chunks), (0, 0));
    let report = site.apply(Some(&root), &again);
    assert_eq!((report.changed, report.bytes_written), (0, 0));
}

#[test]
fn a_replica_with_anything_else_in_it_is_made_exact() {
    let site = Site::new();
    build_nasty_tree(&site.source(), &mut seeded(2));
    let (root, _) = site.cycle();
    // Another tree, of other types under the same names.
    let replica = site.replica();
    write(&replica.join("links"), "a file where a folder is to be");
    write(&replica.join("plain/inner"), "a folder where a file is to be");
    write(&replica.join("big"), "shorter");
    write(&replica.join("stray/x/y"), "stray");
    write(&replica.join(".backstay-snapshot-old-one/0"), "left over");
    std::os::unix::fs::symlink("/", replica.join("empty folder")).unwrap();
    site.apply(None, &root);
    site.assert_replica(&root);
    assert!(std::path::Path::new("/etc").is_dir());
}

#[test]
fn paths_deeper_than_any_call_can_name() {
    // 300 folders are also more than are kept open at once; 60,300 bytes are close to the limit of a path.
    let site = Site::new();
    build_deeper(&site.source(), "x", 300, "bottom");
    build_deeper(&site.source(), "y", 30, "bottom");
    let (root, _) = site.cycle();
    site.apply(None, &root);
    let check = || compared(&site.store, &root, VolumeKind::Directory, &site.replica(), Look::default());
    assert_eq!(check(), []);
    // Removed again as well, by a full compare and by the manifest.
    write(&site.dir.path().join("other/f"), "x");
    let mut other = Site::new();
    other.spec.path = Some(site.dir.path().join("other"));
    let (small, _) = other.cycle();
    let chunks = std::mem::take(&mut *other.store.lock());
    site.store.lock().extend(chunks);
    site.apply(Some(&root), &small);
    assert_eq!(std::fs::read_dir(site.replica()).unwrap().count(), 1);
    site.apply(Some(&small), &root);
    assert_eq!(check(), []);
    site.apply(None, &small);
    assert_eq!(std::fs::read_dir(site.replica()).unwrap().count(), 1);
    // `remove_dir_all` of the standard library does not get this deep within the limit of open files.
    let empty = site.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let status = std::process::Command::new("rm").arg("-r").arg(site.source()).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_sparse_image_of_8_gib_stays_sparse() {
    let site = Site::new();
    let path = site.source().join("image");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(8 << 30).unwrap();
    for at in [0, 12_345, 4 << 30, (8 << 30) - 5] {
        std::os::unix::fs::FileExt::write_all_at(&file, b"data!", at).unwrap();
    }
    let (root, done) = site.cycle();
    assert!(done.wire < 100 << 10);
    site.apply(None, &root);
    assert_eq!(compared(&site.store, &root, VolumeKind::Directory, &site.replica(), Look::default()), []);
    let replica = std::fs::metadata(site.replica().join("image")).unwrap();
    assert_eq!(replica.len(), 8 << 30);
    assert!(std::os::unix::fs::MetadataExt::blocks(&replica) * 512 <= 64 << 10);
}
