//! The keeper: whoever dies, daemon, keeper, both or the machine, never do both sides' applications run.
//!
//! An application here is a real process that writes down, fifty times a second, that it runs. What it wrote on one side and
//! on the other is compared at the end.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backstay_tests::{
    Pair, Plan, Site, SiteOptions, Wan, assert_same, eventually, is_root, seed, skip, tree,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

/// The shortest `after` that a plan may have.
const AFTER: Duration = Duration::from_secs(5);
/// `Terms::takeover_within` of 5 s is 7.8 s: for so long three takeovers would have had the time to happen.
const THREE_TAKEOVERS: Duration = Duration::from_secs(24);
const SOON: Duration = Duration::from_secs(30);

/// A process that is to run on one side at a time.
struct App {
    process: Option<Child>,
    beats: PathBuf,
    pid: PathBuf,
}

impl App {
    /// One that does not run yet.
    fn new(folder: &Path, side: &str) -> App {
        App {
            process: None,
            beats: folder.join(format!("{side}.beats")),
            pid: folder.join(format!("{side}.pid")),
        }
    }

    fn start(&mut self) {
        let script = "while :; do echo $EPOCHREALTIME >>\"$0\"; sleep 0.02; done";
        let mut command = Command::new("bash");
        command
            .args(["-c", script])
            .arg(&self.beats)
            .env("LC_ALL", "C")
            .process_group(0)
            .stdin(Stdio::null());
        let child = command.spawn().unwrap();
        fs::write(&self.pid, child.id().to_string()).unwrap();
        self.process = Some(child);
        eventually("the application runs", SOON, || self.last().is_some());
    }

    /// When it ran, in microseconds.
    fn ran(&self) -> Vec<u64> {
        let text = fs::read_to_string(&self.beats).unwrap_or_default();
        text.lines().filter_map(|line| line.replace('.', "").parse().ok()).collect()
    }

    fn last(&self) -> Option<u64> {
        self.ran().last().copied()
    }

    /// Whether it has written something within the last moment.
    fn goes_on(&self) -> bool {
        let before = self.last();
        std::thread::sleep(Duration::from_millis(400));
        self.last() > before
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.as_ref().unwrap().id()).unwrap()).unwrap()
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            // It may be gone already.
            kill_process_group(group, Signal::KILL).ok();
            child.wait().unwrap();
        }
    }

    /// As a plan holds it: by signals, to whatever runs there.
    fn hold(&self) -> String {
        let to = |signal: &str| format!("kill -{signal} -$(cat {}) || true", self.pid.display());
        let (hold, release) = (to("STOP"), to("CONT"));
        format!("hold: {{commands: {{hold: [sh, -c, {hold:?}], release: [sh, -c, {release:?}]}}}}")
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Two hosts, an application on the first, and a witness that each side reaches by a way of its own.
struct Hosts {
    pair: Pair,
    east: App,
    west: App,
    source: PathBuf,
    folder: tempfile::TempDir,
}

impl Hosts {
    fn start() -> Hosts {
        Hosts::with([SiteOptions::default(), SiteOptions::default()], App::hold)
    }

    fn with(options: [SiteOptions; 2], hold: impl Fn(&App) -> String) -> Hosts {
        let folder = tempfile::Builder::new().prefix("backstay-keeper-").tempdir().unwrap();
        fs::create_dir(folder.path().join("shared")).unwrap();
        let [east, west] = options;
        let settings = |side: &str, mut options: SiteOptions| {
            let way = folder.path().join(side);
            std::os::unix::fs::symlink(folder.path().join("shared"), &way).unwrap();
            options.env.push(("BACKSTAY_WITNESS_URL".to_owned(), format!("file://{}", way.display())));
            options
        };
        let pair = Pair::with(settings("east", east), settings("west", west));
        let source = pair.source("source");
        tree::small_files(&source, 20, &mut seed("keeper"));
        let (east, west) = (App::new(folder.path(), "e"), App::new(folder.path(), "w"));
        let mut hosts = Hosts { pair, east, west, source, folder };
        hosts.east.start();
        hosts.pair.keep();
        let plan = hosts.plan().field(&hold(&hosts.east)).field("automaticFailover: {after: 5s}");
        hosts.pair.east.apply(&plan.yaml()).ok();
        hosts.pair.east.sync("shop");
        hosts.wait_armed();
        hosts
    }

    fn plan(&self) -> Plan {
        Plan::new("shop").volume("data", &self.source)
    }

    #[track_caller]
    fn wait_armed(&self) {
        would(&self.pair.west, "this side promotes in");
        would(&self.pair.east, "this side holds in");
    }

    /// Cuts a side off from the witness, or gives it its way back.
    fn witness(&self, side: &str, is_there: bool) {
        let way = self.folder.path().join(side);
        if is_there {
            std::os::unix::fs::symlink(self.folder.path().join("shared"), way).unwrap();
        } else {
            fs::remove_file(way).unwrap();
        }
    }

    /// Starts the other side's application as soon as that side is active.
    #[track_caller]
    fn wait_taken_over(&mut self) {
        eventually(&format!("west takes over; {}", automatic(&self.pair.west)), SOON, || {
            self.pair.west.status("shop")["role"] == "active"
        });
        self.west.start();
        self.never_both();
    }

    /// For so long the application runs where it ran, and nowhere else.
    #[track_caller]
    fn nothing_happens(&self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            assert_eq!(self.pair.west.status("shop")["role"], "standby", "{}", automatic(&self.pair.west));
            assert!(self.east.goes_on(), "the application stands still");
        }
    }

    /// What ran first has ended before the other began, and does not run any more.
    #[track_caller]
    fn never_both(&self) {
        // Long enough for a hold that comes late to be seen.
        assert!(self.west.goes_on(), "the application runs on the other side");
        let (east, west) = (self.east.ran(), self.west.ran());
        let (last, first) = (east.last().unwrap(), west.first().unwrap());
        assert!(last < first, "both ran for {} µs", last - first);
    }
}

