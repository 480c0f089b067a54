//! A full disk: a clear error, nothing committed, and on once there is room. On a small tmpfs; needs root.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::path::Path;

use backstay_store::StoreError;
use backstay_types::{Class, Classify};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

use crate::fixture::*;

struct Mounted(TempDir);

impl Mounted {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        // By a call and not by a command: a child holds copies of every test's files until it executes, the lock of a
        // store and a deleted file of this disk among them.
        let options = CString::new(format!("size={size}")).unwrap();
        let mounted =
            mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), Some(options.as_c_str())).is_ok();
        if !mounted {
            let why = "a full store needs a tmpfs, and mounting one needs root";
            println!("skipped: {why}");
            // `scripts/test.sh` counts what could not run.
            if let Some(path) = std::env::var_os("BACKSTAY_SKIPS") {
                let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
                writeln!(file, "backstay-store: {why}").unwrap();
            }
        }
        mounted.then(|| Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills the disk up to that many bytes.
    fn fill(&self, leave: u64) {
        let mut file = fs::File::create(self.path().join("filler")).unwrap();
        let page = vec![1; 4096];
        while file.write_all(&page).is_ok() {}
        let len = file.metadata().unwrap().len();
        file.set_len(len.saturating_sub(leave)).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = unmount(self.path(), UnmountFlags::empty());
        assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
    }
}

#[test]
fn a_full_disk_costs_the_session_and_nothing_else() {
    let Some(disk) = Mounted::new("12m") else { return };
    let mut site = Site::at(&disk.path().join("site"));
    site.config.reserve_bytes = 2 << 20;
    let (small, large) = (volume(&some_files(1, 20)), volume(&some_files(2, 300)));
    let store = site.open();
    commit(&store, 1, None, &small);
    disk.fill((2 << 20) + (400 << 10));
    let mut ingest = store.begin(PAIR, &plan(), id(2)).unwrap();
    let error = send(&mut ingest, &large.chunks).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    assert_eq!(error.class(), Class::Transient);
    assert!(error.to_string().starts_with("no space left") && error.hint().is_some());
    drop(ingest);
    assert_eq!(store.newest(&plan()).unwrap().unwrap().id, id(1));
    assert_eq!(read(&store, 1).unwrap(), small.files);
    // A point that fits in the reserve can still be committed, and one can be deleted and collected.
    commit(&store, 2, Some(1), &small);
    store.delete_points(&plan(), &[id(1)]).unwrap();
    let gc_plan = store.gc_plan().unwrap();
    store.gc(gc_plan).unwrap();
    disk.free();
    // The same store, without reopening; what came before the disk was full is not sent again.
    let sent = commit(&store, 3, Some(2), &large);
    assert!(sent < large.chunks.len(), "{sent}");
    assert_eq!(read(&store, 3).unwrap(), large.files);
    assert_clean(&store);
    drop(store);
    assert_clean(&site.open());
}

/// Somebody else takes the last of the disk, so that every kind of write meets its end.
#[test]
fn a_disk_filled_by_others_at_any_moment_loses_nothing() {
    let Some(disk) = Mounted::new("24m") else { return };
    let site = Site::at(&disk.path().join("site"));
    let store = site.open();
    let mut number = 1;
    let mut newest = volume(&some_files(100, 10));
    commit(&store, number, None, &newest);
    let mut store = Some(store);
    let mut failures = 0;
    for pages in (0..60).chain((60..200).step_by(10)) {
        let next = volume(&some_files(200 + pages, 15));
        let open = store.get_or_insert_with(|| site.open());
        disk.fill(pages * 4096);
        let mut ingest = open.begin(PAIR, &plan(), id(number + 1)).unwrap();
        let outcome = send(&mut ingest, &next.chunks)
            .and_then(|_| ingest.commit(point(number + 1, Some(number), &next)));
        match outcome {
            Ok(_) => {
                newest = next;
                number += 1;
            }
            Err(error) => {
                failures += 1;
                assert_eq!(error.class(), Class::Transient, "{pages} pages: {error}");
                assert_eq!(open.newest(&plan()).unwrap().unwrap().id, id(number), "{pages} pages");
                disk.free();
                // In one of three, the process ends here.
                if failures % 3 == 0 {
                    store = None;
                }
                let open = store.get_or_insert_with(|| site.open());
                assert_eq!(open.newest(&plan()).unwrap().unwrap().id, id(number), "{pages} pages");
                assert_eq!(read(open, number).unwrap(), newest.files);
                commit(open, number + 1, Some(number), &next);
                newest = next;
                number += 1;
                disk.fill(0);
            }
        }
        disk.free();
        let open = store.as_ref().unwrap();
        assert_eq!(read(open, number).unwrap(), newest.files);
        let old: Vec<_> =
            open.points(&plan()).unwrap().iter().map(|p| p.id).filter(|p| *p != id(number)).collect();
        open.delete_points(&plan(), &old).unwrap();
        if number % 10 == 0 {
            let gc_plan = open.gc_plan().unwrap();
            open.gc(gc_plan).unwrap();
            assert_clean(open);
        }
    }
    assert!(failures > 5, "the disk was full {failures} times");
    assert_clean(store.as_ref().unwrap());
    drop(store);
    // To the last byte: a clear error, and nothing else.
    disk.fill(0);
    if let Err(error) = site.try_open() {
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    }
    disk.free();
    // With a little left, far less than the reserve, the store opens, so that room can be made in it.
    disk.fill(2 << 20);
    let store = site.open();
    assert_eq!(read(&store, number).unwrap(), newest.files);
    disk.free();
    commit(&store, number + 1, Some(number), &volume(&some_files(900, 15)));
    drop(store);
    assert_clean(&site.open());
}
