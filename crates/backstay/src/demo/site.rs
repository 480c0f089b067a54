//! One site of the demo: its daemon as a child process, and commands run against it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use backstay_daemon::api_types::{PlanStatus, SOCKET_NAME};
use backstay_types::{Class, RestorePointId};
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// A daemon of an empty site answers in a fraction of a second, on a busy machine in a few.
const START_WITHIN: Duration = Duration::from_secs(30);

/// 72 MiB are written in a second; on a busy disk in a few.
const APPLY_WITHIN: Duration = Duration::from_secs(60);

/// A site whose daemon ends with this value.
pub(super) struct DemoSite {
    name: &'static str,
    dir: PathBuf,
    daemon: Mutex<Option<Child>>,
}

impl DemoSite {
    /// Makes the site `DIR/NAME` and starts its daemon, which logs to `DIR/NAME.log`.
    pub(super) fn start(dir: &Path, name: &'static str, port: u16) -> Result<Self, Failure> {
        let site = Self { name, dir: dir.join(name), daemon: Mutex::new(None) };
        site.run(&["init", "--name", name, "--listen", &format!("127.0.0.1:{port}")])?;
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).map_err(|error| Failure::io(Class::Invalid, "make", &log, &error))?;
        eprintln!("   $ backstay serve --site {} &", site.dir.display());
        let child = program()?
            .arg("serve")
            .arg("--site")
            .arg(&site.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .map_err(|error| {
                Failure::new(Class::Transient, format!("start the daemon of {name}: {error}"))
            })?;
        *site.lock() = Some(child);
        site.wait_until_it_answers(&log)?;
        Ok(site)
    }

    fn wait_until_it_answers(&self, log: &Path) -> Result<(), Failure> {
        let start = super::now();
        while UnixStream::connect(self.dir.join(SOCKET_NAME)).is_err() {
            let ended = self.lock().as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || start.elapsed() > START_WITHIN {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let last = text
                    .lines()
                    .rev()
                    .find(|line| line.starts_with("error: "))
                    .unwrap_or("it does not answer");
                return Err(Failure::new(
                    Class::Transient,
                    format!("start the daemon of {}: {last}", self.name),
                )
                .hint("run the demo with --keep and look at the daemon's log"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a command on this site, showing it; gives its standard output.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String, Failure> {
        self.execute(arguments, None)
    }

    /// As `run`, with a last argument that is handed over on standard input.
    pub(super) fn run_secret(&self, arguments: &[&str], secret: &str) -> Result<String, Failure> {
        let arguments: Vec<_> = arguments.iter().copied().chain(["-"]).collect();
        self.execute(&arguments, Some(secret))
    }

    /// Runs a command with `-o json` and reads its answer.
    pub(super) fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, Failure> {
        let arguments: Vec<_> = arguments.iter().copied().chain(["-o", "json"]).collect();
        let text = self.execute(&arguments, None)?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::new(Class::Bug, format!("read the answer to {arguments:?}: {error}")))
    }

    /// Waits until this standby's replicas show the restore point.
    pub(super) fn wait_until_applied(&self, id: RestorePointId) -> Result<(), Failure> {
        eprintln!("   (the standby brings its replica up to {id})");
        let start = super::now();
        loop {
            let text = self.quietly(&["status", "shop", "-o", "json"], None)?;
            let status: PlanStatus = serde_json::from_str(&text)
                .map_err(|error| Failure::new(Class::Bug, format!("read the status: {error}")))?;
            if status.applied_restore_point == Some(id) {
                return Ok(());
            }
            if start.elapsed() > APPLY_WITHIN {
                let told =
                    status.apply_error.map_or_else(|| "it takes too long".to_owned(), |error| error.message);
                return Err(Failure::new(Class::Incomplete, format!("bring the replica up to {id}: {told}"))
                    .hint("run the demo with --keep and look at the daemon's log"));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn execute(&self, arguments: &[&str], input: Option<&str>) -> Result<String, Failure> {
        eprintln!("   $ backstay {} --site {}", arguments.join(" "), self.dir.display());
        self.quietly(arguments, input)
    }

    fn quietly(&self, arguments: &[&str], input: Option<&str>) -> Result<String, Failure> {
        let line = arguments.join(" ");
        let fail =
            |error: std::io::Error| Failure::new(Class::Transient, format!("run `backstay {line}`: {error}"));
        let mut child = program()?
            .args(arguments)
            .arg("--site")
            .arg(&self.dir)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(fail)?;
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            pipe.write_all(input.as_bytes()).map_err(fail)?;
        }
        let mut text = String::new();
        if let Some(mut pipe) = child.stdout.take() {
            pipe.read_to_string(&mut text).map_err(fail)?;
        }
        let status = child.wait().map_err(fail)?;
        if status.success() {
            return Ok(text);
        }
        Err(Failure::new(Class::Incomplete, format!("`backstay {line}` ended with {status}"))
            .hint("its own message stands above; run the demo with --keep to look at the sites"))
    }

    /// Kills the daemon: no chance to say goodbye.
    pub(super) fn kill(&self) -> Result<(), Failure> {
        let Some(mut child) = self.lock().take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map(drop).map_err(|error| {
            Failure::new(Class::Transient, format!("end the daemon of {}: {error}", self.name))
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for DemoSite {
    fn drop(&mut self) {
        if let Err(failure) = self.kill() {
            eprintln!("{failure}");
        }
    }
}

/// This very program, without the settings of a site that the person may have in the environment.
fn program() -> Result<Command, Failure> {
    let path = std::env::current_exe()
        .map_err(|error| Failure::new(Class::Transient, format!("find this program: {error}")))?;
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BACKSTAY_")) {
        command.env_remove(name);
    }
    Ok(command)
}
