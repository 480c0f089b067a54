//! Drills: a takeover rehearsed on copies, judged by probes, and gone afterwards; the standby and replication notice
//! nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use backstay_tests::{
    FileSystem, LoopFs, Pair, Plan, Site, SiteOptions, assert_same, copy_tree, eventually, fingerprint, seed,
    skip, tree,
};
use serde_json::Value;

/// A standby that runs the commands of plans.
fn pair() -> Pair {
    Pair::with(SiteOptions::default(), with_commands(SiteOptions::default()))
}

fn with_commands(options: SiteOptions) -> SiteOptions {
    let allowed = ["COMMANDS", "NETWORK"].map(|what| (format!("BACKSTAY_DRILL_{what}"), "true".to_owned()));
    SiteOptions { env: allowed.into(), ..options }
}

/// A probe that runs a script, in flow style.
fn command(name: &str, script: &str) -> String {
    format!("{{name: {name}, command: [sh, -c, {script:?}]}}")
}

fn drill_field(probes: &[String]) -> String {
    format!("drill: {{timeout: 20s, probes: [{}]}}", probes.join(", "))
}

#[track_caller]
fn drill(site: &Site, flags: &[&str]) -> Value {
    let args = ["drill", "shop", "-o", "json"].into_iter().chain(flags.iter().copied());
    site.cli(args).ok().json()
}

fn history(site: &Site) -> Vec<Value> {
    site.cli(["drill", "shop", "--history", "-o", "json"]).ok().items()
}

fn wait_applied(pair: &Pair, point: &Value) {
    eventually("the standby has applied the restore point", Duration::from_secs(30), || {
        pair.west.status("shop")["appliedRestorePoint"] == point["id"]
    });
}

/// What drills left on disk.
fn left(site: &Site) -> Vec<PathBuf> {
    let folder = site.dir().join("drills");
    fs::read_dir(folder).map_or_else(|_| Vec::new(), |items| items.map(|item| item.unwrap().path()).collect())
}

/// Everything of the standby that a drill must not change.
fn standby(pair: &Pair, volume: &str) -> (String, Vec<Value>) {
    let status = pair.west.status("shop");
    let fields = ["role", "epoch", "appliedRestorePoint", "lastRestorePoint"];
    let fields = fields.map(|field| status[field].clone()).to_vec();
    (fingerprint(&pair.west.replica("shop", volume)), fields)
}

fn step<'r>(report: &'r Value, name: &str) -> &'r Value {
    let steps = report["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no step {name:?} in {report}"))
}

/// A server that answers every request with a status, until the test ends.
fn http_server(status: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok() {
                drop(write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"));
            }
        }
    });
    port
}

fn write_manifests(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec:\n  replicas: 3\n  \
                selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec: \
                {containers: [{name: web, image: web:1}]}\n";
    fs::write(folder.join("web.yaml"), text).unwrap();
}

