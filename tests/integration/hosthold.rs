//! Applications on hosts: held by the side that gives a plan away, started where it is taken over, and never overwritten
//! while they run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backstay_tests::{Pair, Plan, Site, SiteOptions, assert_same, eventually};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);

/// A process that appends to a file it keeps open, and acknowledges each line; ends with this value.
struct Writer {
    child: Child,
    acknowledged: PathBuf,
}

impl Writer {
    fn start(file: &Path, acknowledged: PathBuf) -> Writer {
        let script =
            "exec 3>>$1; n=0; while :; do n=$((n+1)); echo line $n >&3; echo $n > $2.new; mv $2.new $2; done";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(file).arg(&acknowledged).current_dir("/");
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let writer = Writer { child, acknowledged };
        writer.goes_on();
        writer
    }

    fn pid(&self) -> String {
        format!("pid {}", self.child.id())
    }

    /// Lines that were acknowledged.
    fn count(&self) -> usize {
        fs::read_to_string(&self.acknowledged).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Waits until it has acknowledged more than it has now.
    fn goes_on(&self) {
        let now = self.count();
        eventually("the writer writes", LONG, || self.count() > now);
    }

    /// Ends it; gives how many lines it has acknowledged.
    fn end(mut self) -> usize {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.count()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // One that was ended already is fine.
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// Every acknowledged line is in the file, in order, none twice.
fn assert_lines(file: &Path, acknowledged: usize) {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("line ")).collect();
    assert!(lines.len() >= acknowledged, "{} lines of {acknowledged} are there", lines.len());
    for (index, line) in lines.iter().take(acknowledged).enumerate() {
        assert_eq!(*line, format!("line {}", index + 1));
    }
}

/// A plan over one folder, with what its home holds.
struct Host {
    pair: Pair,
    source: PathBuf,
}

impl Host {
    fn new(fields: &str) -> Host {
        Host::on(Pair::start(), fields, |plan, source| plan.volume("data", source))
    }

    fn on(pair: Pair, field: &str, volume: impl FnOnce(Plan, &Path) -> Plan) -> Host {
        let source = pair.source("source");
        fs::write(source.join("file"), "as it was\n").unwrap();
        let plan = volume(Plan::new("shop"), &source);
        let plan = if field.is_empty() { plan } else { plan.field(field) };
        pair.east.apply(&plan.yaml()).ok();
        pair.east.sync("shop");
        Host { pair, source }
    }

    fn replica(&self) -> PathBuf {
        self.pair.west.replica("shop", "data")
    }

    fn roles(&self) -> (Value, Value) {
        (self.pair.east.status("shop")["role"].clone(), self.pair.west.status("shop")["role"].clone())
    }

    /// West shows what east sent last.
    fn wait_applied(from: &Site, to: &Site) {
        eventually("the newest point is applied", LONG, || {
            let (sent, shown) = (from.status("shop"), to.status("shop"));
            !sent["lastRestorePoint"].is_null() && sent["lastRestorePoint"] == shown["appliedRestorePoint"]
        });
    }
}

/// `commands` of a hold that note what they do in a log.
fn commands(log: &Path, who: &str) -> String {
    let note = |what: &str| format!("[sh, -c, \"echo {who} {what} >> {}\"]", log.display());
    format!("{{hold: {}, release: {}}}", note("hold"), note("release"))
}

fn noted(log: &Path) -> Vec<String> {
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn configure(site: &mut Site, lines: &str) {
    site.kill();
    let file = site.dir().join("site.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}\n{lines}\n")).unwrap();
    site.serve();
}

fn hand_over(site: &Site, verb: &str) -> Value {
    site.cli([verb, "shop", "-o", "json"]).ok().json()
}

/// There and back: the side that gives holds by its own operator's word, the side that takes starts.
#[test]
fn each_side_holds_and_releases_by_its_own_word() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut host = Host::new(&format!("hold: {{commands: {}}}", commands(log.path(), "east")));
    let argv = |what: &str| format!("[\"sh\", \"-c\", \"echo west {what} >> {}\"]", log.path().display());
    let of_west = format!("[hold.shop.commands]\nhold = {}\nrelease = {}", argv("hold"), argv("release"));
    configure(&mut host.pair.west, &of_west);
    host.pair.wait_connected();
    assert_eq!(host.pair.east.status("shop")["hold"]["held"], false);

    fs::write(host.source.join("file"), "written last\n").unwrap();
    let report = hand_over(&host.pair.east, "switchover");
    assert_eq!((&report["warnings"], &report["nothingLost"]), (&json!([]), &json!(true)), "{report}");
    assert_eq!(noted(log.path()), ["east hold", "west release"]);
    assert_eq!(host.pair.east.status("shop")["hold"]["held"], true);
    assert_eq!(host.pair.west.status("shop")["hold"]["held"], false);
    assert_same(&host.source, &host.replica());

    // Commands are those of the site that runs them, and a peer cannot change them.
    let other = Plan::new("shop").pair("east").volume("data", &host.source);
    let other = other.field("hold: {commands: {hold: [touch, /nowhere], release: [\"true\"]}}");
    host.pair.west.apply(&other.yaml()).refused(&[2], &["hold", "failback"]);

    fs::write(host.replica().join("file"), "written away\n").unwrap();
    let report = hand_over(&host.pair.west, "failback");
    assert_eq!((&report["warnings"], &report["nothingLost"]), (&json!([]), &json!(true)), "{report}");
    assert_eq!(noted(log.path()), ["east hold", "west release", "west hold", "east release"]);
    assert_eq!(fs::read_to_string(host.source.join("file")).unwrap(), "written away\n");
    assert_eq!(host.pair.east.status("shop")["hold"]["held"], false);
}

/// A plan that came over the wire runs no command on the side that it came to.
#[test]
fn a_peer_makes_nobody_run_a_command() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let host = Host::new(&format!("hold: {{commands: {}}}", commands(log.path(), "east")));
    let report = hand_over(&host.pair.east, "switchover");
    assert_eq!(noted(log.path()), ["east hold"], "{report}");
    assert_eq!(host.pair.west.status("shop")["hold"], Value::Null);
    let report = hand_over(&host.pair.east, "failback");
    assert!(report["warnings"].to_string().contains("nothing was held on west"), "{report}");
    assert_eq!(noted(log.path()), ["east hold", "east release"]);
}

