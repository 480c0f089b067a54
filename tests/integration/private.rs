//! State is private, whatever the folder was before the site was made in it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use backstay_tests::{Pair, Plan, SiteOptions, eventually, seed, tree};

/// Everything of a site but what has the modes of a source.
fn state(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && entry.path() != dir.join("replicas").join("shop") {
                folders.push(entry.path());
            }
            if kind.is_dir() || kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found
}

#[track_caller]
fn assert_private(dir: &Path) {
    for path in state(dir) {
        // The catalog's own files come and go.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let mode = meta.permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} is {mode:03o}", path.display());
    }
}

/// A folder that was there, as Kubernetes makes one, is as private as one of our own making; one that somebody opened since is
/// closed by the next start, which says so.
#[test]
fn a_site_is_private_whatever_its_folder_was() {
    let work = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let dir = work.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        SiteOptions { dir: Some(dir), ..SiteOptions::default() }
    };
    let mut pair = Pair::with(open("east"), open("west"));
    let source = pair.source("source");
    tree::small_files(&source, 20, &mut seed("private"));
    fs::set_permissions(source.join("part00"), Permissions::from_mode(0o755)).unwrap();
    // Outside of the site others reach what they are given.
    let outside = pair.work("srv/shop/more");
    pair.west.terminate();
    let config = pair.west.dir().join("site.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[replicas.shop]\nmore = {outside:?}\n")).unwrap();
    pair.west.serve();
    pair.wait_connected();
    let plan = Plan::new("shop").volume("data", &source).volume("more", &pair.source("more"));
    pair.east.apply(&plan.yaml()).ok();
    let point = pair.east.sync("shop");
    eventually("the standby shows it", std::time::Duration::from_secs(60), || {
        pair.west.status("shop")["appliedRestorePoint"] == point["id"]
    });
    assert_private(pair.east.dir());
    assert_private(pair.west.dir());
    for folder in ["srv", "srv/shop"] {
        let mode = fs::metadata(pair.work(folder)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o755, "{folder}");
    }

    for folder in ["", "replicas", "plans", "catalog"] {
        fs::set_permissions(pair.west.dir().join(folder), Permissions::from_mode(0o755)).unwrap();
    }
    pair.west.restart();
    assert_private(pair.west.dir());
    assert!(pair.west.log().contains("was open to others"));
    // What is inside a replica is as its source.
    let inside = fs::metadata(pair.west.replica("shop", "data").join("part00")).unwrap();
    assert_eq!(inside.permissions().mode() & 0o777, 0o755);
}
