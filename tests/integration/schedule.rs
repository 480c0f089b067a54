//! The daemon alone: plans run when they are due, one cycle at a time, and a missed run is made up for once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use backstay_tests::{
    Pair, Plan, Site, assert_same, eventually, eventually_some, seconds_between, seed, tree,
};
use serde_json::Value;

/// Seconds a cycle of these small trees may take beyond its schedule on a busy machine.
const SLACK_SECONDS: f64 = 8.0;

/// Writes into folders for as long as it lives.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// New files, whole at once: what a cycle sees of one is all of it or nothing.
    fn start(folders: Vec<PathBuf>) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut rng = seed("writer");
            for number in 0_u32.. {
                for folder in &folders {
                    let (hidden, name) =
                        (folder.with_extension("next"), folder.join(format!("n{}", number % 40)));
                    fs::write(&hidden, tree::random_bytes(&mut rng, 3000)).unwrap();
                    fs::rename(&hidden, &name).unwrap();
                }
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Writer { stop, thread: Some(thread) }
    }

    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Two plans of two volumes each, applied; gives their names and sources.
fn two_plans(pair: &Pair, interval: &str) -> Vec<(&'static str, Vec<PathBuf>)> {
    let plans: Vec<_> = ["shop", "wiki"]
        .map(|plan| (plan, ["data", "media"].map(|volume| pair.source(&format!("{plan}-{volume}"))).to_vec()))
        .into();
    for (plan, sources) in &plans {
        for source in sources {
            tree::small_files(source, 60, &mut seed(plan));
        }
        // They are written to while they are read, and this is not about what instant they show.
        let plan = Plan::new(plan).volume("data", &sources[0]).volume("media", &sources[1]);
        let plan = plan.field("minimumConsistency: fuzzy");
        pair.east.apply(&plan.interval(interval).keep(100).yaml()).ok();
    }
    plans
}

fn times(site: &Site, plan: &str, field: &str) -> Vec<String> {
    let mut times: Vec<_> =
        site.restore_points(plan).iter().map(|point| point[field].as_str().unwrap().to_owned()).collect();
    times.sort();
    times
}

fn now() -> String {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%NZ"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("expected text, found {value}"))
}

/// Several cycles by the daemon alone while files change: on time, no overlap, `status` right, and in the end what
/// promotion gives is what the last restore point says.
#[test]
fn two_plans_run_by_themselves() {
    let mut pair = Pair::start();
    let plans = two_plans(&pair, "3s");
    let writer = Writer::start(plans.iter().flat_map(|(_, sources)| sources.clone()).collect());
    for (plan, _) in &plans {
        eventually(&format!("five cycles of {plan}"), Duration::from_secs(90), || {
            pair.west.restore_points(plan).len() >= 5
        });
    }
    for (plan, _) in &plans {
        let status = pair.east.status(plan);
        let lag = status["lagSeconds"].as_f64().unwrap_or_else(|| panic!("no lag in {status}"));
        let newest = times(&pair.west, plan, "snapshotTime").pop().unwrap();
        let age = seconds_between(&newest, &now());
        assert!((0.0..3.0 + SLACK_SECONDS).contains(&lag), "{status}");
        assert!((lag - age).abs() < 3.0 + SLACK_SECONDS, "lag {lag} beside a restore point {age} s old");
        let wait = seconds_between(&now(), text(&status["nextRun"]));
        assert!((-SLACK_SECONDS..=3.5).contains(&wait), "the next run is {wait} s away: {status}");
        assert_intervals(&pair.west, plan, 3.0);
    }
    writer.stop();
    // What the writer left last arrives with a cycle that began after it stopped.
    let stopped = now();
    for (plan, _) in &plans {
        eventually(&format!("a cycle of {plan} over the quiet source"), Duration::from_secs(30), || {
            times(&pair.west, plan, "snapshotTime").pop().is_some_and(|newest| newest > stopped)
        });
    }
    pair.east.kill();
    for (plan, sources) in &plans {
        pair.west.promote(plan, &[]);
        assert_same(&sources[0], &pair.west.replica(plan, "data"));
        assert_same(&sources[1], &pair.west.replica(plan, "media"));
    }
}

/// Cycles start no faster than the interval, and none before the last one was committed.
fn assert_intervals(site: &Site, plan: &str, interval: f64) {
    let (starts, ends) = (times(site, plan, "snapshotTime"), times(site, plan, "committedTime"));
    for (earlier, later) in starts.iter().zip(starts.iter().skip(1)) {
        let gap = seconds_between(earlier, later);
        assert!(gap > interval - 1.0, "{plan}: two cycles within {gap} s: {starts:?}");
        assert!(gap < interval + SLACK_SECONDS, "{plan}: {gap} s without a cycle: {starts:?}");
    }
    for (end, next) in ends.iter().zip(starts.iter().skip(1)) {
        assert!(seconds_between(end, next) >= 0.0, "{plan}: cycles overlap: {starts:?} {ends:?}");
    }
}