/// Without a hold it runs, says so, and says that nothing was lost only because it has looked.
#[test]
fn without_a_hold_it_runs_and_is_told() {
    let host = Host::new("");
    fs::write(host.source.join("file"), "written last\n").unwrap();
    let said = host.pair.east.cli(["switchover", "shop"]).ok().stdout;
    assert!(said.contains("nothing lost") && said.contains("look again"), "{said}");
    assert!(said.contains("warning: nothing was held on east: no `hold` in the plan"), "{said}");
    let said = host.pair.east.cli(["failback", "shop"]).ok().stdout;
    assert!(said.contains("warning: nothing was held on west: no `[hold.shop]` in its site.toml"), "{said}");
    // The operator's word that there is nothing is enough.
    let host = Host::new("hold: {nothing: true}");
    let report = hand_over(&host.pair.east, "switchover");
    assert_eq!((&report["warnings"], &report["nothingLost"]), (&json!([]), &json!(true)), "{report}");
}

/// What was written between the last sync and the offer is found, and everything runs on as it ran.
#[test]
fn what_is_written_after_the_last_sync_rolls_back() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let hold = format!("hold: {{commands: {}}}", commands(log.path(), "east"));
    // An application that writes at the very moment of each reading.
    let host = Host::on(Pair::start(), &hold, |plan, source| {
        let create = format!("echo more >> {0}/file; echo {0}", source.display());
        let snapshot = format!("{{provider: command, create: [sh, -c, \"{create}\"]}}");
        plan.raw_volume(&format!("{{name: data, path: {source:?}, snapshot: {snapshot}}}"))
    });
    host.pair.east.cli(["switchover", "shop"]).refused(&[4], &["look again", "rolled back", "volume data"]);
    assert_eq!(host.roles(), ("active".into(), "standby".into()));
    assert_eq!(noted(log.path()), ["east hold", "east release"]);
    assert_eq!(host.pair.east.status("shop")["hold"]["held"], false);
    // It goes on as before.
    host.pair.east.sync("shop");
}