fn automatic(site: &Site) -> Value {
    site.status("shop")["automaticFailover"].clone()
}

#[track_caller]
fn would(site: &Site, text: &str) {
    eventually(&format!("{} says {text:?}; {}", site.name(), automatic(site)), SOON, || {
        automatic(site)["wouldDo"].as_str().is_some_and(|would| would.contains(text))
    });
}

/// An upgrade, a restart, a crash of the daemon: the keeper renews, for as long as it takes, and the daemon goes on.
#[test]
fn a_daemon_that_is_down_stops_nothing() {
    let mut hosts = Hosts::start();
    hosts.pair.east.terminate();
    hosts.nothing_happens(THREE_TAKEOVERS);
    hosts.pair.east.serve();
    hosts.wait_armed();
    hosts.pair.east.kill();
    hosts.nothing_happens(2 * AFTER);
    hosts.pair.east.serve();
    hosts.wait_armed();
    assert_eq!(hosts.pair.east.status("shop")["epoch"], 1);
}

/// A keeper that dies is noticed: the daemon renews, and says that nothing fails over by itself.
#[test]
fn a_keeper_that_is_dead_is_told() {
    let mut hosts = Hosts::start();
    hosts.pair.east.kill_keeper();
    eventually("status says so", SOON, || {
        automatic(&hosts.pair.east)["warning"].as_str().is_some_and(|text| text.contains("no keeper runs"))
    });
    let text = hosts.pair.east.cli(["status", "shop"]).ok().stdout;
    assert!(text.contains("WARNING"), "{text}");
    would(&hosts.pair.west, "would outlive its daemon");
    hosts.nothing_happens(AFTER);
    // Nobody is left who would hold, and the standby was told so: the application is alone, and stays so.
    hosts.pair.east.kill_guards();
    hosts.pair.east.kill();
    hosts.nothing_happens(THREE_TAKEOVERS);
    hosts.pair.east.keep();
    hosts.pair.east.serve();
    hosts.wait_armed();
    assert_eq!(automatic(&hosts.pair.east)["warning"], Value::Null);
}

