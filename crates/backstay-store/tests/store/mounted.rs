//! A store that is not there is not begun anew.

use std::fs;
use std::os::unix::fs::symlink;

use backstay_store::{Store, StoreError};
use backstay_types::{Class, Classify};

use crate::fixture::*;

/// A site with one restore point, closed, and the path of its store.
fn one_point() -> (Site, std::path::PathBuf) {
    let site = Site::new();
    let store = site.open();
    commit(&store, 1, None, &volume(&some_files(1, 10)));
    drop(store);
    let root = site.dir().join("store");
    (site, root)
}

fn refused(site: &Site) -> StoreError {
    let error = site.try_open().map(drop).unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("mounted") && hint.contains("begin-anew"), "{hint}");
    error
}

#[test]
fn a_store_that_is_not_mounted_is_refused() {
    let (site, root) = one_point();
    let away = site.dir().join("away");
    fs::rename(&root, &away).unwrap();
    // Nothing there, and an empty folder, as a mount point is.
    assert!(matches!(refused(&site), StoreError::OtherStore { found: None, .. }));
    fs::create_dir(&root).unwrap();
    refused(&site);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nothing is made in a place that is refused");
    assert!(Store::rebuild_catalog(site.dir()).is_err());
    // Another store.
    let (_other, theirs) = one_point();
    fs::remove_dir(&root).unwrap();
    copy_dir(&theirs, &root);
    assert!(matches!(refused(&site), StoreError::OtherStore { found: Some(_), .. }));
    // Mounted again.
    fs::remove_dir_all(&root).unwrap();
    fs::rename(&away, &root).unwrap();
    assert_eq!(site.open().points(&plan()).unwrap().len(), 1);
}

#[test]
fn a_store_begins_anew_when_told() {
    let (site, root) = one_point();
    fs::remove_dir_all(&root).unwrap();
    fs::create_dir(&root).unwrap();
    fs::write(root.join("begin-anew"), "").unwrap();
    let store = site.open();
    assert_eq!(store.points(&plan()).unwrap().len(), 0);
    assert!(!root.join("begin-anew").exists(), "it counts once");
    drop(store);
    drop(site.open());
    fs::remove_dir_all(&root).unwrap();
    refused(&site);
}

#[test]
fn a_store_of_before_gets_its_name() {
    let (site, root) = one_point();
    let before = || {
        fs::remove_file(root.join("store-id")).unwrap();
        fs::remove_file(site.dir().join("store-id")).unwrap();
    };
    before();
    assert_eq!(site.open().points(&plan()).unwrap().len(), 1);
    assert_eq!(fs::read(root.join("store-id")).unwrap(), fs::read(site.dir().join("store-id")).unwrap());
    before();
    let away = site.dir().join("away");
    fs::rename(&root, &away).unwrap();
    assert!(matches!(refused(&site), StoreError::StoreGone { points: 1, .. }));
    refused(&site);
    fs::remove_dir_all(&root).unwrap();
    fs::rename(&away, &root).unwrap();
    assert_eq!(site.open().points(&plan()).unwrap().len(), 1);
}

#[test]
fn a_site_without_restore_points_may_change_its_store() {
    let site = Site::new();
    drop(site.open());
    fs::remove_dir_all(site.dir().join("store")).unwrap();
    drop(site.open());
    assert!(!site.dir().join("store-id").exists());
}

/// A full disk of the site costs no restore point; the next one finds it with room.
#[test]
fn a_mark_that_found_no_space_is_written_at_the_next_commit() {
    let site = Site::new();
    let store = site.open();
    let volume = volume(&some_files(1, 10));
    let mark = site.dir().join("store-id");
    // What is written there first, and goes when it fails.
    symlink("/dev/full", site.dir().join("store-id.tmp")).unwrap();
    commit(&store, 1, None, &volume);
    assert!(!mark.exists());
    commit(&store, 2, Some(1), &volume);
    assert_eq!(fs::read(&mark).unwrap(), fs::read(site.dir().join("store/store-id")).unwrap());
}
