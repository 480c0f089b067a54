//! One site: a folder, its daemon, and the commands given to it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{Output, program, run};
use crate::{eventually, eventually_some, free_address};

/// A daemon that takes longer to open its socket on an empty or small store is stuck.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// A daemon asked to drain must end by itself.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

/// How a site is made.
#[derive(Debug, Default)]
pub struct SiteOptions {
    /// Its folder; a new one in the temporary folder without it.
    pub dir: Option<PathBuf>,
    /// Where it listens; some port of loopback without it.
    pub listen: Option<SocketAddr>,
    /// Further environment of the daemon.
    pub env: Vec<(String, String)>,
    /// A program and its arguments that becomes the daemon, such as `setpriv`.
    pub wrapper: Vec<String>,
}

/// A site whose daemon ends with this value.
#[derive(Debug)]
pub struct Site {
    name: String,
    dir: PathBuf,
    listen: SocketAddr,
    env: Vec<(String, String)>,
    wrapper: Vec<String>,
    log: PathBuf,
    daemon: Option<Child>,
    keeper: Option<Child>,
    peak_kib: u64,
    allowed_errors: Mutex<Vec<String>>,
    /// Holds the log and, unless the site stands elsewhere, the site.
    _home: TempDir,
}

impl Site {
    /// Makes a site with `backstay init`; its daemon does not run yet.
    pub fn init(name: &str, options: SiteOptions) -> Site {
        let home = tempfile::Builder::new().prefix(&format!("backstay-{name}-")).tempdir().unwrap();
        let dir = options.dir.unwrap_or_else(|| home.path().join("site"));
        let site = Site {
            name: name.to_owned(),
            log: home.path().join("daemon.log"),
            dir,
            listen: options.listen.unwrap_or_else(free_address),
            env: options.env,
            wrapper: options.wrapper,
            daemon: None,
            keeper: None,
            peak_kib: 0,
            allowed_errors: Mutex::default(),
            _home: home,
        };
        site.cli(["init", "--name", name, "--listen", &site.listen.to_string()]).ok();
        site
    }

    /// Makes a site and starts its daemon.
    pub fn start(name: &str) -> Site {
        let mut site = Site::init(name, SiteOptions::default());
        site.serve();
        site
    }

    /// A copy of a site whose daemon is down, at an address of its own, so that what it would do can be tried
    /// without spending the site.
    pub fn clone_of(site: &Site) -> Site {
        assert!(site.daemon.is_none(), "a running site cannot be copied");
        let home = tempfile::Builder::new().prefix("backstay-clone-").tempdir().unwrap();
        let dir = home.path().join("site");
        let status =
            Command::new("cp").args(["-a", "--reflink=auto"]).arg(&site.dir).arg(&dir).status().unwrap();
        assert!(status.success(), "cp of {} failed", site.dir.display());
        let listen = free_address();
        let config = dir.join("site.toml");
        let text =
            fs::read_to_string(&config).unwrap().replace(&site.listen.to_string(), &listen.to_string());
        fs::write(&config, text).unwrap();
        Site {
            name: site.name.clone(),
            log: home.path().join("daemon.log"),
            dir,
            listen,
            env: site.env.clone(),
            wrapper: site.wrapper.clone(),
            daemon: None,
            keeper: None,
            peak_kib: 0,
            allowed_errors: Mutex::new(site.allowed_errors.lock().unwrap().clone()),
            _home: home,
        }
    }

    /// Has it listen somewhere else from its next start on.
    pub fn move_away(&mut self) {
        assert!(self.daemon.is_none(), "a running site cannot be moved");
        let (old, new) = (self.listen.to_string(), free_address());
        let config = self.dir.join("site.toml");
        let text = fs::read_to_string(&config).unwrap().replace(&old, &new.to_string());
        fs::write(&config, text).unwrap();
        self.listen = new;
    }

    /// A site that stands at `dir`, as some earlier build made it at the address `was`; it moves to one of its own.
    pub fn adopt(name: &str, dir: &Path, was: &str) -> Site {
        let home = tempfile::Builder::new().prefix(&format!("backstay-{name}-")).tempdir().unwrap();
        let listen = free_address();
        let config = dir.join("site.toml");
        let text = fs::read_to_string(&config).unwrap().replace(was, &listen.to_string());
        fs::write(&config, text).unwrap();
        Site {
            name: name.to_owned(),
            log: home.path().join("daemon.log"),
            dir: dir.to_owned(),
            listen,
            env: Vec::new(),
            wrapper: Vec::new(),
            daemon: None,
            keeper: None,
            peak_kib: 0,
            allowed_errors: Mutex::default(),
            _home: home,
        }
    }