/// Folder, image and objects of the newest restore point are there for the probes as a takeover would have them; then
/// everything is gone, and the standby is as it was.
#[test]
fn a_drill_rehearses_and_leaves_nothing() {
    let pair = pair();
    let (source, image) = (pair.source("source"), pair.work("disk.img"));
    let mut rng = seed("drill");
    tree::small_files(&source, 200, &mut rng);
    tree::random_image(&image, 3, &mut rng);
    let (manifests, saved) = (pair.work("manifests"), pair.work("saved"));
    write_manifests(&manifests);
    let port = http_server("204 No Content");
    let probes = [
        command(
            "copies",
            &format!(
                "cp -a $BACKSTAY_DRILL_FOLDER {} && test -d $BACKSTAY_DRILL_VOLUME_DATA && test -f \
                 $BACKSTAY_DRILL_VOLUME_DISK_0 && echo rehearsed $BACKSTAY_RESTORE_POINT",
                saved.display()
            ),
        ),
        format!("{{name: answers, http: {{url: 'http://127.0.0.1:{port}/health', status: 204}}}}"),
        format!("{{name: listens, tcp: '127.0.0.1:{port}'}}"),
    ];
    let plan = Plan::new("shop").volume("data", &source).device("disk-0", &image).manifests(&manifests);
    pair.east.apply(&plan.field(&drill_field(&probes)).yaml()).ok();
    let point = pair.east.sync("shop");
    wait_applied(&pair, &point);
    let before = (standby(&pair, "data"), fingerprint(&pair.west.manifests("shop")));

    let report = drill(&pair.west, &[]);
    assert_eq!(report["passed"], true, "{report}");
    assert_eq!(
        (&report["restorePoint"], &report["number"], &report["epoch"]),
        (&point["id"], &1.into(), &1.into())
    );
    for step in report["steps"].as_array().unwrap() {
        let expected = if step["name"] == "wait until ready" { "skipped" } else { "done" };
        assert_eq!(step["state"], expected, "{report}");
    }
    for probe in report["probes"].as_array().unwrap() {
        assert_eq!(probe["passed"], true, "{report}");
    }
    assert_eq!(report["probes"][0]["message"], format!("rehearsed {}", point["id"].as_str().unwrap()));
    let (rpo, rto) = (report["rpoSeconds"].as_f64().unwrap(), report["rtoSeconds"].as_f64().unwrap());
    assert!(rpo >= 0.0 && rto > 0.0 && rto < 60.0, "{report}");

    // What the probes saw.
    assert_same(&source, &saved.join("volumes/data"));
    assert_eq!(fs::read(&image).unwrap(), fs::read(saved.join("volumes/disk-0")).unwrap());
    let web = fs::read_to_string(saved.join("manifests/shop/Deployment.apps_web.yaml")).unwrap();
    assert!(web.contains("replicas: 3") && web.contains("Released"), "{web}");

    assert_eq!(before, (standby(&pair, "data"), fingerprint(&pair.west.manifests("shop"))));
    assert_eq!(left(&pair.west), Vec::<PathBuf>::new());
    let last = pair.west.status("shop")["lastDrill"].clone();
    assert_eq!((&last["passed"], &last["restorePoint"]), (&true.into(), &point["id"]), "{last}");
    assert_eq!(history(&pair.west), [report]);
    let audit = pair.west.cli(["audit", "-o", "json"]).ok().stdout;
    assert!(audit.contains("\"drill\"") && audit.contains("passed"), "{audit}");
    pair.west.cli(["verify", "shop"]).ok();
}

/// Every kind of probe can fail: the exit code says so, the report is kept, the other probes are looked at all the same,
/// and what was made is removed.
#[test]
fn a_failed_probe_fails_the_drill() {
    let pair = pair();
    let source = pair.source("source");
    tree::small_files(&source, 20, &mut seed("failed probes"));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let broken = http_server("503 Service Unavailable");
    let marker = pair.work("probed");
    let probes = [
        command("says-no", "echo the table orders is missing >&2; exit 1"),
        command("hangs", "sleep 600"),
        format!("{{name: refuses, tcp: '127.0.0.1:{closed}'}}"),
        format!("{{name: errs, http: {{url: 'http://127.0.0.1:{broken}/'}}}}"),
        command("passes", &format!("touch {}", marker.display())),
    ];
    let field = format!("drill: {{timeout: 1s, probes: [{}]}}", probes.join(", "));
    pair.east.apply(&Plan::new("shop").volume("data", &source).field(&field).yaml()).ok();
    let point = pair.east.sync("shop");
    wait_applied(&pair, &point);
    let before = standby(&pair, "data");
    let output =
        pair.west.cli(["drill", "shop", "-o", "json"]).refused(&[1], &["4 of 5", "says-no", "orders"]);
    let report = output.json();
    assert_eq!((&report["passed"], &report["rtoSeconds"]), (&false.into(), &Value::Null), "{report}");
    assert_eq!(step(&report, "probe")["state"], "failed");
    assert_eq!(step(&report, "tear down")["state"], "done");
    let passed: Vec<_> =
        report["probes"].as_array().unwrap().iter().map(|probe| probe["passed"] == true).collect();
    assert_eq!(passed, [false, false, false, false, true], "{report}");
    assert!(report["probes"][0]["tries"].as_u64().unwrap() > 1, "{report}");
    assert!(report["probes"][3]["message"].as_str().unwrap().contains("503"), "{report}");
    assert!(marker.exists());
    assert_eq!(before, standby(&pair, "data"));
    assert_eq!(left(&pair.west), Vec::<PathBuf>::new());
    assert_eq!(history(&pair.west), [report]);
    assert_eq!(pair.west.status("shop")["lastDrill"]["passed"], false);
}