/// The daemon is down when a run is due: it runs at once on return, once, and then by the schedule. A daemon that
/// returns before a run is due waits for it.
#[test]
fn a_missed_run_is_made_up_for_once() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 60, &mut seed("missed"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).interval("12s").yaml()).ok();
    let count = |pair: &Pair| pair.west.restore_points("shop").len();
    eventually("the first cycle, known to both sides", Duration::from_secs(30), || {
        let status = pair.east.status("shop");
        count(&pair) == 1 && status["cycle"].is_null() && status["lastRestorePoint"].is_string()
    });

    let next_run = text(&pair.east.status("shop")["nextRun"]).to_owned();
    pair.east.restart();
    assert!(seconds_between(&now(), &next_run) > 2.0, "this machine is too slow for this test");
    assert_eq!(count(&pair), 1, "a restart alone started a cycle");
    let again = pair.east.status("shop")["nextRun"].clone();
    assert!(seconds_between(&next_run, text(&again)).abs() < 1.0, "a restart moved the next run to {again}");

    pair.east.kill();
    let due = text(&again).to_owned();
    eventually("two runs are missed", Duration::from_secs(40), || seconds_between(&due, &now()) > 13.0);
    pair.east.serve();
    let served = now();
    eventually("the missed run", Duration::from_secs(9), || count(&pair) == 2);
    let newest = times(&pair.west, "shop", "snapshotTime").pop().unwrap();
    assert!(seconds_between(&served, &newest) < 8.0, "{served} {newest}");
    let wait = seconds_between(&newest, text(&pair.east.status("shop")["nextRun"]));
    assert!((11.0..=13.0).contains(&wait), "after the missed run the schedule goes on: next in {wait} s");
    assert_eq!(count(&pair), 2, "two missed runs are made up for by one");
}

/// The peer is away for three intervals: the plan says so, tries on, and the next cycle after its return arrives.
#[test]
fn a_peer_may_go_away_for_a_while() {
    let mut pair = Pair::start();
    let plans = two_plans(&pair, "3s");
    pair.east.allow_errors("");
    for (plan, _) in &plans {
        eventually("two cycles", Duration::from_secs(60), || pair.west.restore_points(plan).len() >= 2);
    }
    pair.west.kill();
    let gone = now();
    eventually("three intervals pass", Duration::from_secs(20), || seconds_between(&gone, &now()) > 9.5);
    eventually("the plan says that its peer is away", Duration::from_secs(45), || {
        pair.east.status("shop")["connected"] == false
    });
    let status = pair.east.status("shop");
    assert!(status["lagSeconds"].as_f64().unwrap() > 9.0, "lag does not grow: {status}");
    assert_eq!(status["role"], "active", "{status}");
    fs::write(plans[0].1[0].join("written-meanwhile"), b"x").unwrap();
    pair.west.serve();
    let back = now();
    for (plan, _) in &plans {
        let newest = eventually_some("the next cycle arrives", Duration::from_secs(45), || {
            times(&pair.west, plan, "snapshotTime").pop().filter(|newest| *newest > back)
        });
        println!("{plan}: {:.1} s after the peer came back", seconds_between(&back, &newest));
        let before = pair.west.restore_points(plan).len();
        eventually("it goes on by its schedule", Duration::from_secs(30), || {
            pair.west.restore_points(plan).len() > before + 1
        });
    }
    pair.west.cli(["verify"]).ok();
    assert_arrived(&mut pair, &plans[0].1[0]);
}

fn assert_arrived(pair: &mut Pair, source: &Path) {
    pair.take_over("shop");
    assert_same(source, &pair.west.replica("shop", "data"));
}

/// A suspended plan does not run; a resumed one does.
#[test]
fn a_suspended_plan_rests() {
    let pair = Pair::start();
    let plans = two_plans(&pair, "2s");
    eventually("the first cycle", Duration::from_secs(30), || !pair.west.restore_points("shop").is_empty());
    pair.east.cli(["plan", "suspend", "shop"]).ok();
    eventually("no cycle is running", Duration::from_secs(20), || {
        pair.east.status("shop")["cycle"].is_null()
    });
    let (shop, wiki) = (pair.west.restore_points("shop").len(), pair.west.restore_points("wiki").len());
    eventually("the other plan goes on", Duration::from_secs(30), || {
        pair.west.restore_points("wiki").len() >= wiki + 3
    });
    assert_eq!(pair.west.restore_points("shop").len(), shop);
    pair.east.cli(["plan", "resume", "shop"]).ok();
    eventually("the resumed plan goes on", Duration::from_secs(30), || {
        pair.west.restore_points("shop").len() > shop
    });
    drop(plans);
}