    /// Its name, by which its peers know it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its state folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its daemon listens.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The replica of a volume.
    pub fn replica(&self, plan: &str, volume: &str) -> PathBuf {
        self.dir.join("replicas").join(plan).join(volume)
    }

    /// The folder of held manifests of a plan.
    pub fn manifests(&self, plan: &str) -> PathBuf {
        self.dir.join("manifests").join(plan)
    }

    /// Starts the daemon, which may die before it answers.
    pub fn spawn(&mut self) {
        assert!(self.daemon.is_none(), "{} is already running", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut words = self.wrapper.iter().map(OsString::from).chain([program().into()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("serve").arg("--site").arg(&self.dir).env("BACKSTAY_LOG_FORMAT", "json");
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
    }

    /// Starts the daemon and waits until it answers.
    #[track_caller]
    pub fn serve(&mut self) {
        self.spawn();
        let socket = self.dir.join("api.sock");
        eventually(
            &format!("the daemon of {} answers\n{}", self.name, self.dir.display()),
            START_DEADLINE,
            || {
                if let Some(status) = self.daemon.as_mut().unwrap().try_wait().unwrap() {
                    self.daemon = None;
                    panic!("the daemon of {} ended with {status}\n{}", self.name, self.log());
                }
                UnixStream::connect(&socket).is_ok()
            },
        );
    }

    /// The daemon's process id.
    pub fn pid(&self) -> Pid {
        let child = self.daemon.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name));
        Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
    }

    /// Whether the daemon was started and has not ended.
    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// SIGKILL: no chance to say goodbye.
    pub fn kill(&mut self) {
        self.peak_memory_mib();
        let mut child = self.daemon.take().unwrap_or_else(|| panic!("{} is not running", self.name));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for the end of a daemon that dies by itself.
    #[track_caller]
    pub fn wait_dead(&mut self) {
        let mut child = self.daemon.take().unwrap_or_else(|| panic!("{} is not running", self.name));
        eventually(&format!("{} is dead", self.name), DRAIN_DEADLINE, || child.try_wait().unwrap().is_some());
    }

    /// SIGTERM: the daemon drains and ends with 0.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.peak_memory_mib();
        kill_process(self.pid(), Signal::TERM).unwrap();
        let mut child = self.daemon.take().unwrap();
        let status =
            eventually_some(&format!("{} drains", self.name), DRAIN_DEADLINE, || child.try_wait().unwrap());
        assert!(status.success(), "{} drained with {status}\n{}", self.name, self.log());
    }

    /// Starts the keeper and waits until it and its guard are there.
    #[track_caller]
    pub fn keep(&mut self) {
        assert!(self.keeper.is_none(), "the keeper of {} is already running", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(program());
        command.arg("keeper").arg("--site").arg(&self.dir).env("BACKSTAY_LOG_FORMAT", "json");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.keeper = Some(command.spawn().unwrap());
        for seat in ["keeper", "guard"] {
            eventually(&format!("the {seat} of {} is there", self.name), START_DEADLINE, || {
                File::open(self.dir.join("keeper").join(seat))
                    .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
            });
        }
    }

    /// SIGKILL to the keeper.
    pub fn kill_keeper(&mut self) {
        let mut child = self.keeper.take().unwrap_or_else(|| panic!("{} has no keeper", self.name));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The process ids of this site's guards.
    pub fn guards(&self) -> Vec<Pid> {
        let is_ours = |pid: i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = words.split(|byte| *byte == 0).collect();
            words.contains(&b"keeper-guard".as_slice())
                && words.contains(&self.dir.as_os_str().as_encoded_bytes())
        };
        let pids =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| is_ours(*pid)).filter_map(Pid::from_raw).collect()
    }

    /// SIGKILL to every guard.
    pub fn kill_guards(&self) {
        for pid in self.guards() {
            // It may have ended by itself; either way it is gone after this.
            kill_process(pid, Signal::KILL).ok();
        }
    }

    /// The machine is gone: keeper, guard and daemon at once.
    pub fn kill_machine(&mut self) {
        // First who would tell that the keeper is gone, then who would start another guard.
        for child in self.daemon.iter_mut().chain(&mut self.keeper) {
            drop(child.kill());
        }
        self.kill_guards();
        for mut child in self.keeper.take().into_iter().chain(self.daemon.take()) {
            child.wait().unwrap();
        }
    }

    /// Kills and starts the daemon.
    pub fn restart(&mut self) {
        self.kill();
        self.serve();
    }

    /// Runs a command on this site.
    pub fn cli<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        run(self.command(args))
    }