/// A standby does not run what its peer wrote unless its operator says so.
#[test]
fn commands_of_a_plan_run_only_where_they_are_allowed() {
    let pair = Pair::start();
    let (source, marker) = (pair.source("source"), pair.work("ran"));
    tree::small_files(&source, 5, &mut seed("not allowed"));
    let field = format!(
        "drill: {{timeout: 600ms, probes: [{}]}}",
        command("run", &format!("touch {}", marker.display()))
    );
    pair.east.apply(&Plan::new("shop").volume("data", &source).field(&field).yaml()).ok();
    pair.east.sync("shop");
    pair.west.cli(["drill", "shop"]).refused(&[1], &["drill.commands"]);
    assert!(!marker.exists());
}

/// An older restore point is materialised from the store, while the replica shows the newest.
#[test]
fn an_older_restore_point_is_rehearsed() {
    let pair = pair();
    let (source, saved) = (pair.source("source"), pair.work("saved"));
    let mut rng = seed("older drill");
    tree::small_files(&source, 100, &mut rng);
    let probe = command("save", &format!("cp -a $BACKSTAY_DRILL_VOLUME_DATA {}", saved.display()));
    pair.east.apply(&Plan::new("shop").volume("data", &source).field(&drill_field(&[probe])).yaml()).ok();
    let first = pair.east.sync("shop");
    let copy = pair.work("copy");
    copy_tree(&source, &copy);
    tree::mutate(&source, 50, &mut rng);
    let second = pair.east.sync("shop");
    wait_applied(&pair, &second);
    let report = drill(&pair.west, &["--restore-point", first["id"].as_str().unwrap()]);
    assert_eq!((&report["passed"], &report["restorePoint"]), (&true.into(), &first["id"]), "{report}");
    assert_eq!(report["volumes"][0]["made"], "restored", "{report}");
    assert_same(&copy, &saved);
    assert_same(&source, &pair.west.replica("shop", "data"));
    pair.west.cli(["drill", "shop", "--restore-point", "e1-000099"]).refused(&[3], &["e1-000099"]);
}

/// On a file system that clones, copies share the blocks of the replicas, and an image of 64 MiB takes no room.
#[test]
fn copies_are_clones_where_the_file_system_can() {
    let disk = match LoopFs::mount(FileSystem::Xfs, 400) {
        Ok(disk) => disk,
        Err(reason) => return skip("drills clones", &reason),
    };
    let west = SiteOptions { dir: Some(disk.path().join("west")), ..SiteOptions::default() };
    let pair = Pair::with(SiteOptions::default(), with_commands(west));
    let (source, image, saved) = (pair.source("source"), pair.work("disk.img"), pair.work("saved"));
    let mut rng = seed("clones");
    tree::small_files(&source, 200, &mut rng);
    tree::random_image(&image, 64, &mut rng);
    let probes = [command("save", &format!("cp -a $BACKSTAY_DRILL_FOLDER/volumes {}", saved.display()))];
    let plan = Plan::new("shop").volume("data", &source).device("disk", &image);
    pair.east.apply(&plan.field(&drill_field(&probes)).yaml()).ok();
    let point = pair.east.sync("shop");
    wait_applied(&pair, &point);
    // 400 MiB less the file system's own hold the store and the replica of 64 MiB each, and one more copy would be told
    // by this.
    let used = || {
        let stat = rustix::fs::statvfs(disk.path()).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    };
    let before = used();
    let report = drill(&pair.west, &["--keep"]);
    for volume in report["volumes"].as_array().unwrap() {
        assert_eq!(volume["made"], "cloned", "{report}");
    }
    assert!(used() < before + (16 << 20), "{before} and then {}", used());
    assert_same(&source, &saved.join("data"));
    assert_eq!(fs::read(&image).unwrap(), fs::read(saved.join("disk")).unwrap());
    // A clone is written to without the replica.
    let folder = PathBuf::from(report["folder"].as_str().unwrap());
    fs::write(folder.join("volumes/disk"), b"rehearsed").unwrap();
    assert_eq!(fs::read(&image).unwrap(), fs::read(pair.west.replica("shop", "disk")).unwrap());
}

