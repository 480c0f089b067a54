//! Manifests that no honest sender writes.

use std::fs;

use backstay_types::manifest::{
    Device, Entry, Extent, Mtime, NodeKind, RelPath, SegmentWriter, TreeBuilder, VolumeKind, Xattr,
};
use backstay_types::{ChunkId, Class, Classify};

use super::support::*;
use crate::{Progress, VolumeError, apply};

pub(super) type Entries = Vec<(Entry, Vec<Extent>)>;

fn entry(path: &str, kind: NodeKind) -> Entry {
    let mtime = Mtime { secs: 1, nanos: 0 };
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    Entry {
        path: RelPath::parse(path.as_bytes()).unwrap(),
        kind,
        links: None,
        mode: 0o755,
        uid,
        gid,
        mtime,
        xattrs: Vec::new(),
    }
}

pub(super) fn folder(path: &str) -> Entry {
    entry(path, NodeKind::Directory)
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, NodeKind::Symlink { target: target.as_bytes().to_vec() })
}

pub(super) fn file(path: &str, size: u64) -> Entry {
    entry(path, NodeKind::File { size })
}

/// Stores a manifest as it is given.
pub(super) fn manifest(store: &Store, entries: Entries) -> ChunkId {
    let (mut segments, mut tree) = (SegmentWriter::new(), TreeBuilder::new(key()));
    let put = |tree: &mut TreeBuilder, bytes| {
        let (segment, node) = tree.segment(bytes).unwrap();
        for chunk in [Some(segment), node].into_iter().flatten() {
            store.put(&key(), chunk.bytes);
        }
    };
    let count = entries.len() as u64;
    for (entry, extents) in entries {
        if let Some(done) = segments.entry(entry).unwrap() {
            put(&mut tree, done);
        }
        for done in segments.extents(&extents) {
            put(&mut tree, done);
        }
    }
    if let Some(done) = segments.finish() {
        put(&mut tree, done);
    }
    let (node, root) = tree.finish(None, VolumeKind::Directory, count, 0).unwrap();
    if let Some(chunk) = node {
        store.put(&key(), chunk.bytes);
    }
    store.put(&key(), root.bytes)
}

