//! Plans, commands and settings that cannot be right.

use std::fs;

use backstay_tests::{Pair, Plan, Site, SiteOptions, run_backstay, seed, tree};

/// An unknown field is named, with the one that was meant.
#[test]
fn an_unknown_field_is_named() {
    let pair = Pair::start();
    let source = pair.source("source");
    let plan = Plan::new("shop").volume("data", &source);
    let cases = [
        (plan.clone().field("schedule: {intervall: 5m}"), ["intervall", "interval"]),
        (plan.clone().field("retentoin: {last: 3}"), ["retentoin", "retention"]),
        (plan.raw_volume("{name: more, pth: /tmp}"), ["pth", "path"]),
    ];
    for (plan, words) in cases {
        pair.east.apply(&plan.yaml()).refused(&[2], &words);
    }
    assert!(pair.east.cli(["plan", "list", "-o", "json"]).ok().items().is_empty(), "a refused plan was kept");
}

/// Values that no plan can have.
#[test]
fn an_impossible_plan_is_refused_whole() {
    let pair = Pair::start();
    let source = pair.source("source");
    let good = Plan::new("good").volume("data", &source).yaml();
    let base = || Plan::new("shop");
    let data = || base().volume("data", &source);
    let cases = [
        (data().volume("data", &source).yaml(), "data"),
        (data().field("schedule: {interval: soon}").yaml(), "soon"),
        (data().field("schedule: {cron: \"61 * * * *\"}").yaml(), "cron"),
        (data().field("schedule: {daily: {time: \"25:00\"}}").yaml(), "25:00"),
        (data().field("schedule: {interval: 1h, timeZone: Mars/Olympus}").yaml(), "Mars/Olympus"),
        (base().raw_volume("{name: data}").yaml(), "data"),
        (base().raw_volume("{name: data, path: relative/path}").yaml(), "relative/path"),
        (base().raw_volume("{name: Data_1, path: /tmp}").yaml(), "Data_1"),
        (base().yaml(), "volumes"),
        (data().field("namespaces: [Not_A_Name]").yaml(), "Not_A_Name"),
        (data().field("preExecRule: flush").yaml(), "preExecRule"),
        (data().yaml().replace("backstay.dev/v1alpha1", "backstay.dev/v9"), "v9"),
        (data().yaml().replace("ReplicationPlan", "ReplicationPlane"), "ReplicationPlane"),
        ("not: [yaml".to_owned(), ""),
        ("a: &a [*a, *a]\n".to_owned(), ""),
    ];
    for (bad, word) in &cases {
        pair.east.apply(bad).refused(&[2], &[word]);
        // A bad document beside a good one: neither is taken.
        pair.east.apply(&format!("{good}---\n{bad}")).refused(&[2], &[word]);
    }
    assert!(pair.east.cli(["plan", "list", "-o", "json"]).ok().items().is_empty(), "a refused plan was kept");
}

/// A peer that is not paired.
#[test]
fn an_unknown_peer_is_named() {
    let pair = Pair::start();
    let source = pair.source("source");
    let output = pair.east.apply(&Plan::new("shop").pair("mars").volume("data", &source).yaml());
    output.refused(&[2, 3], &["mars"]);
}

/// Applying is idempotent and says what it did; deleting what is gone is done already.
#[test]
fn applying_and_deleting_twice() {
    let pair = Pair::start();
    let source = pair.source("source");
    let plan = Plan::new("shop").volume("data", &source);
    let result = |yaml: &str| pair.east.apply(yaml).ok().stdout.to_lowercase();
    assert!(result(&plan.yaml()).contains("created"));
    assert!(result(&plan.yaml()).contains("unchanged"));
    assert!(result(&plan.keep(3).yaml()).contains("configured"));
    pair.east.cli(["plan", "get", "shop"]).ok();
    pair.east.cli(["plan", "delete", "shop"]).ok();
    pair.east.cli(["plan", "delete", "shop"]).ok();
    pair.east.cli(["plan", "get", "shop"]).refused(&[3], &["shop"]);
}

/// Commands about what does not exist, or asked of the wrong side.
#[test]
fn wrong_commands_say_why() {
    let pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 20, &mut seed("commands"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    pair.east.cli(["sync", "nothing"]).refused(&[3], &["nothing"]);
    pair.east.cli(["status", "nothing"]).refused(&[3], &["nothing"]);
    pair.west.cli(["sync", "shop"]).refused(&[4], &["standby"]);
    pair.east.cli(["promote", "shop"]).exits(&[0, 4]);
    pair.west
        .cli(["restore", "shop", "--volume", "nothing", "--to", "/tmp/never"])
        .refused(&[2, 3], &["nothing"]);
    let full = pair.source("full");
    fs::write(full.join("precious"), b"x").unwrap();
    let to = full.to_str().unwrap();
    pair.west.cli(["restore", "shop", "--volume", "data", "--to", to]).refused(&[1, 2, 4], &["empty"]);
    assert_eq!(fs::read(full.join("precious")).unwrap(), b"x");
    pair.west.cli(["pair", "rotate", "mars"]).refused(&[3], &["mars"]);
    assert_eq!(run_backstay(&["no-such-command"]).code, 2);
    assert_eq!(run_backstay(&["sync"]).code, 2);
}

/// A daemon that does not run, a folder that is no site, and a folder that is taken.
#[test]
fn a_site_that_is_not_there() {
    let mut site = Site::start("east");
    site.terminate();
    site.cli(["status"]).refused(&[5], &["serve"]);
    let nowhere = tempfile::tempdir().unwrap();
    let dir = nowhere.path().to_str().unwrap();
    run_backstay(&["serve", "--site", dir]).refused(&[2, 3], &["init"]);
    fs::write(nowhere.path().join("file"), b"x").unwrap();
    let before = fs::read_dir(nowhere.path()).unwrap().count();
    run_backstay(&["init", "--site", dir, "--name", "east"]).refused(&[1, 2, 4], &["empty"]);
    assert_eq!(fs::read_dir(nowhere.path()).unwrap().count(), before);
}

/// Two daemons of one site would write over each other.
#[test]
fn a_second_daemon_is_refused() {
    let site = Site::start("east");
    site.cli(["serve"]).refused(&[1, 4], &[]);
    site.cli(["status"]).ok();
}

/// An unknown setting is named, with the one that was meant.
#[test]
fn an_unknown_setting_is_named() {
    let site = Site::init("east", SiteOptions::default());
    let config = site.dir().join("site.toml");
    let text = fs::read_to_string(&config).unwrap();
    for (line, words) in [
        ("[limits]\nmemroy = \"1GiB\"", ["memroy", "memory"]),
        ("[limitz]\nmemory = \"1GiB\"", ["limitz", "limits"]),
        ("[limits]\nmemory = \"lots\"", ["lots", "memory"]),
    ] {
        let bad: String = text
            .lines()
            .filter(|line| line.starts_with("name") || line.starts_with("listen"))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&config, format!("{bad}\n{line}\n")).unwrap();
        site.cli(["serve"]).refused(&[2], &words);
    }
}
