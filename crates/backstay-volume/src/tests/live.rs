//! Sources that change while they are read, or should not be read at all.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use backstay_types::{Class, Classify};
use rand::RngExt;

use super::support::*;
use crate::{Cancel, ParentUse, Progress, SinkClosed, VolumeError, snapshot};

#[test]
fn a_file_that_keeps_changing_is_refused_or_fuzzy() {
    let mut site = Site::new();
    let path = site.source().join("busy");
    write(&path, random_bytes(&mut seeded(1), 4 << 20));
    write(&site.source().join("calm"), "calm");
    // Changed each time a chunk of it was read.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let disturb = |n: u64| {
        let changed: Vec<u8> = n.to_le_bytes().to_vec();
        file.write_all_at(&changed, 100).unwrap();
        set_mtime(&path, 1_000_000 + i64::try_from(n).unwrap(), 0);
    };
    let error = site.try_read_with(disturb).map(|_| ()).unwrap_err();
    assert!(matches!(&error, VolumeError::Unsettled { path } if path.ends_with("busy")), "{error}");
    assert_eq!(error.class(), Class::Incomplete);
    assert!(error.hint().unwrap().contains("allowFuzzy"));

    site.ctx.allow_fuzzy = true;
    let cycle = site.try_read_with(disturb).unwrap();
    assert!(cycle.read.fuzzy);
    let root = cycle.read.volume.root;
    site.apply(None, &root);
    assert_eq!(fs::read(site.replica().join("calm")).unwrap(), b"calm");
    assert_eq!(fs::metadata(site.replica().join("busy")).unwrap().len(), 4 << 20);
    // A fuzzy file is read again, however old it looks.
    cycle.read.pending.adopt("e1-000001".parse().unwrap()).unwrap();
    site.age();
    let scanned =
        snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap().scan(&Cancel::new()).unwrap();
    assert_eq!(scanned.totals().read_bytes, 4 << 20);
    drop(scanned);
    // Its first chunk was disturbed after it was read; the others are known.
    let changed = site.try_read().unwrap().read.stats.bytes_changed;
    assert!(changed > 0 && changed < 4 << 20, "{changed}");
}

#[test]
fn a_file_that_settles_is_read_again() {
    let site = Site::new();
    let path = site.source().join("saved");
    write(&path, random_bytes(&mut seeded(2), 1 << 20));
    let once = AtomicBool::new(false);
    let cycle = site
        .try_read_with(|_| {
            if !once.swap(true, Ordering::Relaxed) {
                write(&path, "saved anew");
            }
        })
        .unwrap();
    assert!(!cycle.read.fuzzy);
    site.apply(None, &cycle.read.volume.root);
    site.assert_replica(&cycle.read.volume.root);
}

#[test]
fn vanished_files_count_as_deleted() {
    let site = Site::new();
    let source = site.source();
    write(&source.join("a"), "linked");
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    fs::hard_link(source.join("a"), source.join("c")).unwrap();
    write(&source.join("gone"), "x");
    write(&source.join("folder/gone too"), "x");
    write(&source.join("stays"), "x");
    let scanned =
        snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap().scan(&Cancel::new()).unwrap();
    fs::remove_file(source.join("a")).unwrap();
    fs::remove_file(source.join("gone")).unwrap();
    fs::remove_dir_all(source.join("folder")).unwrap();
    let read = scanned.read(&mut Sink::new(&site.store), &Progress::new()).unwrap();
    site.apply(None, &read.volume.root);
    let names = |path: &Path| {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|item| item.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&site.replica()), ["b", "c", "folder", "stays"]);
    assert_eq!(fs::read(site.replica().join("c")).unwrap(), b"linked");
    let inode = |name| std::os::unix::fs::MetadataExt::ino(&fs::metadata(site.replica().join(name)).unwrap());
    assert_eq!(inode("b"), inode("c"));
}

