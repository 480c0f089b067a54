//! Plans of one site whose places meet: refused, but for a chain, and never written by two.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use backstay_tests::{Pair, Plan, Site, assert_same, eventually, seed, tree};
use serde_json::Value;

#[track_caller]
fn wait_applied(site: &Site, plan: &str, point: &Value) {
    eventually("the standby shows it", Duration::from_secs(60), || {
        site.status(plan)["appliedRestorePoint"] == point["id"]
    });
}

/// The same folder, a folder inside, a folder around, another name of it, a hard link to an image, a folder of manifests:
/// each is told with the names of both plans, and the plan that was there goes on.
#[test]
fn two_plans_over_one_source_are_refused() {
    let pair = Pair::start();
    let (source, image) = (pair.source("source"), pair.work("disk.img"));
    tree::small_files(&source, 20, &mut seed("two plans"));
    tree::random_image(&image, 1, &mut seed("image"));
    fs::create_dir_all(source.join("inner")).unwrap();
    let first = Plan::new("first").volume("data", &source).device("disk", &image);
    pair.east.apply(&first.yaml()).ok();
    let link = pair.work("link");
    symlink(source.join("inner"), &link).unwrap();
    let hard = pair.work("hard.img");
    fs::hard_link(&image, &hard).unwrap();
    for (what, plan) in [
        ("the same", Plan::new("second").volume("data", &source)),
        ("inside", Plan::new("second").volume("other", &source.join("inner"))),
        ("by a link", Plan::new("second").volume("other", &link)),
        ("around", Plan::new("second").volume("other", source.parent().unwrap())),
        ("the image by another name", Plan::new("second").device("other", &hard)),
        ("manifests", Plan::new("second").manifests(&source.join("inner"))),
    ] {
        println!("{what}");
        pair.east.apply(&plan.yaml()).refused(&[2], &["first", "second"]);
    }
    assert_eq!(pair.east.cli(["plan", "list", "-o", "json"]).ok().items().len(), 1);
    pair.east.apply(&first.keep(5).yaml()).ok();
    let beside = pair.source("beside");
    // Two of one call: none of them is made.
    let both = ["third", "fourth"].map(|name| Plan::new(name).volume("data", &beside).yaml());
    pair.east.apply(&both.join("---\n")).refused(&[2], &["third", "fourth"]);
    assert_eq!(pair.east.cli(["plan", "list", "-o", "json"]).ok().items().len(), 1);
    pair.east.apply(&Plan::new("second").volume("data", &beside).yaml()).ok();
    pair.east.apply(&Plan::new("second").volume("data", &source).yaml()).refused(&[2], &["first", "second"]);
    pair.east.sync("first");
}

/// site.toml brings the replicas of two plans together: neither is written any more, and both say so.
#[test]
fn nothing_is_applied_to_a_place_of_two_plans() {
    let mut pair = Pair::start();
    pair.west.allow_errors("which plan");
    let place = pair.work("place");
    let mut config = OpenOptions::new().append(true).open(pair.west.dir().join("site.toml")).unwrap();
    writeln!(config, "\n[replicas.one]\ndata = {place:?}\n[replicas.two]\ndata = {:?}", place.join("inner"))
        .unwrap();
    pair.west.restart();
    pair.wait_connected();
    let sources = ["one", "two"].map(|name| pair.source(name));
    for source in &sources {
        tree::small_files(source, 20, &mut seed("sources"));
    }
    pair.east.apply(&Plan::new("one").volume("data", &sources[0]).yaml()).ok();
    let point = pair.east.sync("one");
    wait_applied(&pair.west, "one", &point);
    assert_same(&sources[0], &place);
    pair.east.apply(&Plan::new("two").volume("data", &sources[1]).yaml()).ok();
    pair.east.sync("two");
    let told = |plan: &str, other: &str| {
        let error = pair.west.status(plan)["applyError"]["message"].as_str().unwrap_or_default().to_owned();
        error.contains(&format!("plan {plan}")) && error.contains(&format!("plan {other}"))
    };
    eventually("it is told", Duration::from_secs(60), || told("two", "one"));
    fs::write(sources[0].join("more"), "more").unwrap();
    let before = backstay_tests::fingerprint(&place);
    pair.east.sync("one");
    eventually("it is told of the other, too", Duration::from_secs(60), || told("one", "two"));
    assert_eq!(before, backstay_tests::fingerprint(&place));
    assert!(!place.join("inner").exists());
}

