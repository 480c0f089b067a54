//! The contract of the command line that scripts outside the project rely on.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use backstay_tests::{Pair, Plan, Site, SiteOptions, run_backstay, seed, tree};

fn synced() -> Pair {
    let pair = Pair::start();
    let source = pair.source("source");
    tree::small_files(&source, 50, &mut seed("contract"));
    pair.east.apply(&Plan::new("shop").volume("data", &source).field("rpoTarget: 20m").yaml()).ok();
    pair.east.sync("shop");
    pair
}

fn http(site: &Site, path: &str) -> String {
    let mut socket = UnixStream::connect(site.dir().join("api.sock")).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[track_caller]
fn has_fields(value: &serde_json::Value, fields: &str) {
    for field in fields.split(' ') {
        assert!(value.get(field).is_some(), "no field {field} in {value}");
    }
}

/// Every field the contract names is there, in camelCase.
#[test]
fn json_has_the_fields_of_the_contract() {
    let mut pair = synced();
    let point = "id plan epoch snapshotTime committedTime consistency complete filesScanned bytesScanned bytesChanged \
                 wireBytes durationSeconds";
    has_fields(&pair.east.sync("shop"), point);
    has_fields(&pair.west.restore_points("shop")[0], point);
    for site in [&pair.east, &pair.west] {
        let status = site.status("shop");
        has_fields(
            &status,
            "plan role epoch peer connected lagSeconds rpoTargetSeconds lastRestorePoint appliedRestorePoint nextRun cycle",
        );
        assert_eq!(status["rpoTargetSeconds"], 1200, "{status}");
    }
    assert_eq!(pair.east.status("shop")["role"], "active");
    assert_eq!(pair.west.status("shop")["role"], "standby");
    assert_eq!(pair.east.status("shop")["peer"], "west");
    assert_eq!(pair.west.status("shop")["peer"], "east");
    let report = pair.take_over("shop");
    has_fields(&report, "plan epoch restorePoint rpoSeconds rtoSeconds steps warnings");
    has_fields(&report["steps"][0], "name state durationSeconds");
}

/// Every reading command in every format.
#[test]
fn reading_commands_take_every_format() {
    let pair = synced();
    let commands: [&[&str]; 9] = [
        &["status"],
        &["status", "shop"],
        &["pair", "list"],
        &["plan", "list"],
        &["plan", "get", "shop"],
        &["restore-points", "shop"],
        &["diff", "shop"],
        &["audit"],
        &["verify", "shop"],
    ];
    for command in commands {
        for format in ["table", "wide", "json", "yaml"] {
            let args: Vec<_> = command.iter().copied().chain(["-o", format]).collect();
            let output = pair.west.cli(args).ok();
            assert!(!output.stdout.trim().is_empty() || command[0] == "diff", "{output}");
            if format == "json" {
                output.json();
            }
        }
    }
}

/// Commands that need no daemon.
#[test]
fn offline_commands() {
    let crds = run_backstay(&["crds"]).ok().stdout;
    for kind in ["ClusterPair", "SchedulePolicy", "ReplicationPlan", "Rule", "RestorePoint", "Failover"] {
        assert!(crds.contains(&format!("kind: {kind}\n")), "no definition of {kind}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(run_backstay(&["completions", shell]).ok().stdout.contains("restore-points"), "{shell}");
    }
    let help = run_backstay(&["--help"]).ok().stdout;
    for command in ["init", "serve", "pair", "plan", "sync", "status", "promote", "verify", "audit", "demo"] {
        assert!(help.contains(command), "{command} is not in the help");
    }
    let site = Site::init("east", SiteOptions::default());
    let config = site.cli(["serve", "--print-config"]).ok().stdout;
    assert!(config.contains("memory") && config.contains(&site.listen().to_string()), "{config}");
}

/// A start script makes the site the first time, and finds it from then on.
#[test]
fn a_site_is_made_once() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("site");
    let init = |more: &[&str]| {
        let site = dir.to_str().unwrap();
        run_backstay(&[&["init", "--site", site, "-o", "json"], more].concat())
    };
    let again = ["--if-missing", "--name", "west", "--listen", "127.0.0.1:7443"];
    let made = init(&again).ok().json();
    let found = init(&again).ok().json();
    assert_eq!((&made["result"], &found["result"]), (&"created".into(), &"unchanged".into()));
    assert_eq!(made["siteId"], found["siteId"]);
    init(&["--if-missing", "--name", "east"]).refused(&[2], &["is a site already", "east", "west"]);
    init(&["--name", "west"]).refused(&[2], &["not empty"]);
    fs::remove_file(dir.join("site.toml")).unwrap();
    init(&again).refused(&[2], &["not empty"]);
}

/// Monitoring: metrics with their names, health and readiness, an OpenAPI document.
#[test]
fn monitoring_answers() {
    let pair = synced();
    assert!(http(&pair.east, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(http(&pair.east, "/readyz").starts_with("HTTP/1.1 200"));
    let metrics = http(&pair.east, "/metrics") + &http(&pair.west, "/metrics");
    for name in [
        "lag_seconds",
        "rpo_target_seconds",
        "last_success_timestamp_seconds",
        "cycle_duration_seconds",
        "scanned_bytes_total",
        "wire_bytes_total",
        "chunks_total",
        "store_bytes",
        "restore_points",
        "connected",
        "role",
        "epoch",
    ] {
        assert!(metrics.contains(&format!("backstay_{name}")), "no metric backstay_{name}\n{metrics}");
    }
    assert!(http(&pair.east, "/api/v1/openapi.json").contains("\"openapi\""));
    // Whatever is refused is told in one form.
    for (path, status, class) in [
        ("/api/v1/plans/nothing", 404, "notFound"),
        ("/api/v1/nothing", 404, "incompatible"),
        ("/nothing", 404, "incompatible"),
        ("/api/v1/verify", 405, "incompatible"),
        ("/api/v1/plans/shop/diff?c=1", 400, "invalid"),
    ] {
        let answer = http(&pair.east, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let error: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(error["error"]["class"], class, "{path}: {body}");
        has_fields(&error["error"], "class message hint");
    }
}

/// Changes are written down, and a changed record is found.
#[test]
fn the_audit_log_is_chained() {
    let mut pair = synced();
    pair.take_over("shop");
    let items = pair.west.cli(["audit", "-o", "json"]).ok().items();
    assert!(items.iter().any(|item| item["action"].to_string().contains("promote")), "{items:?}");
    let since = pair.west.cli(["audit", "--since", "2020-01-01T00:00:00Z", "-o", "json"]).ok().items();
    assert!(since.len() >= items.len(), "asking is not recorded away: {} {}", since.len(), items.len());
}

/// Invariant 10: secrets are readable by their owner alone, and no log tells one.
#[test]
fn secrets_stay_secret() {
    let pair = Pair::start();
    let key = pair.west.cli(["pair", "key"]).ok().stdout;
    let secret = key.trim().trim_start_matches("bsk1_");
    for site in [&pair.east, &pair.west] {
        assert!(!site.log().contains(secret), "the log holds a pair key");
        for folder in ["identity", "pairs"] {
            for entry in fs::read_dir(site.dir().join(folder)).unwrap() {
                let entry = entry.unwrap();
                let mode = entry.metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o077, 0, "{} is open to others", entry.path().display());
            }
        }
        let socket = fs::metadata(site.dir().join("api.sock")).unwrap().permissions().mode();
        assert_eq!(socket & 0o007, 0, "the socket is open to all");
    }
    let audit = pair.west.cli(["audit", "-o", "json"]).ok().stdout;
    assert!(!audit.contains(secret), "the audit log holds a pair key");
}

/// SIGTERM in the middle of a cycle: the daemon drains, and the next one goes on.
#[test]
fn a_daemon_drains_on_sigterm() {
    let mut pair = Pair::start();
    let source = pair.source("source");
    tree::random_image(&source.join("big"), 96, &mut seed("drain"));
    pair.east.allow_errors("");
    pair.west.allow_errors("");
    pair.east.apply(&Plan::new("shop").volume("data", &source).yaml()).ok();
    pair.east.cli(["sync", "shop", "--no-wait"]).ok();
    pair.east.terminate();
    pair.east.serve();
    pair.wait_connected();
    pair.east.sync("shop");
    pair.take_over("shop");
    backstay_tests::assert_same(&source, &pair.west.replica("shop", "data"));
}
