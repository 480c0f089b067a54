//! Commands at the worst moment: what would wait for ever says so, and nobody takes over what was not lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backstay_tests::{Pair, Plan, Site, SiteOptions, Witness, eventually, object, objects_under, seed, tree};
use serde_json::{Value, json};

const SHOP: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: \"nginx:1.27\"}]}
";

/// The shortest `after` that a plan may have.
const AFTER: Duration = Duration::from_secs(5);
/// More than a takeover by itself takes on a busy machine.
const SOON: Duration = Duration::from_secs(40);

/// A volume and a folder of manifests.
struct Sources {
    data: PathBuf,
    manifests: PathBuf,
}

impl Sources {
    fn of(pair: &Pair) -> Sources {
        let sources = Sources { data: pair.source("data"), manifests: pair.source("manifests") };
        tree::small_files(&sources.data, 20, &mut seed("odd moments"));
        fs::write(sources.manifests.join("shop.yaml"), SHOP).unwrap();
        sources
    }

    fn plan(&self) -> Plan {
        Plan::new("shop").volume("data", &self.data).manifests(&self.manifests)
    }
}

fn replicas(dir: &Path) -> Value {
    object(&objects_under(dir), "shop/Deployment/web").pointer("/spec/replicas").cloned().unwrap()
}

/// What is held beside the manifests is not what is looked at here.
const HOLD: &str = "hold: {commands: {hold: ['true'], release: ['true']}}";

/// With a witness, and `after` of 5 s.
fn armed(pair: &mut Pair) -> Sources {
    pair.keep();
    let sources = Sources::of(pair);
    pair.east.apply(&sources.plan().field("automaticFailover: {after: 5s}").field(HOLD).yaml()).ok();
    pair.east.sync("shop");
    wait_would(&pair.west, "this side promotes in");
    wait_would(&pair.east, "this side holds in");
    sources
}

fn settings(witness: &Witness) -> SiteOptions {
    let env = [
        ("BACKSTAY_WITNESS_URL", witness.url()),
        ("BACKSTAY_WITNESS_TOKEN_FILE", witness.token().display().to_string()),
    ];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    SiteOptions { env, ..SiteOptions::default() }
}

