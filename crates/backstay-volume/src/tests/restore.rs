//! Restores, bundles, verification and salvage.

use std::collections::HashSet;
use std::fs;

use backstay_types::manifest::{RelPath, VolumeKind};
use backstay_types::{Class, Classify};

use super::support::*;
use crate::{Look, OBJECT_BYTES_MAX, Progress, VolumeError, read_bundle, restore, salvage, write_bundle};

fn rel(path: &str) -> RelPath {
    RelPath::parse(path.as_bytes()).unwrap()
}

#[test]
fn restores_of_all_and_of_parts() {
    let site = Site::new();
    build_nasty_tree(&site.source(), &mut seeded(1));
    let (root, _) = site.cycle();
    let to = |name: &str| site.dir.path().join(name);
    let run = |path: Option<&str>, name: &str| {
        let path = path.map(rel);
        restore(&site.store, &root, VolumeKind::Directory, path.as_ref(), &to(name), &Progress::new())
    };
    run(None, "whole").unwrap();
    assert_rsync_equal(&site.source(), &to("whole"));
    run(Some("inherits"), "folder").unwrap();
    assert_rsync_equal(&site.source().join("inherits"), &to("folder"));
    run(Some("plain"), "file").unwrap();
    assert_eq!(fs::read(to("file").join("plain")).unwrap(), b"some text\n");
    assert_eq!(fs::read_dir(to("file")).unwrap().count(), 1);
    // The first names of a file and of a pipe here, by path, are outside of the folder.
    let report = run(Some("links"), "links").unwrap();
    assert_eq!(report.entries, 10);
    assert_rsync_equal(&site.source().join("links"), &to("links"));
    run(Some("links/second"), "one link").unwrap();
    assert_eq!(fs::read(to("one link").join("second")).unwrap(), b"one inode, three names");
    run(Some("links/pipe again"), "one pipe").unwrap();
    let pipe = fs::symlink_metadata(to("one pipe").join("pipe again")).unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&pipe.file_type()));

    let error = run(Some("no such"), "none").unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
    assert!(!to("none").exists());
    let error = run(None, "whole").unwrap_err();
    assert!(matches!(error, VolumeError::NotEmpty { .. }), "{error}");
    fs::create_dir(to("empty")).unwrap();
    run(Some("empty folder"), "empty").unwrap();
}

#[test]
fn bundles_hold_objects() {
    let store = Store::default();
    let mut rng = seeded(2);
    let mut objects: Vec<(RelPath, Vec<u8>)> = Vec::new();
    for n in 0..300 {
        objects
            .push((rel(&format!("apps/v1/deployments/shop/n{n:04}.json")), random_bytes(&mut rng, n * 37)));
    }
    objects.push((rel("big.json"), random_bytes(&mut rng, 1 << 20)));
    let bundle = write_bundle(objects.clone().into_iter(), &context(), &mut Sink::new(&store)).unwrap();
    assert_eq!(bundle.objects, 301);
    assert_eq!(bundle.bytes, objects.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    let read: Vec<_> = read_bundle(&store, &bundle.root).unwrap().map(Result::unwrap).collect();
    assert_eq!(read, objects);
    // The same objects are the same bundle.
    let again = write_bundle(objects.clone().into_iter(), &context(), &mut Sink::new(&store)).unwrap();
    assert_eq!(again, bundle);
    let unordered = objects.into_iter().rev();
    assert!(write_bundle(unordered, &context(), &mut Sink::new(&store)).is_err());
    let large = [(rel("x"), vec![1; OBJECT_BYTES_MAX + 1])];
    let error = write_bundle(large.into_iter(), &context(), &mut Sink::new(&store)).unwrap_err();
    assert_eq!(error.class(), Class::LimitExceeded);
    let empty = write_bundle(std::iter::empty(), &context(), &mut Sink::new(&store)).unwrap();
    assert_eq!(read_bundle(&store, &empty.root).unwrap().count(), 0);
}

#[test]
fn verification_names_what_differs() {
    let site = Site::new();
    build_nasty_tree(&site.source(), &mut seeded(3));
    let (root, _) = site.cycle();
    site.apply(None, &root);
    let replica = site.replica();
    let changed = fs::read(replica.join("big")).unwrap();
    let mut flipped = changed.clone();
    flipped[1_234_567] ^= 1;
    let big = fs::metadata(replica.join("big")).unwrap();
    fs::write(replica.join("big"), &flipped).unwrap();
    let mtime = std::os::unix::fs::MetadataExt::mtime(&big);
    set_mtime(&replica.join("big"), mtime, std::os::unix::fs::MetadataExt::mtime_nsec(&big));
    let check = || {
        let found = compared(&site.store, &root, VolumeKind::Directory, &replica, Look::default());
        found.into_iter().map(|m| format!("{}: {}", m.path, m.why)).collect::<Vec<_>>()
    };
    assert_eq!(check(), ["big: its content differs"]);
    fs::remove_file(replica.join("plain")).unwrap();
    write(&replica.join("stray"), "x");
    set_xattr(&replica.join("odd names"), "user.folder", b"other");
    let found = check();
    for expected in
        ["plain: it is missing", "stray: it is not in the restore point", "odd names: its attributes differ"]
    {
        assert!(found.iter().any(|text| text == expected), "{expected} is not in {found:?}");
    }
}

#[test]
fn lost_chunks_are_taken_from_the_replica() {
    let site = Site::new();
    write(&site.source().join("d/a"), random_bytes(&mut seeded(4), 1 << 20));
    write(&site.source().join("d/b"), random_bytes(&mut seeded(5), 1 << 20));
    let before: HashSet<_> = site.store.lock().keys().copied().collect();
    let (root, _) = site.cycle();
    site.apply(None, &root);
    // Every content chunk is lost, and one file of the replica moved on.
    let content: HashSet<_> = {
        let chunks = site.store.lock();
        chunks
            .iter()
            .filter(|(id, bytes)| !before.contains(id) && bytes.len() >= 16 << 10)
            .map(|(id, _)| *id)
            .collect()
    };
    let mut flipped = fs::read(site.replica().join("d/b")).unwrap();
    flipped[500_000] ^= 1;
    fs::write(site.replica().join("d/b"), flipped).unwrap();
    site.store.lock().retain(|id, _| !content.contains(id));
    let mut found = Vec::new();
    let count = salvage(&site.store, &root, &site.replica(), &key(), &content, |id, bytes| {
        found.push((id, bytes));
        Ok(())
    })
    .unwrap();
    assert_eq!(count, content.len() - 1);
    for (id, bytes) in found {
        assert_eq!(site.store.put(&key(), bytes), id);
    }
}
