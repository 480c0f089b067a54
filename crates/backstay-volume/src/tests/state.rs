//! Sent state counts once adopted, and damage to it costs time only.

use std::fs;
use std::path::PathBuf;

use backstay_types::{Epoch, HashKey, RestorePointId};

use super::support::*;
use crate::{ParentUse, Progress, sent_of_point};

fn populated() -> Site {
    let site = Site::new();
    for n in 0..40 {
        write(&site.source().join(format!("d{}/f{n}", n % 4)), format!("content {n}").repeat(500));
    }
    site
}

#[test]
fn pending_state_counts_only_once_adopted() {
    let site = populated();
    assert_eq!(site.sent().parent_id(), None);
    let read = site.try_read().unwrap().read;
    assert_eq!(site.sent().parent_id(), None, "not before the acknowledgement");
    drop(read);
    let left = fs::read_dir(site.state_dir()).unwrap().count();
    assert_eq!(left, 0, "what is dropped leaves nothing");

    let id = RestorePointId { epoch: Epoch(3), number: 42 };
    site.try_read().unwrap().read.pending.adopt(id).unwrap();
    assert_eq!(site.sent().parent_id(), Some(id));

    // A cycle that failed after the adopted one leaves the adopted one.
    drop(site.try_read().unwrap());
    assert_eq!(site.sent().parent_id(), Some(id));
    site.age();
    assert_eq!(site.try_read().unwrap().read.stats.bytes_changed, 0);

    site.sent().forget().unwrap();
    assert_eq!(site.sent().parent_id(), None);
    assert!(site.try_read().unwrap().read.stats.bytes_changed > 0);
}

#[test]
fn state_of_a_killed_cycle_is_removed() {
    let site = populated();
    let (_, _) = site.cycle();
    let read = site.try_read().unwrap().read;
    std::mem::forget(read);
    assert_eq!(fs::read_dir(site.state_dir()).unwrap().count(), 3, "current, its folder, and the left one");
    let (_, _) = site.cycle();
    assert_eq!(fs::read_dir(site.state_dir()).unwrap().count(), 2);
}

/// Files of the adopted state.
fn state_files(site: &Site) -> Vec<PathBuf> {
    let mut files = vec![site.state_dir().join("current")];
    for item in fs::read_dir(site.state_dir()).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|item| item.unwrap().path()));
        }
    }
    files.sort();
    files
}

#[test]
fn damaged_sent_state_costs_a_full_read() {
    let site = populated();
    let (root, _) = site.cycle();
    site.age();
    let whole = site.try_read().unwrap().read;
    assert_eq!((whole.stats.bytes_changed, whole.volume.root), (0, root));
    drop(whole);
    let files = state_files(&site);
    assert_eq!(files.len(), 4, "{files:?}");
    let whole = site.dir.path().join("whole");
    copy_tree(&site.state_dir(), &whole);
    let put_back = || {
        fs::remove_dir_all(site.state_dir()).unwrap();
        copy_tree(&whole, &site.state_dir());
    };
    for path in files {
        let good = fs::read(&path).unwrap();
        let mut damages = vec![Vec::new(), good[..good.len() / 2].to_vec()];
        for at in [0, good.len() / 3, good.len() / 2, good.len().saturating_sub(1)] {
            let mut bad = good.clone();
            if let Some(byte) = bad.get_mut(at) {
                *byte ^= 0x40;
            }
            damages.push(bad);
        }
        for bad in damages {
            fs::write(&path, bad).unwrap();
            let read = site.try_read().unwrap().read;
            assert_eq!(read.volume.root, root, "{} damaged", path.display());
            put_back();
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(site.try_read().unwrap().read.volume.root, root, "{} missing", path.display());
        put_back();
    }
    assert_eq!(site.try_read().unwrap().read.stats.bytes_changed, 0, "it is whole again");
}

/// What a release that wrote nothing out before it read took for unchanged may be another by a store through a mapping.
#[test]
fn state_of_an_earlier_release_proves_nothing_unchanged() {
    let site = populated();
    let (root, _) = site.cycle();
    site.age();
    let id = site.sent().parent_id();
    let whole = site.try_read().unwrap();
    assert!(whole.read.was_unchanged());
    drop(whole);
    let path = site.state_dir().join("current");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len() - 4;
    assert_eq!(bytes[4], 2, "its version");
    bytes[4] = 1;
    let crc = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert_eq!(site.sent().parent_id(), id, "it can be read");
    let next = site.try_read().unwrap();
    assert!(!next.read.was_unchanged(), "everything was read");
    assert_eq!((next.chunks, next.read.volume.root), (0, root), "the receiver holds it all");
    next.read.pending.adopt("e1-000002".parse().unwrap()).unwrap();
    site.age();
    assert!(site.try_read().unwrap().read.was_unchanged(), "once");
}

#[test]
fn state_of_another_pair_is_no_parent() {
    let mut site = populated();
    let (root, _) = site.cycle();
    site.age();
    site.ctx.params.seed += 1;
    let other = site.try_read().unwrap().read;
    assert!(other.stats.bytes_changed > 0);
    drop(other);
    site.ctx.params.seed -= 1;
    assert_eq!(site.try_read().unwrap().read.volume.root, root);
    assert_ne!(HashKey([8; 32]), site.ctx.key);
}

/// What a side that received a point needs to send: nothing is offered that the other side has, and what changed in
/// place travels as a patch.
#[test]
fn the_sent_state_of_a_received_point_is_as_good_as_ones_own() {
    let site = Site::new();
    let mut rng = seeded(3);
    build_nasty_tree(&site.source(), &mut rng);
    let pages = site.source().join("pages");
    write(&pages, random_bytes(&mut rng, 4 << 20));
    let (root, _) = site.cycle();
    let id = site.sent().parent_id().unwrap();
    let state = site.sent();
    state.forget().unwrap();
    let made = sent_of_point(&site.store, None, &root, &site.ctx, &site.sent(), &Progress::new()).unwrap();
    made.adopt(id).unwrap();
    assert_eq!(site.sent().parent_id(), Some(id));

    let unchanged = site.try_read().unwrap();
    assert_eq!((unchanged.chunks, unchanged.read.volume.root), (0, root), "all of it is known");
    drop(unchanged);

    // Also against a receiver that may hold other things: then all is offered, and as much is described.
    for parent in [ParentUse::Held, ParentUse::Guessed] {
        let mut bytes = fs::read(&pages).unwrap();
        (0..bytes.len())
            .step_by(256 << 10)
            .for_each(|at| bytes[at] ^= 1 + u8::from(parent == ParentUse::Held));
        fs::write(&pages, bytes).unwrap();
        let read = site.try_read_against(parent, |_| {}).unwrap();
        assert!(read.patches >= 16, "16 pages changed: {} patches", read.patches);
        assert!(read.wire < 300 << 10, "pages travel, not chunks: {} bytes", read.wire);
    }
}