fn would(site: &Site) -> String {
    site.status("shop")["automaticFailover"]["wouldDo"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn wait_would(site: &Site, text: &str) {
    eventually(&format!("{} says {text:?}; {}", site.name(), would(site)), SOON, || {
        would(site).contains(text)
    });
}

/// For longer than a takeover could take.
fn stays_standby(site: &Site) {
    let begin = Instant::now();
    while begin.elapsed() < 2 * AFTER {
        assert_eq!(site.status("shop")["role"], "standby", "{}", would(site));
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Whoever deletes a plan ends its replication, and goes on running: the standby, which sees a lease that nobody renews,
/// must not take that for a death.
#[test]
fn a_deleted_plan_is_not_taken_over() {
    let witness = Witness::start();
    let mut pair = Pair::with(settings(&witness), settings(&witness));
    let sources = armed(&mut pair);
    pair.east.cli(["plan", "delete", "shop"]).ok();
    stays_standby(&pair.west);
    assert_eq!(replicas(&sources.manifests), json!(3));
    assert_eq!(replicas(&pair.west.manifests("shop")), json!(0));
    assert_eq!(pair.west.status("shop")["automaticFailover"], Value::Null);
    // The plan that comes back has its lease again.
    pair.east.apply(&sources.plan().field("automaticFailover: {after: 5s}").field(HOLD).yaml()).ok();
    pair.east.sync("shop");
    wait_would(&pair.west, "this side promotes in");
}

/// A standby that cannot be told could come back and take over: the plan stays until it can, or its lease is given back.
#[test]
fn a_plan_whose_standby_cannot_be_told_is_not_deleted() {
    let witness = Witness::start();
    let mut pair = Pair::with(settings(&witness), settings(&witness));
    let sources = armed(&mut pair);
    pair.west.kill();
    pair.east.cli(["plan", "delete", "shop"]).refused(&[5], &["take over by itself", "automaticFailover"]);
    assert_eq!(pair.east.status("shop")["role"], "active");
    pair.east.apply(&sources.plan().yaml()).ok();
    eventually("the lease is given back, and status says so", SOON, || {
        pair.east.status("shop")["automaticFailover"] == Value::Null
    });
    assert!(!pair.east.dir().join("plans/shop/lease.json").exists());
    pair.east.cli(["plan", "delete", "shop"]).ok();
    pair.west.serve();
    pair.wait_connected();
    stays_standby(&pair.west);
}

/// The lease is lost and what runs is held; somebody removes what was noted of it. It still runs again.
#[test]
fn what_is_held_goes_on_without_the_note_of_it() {
    let mut witness = Witness::start();
    let mut pair = Pair::with(settings(&witness), settings(&witness));
    let sources = armed(&mut pair);
    pair.east.allow_errors("");
    witness.kill();
    pair.west.kill();
    wait_would(&pair.east, "this side is held");
    assert_eq!(replicas(&sources.manifests), json!(0));
    fs::remove_file(pair.east.dir().join("plans/shop/standstill.json")).unwrap();
    witness.serve();
    eventually("it runs again", SOON, || {
        // Between two renames the folder shows nothing.
        let shown = objects_under(&sources.manifests);
        shown.get("shop/Deployment/web").is_some_and(|web| web["spec"]["replicas"] == json!(3))
    });
    eventually("and is sent", SOON, || pair.east.status("shop")["role"] == "active");
    assert_eq!(fs::read_to_string(sources.manifests.join("shop.yaml")).unwrap(), SHOP);
}

/// The line breaks in the moment of the offer. Commands on the side that waits say so at once, and what ends the wait.
#[test]
fn a_side_that_waits_for_the_outcome_says_so() {
    let mut pair = Pair::start();
    let sources = Sources::of(&pair);
    pair.east.apply(&sources.plan().yaml()).ok();
    pair.east.sync("shop");
    let point = pair.east.status("shop")["lastRestorePoint"].clone();
    pair.east.kill();
    pair.west.kill();
    // What is on disk after the offer: a crash at that very line.
    let path = pair.east.dir().join("plans/shop/plan.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["role"] = json!("demoting");
    record["handover"] = json!({
        "plan": "shop", "epoch": 2, "askedTime": "2026-01-01T00:00:00Z", "stage": "offered",
        "restorePoint": point, "heldTime": "2026-01-01T00:00:00Z", "steps": [],
    });
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    pair.east.serve();
    let asked = Instant::now();
    for command in [
        &["promote", "shop"][..],
        &["promote", "shop", "--dry-run"],
        &["switchover", "shop"],
        &["failback", "shop"],
        &["sync", "shop"],
        &["plan", "suspend", "shop"],
        &["plan", "delete", "shop"],
    ] {
        pair.east.cli(command).refused(&[4], &["offered it to the peer", "promote shop --force"]);
    }
    assert!(asked.elapsed() < Duration::from_secs(20), "answered after {:?}", asked.elapsed());
    let status = pair.east.status("shop");
    assert!(status["applyError"]["hint"].as_str().unwrap().contains("--force"), "{status}");
    assert_eq!(status["cycle"]["phase"], "handOver", "{status}");

    let report = pair.east.promote("shop", &["--force"]);
    assert_eq!(report["epoch"], 3, "{report}");
    let text = pair.east.cli(["status", "shop"]).ok().stdout;
    assert!(text.contains("active") && !text.contains("--force"), "{text}");
    pair.west.serve();
    pair.wait_connected();
    pair.east.sync("shop");
    assert_eq!(pair.west.status("shop")["role"], "standby");
}

/// Two sides that were made active for plans of one name while they did not see each other. The operator is told what to
/// do, and it works.
#[test]
fn of_two_active_sides_one_gives_way() {
    let mut pair = Pair::start();
    let sources = Sources::of(&pair);
    pair.east.allow_errors("both sites are active");
    pair.west.allow_errors("both sites are active");
    pair.west.kill();
    eventually("east knows that west is gone", SOON, || {
        pair.east.cli(["pair", "list", "-o", "json"]).ok().items()[0]["connected"] == false
    });
    pair.east.apply(&sources.plan().yaml()).ok();
    pair.east.kill();
    pair.west.serve();
    let other = pair.source("other");
    tree::small_files(&other, 5, &mut seed("other"));
    pair.west.apply(&Plan::new("shop").pair("east").volume("data", &other).yaml()).ok();
    pair.east.serve();
    pair.wait_connected();
    eventually("both say so", SOON, || {
        [&pair.east, &pair.west].iter().all(|site| {
            let outcome = site.cli(["sync", "shop"]);
            outcome.code == 4 && outcome.stderr.contains("delete plan shop on the site that is to give way")
        })
    });
    pair.west.cli(["plan", "delete", "shop"]).ok();
    pair.east.sync("shop");
    assert_eq!(pair.east.status("shop")["suspended"], false);
    assert_eq!(pair.west.status("shop")["role"], "standby");
}

/// A promotion that was cut off, and whose rest fails when the daemon starts: nobody has to ask again.
#[test]
fn a_cut_off_promotion_is_tried_until_it_is_done() {
    let mut pair = Pair::start();
    let sources = Sources::of(&pair);
    pair.west.allow_errors("promotion stopped");
    pair.east.apply(&sources.plan().yaml()).ok();
    pair.east.sync("shop");
    eventually("it is applied", SOON, || {
        pair.west.status("shop")["appliedRestorePoint"] == pair.east.status("shop")["lastRestorePoint"]
    });
    pair.east.kill();
    let held = files_of(&pair.west.manifests("shop"))
        .into_iter()
        .find(|path| fs::read_to_string(path).unwrap().contains("Deployment"));
    let held = held.unwrap();
    // What somebody changed in a held file is put right; a file of his own in its place is left alone, and in the way.
    fs::write(&held, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: by-hand, namespace: shop}\n")
        .unwrap();
    pair.west.cli(["promote", "shop"]).refused(&[7], &[]);
    assert_eq!(pair.west.status("shop")["role"], "promoting");
    pair.west.restart();
    eventually("it is tried at the start", SOON, || pair.west.cli(["audit"]).ok().stdout.contains("resumed"));
    assert_eq!(pair.west.status("shop")["role"], "promoting");
    fs::remove_file(&held).unwrap();
    eventually("it is tried again", SOON, || pair.west.status("shop")["role"] == "active");
    assert_eq!(replicas(&pair.west.manifests("shop")), json!(3));
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { found.extend(files_of(&entry)) } else { found.push(entry) }
    }
    found
}
