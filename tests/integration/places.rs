//! Places are local: what a peer says of a plan's places and commands acts nowhere until somebody has accepted it.
//!
//! The hostile peer is the stock program with its own state edited: it may say anything of the plan that the wire can carry.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use backstay_tests::{Pair, Plan, Site, SiteOptions, assert_same, eventually, fingerprint, seed, tree};
use serde_json::{Value, json};

const MANIFEST: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: shop}\ndata: {a: b}\n";

/// Changes the plan as a site has it on disk; its daemon is down.
fn edit(site: &Site, change: impl FnOnce(&mut Value)) {
    let path = site.dir().join("plans/shop/plan.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut record["spec"]);
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
}

fn wait_standby(site: &Site) {
    eventually("it has stepped down", Duration::from_secs(60), || site.status("shop")["role"] == "standby");
}

#[track_caller]
fn wait_applied(site: &Site, point: &Value) {
    eventually("the standby shows it", Duration::from_secs(60), || {
        site.status("shop")["appliedRestorePoint"] == point["id"]
    });
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// A plan that west, its standby, was promoted with while east was away. East is down.
fn taken_over() -> (Pair, PathBuf) {
    let mut pair = Pair::start();
    let (source, manifests) = (pair.source("source"), pair.source("manifests"));
    tree::small_files(&source, 20, &mut seed("places"));
    fs::write(manifests.join("settings.yaml"), MANIFEST).unwrap();
    let plan = Plan::new("shop").volume("data", &source).manifests(&manifests);
    pair.east.apply(&plan.yaml()).ok();
    pair.east.sync("shop");
    pair.take_over("shop");
    (pair, source)
}

/// A folder with something in it that is nobody else's business.
fn victim(pair: &Pair, name: &str) -> PathBuf {
    let path = pair.source(name);
    fs::write(path.join("precious"), name).unwrap();
    path
}

/// A peer that was taken over says that the volumes, the manifests and the snapshot commands of the plan are others: at home
/// nothing is written, read or run for it, before and after the plan comes home; and everybody can see it.
#[test]
fn nothing_outside_the_places_of_home_is_touched() {
    let (mut pair, source) = taken_over();
    let victims = ["data", "extra", "manifests"].map(|name| victim(&pair, &format!("victim-{name}")));
    let [path, extra, manifests] = &victims;
    let before = victims.clone().map(|victim| fingerprint(&victim));
    let ran = pair.work("ran");
    pair.west.kill();
    let command =
        json!({"provider": "command", "create": ["/bin/sh", "-c", format!("id > {}", ran.display())]});
    edit(&pair.west, |spec| {
        spec["volumes"] = json!([
            {"name": "data", "path": path, "snapshot": command},
            {"name": "extra", "path": extra, "snapshot": command},
        ]);
        spec["manifests"] = json!({"path": manifests});
        spec["promoteHooks"] =
            json!([{"name": "run", "command": ["/bin/sh", "-c", format!("id > {}", ran.display())]}]);
        spec["suspend"] = json!(true);
    });
    for volume in ["data", "extra"] {
        fs::create_dir_all(pair.west.replica("shop", volume)).unwrap();
        fs::write(pair.west.replica("shop", volume).join("evil"), "from the other side").unwrap();
    }
    pair.west.serve();
    pair.east.serve();
    pair.wait_connected();
    wait_standby(&pair.east);
    let point = pair.west.sync("shop");
    wait_applied(&pair.east, &point);

    let untouched = || {
        for (victim, before) in victims.iter().zip(&before) {
            assert_eq!(*before, fingerprint(victim), "{} was touched", victim.display());
        }
        assert!(!ran.exists(), "a command of the peer was run");
    };
    untouched();
    // What was accepted long ago goes on: the volume is where its operator said.
    assert_same(&pair.west.replica("shop", "data"), &source);
    // What the active side may change it has changed.
    let told = pair.east.cli(["plan", "get", "shop", "-o", "json"]).ok().json();
    assert_eq!(told["spec"]["suspend"], true, "{told}");
    assert_eq!(
        told["spec"]["volumes"],
        json!([{"name": "data", "path": source, "snapshot": {"provider": "auto"}}])
    );

    let status = pair.east.status("shop")["proposed"].clone();
    assert_eq!(strings(&status["fields"]), ["promoteHooks", "volumes", "manifests"], "{status}");
    assert_eq!(strings(&status["withheld"]), ["volume extra"], "{status}");
    let changes = pair.east.cli(["plan", "diff", "shop", "-o", "json"]).ok().items();
    let volumes = changes.iter().find(|change| change["field"] == "volumes").unwrap();
    assert_eq!(volumes["own"][0]["path"], json!(source), "{volumes}");
    assert_eq!(volumes["proposed"][1]["path"], json!(extra), "{volumes}");
    assert!(pair.east.cli(["status", "shop"]).ok().stdout.contains("volume extra"));
    let audit = pair.east.cli(["audit", "-o", "json"]).ok().stdout;
    assert!(audit.contains("peer:west") && audit.contains("planPropose"), "{audit}");

    // What was withheld is no replica: there is nothing to compare or to repair.
    let verified = pair.east.cli(["verify", "shop", "--repair", "-o", "json"]).ok().json();
    assert_eq!(verified["replicas"], 1, "{verified}");
    untouched();

    // The side that said it learns that it was not accepted.
    pair.west.sync("shop");
    let there = pair.west.status("shop")["peerProposed"].clone();
    assert_eq!(strings(&there["withheld"]), ["volume extra"], "{there}");
    untouched();

    pair.west.cli(["failback", "shop"]).ok();
    untouched();
    let point = pair.east.sync("shop");
    untouched();
    let read: Vec<_> =
        point["volumes"].as_array().unwrap().iter().map(|volume| volume["name"].clone()).collect();
    assert_eq!(read, ["data"], "{point}");
    pair.east.restart();
    assert_eq!(pair.east.status("shop")["role"], "active");
    untouched();
    pair.east.cli(["verify"]).ok();
}

/// What is proposed becomes the plan of this site once its operator says so, and what was kept of it is applied then.
#[test]
fn what_is_accepted_acts() {
    let (mut pair, source) = taken_over();
    let more = pair.work("more");
    pair.west.kill();
    edit(&pair.west, |spec| {
        let volumes = spec["volumes"].as_array_mut().unwrap();
        volumes.push(json!({"name": "more", "path": more}));
        spec["minimumConsistency"] = json!("fuzzy");
    });
    let there = pair.west.replica("shop", "more");
    fs::create_dir_all(&there).unwrap();
    tree::small_files(&there, 20, &mut seed("more"));
    pair.west.serve();
    pair.east.serve();
    pair.wait_connected();
    wait_standby(&pair.east);
    let point = pair.west.sync("shop");
    wait_applied(&pair.east, &point);
    assert!(!more.exists());

    // A place must be there before it is accepted, as when a plan is applied.
    pair.east.cli(["plan", "accept", "shop"]).refused(&[2], &["more"]);
    fs::create_dir(&more).unwrap();
    let accepted = pair.east.cli(["plan", "accept", "shop", "-o", "json"]).ok().json();
    let fields: Vec<_> =
        accepted["accepted"].as_array().unwrap().iter().map(|one| one["field"].clone()).collect();
    assert_eq!(fields, ["volumes", "minimumConsistency"], "{accepted}");
    eventually("what was withheld is applied", Duration::from_secs(60), || {
        pair.east.status("shop")["proposed"].is_null() && fs::read_dir(&more).unwrap().next().is_some()
    });
    assert_same(&there, &more);
    assert_same(&pair.west.replica("shop", "data"), &source);
    let again = pair.east.cli(["plan", "accept", "shop", "-o", "json"]).ok().json();
    assert_eq!(again["accepted"], json!([]));
    pair.west.sync("shop");
    assert!(pair.west.status("shop")["peerProposed"].is_null());
    pair.west.cli(["failback", "shop"]).ok();
    assert_eq!(pair.east.status("shop")["role"], "active");
    let audit = pair.east.cli(["audit", "-o", "json"]).ok().stdout;
    assert!(audit.contains("planAccept"), "{audit}");
}

/// A plan of the other side says where this one connects to only as far as its operator allows it.
#[test]
fn nobody_is_called_without_leave() {
    for is_allowed in [false, true] {
        let env =
            ["DRILL", "PROMOTE"].map(|what| (format!("BACKSTAY_{what}_NETWORK"), is_allowed.to_string()));
        let west = SiteOptions { env: env.into(), ..SiteOptions::default() };
        let mut pair = Pair::with(SiteOptions::default(), west);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let called = || listener.accept().is_ok();
        let probes = format!("{{name: port, tcp: '{address}', timeout: 5s}}");
        let source = pair.source("source");
        tree::small_files(&source, 5, &mut seed("called"));
        let plan = Plan::new("shop")
            .volume("data", &source)
            .field(&format!("promoteHooks: [{probes}]"))
            .field(&format!("drill: {{probes: [{probes}]}}"));
        pair.east.apply(&plan.yaml()).ok();
        let point = pair.east.sync("shop");
        wait_applied(&pair.west, &point);
        let drill = pair.west.cli(["drill", "shop", "-o", "json"]).exits(&[if is_allowed { 0 } else { 1 }]);
        assert_eq!((called(), drill.stdout.contains("drill.network")), (is_allowed, !is_allowed), "{drill}");
        let report = pair.take_over("shop")["warnings"].to_string();
        assert_eq!((called(), report.contains("promote.network")), (is_allowed, !is_allowed), "{report}");
    }
}
