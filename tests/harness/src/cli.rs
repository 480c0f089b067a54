//! Running the command line and looking at what it says.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// No command of the suites takes longer at the sizes they use; one that does hangs.
const COMMAND_DEADLINE: Duration = Duration::from_secs(600);

/// What one run of the command line left.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Output {
    /// Fails the test unless the command exited with 0.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.exits(&[0])
    }

    /// Fails the test unless the command exited with one of `codes`.
    #[track_caller]
    pub fn exits(self, codes: &[i32]) -> Output {
        assert!(codes.contains(&self.code), "expected exit code {codes:?}, found {}\n{self}", self.code);
        self
    }

    /// Fails the test unless the command failed as an operator should see a failure: one of `codes`, an `error: …`
    /// that names every one of `words`, and a `hint: …`.
    #[track_caller]
    pub fn refused(self, codes: &[i32], words: &[&str]) -> Output {
        let this = self.exits(codes);
        assert!(this.stderr.lines().any(|line| line.starts_with("error: ")), "no `error: …` line\n{this}");
        assert!(this.stderr.lines().any(|line| line.starts_with("hint: ")), "no `hint: …` line\n{this}");
        for word in words {
            assert!(
                this.stderr.to_lowercase().contains(&word.to_lowercase()),
                "the message does not say {word:?}\n{this}"
            );
        }
        this
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("expected JSON: {e}\n{self}"))
    }

    /// The `items` of a JSON list.
    #[track_caller]
    pub fn items(&self) -> Vec<Value> {
        match self.json().get("items") {
            Some(Value::Array(items)) => items.clone(),
            _ => panic!("expected a list {{\"items\": […]}}\n{self}"),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "$ {}\nexit code {} after {:?}", self.command, self.code, self.elapsed)?;
        writeln!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// The program under test: `BACKSTAY_BIN`, else `backstay` beside the test's own profile folder.
pub(crate) fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("BACKSTAY_BIN") {
        return PathBuf::from(path);
    }
    // target/debug/deps/integration-… → target/debug/backstay
    let exe = std::env::current_exe().unwrap();
    let program = exe.parent().unwrap().parent().unwrap().join("backstay");
    assert!(program.is_file(), "{} is not built: run `cargo build -p backstay` first", program.display());
    program
}

/// Runs `backstay` with `args`.
pub fn run_backstay<S: AsRef<OsStr>>(args: &[S]) -> Output {
    let mut command = Command::new(program());
    command.args(args);
    run(command)
}

/// Runs a command to its end. Its output goes to files, so that a chatty command cannot block on a pipe.
pub(crate) fn run(mut command: Command) -> Output {
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let name = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let start = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > COMMAND_DEADLINE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{name} still ran after {COMMAND_DEADLINE:?}\n{}", text(&mut stderr));
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    Output {
        command: name,
        code: status.code().unwrap_or(-1),
        stdout: text(&mut stdout),
        stderr: text(&mut stderr),
        elapsed: start.elapsed(),
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
