//! What a new operator tries: deleting a plan, restoring into odd places, asking the wrong side, giving bad paths.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;

use backstay_tests::{Pair, Plan, Site, assert_same, run_backstay, seed, tree};

fn restore(site: &Site, more: &[&str], to: &Path) -> backstay_tests::Output {
    let to = to.to_str().unwrap();
    site.cli(["restore", "shop"].iter().chain(more).chain(&["--to", to]))
}

fn points_on_disk(site: &Site) -> usize {
    let folder = site.dir().join("store/points/shop");
    fs::read_dir(folder).map_or(0, |entries| entries.count())
}

/// Deleting a plan on the standby loses nothing: its points are there, can be used, outlive a collection, and a plan of
/// that name applied again goes on after them. Only `--purge` removes them.
#[test]
fn a_deleted_plan_leaves_its_restore_points() {
    let pair = Pair::start();
    let source = pair.source("source");
    let mut rng = seed("deleted");
    tree::small_files(&source, 40, &mut rng);
    let plan = Plan::new("shop").volume("data", &source);
    pair.east.apply(&plan.yaml()).ok();
    pair.east.sync("shop");
    let first = pair.work("first");
    backstay_tests::copy_tree(&source, &first);
    tree::mutate(&source, 10, &mut rng);
    pair.east.sync("shop");
    let ids = pair.west.restore_point_ids("shop");
    assert_eq!(ids, ["e1-000001", "e1-000002"]);

    pair.east.cli(["plan", "delete", "shop"]).ok();
    pair.west.cli(["plan", "delete", "shop"]).ok();
    assert_eq!(points_on_disk(&pair.west), 2);
    pair.west.cli(["status", "shop"]).refused(&[3], &["shop"]);
    pair.west.cli(["gc"]).ok();
    assert_eq!(pair.west.restore_point_ids("shop"), ids);
    assert!(pair.west.replica("shop", "data").is_dir());
    pair.west.cli(["diff", "shop"]).ok();
    pair.west.cli(["verify", "shop"]).ok();
    restore(&pair.west, &["--restore-point", "e1-000001"], &pair.work("back")).ok();
    assert_same(&first, &pair.work("back"));

    pair.east.apply(&plan.yaml()).ok();
    let status = pair.east.status("shop");
    assert!(
        status["lastCycle"].is_null(),
        "the cycles of the deleted plan are nothing to this one: {status}"
    );
    assert_eq!(pair.east.sync("shop")["id"], "e1-000003");
    assert_eq!(pair.west.restore_point_ids("shop"), ["e1-000001", "e1-000002", "e1-000003"]);
    assert_same(&source, &pair.west.replica("shop", "data"));

    pair.east.cli(["plan", "delete", "shop"]).ok();
    pair.west.cli(["plan", "delete", "shop", "--purge"]).ok();
    assert_eq!(points_on_disk(&pair.west), 0);
    pair.west.cli(["restore-points", "shop"]).refused(&[3], &["shop"]);
    assert!(pair.west.replica("shop", "data").is_dir(), "replicas are the operator's");
}

/// A plan that was promoted, deleted on both sides and applied again begins in the epoch of its kept points: with an
/// older one it would be taken for a side that was left behind.
#[test]
fn a_plan_made_again_does_not_fall_behind_its_kept_points() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 20, &mut seed("again"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    // The sides change: what was the standby sends, in epoch 2.
    pair.take_over("shop");
    pair.east.serve();
    pair.wait_connected();
    pair.east.cli(["plan", "delete", "shop"]).ok();
    pair.west.cli(["plan", "delete", "shop"]).ok();
    let back = Plan::new("shop").pair("east").volume("data", &source);
    pair.west.apply(&back.yaml()).ok();
    let id = pair.west.sync("shop")["id"].as_str().unwrap().to_owned();
    assert!(id.as_str() > "e1-000001", "{id}");
    assert_eq!(pair.east.restore_point_ids("shop"), [id]);
}