/// Applies to a fresh replica next to a folder that must stay as it is.
fn refused(entries: Entries) -> VolumeError {
    let site = Site::new();
    let outside = site.dir.path().join("outside");
    write(&outside.join("kept"), "kept");
    let root = manifest(&site.store, entries);
    let error = site.try_apply(None, &root, &Progress::new()).unwrap_err();
    assert_eq!(fs::read(outside.join("kept")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    error
}

#[test]
fn a_path_through_a_link_is_refused() {
    let chunk = Extent::Hole { len: 4 };
    let error = refused(vec![
        (folder(""), vec![]),
        (link("out", "../outside"), vec![]),
        (file("out/kept", 4), vec![chunk]),
    ]);
    assert!(matches!(error, VolumeError::Refused { .. }), "{error}");
    assert_eq!(error.class(), Class::Corrupt);
}

#[test]
fn a_folder_that_became_a_link_is_not_followed() {
    // `from` says it is a folder, `to` puts a file into it, and at the replica it is a link out of the tree.
    let site = Site::new();
    let outside = site.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let a = manifest(&site.store, vec![(folder(""), vec![]), (folder("d"), vec![])]);
    let b = manifest(
        &site.store,
        vec![(folder(""), vec![]), (folder("d"), vec![]), (file("d/new", 4), vec![Extent::Hole { len: 4 }])],
    );
    site.apply(None, &a);
    fs::remove_dir(site.replica().join("d")).unwrap();
    std::os::unix::fs::symlink(&outside, site.replica().join("d")).unwrap();
    let report = site.apply(Some(&a), &b);
    assert_eq!(report.touched.count, 1, "{:?}", report.touched);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(site.replica().join("d").symlink_metadata().unwrap().is_dir());
}

#[test]
fn structures_that_cannot_be_are_refused() {
    let hole = |len| vec![Extent::Hole { len }];
    let root = || (folder(""), vec![]);
    let first = |path| Entry { links: Some(9), ..entry(path, NodeKind::Fifo) };
    let again = |path| (entry(path, NodeKind::HardLink { group: 9 }), vec![]);
    let cases: Vec<(&str, Entries)> = vec![
        ("no root", vec![(folder("d"), vec![])]),
        ("nothing", vec![]),
        ("root is a file", vec![(file("", 4), hole(4))]),
        ("parent missing", vec![root(), (file("a/b", 4), hole(4))]),
        ("parent is a file", vec![root(), (file("a", 4), hole(4)), (file("a/b", 4), hole(4))]),
        ("link without first", vec![root(), (entry("a", NodeKind::HardLink { group: 9 }), vec![])]),
        (
            "link before its first",
            vec![root(), (entry("a", NodeKind::HardLink { group: 9 }), vec![]), (first("b"), vec![])],
        ),
        ("link to a folder", vec![root(), (Entry { links: Some(9), ..folder("a") }, vec![]), again("b")]),
        ("link to the root", vec![(Entry { links: Some(9), ..folder("") }, vec![]), again("b")]),
        (
            "link to a link",
            vec![
                root(),
                (first("a"), vec![]),
                (Entry { links: Some(8), ..again("b").0 }, vec![]),
                (entry("c", NodeKind::HardLink { group: 8 }), vec![]),
            ],
        ),
        (
            "two kinds in one group",
            vec![
                root(),
                (first("a"), vec![]),
                (Entry { links: Some(9), ..file("b", 4) }, hole(4)),
                again("c"),
            ],
        ),
        ("content of a further link", vec![root(), (first("a"), vec![]), (again("b").0, hole(4))]),
        ("empty link", vec![root(), (link("a", ""), vec![])]),
        ("NUL in link", vec![root(), (link("a", "x\0y"), vec![])]),
        ("owner -1", vec![root(), (Entry { uid: u32::MAX, ..file("a", 4) }, hole(4))]),
        ("size over the top", vec![root(), (file("a", u64::MAX), hole(u64::MAX))]),
        ("content short", vec![root(), (file("a", 8), hole(4))]),
        ("content long", vec![root(), (file("a", 4), hole(8))]),
        ("content of a folder", vec![root(), (folder("a"), hole(4))]),
        ("chunk missing", vec![root(), (file("a", 4), vec![Extent::Data { id: ChunkId([1; 32]), len: 4 }])]),
    ];
    for (what, entries) in cases {
        let error = refused(entries);
        let class = error.class();
        assert!(matches!(class, Class::Corrupt), "{what}: {class:?} {error}");
    }
}

#[test]
fn a_link_whose_first_is_gone_is_refused() {
    // The replica has both, so that nothing would have to be done for the second.
    let site = Site::new();
    let first = Entry { links: Some(9), ..entry("a", NodeKind::Fifo) };
    let again = || (entry("b", NodeKind::HardLink { group: 9 }), vec![]);
    let a = manifest(&site.store, vec![(folder(""), vec![]), (first, vec![]), again()]);
    let b = manifest(&site.store, vec![(folder(""), vec![]), again()]);
    site.apply(None, &a);
    let error = site.try_apply(Some(&a), &b, &Progress::new()).unwrap_err();
    assert!(matches!(error, VolumeError::Refused { .. }), "{error}");
}

#[test]
fn a_chunk_of_another_length_is_refused() {
    let site = Site::new();
    let id = site.store.put(&key(), b"five!".to_vec());
    let root =
        manifest(&site.store, vec![(folder(""), vec![]), (file("a", 4), vec![Extent::Data { id, len: 4 }])]);
    let error = site.try_apply(None, &root, &Progress::new()).unwrap_err();
    assert!(matches!(error, VolumeError::Refused { .. }), "{error}");
}

#[test]
fn the_wrong_kind_of_manifest_is_refused() {
    let site = Site::new();
    let root = manifest(&site.store, vec![(folder(""), vec![])]);
    let target = site.dir.path().join("image");
    for kind in [VolumeKind::Block, VolumeKind::Bundle] {
        let error = apply(&site.store, None, &root, kind, &target, &Progress::new()).unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{kind:?}: {error}");
    }
}

#[test]
fn strange_but_harmless_entries_stay_inside() {
    if !is_root() {
        eprintln!("skipped: making devices needs root");
        return;
    }
    let site = Site::new();
    let device = entry("dev", NodeKind::CharDevice(Device { major: 1, minor: 3 }));
    let xattr = Xattr { name: b"user.x".to_vec(), value: vec![0; 1000] };
    let root = manifest(
        &site.store,
        vec![
            (folder(""), vec![]),
            (device, vec![]),
            (Entry { xattrs: vec![xattr], ..link("link", "/etc/shadow") }, vec![]),
        ],
    );
    // The kernel refuses `user.*` attributes on links: an error, and not an attribute on what it points to.
    let error = site.try_apply(None, &root, &Progress::new()).unwrap_err();
    assert_eq!(error.class(), Class::Unauthorized, "{error}");
    assert!(rustix::fs::getxattr("/etc/shadow", "user.x", &mut [0_u8; 8]).is_err());
}
