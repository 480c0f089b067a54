//! Cycles over changing trees.

use std::fs;
use std::os::unix::fs::FileExt;

use rand::RngExt;

use super::support::*;

#[test]
fn random_changes_over_many_cycles() {
    for seed in 0..6 {
        let site = Site::new();
        let mut rng = seeded(seed);
        let mut previous = None;
        let mut saved = Vec::new();
        for round in 0..6 {
            mutate(&site.source(), &mut rng, round);
            let (root, _) = site.cycle();
            site.apply(previous.as_ref(), &root);
            site.assert_replica(&root);
            let copy = site.dir.path().join(format!("copy-{round}"));
            copy_tree(&site.source(), &copy);
            saved.push((root, copy));
            if rng.random_range(0..2) == 0 {
                site.age();
            }
            previous = Some(root);
        }
        // Backwards through all of them, as a promotion to an older restore point goes.
        for (root, copy) in saved.iter().rev() {
            site.apply(previous.as_ref(), root);
            assert_rsync_equal(copy, &site.replica());
            previous = Some(*root);
        }
    }
}

#[test]
fn an_unchanged_tree_is_not_read() {
    let site = Site::new();
    for n in 0..50 {
        write(&site.source().join(format!("d{}/f{n}", n % 5)), format!("content {n}"));
    }
    let (root, _) = site.cycle();
    site.age();
    write(&site.source().join("d1/new"), "one more");
    let (next, done) = site.cycle();
    assert_ne!(root, next);
    assert_eq!(done.stats.bytes_changed, 8, "only the new file was read");
    assert_eq!(done.stats.files_scanned, 57);
}

#[test]
fn a_change_right_after_a_scan_is_seen() {
    // The second write may leave the same time stamps as the first: the clock of the file system is coarse.
    let site = Site::new();
    let path = site.source().join("f");
    for round in 0..20_u8 {
        write(&path, [round; 8]);
        set_mtime(&path, 1_000_000_000, 0);
        let (root, _) = site.cycle();
        site.apply(None, &root);
        assert_eq!(fs::read(site.replica().join("f")).unwrap(), [round; 8]);
    }
}

#[test]
fn a_moved_file_costs_no_bytes_on_the_wire() {
    let site = Site::new();
    write(&site.source().join("a/file"), random_bytes(&mut seeded(3), 2 << 20));
    let (root, _) = site.cycle();
    site.age();
    fs::create_dir(site.source().join("b")).unwrap();
    fs::rename(site.source().join("a/file"), site.source().join("b/other")).unwrap();
    let (next, done) = site.cycle();
    assert!(done.wire < 4096, "only the manifest: {}", done.wire);
    site.apply(None, &root);
    site.apply(Some(&root), &next);
    site.assert_replica(&next);
}

#[test]
fn rewritten_pages_ship_as_patches() {
    let site = Site::new();
    let mut rng = seeded(4);
    let path = site.source().join("database");
    write(&path, random_bytes(&mut rng, 32 << 20));
    let (root, _) = site.cycle();
    site.apply(None, &root);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let pages = 80;
    for _ in 0..pages {
        let page = rng.random_range(0..8192);
        file.write_all_at(&random_bytes(&mut rng, 4096), page * 4096).unwrap();
    }
    let (next, done) = site.cycle();
    assert!(done.patches > 40, "{} patches", done.patches);
    let changed = pages * 4096;
    // The manifest's own changed segments come on top of the content.
    let manifest = 40 * (32 << 20) / (64 << 10);
    assert!(done.wire < changed * 11 / 10 + manifest, "{} bytes for {changed} changed", done.wire);
    let report = site.apply(Some(&root), &next);
    assert!(report.bytes_written < 32 << 20);
    site.assert_replica(&next);
}

#[test]
fn growing_and_shrinking_files() {
    let site = Site::new();
    let mut rng = seeded(5);
    let path = site.source().join("f");
    let sizes =
        [0, 1, 4095, 4096, 4097, 70_000, 16 << 10, 262_144, 262_145, 5, 1 << 20, (1 << 20) + 1, 0, 300_000];
    let mut previous = None;
    for size in sizes {
        write(&path, random_bytes(&mut rng, size));
        let (root, _) = site.cycle();
        site.apply(previous.as_ref(), &root);
        site.assert_replica(&root);
        previous = Some(root);
    }
    // The same places, sparse now: holes where data was and data where holes were.
    for at in [0, 4096, 100_000, 700_000] {
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(0).unwrap();
        file.set_len(800_000).unwrap();
        file.write_all_at(&random_bytes(&mut rng, 5000), at).unwrap();
        let (root, _) = site.cycle();
        site.apply(previous.as_ref(), &root);
        site.assert_replica(&root);
        previous = Some(root);
    }
}

#[test]
fn zeros_that_end_inside_a_sector() {
    let site = Site::new();
    let path = site.source().join("f");
    let mut previous = None;
    // Written zeros, not holes; 16 KiB of them begin a hole.
    for size in [300_000, 1, 4097, (16 << 10) - 1, (16 << 10) + 1, (1 << 20) + 4095, 300_000] {
        write(&path, vec![0; size]);
        let (root, _) = site.cycle();
        site.apply(previous.as_ref(), &root);
        site.assert_replica(&root);
        previous = Some(root);
        // Behind data as well.
        write(&path, [vec![7; 100_001], vec![0; size]].concat());
        let (root, _) = site.cycle();
        site.apply(previous.as_ref(), &root);
        site.assert_replica(&root);
        previous = Some(root);
    }
}

#[test]
fn hard_link_groups_come_apart_and_together() {
    let site = Site::new();
    let source = site.source();
    write(&source.join("m"), "shared");
    fs::hard_link(source.join("m"), source.join("n")).unwrap();
    fs::hard_link(source.join("m"), source.join("o")).unwrap();
    let mut previous = None;
    let mut step = |what: &dyn Fn()| {
        what();
        let (root, _) = site.cycle();
        site.apply(previous.as_ref(), &root);
        site.assert_replica(&root);
        site.age();
        previous = Some(root);
    };
    step(&|| {});
    // A new first name, by path order, for the same file.
    step(&|| fs::hard_link(source.join("n"), source.join("a")).unwrap());
    step(&|| fs::write(source.join("o"), "new content, same inode").unwrap());
    // One leaves the group.
    step(&|| {
        fs::remove_file(source.join("m")).unwrap();
        write(&source.join("m"), "alone");
    });
    // The first name goes.
    step(&|| fs::remove_file(source.join("a")).unwrap());
    // Two groups swap a member.
    step(&|| {
        fs::hard_link(source.join("m"), source.join("z")).unwrap();
        fs::remove_file(source.join("o")).unwrap();
        fs::hard_link(source.join("m"), source.join("o")).unwrap();
    });
    // Only one name is left of each.
    step(&|| {
        fs::remove_file(source.join("z")).unwrap();
        fs::remove_file(source.join("o")).unwrap();
    });
}
