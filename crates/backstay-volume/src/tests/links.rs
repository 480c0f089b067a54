//! Several names of one inode, whatever it is.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use backstay_types::ChunkId;
use backstay_types::manifest::VolumeKind;
use rustix::fs::{CWD, FileType, Mode, makedev};

use super::support::*;
use crate::{Cancel, Look, ParentUse, Progress, VolumeError, snapshot};

/// Makes something at a path.
type Make = fn(&Path);

fn node(path: &Path, file_type: FileType, major: u32, minor: u32) {
    rustix::fs::mknodat(CWD, path, file_type, Mode::from_raw_mode(0o640), makedev(major, minor)).unwrap();
}

fn pipe(path: &Path) {
    node(path, FileType::Fifo, 0, 0);
}

/// Everything but a folder, and how it is made.
fn kinds() -> Vec<(&'static str, Make)> {
    let mut kinds: Vec<(&str, Make)> = vec![
        ("pipe", pipe),
        ("symbolic link", |path| symlink("no/such/thing", path).unwrap()),
        // What it points to is there, and must not be linked instead.
        ("link to a folder", |path| symlink("folder", path).unwrap()),
        ("socket", |path| node(path, FileType::Socket, 0, 0)),
        ("file", |path| write(path, "content")),
    ];
    if is_root() {
        kinds.push(("character device", |path| node(path, FileType::CharacterDevice, 1, 3)));
        kinds.push(("block device", |path| node(path, FileType::BlockDevice, 7, 200)));
    } else {
        eprintln!("skipped: making devices needs root");
    }
    kinds
}

const NAMES: [&str; 4] = ["folder/inner", "m", "n", "o"];

/// One inode of [`NAMES`].
fn make_group(root: &Path, make: Make) {
    fs::create_dir_all(root.join("folder")).unwrap();
    let [first, others @ ..] = NAMES.map(|name| root.join(name));
    make(&first);
    for other in others {
        fs::hard_link(&first, other).unwrap();
    }
}