/// A copy from the store that does not fit is refused before it fills the disk that cycles need.
#[test]
fn a_copy_that_does_not_fit_is_refused_early() {
    let disk = match LoopFs::mount(FileSystem::Ext4, 120) {
        Ok(disk) => disk,
        Err(reason) => return skip("drills room", &reason),
    };
    let pair = Pair::start();
    let (source, image) = (pair.source("source"), pair.source("images"));
    tree::small_files(&source, 10, &mut seed("no room"));
    tree::random_image(&image.join("big"), 150, &mut seed("no room"));
    // Sparse: its length would not fit, its data does.
    fs::File::create(source.join("sparse")).unwrap().set_len(4 << 30).unwrap();
    fs::create_dir(pair.west.dir().join("drills")).unwrap();
    let bound = |from: &Path, to: &Path| {
        let status = std::process::Command::new("mount").arg("--bind").args([from, to]).status().unwrap();
        assert!(status.success());
    };
    let drills = pair.west.dir().join("drills");
    bound(disk.path(), &drills);
    let unmount = || {
        let status = std::process::Command::new("umount").arg(&drills).status().unwrap();
        assert!(status.success());
    };
    for (name, path) in [("shop", &image), ("small", &source)] {
        pair.east.apply(&Plan::new(name).volume("data", path).yaml()).ok();
        pair.east.sync(name);
    }
    pair.west.cli(["drill", "shop"]).refused(&[1], &["bytes to spare", "needed"]);
    pair.west.cli(["drill", "small"]).ok();
    let report = history(&pair.west).pop().unwrap();
    assert_eq!(step(&report, "check restore point")["state"], "failed", "{report}");
    assert_eq!(step(&report, "copy volumes")["state"], "skipped", "{report}");
    unmount();
}

/// Cycles commit and are applied while a drill goes on, its restore point does not expire, and a second drill is
/// refused.
#[test]
fn replication_goes_on_beside_a_drill() {
    let pair = pair();
    let (source, saved) = (pair.source("source"), pair.work("saved"));
    let (begun, go) = (pair.work("begun"), pair.work("go"));
    let mut rng = seed("beside");
    tree::small_files(&source, 100, &mut rng);
    let probes = [
        command(
            "wait",
            &format!("touch {}; while ! test -e {}; do sleep 0.05; done", begun.display(), go.display()),
        ),
        command("save", &format!("cp -a $BACKSTAY_DRILL_VOLUME_DATA {}", saved.display())),
    ];
    let plan = Plan::new("shop").volume("data", &source).keep(1).field(&drill_field(&probes));
    pair.east.apply(&plan.yaml()).ok();
    let first = pair.east.sync("shop");
    wait_applied(&pair, &first);
    let copy = pair.work("copy");
    copy_tree(&source, &copy);
    let mut running = pair.west.command(["drill", "shop", "-o", "json"]);
    let running = running.stdout(Stdio::piped()).spawn().unwrap();
    eventually("the first probe runs", Duration::from_secs(20), || begun.exists());
    tree::mutate(&source, 60, &mut rng);
    let second = pair.east.sync("shop");
    wait_applied(&pair, &second);
    assert_same(&source, &pair.west.replica("shop", "data"));
    // Only the newest is to be kept, but for what is in use.
    pair.west.cli(["gc"]).ok();
    let ids = pair.west.restore_point_ids("shop");
    assert_eq!(ids, [first["id"].as_str().unwrap(), second["id"].as_str().unwrap()]);
    pair.west.cli(["drill", "shop"]).refused(&[1], &["under way"]);
    pair.west.cli(["drill", "shop", "--clean"]).refused(&[1], &["under way"]);
    fs::write(&go, "").unwrap();
    let output = running.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["passed"], &report["restorePoint"]), (&true.into(), &first["id"]), "{report}");
    assert_same(&copy, &saved);
    pair.west.cli(["gc"]).ok();
    assert_eq!(pair.west.restore_point_ids("shop"), [second["id"].as_str().unwrap()]);
}

