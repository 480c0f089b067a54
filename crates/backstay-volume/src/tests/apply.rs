//! Applying again after a stop anywhere.

use std::fs;
use std::os::unix::fs::symlink;

use super::support::*;
use crate::{Progress, VolumeError};

/// Two states of a tree with changes of every kind between them.
fn two_points(seed: u64) -> (Site, backstay_types::ChunkId, backstay_types::ChunkId) {
    let site = Site::new();
    let mut rng = seeded(seed);
    let source = site.source();
    for round in 0..3 {
        mutate(&source, &mut rng, round);
    }
    write(&source.join("shared"), "x");
    fs::hard_link(source.join("shared"), source.join("sharing")).unwrap();
    write(&source.join("grows"), random_bytes(&mut rng, 500_000));
    write(&source.join("goes/away/entirely"), "y");
    let (a, _) = site.cycle();
    for round in 3..6 {
        mutate(&source, &mut rng, round);
    }
    fs::remove_file(source.join("sharing")).unwrap();
    write(&source.join("sharing"), "alone");
    write(&source.join("grows"), random_bytes(&mut rng, 900_000));
    fs::remove_dir_all(source.join("goes")).unwrap();
    symlink("elsewhere", source.join("goes")).unwrap();
    let (b, _) = site.cycle();
    (site, a, b)
}

#[test]
fn apply_reruns_after_a_stop_anywhere() {
    for seed in 0..3 {
        let (site, a, b) = two_points(seed);
        let mut steps = 1;
        loop {
            remove_any(&site.replica());
            site.apply(None, &a);
            let stopped = Progress::stop_after(steps);
            let result = site.try_apply(Some(&a), &b, &stopped);
            match result {
                Ok(_) => break,
                Err(VolumeError::Cancelled) => {}
                Err(error) => panic!("{error}"),
            }
            // Stopped a second time, elsewhere, and then run to the end.
            let again = Progress::stop_after(steps / 2 + 1);
            assert!(matches!(site.try_apply(Some(&a), &b, &again), Err(VolumeError::Cancelled)));
            let report = site.apply(Some(&a), &b);
            assert!(!report.compared_in_full, "a stop is not a drift");
            site.assert_replica(&b);
            steps += 1 + steps / 8;
        }
        assert!(steps > 20, "the change takes {steps} steps");
    }
}

#[test]
fn a_stop_on_the_way_forward_can_go_back() {
    // A promotion to the older point while the newer was being applied: first to the end, then back.
    let (site, a, b) = two_points(7);
    site.apply(None, &a);
    let kept = site.dir.path().join("kept");
    copy_tree(&site.replica(), &kept);
    assert!(site.try_apply(Some(&a), &b, &Progress::stop_after(15)).is_err());
    site.apply(Some(&a), &b);
    site.apply(Some(&b), &a);
    assert_rsync_equal(&kept, &site.replica());
}

#[test]
fn a_first_apply_reruns_after_a_stop_anywhere() {
    let (site, _, b) = two_points(8);
    for steps in [1, 2, 3, 5, 8, 13, 21, 34, 55] {
        remove_any(&site.replica());
        if site.try_apply(None, &b, &Progress::stop_after(steps)).is_err() {
            site.apply(None, &b);
        }
        site.assert_replica(&b);
    }
}

#[test]
fn a_drifted_replica_is_made_whole() {
    let (site, a, b) = two_points(9);
    site.apply(None, &a);
    // Somebody was at the replica: a file to be patched is gone, a folder is a link out of the tree.
    let outside = site.dir.path().join("outside");
    write(&outside.join("n1"), "not ours");
    remove_any(&site.replica().join("grows"));
    for n in 0..6 {
        remove_any(&site.replica().join(format!("f{n}")));
        symlink(&outside, site.replica().join(format!("f{n}"))).unwrap();
    }
    let report = site.apply(Some(&a), &b);
    assert!(report.touched.count >= 7, "{:?}", report.touched);
    assert!(!report.compared_in_full, "what was left alone is not read");
    site.assert_replica(&b);
    assert_eq!(fs::read(outside.join("n1")).unwrap(), b"not ours");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn apply_writes_only_ranges_that_differ() {
    let site = Site::new();
    let mut rng = seeded(10);
    let mut bytes = random_bytes(&mut rng, 16 << 20);
    write(&site.source().join("f"), &bytes);
    write(&site.source().join("untouched"), "x");
    let (a, _) = site.cycle();
    bytes[9 << 20] ^= 1;
    write(&site.source().join("f"), &bytes);
    let (b, _) = site.cycle();
    site.apply(None, &a);
    let report = site.apply(Some(&a), &b);
    assert!(report.bytes_written <= 512 << 10, "{report:?}");
    assert_eq!(report.changed, 1);
    site.assert_replica(&b);
}