/// What was read of a file that is gone before it can be read again must not become part of the next one.
#[test]
fn a_file_that_vanishes_half_read_leaves_nothing() {
    for allow_fuzzy in [false, true] {
        let mut site = Site::new();
        site.ctx.allow_fuzzy = allow_fuzzy;
        let going = site.source().join("a going");
        write(&going, random_bytes(&mut seeded(3), 1 << 20));
        write(&site.source().join("b kept"), random_bytes(&mut seeded(4), 100_000));
        write(&site.source().join("c zeros"), vec![0; 100_000]);
        let (first, _) = site.cycle();
        site.age();
        write(&going, random_bytes(&mut seeded(5), 1 << 20));
        let cycle = site
            .try_read_with(|n| {
                if n == 1 {
                    fs::remove_file(&going).unwrap()
                }
            })
            .unwrap();
        let root = cycle.read.volume.root;
        let sizes = sizes(&site.store, &root);
        assert!(sizes.iter().all(|(_, size, extents)| size == extents), "{sizes:?}");
        site.apply(None, &first);
        site.apply(Some(&first), &root);
        site.assert_replica(&root);
        // Nor of what the next cycle compares with.
        cycle.read.pending.adopt("e1-000002".parse().unwrap()).unwrap();
        write(&site.source().join("b kept"), random_bytes(&mut seeded(4), 100_001));
        let cycle = site.try_read().unwrap();
        assert!(cycle.patches > 0 && cycle.wire < 20_000, "{} patches, {} bytes", cycle.patches, cycle.wire);
    }
}

/// A file of every layout that shrinks, grows or gets holes under the reader: its extents are as long as it says.
#[test]
fn extents_are_as_long_as_the_file_says() {
    let mut rng = seeded(6);
    let mut site = Site::new();
    site.ctx.allow_fuzzy = true;
    let path = site.source().join("f");
    for round in 0..9_u64 {
        let len: u64 = 3 << 20;
        let file = fs::File::create(&path).unwrap();
        if round % 3 == 0 {
            file.write_all_at(&random_bytes(&mut rng, 3 << 20), 0).unwrap();
        } else {
            file.set_len(len).unwrap();
            for at in [0, 900_000, 1_700_000, 2_900_000] {
                file.write_all_at(&random_bytes(&mut rng, 70_000 + 1000 * round as usize), at).unwrap();
            }
        }
        let at = 1 + round % 5;
        let cut = rng.random_range(0..len);
        let change = |n: u64| {
            if n.is_multiple_of(at) {
                match (round + n) % 3 {
                    0 => file.set_len(cut).unwrap(),
                    1 => file.set_len(len + cut).unwrap(),
                    _ => file.write_all_at(&[1; 5000], cut).unwrap(),
                }
            }
        };
        let read = site.try_read_with(change).unwrap().read;
        let sizes = sizes(&site.store, &read.volume.root);
        assert!(sizes.iter().all(|(_, size, extents)| size == extents), "round {round}: {sizes:?}");
        read.pending.adopt(format!("e1-{round:06}").parse().unwrap()).unwrap();
    }
}

/// Folders that come, go and change into files are what an application does, not a fault of the source.
#[test]
fn folders_may_come_and_go() {
    let mut site = Site::new();
    site.ctx.allow_fuzzy = true;
    let source = site.source();
    for n in 0..60 {
        write(&source.join(format!("calm/{n}")), "calm");
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let churn = |work: fn(&Path, u64)| {
            let (stop, source) = (&stop, source.clone());
            scope.spawn(move || {
                for n in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    work(&source, n);
                }
            });
        };
        churn(|source, n| {
            let folder = source.join(format!("comes/{}", n % 40));
            fs::create_dir_all(folder.join("deep")).unwrap();
            fs::write(folder.join("deep/f"), "x").unwrap();
            if n % 2 == 1 {
                fs::remove_dir_all(source.join(format!("comes/{}", n / 2 % 40))).unwrap_or(());
            }
        });
        churn(|source, n| {
            let name = source.join(format!("either {}", n % 7));
            fs::write(&name, "a file").unwrap();
            fs::remove_file(&name).unwrap();
            std::os::unix::fs::symlink("nowhere", &name).unwrap();
            fs::remove_file(&name).unwrap();
            fs::create_dir(&name).unwrap();
            fs::write(name.join("in it"), "x").unwrap();
            fs::remove_dir_all(&name).unwrap();
        });
        churn(|source, n| {
            let (one, other) = (source.join("here"), source.join("there"));
            fs::create_dir_all(&one).unwrap();
            fs::write(one.join("f"), n.to_le_bytes()).unwrap();
            fs::rename(&one, &other).unwrap();
            fs::remove_dir_all(&other).unwrap();
        });
        let rounds: Vec<_> = (0..25).map(|_| site.try_read().map(|cycle| cycle.read.volume.root)).collect();
        stop.store(true, Ordering::Relaxed);
        let failed: Vec<_> = rounds.iter().filter_map(|round| round.as_ref().err()).collect();
        assert!(failed.is_empty(), "{} of 25 failed: {}", failed.len(), failed[0]);
        for root in rounds.iter().flatten() {
            assert!(
                sizes(&site.store, root).iter().filter(|(path, ..)| path.starts_with("calm/")).count() == 60
            );
        }
    });
    let (root, _) = site.cycle();
    site.apply(None, &root);
    site.assert_replica(&root);
}