/// A failback beside a running application is refused by the name of who runs; nothing that it acknowledged is lost.
#[test]
fn a_failback_beside_a_writer_loses_nothing_acknowledged() {
    let host = Host::new("");
    hand_over(&host.pair.east, "switchover");
    let file = host.replica().join("journal");
    let writer = Writer::start(&file, host.pair.work("acknowledged"));
    for _ in 0..3 {
        let refused = host.pair.east.cli(["failback", "shop"]);
        refused.refused(&[4], &["rolled back", &writer.pid(), "journal open for writing"]);
        assert_eq!(host.roles(), ("standby".into(), "active".into()));
        writer.goes_on();
    }
    let acknowledged = writer.end();
    assert_lines(&file, acknowledged);
    let report = hand_over(&host.pair.east, "failback");
    assert_eq!(report["nothingLost"], true, "{report}");
    assert_lines(&host.source.join("journal"), acknowledged);
}

/// A side that returns with its application running keeps its hands off until that has gone; all that it wrote is kept.
#[test]
fn a_returning_side_does_not_overwrite_what_runs() {
    let mut host = Host::new("");
    host.pair.take_over("shop");
    let file = host.source.join("journal");
    let writer = Writer::start(&file, host.pair.work("acknowledged"));
    fs::write(host.replica().join("file"), "of the other side\n").unwrap();
    host.pair.east.serve();
    eventually("the writer is named", LONG, || {
        let status = host.pair.east.status("shop");
        status["role"] == "demoting" && status["applyError"]["message"].to_string().contains(&writer.pid())
    });
    writer.goes_on();
    assert_eq!(fs::read_to_string(host.source.join("file")).unwrap(), "as it was\n");
    let acknowledged = writer.end();
    eventually("it steps down by itself", LONG, || host.roles() == ("standby".into(), "active".into()));
    let points = host.pair.east.restore_points("shop");
    let diverged: Vec<_> = points.iter().filter(|point| point["consistency"] == "diverged").collect();
    assert_eq!(diverged.len(), 1, "{points:?}");
    let (id, out) = (diverged[0]["id"].as_str().unwrap(), host.pair.work("out"));
    let to = out.to_str().unwrap();
    host.pair.east.cli(["restore", "shop", "--restore-point", id, "--volume", "data", "--to", to]).ok();
    assert_lines(&out.join("journal"), acknowledged);

    // Somebody who only looks at what was a source is asked to leave as well.
    let mut looker = Command::new("sleep").arg("600").current_dir(&host.source).spawn().unwrap();
    let pid = format!("pid {}", looker.id());
    host.pair.west.sync("shop");
    eventually("who looks is named", LONG, || {
        host.pair.east.status("shop")["applyError"]["message"].to_string().contains(&pid)
    });
    assert_lines(&file, acknowledged);
    looker.kill().unwrap();
    looker.wait().unwrap();
    Host::wait_applied(&host.pair.west, &host.pair.east);
    assert_same(&host.replica(), &host.source);
}

