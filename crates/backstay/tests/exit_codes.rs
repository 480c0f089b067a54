//! The program against a daemon that says what a test wants: requests, output, exit codes, `error:` and `hint:`.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use backstay_types::Class;
use serde_json::{Value, json};

/// A site folder with a socket that gives the answers of a list, one a connection.
struct Fake {
    dir: tempfile::TempDir,
    seen: Receiver<(String, String)>,
}

/// Status and body; `None` hangs up after reading the request.
type Answer = Option<(u16, String)>;

impl Fake {
    fn new(answers: Vec<Answer>) -> Fake {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("site.toml"), "").expect("writes");
        let listener = UnixListener::bind(dir.path().join("api.sock")).expect("binds");
        let (tell, seen) = channel();
        thread::spawn(move || {
            for answer in answers {
                let (stream, _) = listener.accept().expect("a connection");
                tell.send(serve(stream, answer)).ok();
            }
        });
        Fake { dir, seen }
    }

    fn json(status: u16, body: &Value) -> Fake {
        Fake::new(vec![Some((status, body.to_string()))])
    }

    fn run(&self, arguments: &[&str]) -> Run {
        run(self.dir.path(), arguments)
    }

    /// The next request: its first line, and its body.
    fn request(&self) -> (String, Value) {
        let (line, body) = self.seen.recv().expect("a request");
        (line, serde_json::from_str(&body).unwrap_or(Value::Null))
    }
}

fn serve(mut stream: UnixStream, answer: Answer) -> (String, String) {
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    let mut first = String::new();
    reader.read_line(&mut first).expect("a request line");
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    if let Some((status, text)) = answer {
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{text}", text.len())
            .expect("answers");
    }
    (first.trim().to_owned(), String::from_utf8(body).expect("text"))
}

#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(site: &Path, arguments: &[&str]) -> Run {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_backstay"))
        .args(arguments)
        .env_remove("BACKSTAY_SITE")
        .arg("--site")
        .arg(site)
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Run {
        code: output.status.code().expect("not killed"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl Run {
    #[track_caller]
    fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        let lines: Vec<_> = self.stderr.lines().collect();
        assert_eq!(lines.iter().filter(|line| line.starts_with("error: ")).count(), 1, "{self:?}");
        assert_eq!(lines.iter().filter(|line| line.starts_with("hint: ")).count(), 1, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:?}");
        }
    }

    #[track_caller]
    fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }
}

fn failure(class: Class, hint: Option<&str>) -> Value {
    json!({"error": {"class": class, "message": "it says no", "hint": hint}})
}

fn point() -> Value {
    json!({
        "id": "e1-000042", "plan": "shop", "epoch": 1, "parent": null,
        "snapshotTime": "2026-11-21T08:00:00Z", "committedTime": "2026-11-21T08:00:03Z",
        "consistency": "crash", "complete": true, "filesScanned": 1001, "bytesScanned": 4096,
        "bytesChanged": 1024, "wireBytes": 512, "durationSeconds": 2.5, "volumes": [], "objects": 0,
        "heldBy": [], "damaged": false,
    })
}

#[test]
fn every_class_has_its_exit_code() {
    for class in Class::ALL {
        let expected = i32::from(class.exit_code());
        Fake::json(409, &failure(class, Some("do this")))
            .run(&["status"])
            .refused(expected, &["it says no", "do this"]);
        Fake::json(503, &failure(class, None)).run(&["sync", "shop"]).refused(expected, &["it says no"]);
    }
}

#[test]
fn a_daemon_that_is_not_there_is_5() {
    let dir = tempfile::tempdir().expect("a folder");
    let site = dir.path().to_str().expect("text").to_owned();
    run(dir.path(), &["status"]).refused(3, &["no site", "backstay init"]);
    fs::write(dir.path().join("site.toml"), "").expect("writes");
    let hint = format!("backstay serve --site {site}");
    run(dir.path(), &["status"]).refused(5, &["not running", &hint]);
    // A socket that is left over from a daemon that died.
    drop(UnixListener::bind(dir.path().join("api.sock")).expect("binds"));
    run(dir.path(), &["promote", "shop"]).refused(5, &["not running", &hint]);
}

