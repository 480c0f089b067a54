//! Invariant 1: what was synced and promoted is the source, to the last bit of metadata.

use std::fs;
use std::path::Path;

use backstay_tests::{Pair, Plan, assert_same, env_or, rsync_differences, seed, tree};

/// Syncs a tree, loses the active side, promotes, compares.
fn survives(build: impl FnOnce(&Path)) {
    let mut pair = Pair::start();
    let source = pair.source("source");
    build(&source);
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let point = pair.east.sync("shop");
    assert_eq!(point["complete"], true, "{point}");
    let report = pair.take_over("shop");
    assert_eq!(report["restorePoint"], point["id"], "{report}");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// Hard links, ACLs, extended attributes, capabilities, holes, pipes, devices, odd names, long paths, odd modes, old
/// dates.
#[test]
fn everything_that_is_hard_to_copy() {
    survives(|source| tree::nasty(source, env_or("BACKSTAY_SPARSE_GIB", 8)));
}

/// Programs, libraries and documents of this machine.
#[test]
fn a_real_system_tree() {
    survives(|source| tree::system_copy(source, env_or::<u64>("BACKSTAY_SYSTEM_MB", 200) * 1_000_000));
}

/// Many small files.
#[test]
fn many_small_files() {
    let count = env_or("BACKSTAY_SMALL_FILES", 20_000);
    survives(|source| tree::small_files(source, count, &mut seed("small files")));
}

/// A source with nothing in it is a source.
#[test]
fn an_empty_folder() {
    survives(|_| {});
}

/// A folder, an image file and a second folder in one plan, each to its own replica.
#[test]
fn folders_and_images_in_one_plan() {
    let mut pair = Pair::start();
    let mut rng = seed("volumes");
    let (data, media, image) = (pair.source("data"), pair.source("media"), pair.work("disk.img"));
    tree::small_files(&data, 300, &mut rng);
    fs::write(media.join("song"), tree::random_bytes(&mut rng, 3_000_000)).unwrap();
    tree::random_image(&image, 24, &mut rng);
    // A hole in the middle, and a length that is no multiple of a sector.
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.set_len(16 << 20).unwrap();
    file.set_len((40 << 20) + 512).unwrap();
    let plan = Plan::new("shop").volume("data", &data).volume("media", &media).device("disk0", &image);
    pair.east.apply(&plan.yaml()).ok();
    pair.east.sync("shop");
    tree::rewrite_sectors(&image, 50, &mut rng);
    tree::mutate(&data, 30, &mut rng);
    pair.east.sync("shop");
    pair.take_over("shop");
    assert_same(&data, &pair.west.replica("shop", "data"));
    assert_same(&media, &pair.west.replica("shop", "media"));
    assert_same(&image, &pair.west.replica("shop", "disk0"));
}

/// The standby's `site.toml` may send a replica to a folder of its own.
#[test]
fn a_replica_goes_where_the_standby_maps_it() {
    let mut pair = Pair::start();
    let (source, target) = (pair.source("source"), pair.work("target"));
    tree::small_files(&source, 100, &mut seed("mapped"));
    pair.west.terminate();
    let config = pair.west.dir().join("site.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[replicas.shop]\ndata = {target:?}\n")).unwrap();
    pair.west.serve();
    pair.wait_connected();
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    pair.take_over("shop");
    assert_same(&source, &target);
}

/// Nothing is ever written through a symbolic link: a folder that becomes a link, with a file that had its name
/// below the folder, must not reach the link's target.
#[test]
fn a_folder_that_becomes_a_link_leads_nowhere() {
    let mut pair = Pair::start();
    let (source, outside) = (pair.source("source"), pair.source("outside"));
    fs::create_dir(source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), b"inside").unwrap();
    fs::write(outside.join("file"), b"outside").unwrap();
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    fs::rename(source.join("sub"), source.join("sub-moved")).unwrap();
    std::os::unix::fs::symlink(&outside, source.join("sub")).unwrap();
    pair.east.sync("shop");
    fs::remove_file(source.join("sub")).unwrap();
    fs::rename(source.join("sub-moved"), source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), b"inside, changed").unwrap();
    pair.east.sync("shop");
    pair.take_over("shop");
    assert_same(&source, &pair.west.replica("shop", "data"));
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"outside");
    assert_eq!(rsync_differences(&outside, &outside), "");
}