    /// A command on this site that the caller runs.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program());
        command.args(args).arg("--site").arg(&self.dir);
        command
    }

    /// Applies plans given as YAML.
    pub fn apply(&self, yaml: &str) -> Output {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        fs::write(file.path(), yaml).unwrap();
        self.cli([OsStr::new("plan"), OsStr::new("apply"), OsStr::new("-f"), file.path().as_os_str()])
    }

    /// One cycle now; gives the restore point.
    #[track_caller]
    pub fn sync(&self, plan: &str) -> Value {
        self.cli(["sync", plan, "-o", "json"]).ok().json()
    }

    /// `status PLAN`.
    #[track_caller]
    pub fn status(&self, plan: &str) -> Value {
        self.cli(["status", plan, "-o", "json"]).ok().json()
    }

    /// `restore-points PLAN`, in the order given.
    #[track_caller]
    pub fn restore_points(&self, plan: &str) -> Vec<Value> {
        self.cli(["restore-points", plan, "-o", "json"]).ok().items()
    }

    /// The ids of a plan's restore points, sorted.
    #[track_caller]
    pub fn restore_point_ids(&self, plan: &str) -> Vec<String> {
        let mut ids: Vec<_> =
            self.restore_points(plan).iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }

    /// `promote PLAN` with further flags; gives the report.
    #[track_caller]
    pub fn promote(&self, plan: &str, flags: &[&str]) -> Value {
        let args = ["promote", plan, "-o", "json"].into_iter().chain(flags.iter().copied());
        self.cli(args).ok().json()
    }

    /// The daemon's log so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Expects ERROR lines that contain `text`; an empty text allows all.
    pub fn allow_errors(&self, text: &str) {
        self.allowed_errors.lock().unwrap().push(text.to_owned());
    }

    /// The most memory that any daemon of this site had resident so far, in MiB.
    pub fn peak_memory_mib(&mut self) -> u64 {
        if let Some(child) = &self.daemon {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib =
                peak.and_then(|line| line.trim().strip_suffix(" kB")).map_or(0, |kib| kib.parse().unwrap());
            self.peak_kib = self.peak_kib.max(kib);
        }
        self.peak_kib / 1024
    }

    /// Lines of the log that no test should see.
    fn unexpected_errors(&self) -> Vec<String> {
        let allowed = self.allowed_errors.lock().unwrap();
        let is_error = |line: &&str| {
            line.contains("\"level\":\"ERROR\"") || line.contains(" ERROR ") || line.contains("panicked at")
        };
        let is_allowed = |line: &&str| {
            !line.contains("panicked at") && allowed.iter().any(|text| line.contains(text.as_str()))
        };
        self.log().lines().filter(is_error).filter(|line| !is_allowed(line)).map(str::to_owned).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in self.keeper.iter_mut().chain(&mut self.daemon) {
            // The process may have ended by itself; either way it is gone after this.
            drop(child.kill());
            drop(child.wait());
        }
        if self.dir.join("keeper").exists() {
            self.kill_guards();
        }
        if std::thread::panicking() {
            if let Ok(keep) = std::env::var("BACKSTAY_KEEP_LOGS") {
                drop(File::create(format!("{keep}/{}-{}.log", self.name, self.listen.port())));
                drop(fs::copy(&self.log, format!("{keep}/{}-{}.log", self.name, self.listen.port())));
            }
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("--- last lines of the log of {} ({})", self.name, self.dir.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
            return;
        }
        let errors = self.unexpected_errors();
        assert!(
            errors.is_empty(),
            "unexpected ERROR lines in the log of {}:\n{}",
            self.name,
            errors.join("\n")
        );
    }
}