/// Whoever writes to a replica is named, and nothing is applied under him; readers are welcome.
#[test]
fn nothing_is_applied_under_a_writer() {
    let host = Host::new("");
    Host::wait_applied(&host.pair.east, &host.pair.west);
    let mut reader = Command::new("sleep");
    let open = fs::File::open(host.replica().join("file")).unwrap();
    let mut reader = reader.arg("600").stdin(open).current_dir(host.replica()).spawn().unwrap();
    fs::write(host.source.join("file"), "one\n").unwrap();
    host.pair.east.sync("shop");
    Host::wait_applied(&host.pair.east, &host.pair.west);
    reader.kill().unwrap();
    reader.wait().unwrap();

    let open = fs::File::options().append(true).open(host.replica().join("file")).unwrap();
    let mut writer = Command::new("sleep").arg("600").stdin(open).current_dir("/").spawn().unwrap();
    fs::write(host.source.join("file"), "two\n").unwrap();
    host.pair.east.sync("shop");
    let words = [format!("pid {}", writer.id()), "open for writing".to_owned(), "sleep".to_owned()];
    eventually("the writer is named", LONG, || {
        let why = host.pair.west.status("shop")["applyError"]["message"].to_string();
        words.iter().all(|word| why.contains(word))
    });
    assert_eq!(fs::read_to_string(host.replica().join("file")).unwrap(), "one\n");
    // Not by a takeover either, which has not begun then.
    host.pair.west.allow_errors("promotion stopped");
    let refused = host.pair.west.cli(["promote", "shop", "--force"]);
    refused.refused(&[1], &[&words[0], "open for writing"]);
    assert_eq!(host.roles(), ("active".into(), "standby".into()));
    writer.kill().unwrap();
    writer.wait().unwrap();
    Host::wait_applied(&host.pair.east, &host.pair.west);
    assert_same(&host.source, &host.replica());
    assert_eq!(host.pair.west.status("shop")["applyError"], Value::Null);
}

/// A stand-in for `systemctl` with units that are files: no systemd runs where the tests do.
struct Units {
    dir: tempfile::TempDir,
}

impl Units {
    fn new(units: &[(&str, &str)]) -> Units {
        let units_of = Units { dir: tempfile::tempdir().unwrap() };
        for (unit, state) in units {
            units_of.set(unit, state);
        }
        let script = "#!/bin/sh\ncd $(dirname $0)\nverb=$1\nfor unit; do :; done\n\
            echo $verb $unit >> log\n\
            case $verb in\n\
            show) [ -e $unit ] && echo LoadState=loaded || echo LoadState=not-found\n\
              echo ActiveState=$(cat $unit 2>/dev/null || echo inactive);;\n\
            stop) [ -e hang ] && { while [ -e hang ]; do sleep 0.1; done; exit 0; }; echo inactive > $unit;;\n\
            start) echo active > $unit;;\n\
            esac\n";
        let program = units_of.dir.path().join("systemctl");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        units_of
    }

    fn set(&self, unit: &str, state: &str) {
        fs::write(self.dir.path().join(unit), format!("{state}\n")).unwrap();
    }

