//! Sources that change while they are read, or should not be read at all.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use backstay_types::{Class, Classify};

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