/// Daemon and keeper are killed at once: the guard holds, the standby takes over, and the old side steps down.
#[test]
fn both_are_killed() {
    let mut hosts = Hosts::start();
    // In this order: a daemon that sees that its keeper is dead tells the witness so.
    hosts.pair.east.kill();
    hosts.pair.east.kill_keeper();
    hosts.wait_taken_over();
    hosts.pair.east.allow_errors("");
    hosts.pair.east.serve();
    hosts.pair.east.keep();
    eventually("the old active side steps down", SOON, || {
        let status = hosts.pair.east.status("shop");
        status["role"] != "active" && status["epoch"] == 2
    });
    hosts.never_both();
}

/// The same with a control group that is frozen.
#[test]
fn a_control_group_is_frozen() {
    let freezer = Path::new("/sys/fs/cgroup/freezer");
    if !is_root() || !freezer.join("cgroup.procs").exists() {
        return skip("a_control_group_is_frozen", "no freezer of version 1, or no root");
    }
    let group = freezer.join(format!("backstay-keeper-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    let place = group.clone();
    let mut hosts = Hosts::with([SiteOptions::default(), SiteOptions::default()], |app| {
        fs::write(place.join("cgroup.procs"), app.group().as_raw_nonzero().to_string()).unwrap();
        format!("hold: {{cgroups: [{place:?}]}}")
    });
    // In this order: a daemon that sees that its keeper is dead tells the witness so.
    hosts.pair.east.kill();
    hosts.pair.east.kill_keeper();
    hosts.wait_taken_over();
    fs::write(group.join("freezer.state"), "THAWED").unwrap();
    hosts.east.kill();
    eventually("the control group is empty", SOON, || fs::remove_dir(&group).is_ok());
}

/// The machine dies with all that runs on it.
#[test]
fn a_machine_that_dies_is_taken_over() {
    let mut hosts = Hosts::start();
    hosts.east.kill();
    hosts.pair.east.kill_machine();
    hosts.wait_taken_over();
    assert_same(&hosts.source, &hosts.pair.west.replica("shop", "data"));
}

/// The active side is cut off from everything, its daemon alive.
#[test]
fn a_side_that_is_cut_off_holds() {
    let wan = match Wan::new() {
        Ok(wan) => wan,
        Err(reason) => return skip("a_side_that_is_cut_off_holds", &reason),
    };
    let options = |end| SiteOptions {
        listen: Some(wan.listen(end)),
        wrapper: wan.wrapper(end),
        ..SiteOptions::default()
    };
    let mut hosts = Hosts::with([options(0), options(1)], App::hold);
    hosts.pair.east.allow_errors("");
    wan.cut();
    // The peer alone is no reason.
    hosts.nothing_happens(2 * AFTER);
    hosts.witness("east", false);
    hosts.wait_taken_over();
    wan.plug();
    hosts.witness("east", true);
    eventually("the old active side steps down", SOON, || {
        let status = hosts.pair.east.status("shop");
        status["role"] != "active" && status["epoch"] == 2
    });
    hosts.never_both();
}

/// The same with a daemon that is dead: its keeper holds, and does not let go when it hears that the other side runs.
#[test]
fn a_keeper_that_is_cut_off_holds() {
    let mut hosts = Hosts::start();
    hosts.pair.east.allow_errors("");
    hosts.pair.east.kill();
    hosts.nothing_happens(AFTER);
    hosts.witness("east", false);
    hosts.wait_taken_over();
    hosts.witness("east", true);
    let begin = Instant::now();
    while begin.elapsed() < 2 * AFTER {
        hosts.never_both();
    }
}

/// A witness that is away for both sides: the keeper, which knows no peer, holds; it lets go when the witness is back.
#[test]
fn a_keeper_lets_go_what_it_has_held() {
    let mut hosts = Hosts::start();
    hosts.pair.east.allow_errors("");
    hosts.pair.east.kill();
    for side in ["east", "west"] {
        hosts.witness(side, false);
    }
    eventually("the keeper holds", SOON, || !hosts.east.goes_on());
    for side in ["east", "west"] {
        hosts.witness(side, true);
    }
    eventually("it lets go", SOON, || hosts.east.goes_on());
    hosts.nothing_happens(AFTER);
    hosts.pair.east.serve();
    hosts.wait_armed();
    assert_eq!(hosts.pair.east.status("shop")["epoch"], 1);
}

/// A daemon that stands still has the lease, renews nothing and holds nothing: the keeper does not wait for it.
#[test]
fn a_daemon_that_stands_still_is_held_for() {
    let mut hosts = Hosts::start();
    hosts.pair.east.allow_errors("");
    let daemon = hosts.pair.east.pid();
    kill_process(daemon, Signal::STOP).unwrap();
    hosts.wait_taken_over();
    kill_process(daemon, Signal::CONT).unwrap();
    eventually("the old active side steps down", SOON, || {
        let status = hosts.pair.east.status("shop");
        status["role"] != "active" && status["epoch"] == 2
    });
    hosts.never_both();
}

/// For as long as the daemon stood still it was held; nobody took over, and it runs again.
#[test]
fn what_a_watcher_held_runs_again() {
    let mut hosts = Hosts::start();
    hosts.pair.east.allow_errors("");
    hosts.pair.west.kill();
    let daemon = hosts.pair.east.pid();
    kill_process(daemon, Signal::STOP).unwrap();
    eventually("it is held", SOON, || !hosts.east.goes_on());
    kill_process(daemon, Signal::CONT).unwrap();
    eventually("it runs again", SOON, || hosts.east.goes_on());
    hosts.pair.west.serve();
    hosts.wait_armed();
    assert_eq!(hosts.pair.east.status("shop")["role"], "active");
}

/// What nobody would hold does not fail over by itself.
#[test]
fn automatic_failover_without_a_keeper_is_refused() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 5, &mut seed("refused"));
    let plan = Plan::new("shop").volume("data", &source);
    let hold = "hold: {commands: {hold: ['true'], release: ['true']}}";
    let wanted = |plan: &Plan| plan.clone().field("automaticFailover: {after: 5s}").yaml();
    let held = plan.clone().field(hold);
    pair.east.apply(&wanted(&held)).refused(&[2], &["no keeper runs", "backstay keeper --site"]);
    pair.east.keep();
    for nothing in [plan.clone(), plan.clone().field("hold: {nothing: true}")] {
        pair.east.apply(&wanted(&nothing)).refused(&[2], &["does not say what stops", "`hold`"]);
    }
    let cluster = Plan::new("pods").field("namespaces: [shop]");
    pair.east.apply(&wanted(&cluster)).refused(&[2], &["no keeper for clusters"]);
    pair.east.apply(&wanted(&held)).ok();
    // One keeper is enough.
    let second = pair.east.cli(["keeper"]);
    second.refused(&[1], &["running already"]);
    // What it was given may be changed while the keeper is away; the danger is shown.
    pair.east.kill_keeper();
    pair.east.apply(&wanted(&held.clone().keep(3))).ok();
    pair.east.apply(&wanted(&plan)).refused(&[2], &["does not say what stops"]);
}

/// A plan of an earlier version has automatic failover without anything to hold: it goes on, nobody takes over from it, and
/// both sides say so.
#[test]
fn a_plan_from_before_goes_on_and_is_not_taken_over() {
    let mut hosts = Hosts::start();
    hosts.pair.east.kill_machine();
    // What such a site has on disk.
    let path = hosts.pair.east.dir().join("plans/shop/plan.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["spec"].as_object_mut().unwrap().remove("hold");
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    hosts.pair.east.serve();
    would(&hosts.pair.west, "would outlive its daemon");
    let warning = automatic(&hosts.pair.east)["warning"].clone();
    assert!(warning.as_str().is_some_and(|text| text.contains("`hold`")), "{warning}");
    assert_ne!(automatic(&hosts.pair.east)["reachable"], json!(false));
    hosts.pair.east.kill();
    hosts.nothing_happens(2 * AFTER);
}