/// A daemon that is killed, or told to stop, in the middle of a drill removes what it left, commands included.
#[test]
fn a_killed_drill_leaves_nothing() {
    let mut pair = pair();
    let (source, begun) = (pair.source("source"), pair.work("begun"));
    tree::small_files(&source, 100, &mut seed("killed drill"));
    let probes = [command("wait", &format!("touch {}; sleep 600", begun.display()))];
    pair.east.apply(&Plan::new("shop").volume("data", &source).field(&drill_field(&probes)).yaml()).ok();
    let point = pair.east.sync("shop");
    wait_applied(&pair, &point);
    let before = standby(&pair, "data");
    for kill in [true, false] {
        let mut command = pair.west.command(["drill", "shop"]);
        let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("the probe runs", Duration::from_secs(20), || begun.exists());
        assert!(!left(&pair.west).is_empty());
        if kill {
            pair.west.kill();
        } else {
            pair.west.terminate();
            assert_eq!(left(&pair.west), Vec::<PathBuf>::new(), "a daemon that stops tears down");
        }
        running.wait().unwrap();
        fs::remove_file(&begun).unwrap();
        pair.west.serve();
        eventually("nothing is left", Duration::from_secs(20), || left(&pair.west).is_empty());
        assert_eq!(before, standby(&pair, "data"));
    }
    let takeover = pair.take_over("shop");
    assert_eq!(takeover["restorePoint"], point["id"]);
    assert_same(&source, &pair.west.replica("shop", "data"));
}

/// What is kept stays over a restart, until it is cleaned or the next drill.
#[test]
fn a_kept_drill_stays_until_it_is_cleaned() {
    let mut pair = pair();
    let source = pair.source("source");
    tree::small_files(&source, 50, &mut seed("kept"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.sync("shop");
    let report = drill(&pair.west, &["--keep"]);
    assert_eq!(
        (&report["kept"], &step(&report, "tear down")["state"]),
        (&true.into(), &"skipped".into()),
        "{report}"
    );
    assert!(report["warnings"].to_string().contains("no probes"), "{report}");
    let folder = PathBuf::from(report["folder"].as_str().unwrap());
    assert_same(&source, &folder.join("volumes/data"));
    pair.west.restart();
    assert_same(&source, &folder.join("volumes/data"));
    let next = drill(&pair.west, &["--keep"]);
    assert_eq!(next["number"], 2);
    assert!(!folder.exists(), "the next drill removes it");
    pair.west.cli(["drill", "shop", "--clean"]).ok();
    assert_eq!(left(&pair.west), Vec::<PathBuf>::new());
    pair.west.cli(["drill", "shop", "--clean"]).ok();
    assert_eq!(history(&pair.west).len(), 2);
}

/// Drills belong to the standby, to plans that there are, and to plans that make sense.
#[test]
fn where_drills_are_refused() {
    let mut pair = pair();
    let source = pair.source("source");
    tree::small_files(&source, 5, &mut seed("refused"));
    let plan = || Plan::new("shop").volume("data", &source);
    for (field, word) in [
        ("drill: {probes: [{name: a}]}", "exactly one"),
        ("drill: {probes: [{name: a, http: {url: 'https://x/'}}]}", "http://"),
        ("drill: {probes: [{name: a, exec: {podSelector: {a: b}, command: [x]}}]}", "namespaces"),
    ] {
        pair.east.apply(&plan().field(field).yaml()).refused(&[2], &[word]);
    }
    pair.east.apply(&plan().yaml()).ok();
    pair.west.cli(["drill", "nothing"]).refused(&[3], &["nothing"]);
    pair.east.sync("shop");
    pair.east.cli(["drill", "shop"]).refused(&[4], &["west"]);
    pair.take_over("shop");
    pair.west.cli(["drill", "shop"]).refused(&[4], &["active"]);
}
