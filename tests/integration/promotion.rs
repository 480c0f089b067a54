//! Promotion: when it is refused, what it changes, and that nothing older is accepted afterwards.

use std::fs;
use std::path::Path;
use std::time::Duration;

use backstay_tests::{Pair, Plan, SiteOptions, assert_same, copy_tree, eventually, fingerprint, seed, tree};
use serde_json::Value;

/// A pair with one plan of 200 files, synced once.
fn synced() -> (Pair, std::path::PathBuf, Value) {
    let pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 200, &mut seed("promotion"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let point = pair.east.sync("shop");
    (pair, source, point)
}

fn wait_applied(pair: &Pair, id: &Value) {
    eventually("the standby has applied the restore point", Duration::from_secs(30), || {
        pair.west.status("shop")["appliedRestorePoint"] == *id
    });
}

/// Beside a live, active peer promotion needs `--force`; then the peer steps down by itself.
#[test]
fn beside_a_live_peer_it_needs_force() {
    let (pair, source, _) = synced();
    pair.west.cli(["promote", "shop"]).refused(&[4], &["force"]);
    let status = pair.west.status("shop");
    assert_eq!((&status["role"], &status["epoch"]), (&"standby".into(), &1.into()), "{status}");
    let report = pair.west.promote("shop", &["--force"]);
    assert_eq!(report["epoch"], 2, "{report}");
    assert_same(&source, &pair.west.replica("shop", "data"));
    assert_eq!(pair.west.status("shop")["role"], "active");
    eventually("the old active site steps down", Duration::from_secs(20), || {
        let status = pair.east.status("shop");
        status["role"] != "active" && status["epoch"] == 2
    });
    pair.east.cli(["sync", "shop"]).refused(&[4], &[]);
}

/// `--dry-run` prints the plan and touches nothing.
#[test]
fn a_dry_run_touches_nothing() {
    let (mut pair, _, point) = synced();
    wait_applied(&pair, &point["id"]);
    pair.east.kill();
    let before = (fingerprint(&pair.west.replica("shop", "data")), pair.west.status("shop"));
    let report = pair.west.promote("shop", &["--dry-run"]);
    assert!(!report["steps"].as_array().unwrap().is_empty(), "{report}");
    assert_eq!(report["dryRun"], true, "{report}");
    let after = (fingerprint(&pair.west.replica("shop", "data")), pair.west.status("shop"));
    assert_eq!(before.0, after.0);
    for field in ["role", "epoch", "lastRestorePoint", "appliedRestorePoint"] {
        assert_eq!(before.1[field], after.1[field], "{field}");
    }
}

/// An older restore point comes back exactly, and the report tells the loss it means.
#[test]
fn an_older_restore_point_can_be_chosen() {
    let (mut pair, source, first) = synced();
    let copy = pair.work("copy");
    copy_tree(&source, &copy);
    let mut rng = seed("older");
    for _ in 0..2 {
        tree::mutate(&source, 60, &mut rng);
        pair.east.sync("shop");
    }
    pair.east.kill();
    let id = first["id"].as_str().unwrap();
    let report = pair.west.promote("shop", &["--restore-point", id]);
    assert_eq!(report["restorePoint"], first["id"], "{report}");
    assert!(report["rpoSeconds"].as_f64().unwrap() >= 0.0, "{report}");
    assert!(report["rtoSeconds"].as_f64().unwrap() < 30.0, "{report}");
    assert_same(&copy, &pair.west.replica("shop", "data"));
}

/// A promoted site says so when promoted again, and changes nothing, not even the epoch.
#[test]
fn promoting_twice_is_promoting_once() {
    let (mut pair, source, _) = synced();
    let first = pair.take_over("shop");
    let before = fingerprint(&pair.west.replica("shop", "data"));
    let second = pair.west.promote("shop", &[]);
    assert_eq!(first["epoch"], second["epoch"], "{second}");
    assert_eq!(before, fingerprint(&pair.west.replica("shop", "data")));
    pair.west.restart();
    assert_eq!(pair.west.status("shop")["epoch"], first["epoch"]);
    assert_eq!(pair.west.status("shop")["role"], "active");
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// Invariant 8: a site that was away during the promotion comes back with writes of its own. It is refused, it steps
/// down, and the promoted data is not touched.
#[test]
fn an_old_epoch_is_refused() {
    let (mut pair, source, _) = synced();
    let report = pair.take_over("shop");
    assert_eq!(report["epoch"], 2, "{report}");
    let replica = pair.west.replica("shop", "data");
    let before = fingerprint(&replica);
    fs::write(source.join("written-after-the-split"), b"x").unwrap();
    pair.east.allow_errors("");
    pair.east.serve();
    pair.east.cli(["sync", "shop"]).refused(&[4], &[]);
    pair.wait_connected();
    pair.east.cli(["sync", "shop"]).refused(&[4], &[]);
    eventually("the old active site learns the epoch", Duration::from_secs(20), || {
        let status = pair.east.status("shop");
        status["role"] != "active" && status["epoch"] == 2
    });
    assert_eq!(before, fingerprint(&replica), "the promoted replica was touched");
    assert!(source.join("written-after-the-split").is_file(), "a write of the old active site was dropped");
}

/// What the plan wants done once it was promoted is done, in order; what fails is told and holds nothing up. Commands are
/// the standby's to allow.
#[test]
fn hooks_follow_a_promotion() {
    for is_allowed in [true, false] {
        let env = vec![("BACKSTAY_PROMOTE_COMMANDS".to_owned(), is_allowed.to_string())];
        let mut pair = Pair::with(SiteOptions::default(), SiteOptions { env, ..SiteOptions::default() });
        let (source, done) = (pair.source("source"), pair.work("done"));
        tree::small_files(&source, 20, &mut seed("hooks"));
        let script =
            format!("echo $BACKSTAY_PLAN $BACKSTAY_RESTORE_POINT $BACKSTAY_EPOCH >> {}", done.display());
        let field = format!(
            "promoteHooks: [\
               {{name: first, command: [sh, -c, {script:?}], timeout: 2s}}, \
               {{name: broken, command: [sh, -c, 'echo no such zone >&2; exit 3'], timeout: 600ms}}, \
               {{name: last, command: [sh, -c, {script:?}], timeout: 2s}}]"
        );
        pair.east.apply(&Plan::new("shop").volume("data", &source).field(&field).yaml()).ok();
        let point = pair.east.sync("shop");
        let report = pair.take_over("shop");
        let warnings: Vec<&str> =
            report["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap()).collect();
        assert_eq!(pair.west.status("shop")["role"], "active");
        let told = |hook: &str, why: &str| {
            warnings
                .iter()
                .any(|warning| warning.contains(&format!("hook {hook}: ")) && warning.contains(why))
        };
        if is_allowed {
            let line = format!("shop {} 2\n", point["id"].as_str().unwrap());
            assert_eq!(fs::read_to_string(&done).unwrap(), line.repeat(2));
            assert!(
                told("broken", "no such zone") && !told("first", "") && !told("last", ""),
                "{warnings:?}"
            );
        } else {
            assert!(!done.exists());
            assert!(told("first", "promote.commands") && told("last", "promote.commands"), "{warnings:?}");
        }
    }
}

/// What was lost is counted to the last sign of the side that is gone, also by a standby that was restarted since, and not to
/// the moment at which somebody answers the alarm.
#[test]
fn a_loss_is_counted_to_the_last_sign() {
    for restarted in [false, true] {
        let (mut pair, _, _) = synced();
        pair.east.kill();
        let gone = pair.west.status("shop")["lagSeconds"].as_f64().unwrap();
        if restarted {
            pair.west.restart();
        }
        eventually("the alarm is answered late", Duration::from_secs(60), || {
            pair.west.status("shop")["lagSeconds"].as_f64().unwrap() > gone + 20.0
        });
        let report = pair.west.promote("shop", &[]);
        assert_eq!(report["rpoCountedFrom"]["reason"], "lastSign", "{report}");
        assert!(report["rpoSeconds"].as_f64().unwrap() < gone + 15.0, "{report}");
        let again = pair.west.promote("shop", &[]);
        assert_eq!(again["rpoCountedFrom"], report["rpoCountedFrom"], "{again}");
    }
    // A side that answers writes on until it hears of it.
    let (pair, _, _) = synced();
    let report = pair.west.promote("shop", &["--force"]);
    assert_eq!(report["rpoCountedFrom"]["reason"], "promotion", "{report}");
    let (pair, _, _) = synced();
    let report = pair.east.cli(["switchover", "shop", "-o", "json"]).ok().json();
    assert_eq!(
        (&report["rpoSeconds"], &report["rpoCountedFrom"]["reason"]),
        (&0.0.into(), &"held".into()),
        "{report}"
    );
}

/// A plan with nothing to promote, a plan nobody knows, and an id that does not exist.
#[test]
fn there_must_be_something_to_promote() {
    let (pair, _, _) = synced();
    pair.west.cli(["promote", "nothing"]).refused(&[3], &["nothing"]);
    pair.west
        .cli(["promote", "shop", "--force", "--restore-point", "e1-000099"])
        .refused(&[3], &["e1-000099"]);
    pair.west
        .cli(["promote", "shop", "--force", "--restore-point", "yesterday"])
        .refused(&[2], &["yesterday"]);
    assert_eq!(pair.west.status("shop")["role"], "standby");
}

/// `--all` promotes each plan whose standby this site is.
#[test]
fn all_plans_at_once() {
    let mut pair = Pair::start();
    let mut rng = seed("all");
    let sources: Vec<_> = ["one", "two", "three"].map(|name| (name, pair.source(name))).into();
    for (name, source) in &sources {
        tree::small_files(source, 100, &mut rng);
        pair.east.apply(&Plan::new(name).volume("data", source).yaml()).ok();
        pair.east.sync(name);
    }
    pair.east.kill();
    let items = pair.west.cli(["promote", "--all", "-o", "json"]).ok().items();
    assert_eq!(items.len(), 3, "{items:?}");
    for (name, source) in &sources {
        assert_same(source, &pair.west.replica(name, "data"));
        assert_eq!(pair.west.status(name)["role"], "active");
    }
}

/// Invariant 2: the promoting daemon is killed at some moment; the same command again ends as if it had not been.
#[test]
fn a_killed_promotion_goes_on() {
    let mut pair = Pair::start();
    let mut rng = seed("killed promotion");
    let source = pair.source("source");
    tree::small_files(&source, 3000, &mut rng);
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    let first = pair.east.sync("shop");
    let copy = pair.work("copy");
    copy_tree(&source, &copy);
    tree::mutate(&source, 900, &mut rng);
    pair.east.sync("shop");
    pair.east.kill();
    let id = first["id"].as_str().unwrap();
    for millis in [5, 40, 120] {
        let mut command = pair.west.command(["promote", "shop", "--restore-point", id]);
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        pair.west.restart();
        child.wait().unwrap();
    }
    let report = pair.west.promote("shop", &["--restore-point", id]);
    assert_eq!(report["epoch"], 2, "{report}");
    assert_same(&copy, &pair.west.replica("shop", "data"));
    assert_replica_is_clean(&pair, &copy);
}

/// No leftovers of an interrupted apply beside or inside the replica.
fn assert_replica_is_clean(pair: &Pair, expected: &Path) {
    let count = |dir: &Path| fingerprint(dir).lines().count();
    assert_eq!(count(expected), count(&pair.west.replica("shop", "data")));
    pair.west.cli(["verify", "shop"]).ok();
}
