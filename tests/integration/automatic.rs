//! Automatic failover with a witness: who takes over, who holds, and who must not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backstay_tests::{Pair, Plan, Site, SiteOptions, Witness, assert_same, eventually, seed, tree};
use serde_json::Value;

/// The shortest `after` that a plan may have.
const AFTER: Duration = Duration::from_secs(5);
/// How long after a death the standby has taken over at the latest: `Terms::takeover_within` of 5 s is 7.8 s, and the
/// promotion of 100 files takes a moment on a busy machine.
const TAKEN_OVER: Duration = Duration::from_secs(20);

fn settings(url: &str, token: Option<&Path>) -> SiteOptions {
    let mut env = vec![("BACKSTAY_WITNESS_URL".to_owned(), url.to_owned())];
    env.extend(token.map(|token| ("BACKSTAY_WITNESS_TOKEN_FILE".to_owned(), token.display().to_string())));
    SiteOptions { env, ..SiteOptions::default() }
}

fn plan(source: &Path) -> Plan {
    Plan::new("shop").volume("data", source).field("automaticFailover: {after: 5s}").field(HOLD)
}

/// What there is to hold is not what is looked at here.
const HOLD: &str = "hold: {commands: {hold: ['true'], release: ['true']}}";

/// A pair whose plan has its lease, and whose standby has seen it.
fn armed(pair: &mut Pair, manifests: Option<&Path>) -> PathBuf {
    pair.keep();
    let source = pair.source("source");
    tree::small_files(&source, 100, &mut seed("automatic"));
    let mut plan = plan(&source);
    if let Some(manifests) = manifests {
        plan = plan.manifests(manifests);
    }
    pair.east.apply(&plan.yaml()).ok();
    pair.east.sync("shop");
    wait_would(&pair.west, "this side promotes in");
    wait_would(&pair.east, "this side holds in");
    assert_eq!(automatic(&pair.west)["holder"], "east");
    source
}

fn automatic(site: &Site) -> Value {
    site.status("shop")["automaticFailover"].clone()
}

#[track_caller]
fn wait_would(site: &Site, text: &str) {
    eventually(&format!("{} says {text:?}; {}", site.name(), automatic(site)), TAKEN_OVER, || {
        automatic(site)["wouldDo"].as_str().is_some_and(|would| would.contains(text))
    });
}

fn roles(pair: &Pair) -> (Value, Value) {
    (pair.east.status("shop")["role"].clone(), pair.west.status("shop")["role"].clone())
}

/// For so long nothing may change: longer than a takeover could take.
fn nothing_happens(pair: &Pair) {
    let begin = Instant::now();
    while begin.elapsed() < 2 * AFTER {
        assert_eq!(roles(pair), ("active".into(), "standby".into()));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[track_caller]
fn wait_active(site: &Site) {
    eventually(&format!("{} takes over; {}", site.name(), automatic(site)), TAKEN_OVER, || {
        site.status("shop")["role"] == "active"
    });
}

/// The active site dies: the standby takes over by itself, not before its time and not much after, and the old active
/// site steps down when it comes back.
#[test]
fn a_dead_site_is_taken_over() {
    let witness = Witness::start();
    let options = || settings(&witness.url(), Some(&witness.token()));
    let mut pair = Pair::with(options(), options());
    let source = armed(&mut pair, None);
    pair.east.kill_machine();
    let died = Instant::now();
    wait_active(&pair.west);
    let took = died.elapsed();
    println!("taken over after {took:?}");
    // Half of a renewal may have been young; `after` itself is counted from the last one.
    assert!(took >= AFTER * 8 / 10, "after {took:?}");
    let status = pair.west.status("shop");
    assert_eq!(status["epoch"], 2, "{status}");
    assert_same(&source, &pair.west.replica("shop", "data"));
    let audit = pair.west.cli(["audit"]).ok().stdout;
    assert!(audit.contains("automatic failover at epoch 2"), "{audit}");
    pair.east.allow_errors("");
    pair.east.serve();
    eventually("the old active site steps down", TAKEN_OVER, || {
        let status = pair.east.status("shop");
        status["role"] != "active" && status["epoch"] == 2
    });
    assert_eq!(pair.west.status("shop")["role"], "active");
}

/// The witness is killed and started again, and with it what it knew: nothing happens, both sides say so, and it is of
/// use again.
#[test]
fn a_witness_that_is_down_stops_nothing() {
    let mut witness = Witness::start();
    let options = || settings(&witness.url(), Some(&witness.token()));
    let mut pair = Pair::with(options(), options());
    armed(&mut pair, None);
    witness.kill();
    for site in [&pair.east, &pair.west] {
        eventually("status says that the witness is away", TAKEN_OVER, || {
            automatic(site)["reachable"] == false
        });
        assert!(automatic(site)["error"].as_str().is_some_and(|error| error.contains("witness")));
    }
    nothing_happens(&pair);
    assert_eq!(automatic(&pair.west)["wouldDo"], "nothing: without the witness nobody promotes");
    let text = pair.east.cli(["status", "shop"]).ok().stdout;
    assert!(text.contains("NOT REACHED"), "{text}");
    witness.serve();
    wait_would(&pair.west, "this side promotes in");
    nothing_happens(&pair);
    pair.east.kill_machine();
    wait_active(&pair.west);
}

/// Without the witness a dead active side is not taken over, and with it again the standby waits its whole time.
#[test]
fn without_a_witness_nobody_takes_over() {
    let mut witness = Witness::start();
    let options = || settings(&witness.url(), Some(&witness.token()));
    let mut pair = Pair::with(options(), options());
    armed(&mut pair, None);
    witness.kill();
    pair.east.kill_machine();
    let begin = Instant::now();
    while begin.elapsed() < 2 * AFTER {
        assert_eq!(pair.west.status("shop")["role"], "standby");
        std::thread::sleep(Duration::from_millis(200));
    }
    let back = Instant::now();
    witness.serve();
    wait_active(&pair.west);
    assert!(back.elapsed() >= AFTER, "{:?}", back.elapsed());
}

/// The sites lose each other, and both reach the witness: the active side renews, nobody takes over, nothing is held.
#[test]
fn a_cut_between_the_sites_stops_nothing() {
    let witness = Witness::start();
    let options = || settings(&witness.url(), Some(&witness.token()));
    let mut pair = Pair::with(options(), options());
    armed(&mut pair, None);
    pair.east.cli(["pair", "remove", "west"]).ok();
    nothing_happens(&pair);
    wait_would(&pair.east, "this side holds in");
}

/// The active side loses the witness and the peer: it holds what runs there before the standby takes over.
#[test]
fn an_isolated_site_holds_before_the_other_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("east"), folder.path().join("west"));
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    // Two ways to one folder: taking one away is cutting one site off.
    for way in [&ours, &theirs] {
        std::os::unix::fs::symlink(&shared, way).unwrap();
    }
    let options = |way: &Path| settings(&format!("file://{}", way.display()), None);
    let mut pair = Pair::with(options(&ours), options(&theirs));
    // The cut is made by removing the pair, and stepping down asks for the peer.
    pair.east.allow_errors("there is no peer");
    armed(&mut pair, None);
    fs::remove_file(&ours).unwrap();
    pair.east.cli(["pair", "remove", "west"]).ok();
    let mut held = None;
    eventually("the standby takes over", TAKEN_OVER, || {
        let would = automatic(&pair.east)["wouldDo"].clone();
        if held.is_none() && would.as_str().is_some_and(|would| would.contains("is held")) {
            held = Some(Instant::now());
            assert_eq!(pair.west.status("shop")["role"], "standby");
        }
        pair.west.status("shop")["role"] == "active"
    });
    assert!(held.is_some(), "the active side was never held: {}", automatic(&pair.east));
    // With the way back it learns what happened.
    std::os::unix::fs::symlink(&shared, &ours).unwrap();
    eventually("the old active site steps down", TAKEN_OVER, || {
        let status = pair.east.status("shop");
        status["role"] != "active" && status["epoch"] == 2
    });
}