#[test]
fn a_daemon_that_dies_under_a_request_is_5() {
    Fake::new(vec![None]).run(&["sync", "shop", "--no-wait"]).refused(5, &["broke off", "backstay serve"]);
}

#[test]
fn an_answer_that_is_not_understood_is_1() {
    Fake::new(vec![Some((200, "no".into()))]).run(&["status"]).refused(1, &["not understood"]);
    Fake::new(vec![Some((404, "no such route".into()))])
        .run(&["status"])
        .refused(1, &["404", "same version"]);
    Fake::new(vec![Some((500, "<html>".into()))]).run(&["status"]).refused(1, &["500"]);
}

#[test]
fn usage_errors_are_2_with_a_hint() {
    let dir = tempfile::tempdir().expect("a folder");
    for arguments in [&["frobnicate"][..], &["sync"], &["promote", "shop", "--restore-point", "yesterday"]] {
        run(dir.path(), arguments).refused(2, &["--help"]);
    }
    run(dir.path(), &["plan", "apply", "-f", "/nowhere.yaml"]).refused(2, &["/nowhere.yaml"]);
}

#[test]
fn sync_prints_its_restore_point() {
    let fake = Fake::json(200, &point());
    let run = fake.run(&["sync", "shop", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(run.ok()).expect("json")["wireBytes"], 512);
    assert_eq!(fake.request(), ("POST /api/v1/plans/shop/sync HTTP/1.1".into(), json!({"wait": true})));

    let fake = Fake::json(200, &point());
    assert!(fake.run(&["sync", "shop"]).ok().contains("Restore point:  e1-000042 (crash)"));

    let fake = Fake::json(200, &json!({"started": true}));
    assert!(fake.run(&["sync", "shop", "--no-wait"]).ok().contains("has begun"));
    assert_eq!(fake.request().1, json!({"wait": false}));
}

#[test]
fn promote_sends_what_was_asked_and_a_failed_step_is_7() {
    let report = |state: &str| {
        json!({
            "plan": "shop", "epoch": 2, "restorePoint": "e1-000042", "rpoSeconds": 3.0, "rtoSeconds": 0.5,
            "steps": [{"name": "verify", "state": state, "durationSeconds": 0.1}],
            "warnings": ["look at this"], "dryRun": false,
        })
    };
    let fake = Fake::json(200, &report("done"));
    let flags = ["promote", "shop", "--force", "--restore-point", "e1-000042"];
    assert!(fake.run(&flags).ok().contains("warning: look at this"));
    let asked = json!({"restorePoint": "e1-000042", "dryRun": false, "force": true, "acceptPartial": false});
    assert_eq!(fake.request(), ("POST /api/v1/plans/shop/promote HTTP/1.1".into(), asked));

    let run = Fake::json(200, &report("failed")).run(&["promote", "shop"]);
    run.refused(7, &["shop"]);
    assert!(run.stdout.contains("verify"), "{run:?}");

    let fake = Fake::json(200, &json!({"items": [report("done"), report("done")]}));
    let run = fake.run(&["promote", "--all", "-o", "yaml"]);
    assert_eq!(run.ok().matches("restorePoint: e1-000042").count(), 2, "{run:?}");
    assert_eq!(fake.request().0, "POST /api/v1/promote-all HTTP/1.1");
}

#[test]
fn damage_is_told_and_is_6() {
    let outcome = json!({
        "packs": 1, "chunks": 1, "bytes": 1, "restorePoints": 1, "replicas": 1, "durationSeconds": 0.1,
        "damaged": [{"kind": "pack", "name": "00000007", "detail": "digest", "restorePoints": [], "repaired": false}],
    });
    let run = Fake::json(200, &outcome).run(&["verify", "-o", "json"]);
    run.refused(6, &["pack 00000007", "--repair"]);
    assert_eq!(serde_json::from_str::<Value>(&run.stdout).expect("json"), outcome);
}

#[test]
fn removing_what_is_not_there_is_done() {
    let gone = failure(Class::NotFound, None);
    assert!(Fake::json(404, &gone).run(&["plan", "delete", "shop"]).ok().contains("nothing to do"));
    assert!(Fake::json(404, &gone).run(&["pair", "remove", "west"]).ok().contains("nothing to do"));
    Fake::json(404, &gone).run(&["plan", "get", "shop"]).refused(3, &[]);
    // But a site that is not there is no plan that was removed.
    let dir = tempfile::tempdir().expect("a folder");
    run(dir.path(), &["plan", "delete", "shop"]).refused(3, &["no site"]);
    // A peer's name does not reach into other paths.
    run(dir.path(), &["pair", "remove", "../plans/shop"]).refused(2, &[]);
}

#[test]
fn a_pair_key_stands_alone_on_standard_output() {
    let fake = Fake::json(200, &json!({"key": "bsk1_abc"}));
    assert_eq!(fake.run(&["pair", "key", "--endpoint", "a:1", "--ttl", "90s"]).ok(), "bsk1_abc\n");
    assert_eq!(fake.request().1, json!({"endpoints": ["a:1"], "ttlSeconds": 90}));
}

#[test]
fn the_audit_log_is_read_page_by_page() {
    let record = |seq: u64| {
        json!({"seq": seq, "time": "2026-11-21T08:00:00Z", "actor": "uid:0", "action": "sync", "plan": "shop",
               "detail": "", "outcome": "done", "previous": "00", "hash": "00"})
    };
    let page =
        |items: Vec<Value>, next: Option<u64>| Some((200, json!({"items": items, "next": next}).to_string()));
    let fake = Fake::new(vec![page(vec![record(1)], Some(300)), page(vec![record(2)], None)]);
    let run = fake.run(&["audit", "--since", "2026-11-21T07:00:00Z", "-o", "json"]);
    let value: Value = serde_json::from_str(run.ok()).expect("json");
    assert_eq!(value["items"].as_array().map(Vec::len), Some(2), "{value}");
    assert_eq!(fake.request().0, "GET /api/v1/audit?since=2026-11-21T07:00:00Z HTTP/1.1");
    assert_eq!(fake.request().0, "GET /api/v1/audit?since=2026-11-21T07:00:00Z&after=300 HTTP/1.1");
}

#[test]
fn restore_sends_a_full_path() {
    let answer =
        json!({"restorePoint": "e1-000001", "to": "/x", "entries": 1, "bytes": 1, "durationSeconds": 0.1});
    let fake = Fake::json(200, &answer);
    fake.run(&["restore", "shop", "--to", "relative"]).ok();
    let to = fake.request().1["to"].as_str().expect("text").to_owned();
    assert!(Path::new(&to).is_absolute() && to.ends_with("/relative"), "{to}");
}

#[test]
fn it_answers_as_a_kubectl_plugin() {
    let dir = tempfile::tempdir().expect("a folder");
    let link = dir.path().join("kubectl-backstay");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_backstay"), &link).expect("links");
    let output = Command::new(&link).arg("--help").output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && text.contains("Usage: kubectl backstay"), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let items: Vec<_> = (0..5000).map(|_| point()).collect();
    let fake = Fake::json(200, &json!({"items": items}));
    let mut child = Command::new(env!("CARGO_BIN_EXE_backstay"))
        .args(["restore-points", "shop", "--site"])
        .arg(fake.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_socket_that_is_not_ours_is_4() {
    let fake = Fake::new(vec![]);
    let socket = fake.dir.path().join("api.sock");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).expect("sets");
    // Root opens everything: then there is nothing to refuse.
    if UnixStream::connect(&socket).is_err() {
        fake.run(&["status"]).refused(4, &["run as the user"]);
    }
}