fn inode(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

/// Names of the replica are one inode exactly where they are in the source.
fn assert_same_groups(site: &Site, what: &str) {
    let is_there = |name: &&str| site.source().join(name).symlink_metadata().is_ok();
    let names: Vec<_> = ["a"].into_iter().chain(NAMES).filter(is_there).collect();
    for a in &names {
        for b in &names {
            let same = |root: &Path| inode(&root.join(a)) == inode(&root.join(b));
            assert_eq!(same(&site.source()), same(&site.replica()), "{what}: {a} and {b}");
        }
    }
}

/// Applies what the source is now in every way: step by step, after a stop anywhere, over a replica known and unknown.
fn apply_all_ways(site: &Site, previous: Option<&ChunkId>, root: &ChunkId, what: &str) {
    let verified = || {
        let found = compared(&site.store, root, VolumeKind::Directory, &site.replica(), Look::default());
        assert_eq!(found, [], "{what}");
        assert_same_groups(site, what);
    };
    let restart = || {
        remove_any(&site.replica());
        if let Some(previous) = previous {
            site.apply(None, previous);
        }
    };
    for steps in 1.. {
        restart();
        match site.try_apply(previous, root, &Progress::stop_after(steps)) {
            Ok(_) => break,
            Err(VolumeError::Cancelled) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        let report = site.apply(previous, root);
        assert_eq!(report.compared_in_full, previous.is_none(), "{what}: a stop is not a drift");
        verified();
    }
    verified();
    restart();
    site.apply(None, root);
    verified();
    // Once with another program, which takes as long as everything above.
    assert_rsync_equal(&site.source(), &site.replica());
}

#[test]
fn names_of_every_kind_share_an_inode() {
    for (what, make) in kinds() {
        let site = Site::new();
        make_group(&site.source(), make);
        let (root, _) = site.cycle();
        site.apply(None, &root);
        site.assert_replica(&root);
        assert_same_groups(&site, what);
        let first = site.replica().join(NAMES[0]).symlink_metadata().unwrap();
        assert_eq!(first.nlink(), 4, "{what}");
        // Again: nothing is read, nothing is made.
        site.age();
        let (again, done) = site.cycle();
        assert_eq!((again, done.chunks), (root, 0), "{what}");
        let report = site.apply(Some(&root), &again);
        assert_eq!((report.changed, report.bytes_written), (0, 0), "{what}");
        assert_eq!(inode(&site.replica().join("m")), first.ino(), "{what}");
        // Over the same place, knowing nothing.
        site.apply(None, &root);
        site.assert_replica(&root);
        assert_same_groups(&site, what);
    }
}

#[test]
fn groups_of_every_kind_change() {
    let kinds = kinds();
    let others = kinds.iter().cycle().skip(1);
    for ((what, make), (_, other)) in kinds.iter().zip(others) {
        let site = Site::new();
        let source = site.source();
        let mut previous = None;
        let mut step = |change: &str, act: &dyn Fn()| {
            act();
            let (root, _) = site.cycle();
            apply_all_ways(&site, previous.as_ref(), &root, &format!("{what}: {change}"));
            site.age();
            previous = Some(root);
        };
        step("made", &|| make_group(&source, *make));
        step("a name removed", &|| fs::remove_file(source.join("n")).unwrap());
        step("the first removed", &|| fs::remove_file(source.join(NAMES[0])).unwrap());
        step("a new first", &|| fs::hard_link(source.join("m"), source.join("a")).unwrap());
        step("a later time", &|| set_mtime(&source.join("o"), 1_234_567_890, 9));
        step("apart", &|| {
            fs::remove_file(source.join("m")).unwrap();
            make(&source.join("m"));
        });
        step("two groups", &|| fs::hard_link(source.join("m"), source.join("n")).unwrap());
        step("a member swapped", &|| {
            fs::remove_file(source.join("o")).unwrap();
            fs::hard_link(source.join("m"), source.join("o")).unwrap();
        });
        step("another kind under the same names", &|| {
            for name in ["m", "n", "o"] {
                remove_any(&source.join(name));
            }
            other(&source.join("m"));
            fs::hard_link(source.join("m"), source.join("n")).unwrap();
            fs::hard_link(source.join("m"), source.join("o")).unwrap();
        });
        step("a folder instead of the first", &|| {
            fs::remove_file(source.join("m")).unwrap();
            write(&source.join("m/inside"), "x");
        });
        step("all gone", &|| NAMES.iter().chain(&["a"]).for_each(|name| remove_any(&source.join(name))));
    }
}

#[test]
fn verification_sees_links_of_every_kind() {
    for (what, make) in kinds() {
        let site = Site::new();
        make_group(&site.source(), make);
        make(&site.source().join("alone"));
        // All alike, so that nothing but the inodes differs.
        for name in NAMES.iter().chain(&["alone"]) {
            set_mtime(&site.source().join(name), 1_000_000_000, 0);
        }
        let (root, _) = site.cycle();
        site.apply(None, &root);
        let replica = site.replica();
        fs::remove_file(replica.join("n")).unwrap();
        make(&replica.join("n"));
        set_mtime(&replica.join("n"), 1_000_000_000, 0);
        fs::hard_link(replica.join("alone"), site.dir.path().join("outside")).unwrap();
        let found = compared(&site.store, &root, VolumeKind::Directory, &replica, Look::default());
        let mut found: Vec<_> = found.into_iter().map(|m| format!("{}: {}", m.path, m.why)).collect();
        found.retain(|text| !text.starts_with(".: "));
        let expected = ["alone: it has further names", "n: it is not a hard link to what it should be"];
        assert_eq!(found, expected, "{what}");
        // A compare in full brings both apart and together.
        site.apply(None, &root);
        site.assert_replica(&root);
        assert_same_groups(&site, what);
        assert_ne!(inode(&site.dir.path().join("outside")), inode(&replica.join("alone")), "{what}");
    }
}

#[test]
fn what_is_not_read_stands_as_the_scan_saw_it() {
    let site = Site::new();
    let source = site.source();
    make_group(&source, pipe);
    write(&source.join("stays"), "x");
    let kept = site.dir.path().join("kept");
    copy_tree(&source, &kept);
    let scanned =
        snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap().scan(&Cancel::new()).unwrap();
    // The first goes, another name becomes a symbolic link, and none of it can be read as a file.
    fs::remove_file(source.join(NAMES[0])).unwrap();
    fs::remove_file(source.join("n")).unwrap();
    symlink("elsewhere", source.join("n")).unwrap();
    let read = scanned.read(&mut Sink::new(&site.store), &Progress::new()).unwrap();
    site.apply(None, &read.volume.root);
    site.assert_replica_of(&read.volume.root, &kept);
    read.pending.adopt("e1-000001".parse().unwrap()).unwrap();
    let (next, _) = site.cycle();
    site.apply(Some(&read.volume.root), &next);
    site.assert_replica(&next);
}

/// The first of a group is read again, its other names are kept unread: only a fuzzy file is such a first.
#[test]
fn a_kept_name_takes_the_place_of_a_first_that_vanished() {
    let mut site = Site::new();
    let source = site.source();
    site.ctx.allow_fuzzy = true;
    write(&source.join("a"), random_bytes(&mut seeded(3), 1 << 20));
    for name in ["b", "c", "d"] {
        fs::hard_link(source.join("a"), source.join(name)).unwrap();
    }
    let scan = || {
        snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap().scan(&Cancel::new()).unwrap()
    };
    let scanned = scan();
    let mut sink = Sink::new(&site.store);
    // The content never holds still, but the times its names were seen with are those of the end.
    sink.on_chunk = Box::new(|n| set_mtime(&source.join("a"), 1_000_000 + i64::try_from(n).unwrap(), 0));
    let read = scanned.read(&mut sink, &Progress::new()).unwrap();
    assert!(read.fuzzy);
    drop(sink);
    let first = read.volume.root;
    read.pending.adopt("e1-000001".parse().unwrap()).unwrap();
    site.age();
    set_mtime(&source, 1_000_000_000, 0);
    let scanned = scan();
    fs::remove_file(source.join("a")).unwrap();
    fs::remove_file(source.join("b")).unwrap();
    write(&source.join("b"), "another file");
    // The folder's own time is that of the scan.
    set_mtime(&source, 1_000_000_000, 0);
    let read = scanned.read(&mut Sink::new(&site.store), &Progress::new()).unwrap();
    assert_eq!(read.volume.entries, 4, "the folder, b, c and d");
    site.apply(None, &first);
    site.apply(Some(&first), &read.volume.root);
    site.assert_replica(&read.volume.root);
}