/// A side that cannot read what binds it is bound: it holds unless it is heard, and lets go once the other side cannot
/// have taken over.
#[test]
fn a_side_that_does_not_know_what_binds_it_holds() {
    let mut witness = Witness::start();
    let options = || settings(&witness.url(), Some(&witness.token()));
    let mut pair = Pair::with(options(), options());
    pair.east.allow_errors("lease.json");
    armed(&mut pair, None);
    witness.kill();
    pair.west.kill();
    pair.east.terminate();
    fs::write(pair.east.dir().join("plans/shop/lease.json"), "{").unwrap();
    pair.east.serve();
    wait_would(&pair.east, "is held");
    witness.serve();
    wait_would(&pair.east, "this side holds in");
}

/// A plan that wants no automatic failover any more gives its lease back, and then its active side may die in peace.
#[test]
fn a_released_lease_is_not_taken() {
    let witness = Witness::start();
    let options = || settings(&witness.url(), Some(&witness.token()));
    let mut pair = Pair::with(options(), options());
    let source = armed(&mut pair, None);
    pair.east.apply(&Plan::new("shop").volume("data", &source).field(HOLD).yaml()).ok();
    let kept = pair.east.dir().join("plans/shop/lease.json");
    eventually("the lease is given back", TAKEN_OVER, || !kept.exists());
    assert_eq!(automatic(&pair.east), Value::Null);
    pair.east.kill_machine();
    let begin = Instant::now();
    while begin.elapsed() < 2 * AFTER {
        assert_eq!(pair.west.status("shop")["role"], "standby");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(automatic(&pair.west)["wouldDo"], "nothing: the active side has no lease at the witness");
}

/// A wrong token, another server, no witness at all: told with a hint, and nothing happens.
#[test]
fn a_witness_that_cannot_be_used_is_told() {
    let (witness, other) = (Witness::start(), Witness::start());
    let wrong_server = witness.url().replace(&witness.fingerprint(), &other.fingerprint());
    let mut pair = Pair::with(
        settings(&witness.url(), Some(&other.token())),
        settings(&wrong_server, Some(&witness.token())),
    );
    pair.keep();
    let source = pair.source("source");
    tree::small_files(&source, 10, &mut seed("witness"));
    pair.east.apply(&plan(&source).yaml()).ok();
    pair.east.sync("shop");
    for (site, text) in [(&pair.east, "token"), (&pair.west, "expected the server")] {
        eventually(&format!("{} says {text}: {}", site.name(), automatic(site)), TAKEN_OVER, || {
            automatic(site)["error"].as_str().is_some_and(|error| error.contains(text))
        });
    }
    nothing_happens(&pair);
    let metrics = pair.east.cli(["status", "shop", "-o", "wide"]).ok().stdout;
    assert!(metrics.contains("no lease at the witness yet"), "{metrics}");
    let short = plan(&source).yaml().replace("after: 5s", "after: 4s");
    pair.east.apply(&short).refused(&[2], &["automaticFailover.after"]);
}