/// The active side has no restore points of its own: it lists its peer's and says where the other commands go.
#[test]
fn the_active_side_says_where_the_points_are() {
    let pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 20, &mut seed("where"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    assert_eq!(pair.east.restore_point_ids("shop"), ["e1-000001"]);
    pair.east.cli(["diff", "shop"]).refused(&[4], &["west", "standby"]);
    restore(&pair.east, &[], &pair.work("never")).refused(&[4], &["west", "standby"]);
    assert!(!pair.work("never").exists());
    pair.west.cli(["verify", "nope"]).refused(&[3], &["nope"]);
    let mut west = pair.west;
    west.terminate();
    west.cli(["verify", "nope", "--offline"]).refused(&[3], &["nope"]);
    west.cli(["verify", "shop", "--offline"]).ok();
}

/// Restores never write where the site keeps its own files, whatever way the path goes there.
#[test]
fn a_restore_stays_out_of_the_site() {
    let pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 10, &mut seed("outside"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    let site = pair.west.dir();
    symlink(site, pair.work("link")).unwrap();
    for to in [
        site.to_owned(),
        site.parent().unwrap().to_owned(),
        site.join("inside"),
        site.join("store/evil"),
        site.join("replicas/shop/evil"),
        pair.work("link").join("new"),
        pair.work("nothing/../link/new"),
    ] {
        restore(&pair.west, &[], &to).refused(&[2], &["keeps for itself"]);
        assert!(to == site || to == site.parent().unwrap() || !to.exists(), "{}", to.display());
    }
    fs::write(pair.work("file"), b"x").unwrap();
    restore(&pair.west, &[], &pair.work("file")).refused(&[2], &["file"]);
    restore(&pair.west, &[], &pair.work("file/below")).refused(&[2], &["file"]);
    restore(&pair.west, &[], Path::new("/proc/nowhere")).refused(&[2], &["/proc/nowhere"]);
}

/// Every name that `diff` prints can be given to `restore --path`, and so can the name itself.
#[test]
fn any_file_can_be_restored_alone() {
    let pair = Pair::start();
    let source = pair.source("source");
    let names: [&[u8]; 6] =
        [b"caf\xe9", b"new\nline", b"tab\there", b"back\\slash", b"back\\nslash", b"plain"];
    for name in names {
        fs::write(source.join(OsStr::from_bytes(name)), name).unwrap();
    }
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    let items = pair.west.cli(["diff", "shop", "-o", "json"]).ok().items();
    let printed = items.iter().map(|item| item["path"].as_str().unwrap()).filter(|path| *path != ".");
    let mut restored: Vec<Vec<u8>> = Vec::new();
    for (index, path) in printed.enumerate() {
        let to = pair.work(&format!("printed-{index}"));
        restore(&pair.west, &["--volume", "data", "--path", path], &to).ok();
        let only = fs::read_dir(&to).unwrap().next().unwrap().unwrap().path();
        restored.push(fs::read(only).unwrap());
    }
    restored.sort();
    let mut all = names.map(<[u8]>::to_vec);
    all.sort();
    assert_eq!(restored, all);
    for (index, name) in names.into_iter().enumerate() {
        let to = pair.work(&format!("raw-{index}"));
        let arguments = ["restore", "shop", "--volume", "data", "--to"].map(OsStr::new);
        let more = [to.as_os_str(), OsStr::new("--path"), OsStr::from_bytes(name)];
        pair.west.cli(arguments.into_iter().chain(more)).ok();
        assert!(to.join(OsStr::from_bytes(name)).is_file() || name == b"back\\nslash", "{name:?}");
    }
    restore(&pair.west, &["--volume", "data", "--path", "nope"], &pair.work("no")).refused(&[3], &["nope"]);
}

/// An image goes into a folder that is there, or becomes the file that is named.
#[test]
fn an_image_is_restored_into_a_folder_or_as_a_file() {
    let pair = Pair::start();
    let image = pair.work("disk.img");
    tree::random_image(&image, 4, &mut seed("image"));
    pair.east.apply(&Plan::new("shop").device("disk0", &image).yaml()).ok();
    pair.east.sync("shop");
    let folder = pair.source("folder");
    restore(&pair.west, &["--volume", "disk0"], &folder).ok();
    restore(&pair.west, &["--volume", "disk0"], &pair.work("new.img")).ok();
    for file in [folder.join("disk0"), pair.work("new.img")] {
        assert!(fs::read(&file).unwrap() == fs::read(&image).unwrap(), "{}", file.display());
    }
    restore(&pair.west, &["--volume", "disk0"], &folder).refused(&[2], &["not empty"]);
    restore(&pair.west, &["--volume", "disk0"], &pair.work("new.img")).refused(&[2], &["new.img"]);

    // What is told as changed is what was new, not the length of the image.
    fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(&[7; 4096], 1 << 20).unwrap();
    let changed = pair.east.sync("shop")["bytesChanged"].as_u64().unwrap();
    assert!((4096..4 << 20).contains(&changed), "{changed} of 4 MiB");
}

/// Sources that cannot be what the plan says.
#[test]
fn sources_that_cannot_be_right_are_refused() {
    let pair = Pair::start();
    let source = pair.source("source");
    fs::create_dir(source.join("inner")).unwrap();
    fs::write(source.join("file"), b"x").unwrap();
    symlink(&source, pair.work("link")).unwrap();
    let (east, plan) = (pair.east.dir(), || Plan::new("shop"));
    let data = || plan().volume("data", &source);
    for (bad, word) in [
        (plan().device("disk", &source), "block device"),
        (plan().volume("data", &source.join("file")), "a folder"),
        (plan().volume("data", east), "keeps for itself"),
        (plan().volume("data", &east.join("store")), "keeps for itself"),
        (plan().volume("data", east.parent().unwrap()), "keeps for itself"),
        (data().volume("more", &source.join("inner")), "lies in"),
        (data().volume("more", &pair.work("link")), "is volume"),
        (data().device("more", &source.join("file")), "lies in"),
        (plan().volume("inner", &source.join("inner")).volume("data", &source), "holds"),
        (data().manifests(&source.join("file")), "a folder"),
        (data().field("retention: {last: 0}"), "retention"),
        (data().field("schedule: {interval: 15m, jitter: 2h}"), "jitter"),
        (data().field("schedule: {interval: 15}"), "such as 15m"),
    ] {
        pair.east.apply(&bad.yaml()).refused(&[2], &[word]);
    }
    for nothing in ["", "# a comment\n", "---\n"] {
        pair.east.apply(nothing).refused(&[2], &["no documents"]);
    }
    assert!(pair.east.cli(["plan", "list", "-o", "json"]).ok().items().is_empty(), "a refused plan was kept");
}

/// What the file system refuses is told as what it is.
#[test]
fn paths_that_cannot_be_used_say_why() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("file");
    fs::write(&file, b"x").unwrap();
    let file = file.to_str().unwrap();
    run_backstay(&["init", "--name", "east", "--site", file]).refused(&[2], &["file"]);
    run_backstay(&["init", "--name", "east", "--site", "/proc/nowhere"]).refused(&[2], &["/proc/nowhere"]);
    let nowhere = work.path().join("nowhere");
    run_backstay(&["audit", "--verify", "--site", nowhere.to_str().unwrap()]).refused(&[3], &["--site"]);
    let site = Site::init("east", backstay_tests::SiteOptions::default());
    // Mistakes in the command itself are told in the same two lines.
    for (line, word) in [
        (&["sync"][..], "<PLAN>"),
        (&["promote"], "--all"),
        (&["promote", "shop", "--frce"], "--force"),
        (&["init", "--name", "east", "--listen", "127.0.0.1"], "ADDR:PORT"),
    ] {
        let output = run_backstay(line).refused(&[2], &[word]);
        assert_eq!(output.stderr.lines().count(), 2, "{output}");
    }
    let token = "admin.tokenFile=/nowhere/token";
    let serve = ["serve", "--set", "admin.listen=127.0.0.1:0", "--set", token];
    site.cli(serve).refused(&[3], &["admin.tokenFile", "/nowhere/token"]);
}

#[test]
fn what_plans_name_outlives_a_restart() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    fs::write(source.join("file"), "content").unwrap();
    let policy = "apiVersion: backstay.dev/v1alpha1\nkind: SchedulePolicy\nmetadata: {name: hourly}\nspec: {interval: 1h}\n---\n";
    let rule = "apiVersion: backstay.dev/v1alpha1\nkind: Rule\nmetadata: {name: flush}\nspec: {rules: [{podSelector: {app: db}, actions: [{value: sync}]}]}\n---\n";
    let plan =
        Plan::new("shop").volume("data", &source).yaml().replace("spec:", "spec:\n  schedulePolicy: hourly");
    pair.east.apply(&format!("{policy}{rule}{plan}")).ok();
    pair.east.restart();
    pair.wait_connected();
    pair.east.sync("shop");
    assert!(pair.east.status("shop")["nextRun"].is_string(), "the policy is known");
    pair.east.apply(&format!("{policy}{plan}")).ok();
}
