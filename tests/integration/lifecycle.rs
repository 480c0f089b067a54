//! The life of a plan without a cluster: where it begins, and what its end is on the other side.

use std::fs;
use std::time::Duration;

use backstay_tests::{Pair, Plan, Site, eventually, seed, tree};

const SOON: Duration = Duration::from_secs(40);

/// A plan `shop` of east, with a restore point at west.
fn shop(pair: &Pair) -> Plan {
    let source = pair.source("source");
    tree::small_files(&source, 10, &mut seed("life of a plan"));
    let plan = Plan::new("shop").volume("data", &source);
    pair.east.apply(&plan.yaml()).ok();
    pair.east.sync("shop");
    plan
}

/// The other way round, of another folder.
fn against(pair: &Pair) -> Plan {
    Plan::new("shop").pair("east").volume("data", &pair.source("other"))
}

/// Somebody loses what a site knows of its plans.
fn forget_plans(site: &mut Site) {
    site.terminate();
    fs::remove_dir_all(site.dir().join("plans")).unwrap();
}

/// A side that has forgotten its plan makes none of that name beside the other, which runs it.
#[test]
fn a_plan_that_the_peer_runs_is_not_begun() {
    let mut pair = Pair::start();
    shop(&pair);
    forget_plans(&mut pair.west);
    pair.west.serve();
    pair.wait_connected();
    let refused = pair.west.apply(&against(&pair).yaml());
    refused.refused(&[4], &["the other side runs a plan of this name, at epoch 1", "backstay sync shop"]);
    pair.west.cli(["status", "shop"]).refused(&[3], &["shop"]);
    assert_eq!(pair.east.status("shop")["role"], "active");
    pair.east.sync("shop");
    assert_eq!(pair.west.status("shop")["role"], "standby");
}

/// The same while the other cannot be asked: what is begun then claims nothing, and the side that runs the plan goes on.
#[test]
fn a_plan_begun_while_the_peer_was_away_makes_nobody_step_down() {
    let mut pair = Pair::start();
    shop(&pair);
    pair.west.allow_errors("both sites are active");
    forget_plans(&mut pair.west);
    pair.east.kill();
    pair.west.serve();
    pair.west.apply(&against(&pair).yaml()).ok();
    pair.east.serve();
    pair.wait_connected();
    // East asks whoever connects what it knows, and hears no claim each time.
    for _ in 0..3 {
        pair.west.restart();
        pair.wait_connected();
        eventually("the new one says what to do", SOON, || {
            let outcome = pair.west.cli(["sync", "shop"]);
            outcome.code == 4 && outcome.stderr.contains("delete plan shop on the site that is to give way")
        });
    }
    assert_eq!(pair.east.status("shop")["role"], "active");
    assert!(!pair.east.log().contains("both sites are active"), "the one that ran all along is troubled");
    pair.west.cli(["plan", "delete", "shop"]).ok();
    pair.east.sync("shop");
    assert_eq!(pair.west.status("shop")["role"], "standby");
    assert_eq!(pair.east.status("shop")["epoch"], 1);
}

/// A deleted plan is shown as ended on its standby, and no order for all plans takes it over.
#[test]
fn a_standby_that_was_away_hears_of_the_end() {
    let mut pair = Pair::start();
    let plan = shop(&pair);
    pair.west.kill();
    pair.east.cli(["plan", "delete", "shop"]).ok();
    pair.west.serve();
    pair.wait_connected();
    eventually("the standby knows", SOON, || pair.west.status("shop")["ended"] == true);
    let listed = pair.west.cli(["plan", "list", "-o", "json"]).ok().items();
    assert_eq!(listed[0]["ended"], true, "{listed:?}");
    pair.west.cli(["promote", "--all"]).ok();
    assert_eq!(pair.west.status("shop")["role"], "standby");
    pair.west.cli(["promote", "shop"]).refused(&[4], &["at its end", "--force", "backstay plan delete shop"]);
    assert_eq!(pair.west.status("shop")["role"], "standby");

    // Begun again, it is a plan like any other.
    pair.east.apply(&plan.yaml()).ok();
    pair.east.sync("shop");
    assert_eq!(pair.west.status("shop")["ended"], false);
    pair.east.cli(["plan", "delete", "shop"]).ok();
    eventually("the standby knows again", SOON, || pair.west.status("shop")["ended"] == true);
    pair.west.cli(["promote", "shop", "--force"]).ok();
    assert_eq!(pair.west.status("shop")["role"], "active");
    assert_eq!(pair.west.status("shop")["ended"], false);
}