    fn states(&self) -> [String; 2] {
        ["db.service", "cron.timer"]
            .map(|unit| fs::read_to_string(self.dir.path().join(unit)).unwrap().trim().to_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn options(&self) -> SiteOptions {
        let path = format!("{}:{}", self.dir.path().display(), std::env::var("PATH").unwrap());
        SiteOptions { env: vec![("PATH".to_owned(), path)], ..SiteOptions::default() }
    }
}

const UNITS: [(&str, &str); 2] = [("db.service", "active"), ("cron.timer", "inactive")];
const BOTH: &str = "hold: {units: [db.service, cron.timer]}";

/// Units that ran are stopped, and run again when it was for nothing; one that was stopped by the operator stays so.
#[test]
fn what_was_stopped_before_stays_stopped() {
    let units = Units::new(&UNITS);
    let pair = Pair::with(units.options(), SiteOptions::default());
    let mut host = Host::on(pair, BOTH, |plan, source| {
        // Rolled back by what is written at each reading, as long as the file says so.
        fs::write(source.join("writes"), "").unwrap();
        let create = format!("[ -e {0}/writes ] && echo more >> {0}/file; echo {0}", source.display());
        let snapshot = format!("{{provider: command, create: [sh, -c, \"{create}\"]}}");
        plan.raw_volume(&format!("{{name: data, path: {source:?}, snapshot: {snapshot}}}"))
    });
    host.pair.east.cli(["switchover", "shop"]).refused(&[4], &["rolled back"]);
    assert!(units.log().contains("stop db.service"), "{}", units.log());
    assert_eq!(units.states(), ["active", "inactive"]);

    // Killed while it holds: what was noted before it began is given back by the next start.
    fs::write(units.dir.path().join("hang"), "").unwrap();
    let stops = |units: &Units| units.log().matches("stop db.service").count();
    let before = stops(&units);
    let mut asked = host.pair.east.command(["switchover", "shop"]);
    let mut asked = asked.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("it is stopping the unit", LONG, || stops(&units) > before);
    host.pair.east.kill();
    asked.wait().unwrap();
    units.set("db.service", "inactive");
    fs::remove_file(units.dir.path().join("hang")).unwrap();
    host.pair.east.serve();
    eventually("it runs again", LONG, || units.states() == ["active", "inactive"]);
    eventually("nothing is held", LONG, || host.pair.east.status("shop")["hold"]["held"] == false);

    // There and back gives the same.
    fs::remove_file(host.source.join("writes")).unwrap();
    host.pair.wait_connected();
    let report = hand_over(&host.pair.east, "switchover");
    assert_eq!(report["nothingLost"], true, "{report}");
    assert_eq!(units.states(), ["inactive", "inactive"]);
    hand_over(&host.pair.east, "failback");
    assert_eq!(units.states(), ["active", "inactive"]);
}

/// A takeover starts what this side was never asked to hold; a unit nobody knows is told, and nothing is given away.
#[test]
fn a_takeover_starts_the_units_of_its_side() {
    let units = Units::new(&[("db.service", "inactive"), ("cron.timer", "inactive")]);
    let pair = Pair::with(SiteOptions::default(), units.options());
    let mut host = Host::on(pair, "", |plan, source| plan.volume("data", source));
    configure(&mut host.pair.west, "[hold.shop]\nunits = [\"db.service\", \"cron.timer\"]");
    host.pair.take_over("shop");
    assert_eq!(units.states(), ["active", "active"]);
    let log = units.log();
    assert!(log.find("start cron.timer") < log.find("start db.service"), "in the reverse order: {log}");
    fs::remove_file(units.dir.path().join("cron.timer")).unwrap();
    host.pair.east.serve();
    eventually("east follows", LONG, || host.pair.east.status("shop")["role"] == "standby");
    let refused = host.pair.west.cli(["failback", "shop"]);
    refused.refused(&[2], &["no unit cron.timer", "rolled back", "`units`"]);
    assert_eq!(host.pair.west.status("shop")["role"], "active");
}

/// What cannot be carried out is refused when the plan is applied.
#[test]
fn holds_are_checked() {
    let pair = Pair::start();
    let source = pair.source("source");
    let plan = || Plan::new("shop").volume("data", &source);
    for (field, word) in [
        ("hold: {}", "nothing: true"),
        ("hold: {nothing: true, units: [a.service]}", "nothing"),
        ("hold: {units: [postgresql]}", "postgresql.service"),
        ("hold: {cgroups: [shop]}", "cgroups"),
        ("hold: {commands: {hold: [], release: [x]}}", "hold.commands.hold"),
    ] {
        pair.east.apply(&plan().field(field).yaml()).refused(&[2], &[word]);
    }
    let over_namespaces = Plan::new("shop").field("namespaces: [shop]").field("hold: {nothing: true}");
    pair.east.apply(&over_namespaces.yaml()).refused(&[2], &["hold", "namespaces"]);
}