#[test]
fn an_emptied_source_is_refused() {
    let mut site = Site::new();
    write(&site.source().join("f"), "x");
    let (_, _) = site.cycle();
    fs::remove_file(site.source().join("f")).unwrap();
    let error = site.try_read().map(|_| ()).unwrap_err();
    assert!(matches!(error, VolumeError::EmptySource { entries: 2, .. }), "{error}");
    assert_eq!(error.class(), Class::Invalid);
    assert!(error.hint().unwrap().contains("allowEmpty"));
    site.ctx.allow_empty = true;
    assert_eq!(site.try_read().unwrap().read.volume.entries, 1);
}

#[test]
fn a_fresh_file_system_is_an_empty_source() {
    let site = Site::new();
    for at in 0..3 {
        write(&site.source().join(format!("folder/{at}")), "x");
    }
    let (_, _) = site.cycle();
    fs::remove_dir_all(site.source().join("folder")).unwrap();
    fs::create_dir(site.source().join("lost+found")).unwrap();
    write(&site.source().join(".not-mounted"), "");
    write(&site.source().join(".Trash-0/files/old"), "old");
    let error = site.try_read().map(|_| ()).unwrap_err();
    assert!(matches!(error, VolumeError::EmptySource { entries: 5, .. }), "{error}");
    // What a check of the file system saved is content, and so is all else.
    write(&site.source().join("lost+found/#12"), "saved");
    assert_eq!(site.try_read().unwrap().read.volume.entries, 7);
}

#[test]
fn a_volume_that_never_had_content_may_stay_so() {
    let site = Site::new();
    fs::create_dir(site.source().join("lost+found")).unwrap();
    let (_, _) = site.cycle();
    fs::remove_dir(site.source().join("lost+found")).unwrap();
    assert_eq!(site.try_read().unwrap().read.volume.entries, 1);
}

#[test]
fn a_missing_or_wrong_source_says_so() {
    let mut site = Site::new();
    site.spec.path = Some(site.dir.path().join("nowhere"));
    let error = site.try_read().map(|_| ()).unwrap_err();
    assert!(matches!(error, VolumeError::SourceMissing { .. }), "{error}");
    write(&site.dir.path().join("file"), "x");
    site.spec.path = Some(site.dir.path().join("file"));
    let error = site.try_read().map(|_| ()).unwrap_err();
    assert!(matches!(error, VolumeError::WrongKind { .. }), "{error}");
}

#[test]
fn an_unreadable_or_foreign_entry_fails_the_scan() {
    let site = Site::new();
    write(&site.source().join("a/b"), "x");
    if is_root() {
        let mounted = site.source().join("a/mounted");
        fs::create_dir(&mounted).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&mounted).status().unwrap();
        assert!(status.success());
        let result = site.try_read().map(|_| ());
        let status = Command::new("umount").arg(&mounted).status().unwrap();
        assert!(status.success());
        let error = result.unwrap_err();
        assert!(matches!(&error, VolumeError::MountPoint { path } if path.ends_with("a/mounted")), "{error}");
    } else {
        fs::set_permissions(site.source().join("a"), fs::Permissions::from_mode(0o0)).unwrap();
        let result = site.try_read().map(|_| ());
        fs::set_permissions(site.source().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        let error = result.unwrap_err();
        assert_eq!(error.class(), Class::Unauthorized, "{error}");
        assert!(error.to_string().contains("source/a"), "{error}");
    }
}

#[test]
fn a_closed_sink_and_a_cancel_end_the_work() {
    struct Closed;
    impl crate::ChunkSink for Closed {
        fn chunk(
            &mut self,
            _: backstay_types::ChunkId,
            _: Vec<u8>,
            _: Option<crate::PatchBase>,
        ) -> Result<(), SinkClosed> {
            Err(SinkClosed)
        }
    }
    let site = Site::new();
    write(&site.source().join("f"), "x");
    let scan =
        || snapshot(&site.spec, &site.ctx, &site.sent(), ParentUse::Held).unwrap().scan(&Cancel::new());
    let error = scan().unwrap().read(&mut Closed, &Progress::new()).unwrap_err();
    assert!(matches!(error, VolumeError::SinkClosed), "{error}");
    let cancelled = Progress::new();
    cancelled.cancel();
    let error = scan().unwrap().read(&mut Sink::new(&site.store), &cancelled).unwrap_err();
    assert!(matches!(error, VolumeError::Cancelled), "{error}");
    assert_eq!(fs::read_dir(site.state_dir()).unwrap().count(), 0, "nothing is left of either");
}