/// Every file says the same number.
fn write_all(source: &Path, number: u32) {
    for file in 0..200 {
        fs::write(source.join(format!("file{file:03}")), format!("{number:08}")).unwrap();
    }
}

fn assert_one_number(folder: &Path) {
    let mut numbers: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(numbers.len(), 200);
    numbers.dedup();
    assert_eq!(numbers.len(), 1, "a restore point of the chain is of two moments: {numbers:?}");
}

/// Three sites: plan `a` from east to west, plan `b` from west to north over the replica of `a`. Whatever `b` sends is a
/// restore point of `a`, also while that one is applied; when `a` is promoted, what its application writes goes on to
/// north; and `b` cannot make west write what `a` writes.
#[test]
fn a_chain_goes_from_site_to_site() {
    let mut pair = Pair::start();
    let north = Site::start("north");
    let key = north.cli(["pair", "key", "--endpoint", &north.listen().to_string()]).ok().stdout;
    pair.west.cli(["pair", "join", key.trim()]).ok();
    let source = pair.source("source");
    write_all(&source, 0);
    pair.east.apply(&Plan::new("a").volume("data", &source).keep(50).yaml()).ok();
    let point = pair.east.sync("a");
    wait_applied(&pair.west, "a", &point);
    let replica = pair.west.replica("a", "data");
    pair.west.apply(&Plan::new("b").pair("north").volume("data", &replica).keep(50).yaml()).ok();
    let point = pair.west.sync("b");
    wait_applied(&north, "b", &point);
    assert_same(&source, &north.replica("b", "data"));

    for number in 1..=8 {
        write_all(&source, number);
        let mut command = pair.east.command(["sync", "a"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let point = pair.west.sync("b");
        assert!(child.wait().unwrap().success());
        wait_applied(&north, "b", &point);
        assert_one_number(&north.replica("b", "data"));
    }
    let point = pair.east.sync("a");
    wait_applied(&pair.west, "a", &point);
    let out = pair.work("out");
    for (number, point) in north.restore_point_ids("b").iter().enumerate() {
        let to = out.join(number.to_string());
        north
            .cli(["restore", "b", "--restore-point", point, "--volume", "data", "--to", to.to_str().unwrap()])
            .ok();
        assert_one_number(&to);
    }

    // West would be the standby of what is the replica of another plan there.
    pair.west.cli(["switchover", "b"]).refused(&[2], &["plan a", "plan b"]);
    assert_eq!(pair.west.status("b")["role"], "active");

    pair.take_over("a");
    write_all(&replica, 100);
    let point = pair.west.sync("b");
    wait_applied(&north, "b", &point);
    assert_same(&replica, &north.replica("b", "data"));

    // North is promoted all the same: west keeps what it is sent, and goes on with plan a.
    pair.west.allow_errors("which plan");
    north.promote("b", &["--force"]);
    eventually("west has stepped down", Duration::from_secs(60), || {
        pair.west.status("b")["role"] == "standby"
    });
    write_all(&north.replica("b", "data"), 200);
    north.sync("b");
    eventually("west says why it does not apply it", Duration::from_secs(60), || {
        pair.west.status("b")["applyError"]["message"].as_str().is_some_and(|why| why.contains("plan a"))
    });
    assert_eq!(fs::read_to_string(replica.join("file000")).unwrap(), "00000100");
    pair.east.serve();
    pair.wait_connected();
    eventually("east is the standby", Duration::from_secs(60), || pair.east.status("a")["role"] == "standby");
    let point = pair.west.sync("a");
    wait_applied(&pair.east, "a", &point);
    assert_same(&replica, &source);
}
