//! A cluster as its administrator sees it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::cli::run;
use crate::{Output, SiteOptions};

/// The way into a running cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its folder, as `scripts/kube-lab` has it.
    dir: PathBuf,
    /// The network namespace from which it is reached.
    netns: Option<String>,
}

impl Cluster {
    pub(super) fn new(dir: PathBuf, netns: Option<String>) -> Cluster {
        Cluster { dir, netns }
    }

    /// A site beside it, with its administrator's rights.
    pub fn beside(&self) -> SiteOptions {
        let kubeconfig = self.kubeconfig().to_str().unwrap().to_owned();
        SiteOptions {
            env: vec![("BACKSTAY_KUBERNETES_KUBECONFIG".to_owned(), kubeconfig)],
            ..SiteOptions::default()
        }
    }

    /// Its folder: settings, keys, logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The log of one of its programs so far, such as `apiserver`.
    pub fn log(&self, label: &str) -> String {
        let path = self.dir.join("log").join(format!("{label}.log"));
        fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// A command that runs in the cluster's network.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(netns) = &self.netns else { return Command::new(program) };
        // Not `ip netns exec`, which hides /sys/fs/cgroup.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{netns}")).arg(program);
        command
    }

    /// Does some work on a thread inside the cluster's network. What it starts is there too.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            let Some(netns) = &self.netns else { return };
            let netns = File::open(Path::new("/run/netns").join(netns)).unwrap();
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        };
        let outcome = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter();
                work()
            });
            thread.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs kubectl as the administrator; the caller judges how it ended.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let mut command = self.command(super::asset("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        run(command)
    }

    /// A kubeconfig of a service account, with a token as a pod of it has.
    #[track_caller]
    pub fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.kubectl(["create", "token", account, "--namespace", namespace]).ok().stdout;
        let path = self.dir.join(format!("{namespace}-{account}.kubeconfig"));
        fs::copy(self.kubeconfig(), &path).unwrap();
        let user = format!("--token={}", token.trim());
        for args in [["set-credentials", "account", &user], ["set-context", "--current", "--user=account"]] {
            let mut command = self.command(super::asset("kubectl"));
            run({
                command.arg("--kubeconfig").arg(&path).arg("config").args(args);
                command
            })
            .ok();
        }
        path
    }

    /// `kubectl get ARGS -o json`, which must succeed.
    #[track_caller]
    pub fn get(&self, args: &[&str]) -> Value {
        self.kubectl(["get", "-o", "json"].iter().chain(args)).ok().json()
    }

    /// Whether `kubectl get ARGS` finds what it is asked for.
    pub fn has(&self, args: &[&str]) -> bool {
        self.kubectl(["get"].iter().chain(args)).code == 0
    }

    /// `kubectl apply` of one or more documents, which must succeed.
    #[track_caller]
    pub fn apply_yaml(&self, yaml: &str) {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        fs::write(file.path(), yaml).unwrap();
        self.kubectl([OsStr::new("apply"), OsStr::new("-f"), file.path().as_os_str()]).ok();
    }

    /// For a test that fails: the ends of all its logs, and the whole of them where `BACKSTAY_KEEP_LOGS` says.
    pub(super) fn show_logs(&self) {
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        for entry in fs::read_dir(self.dir.join("log")).into_iter().flatten().flatten() {
            let path = entry.path();
            let file = entry.file_name().to_string_lossy().into_owned();
            if let Ok(keep) = std::env::var("BACKSTAY_KEEP_LOGS") {
                drop(fs::copy(&path, format!("{keep}/{name}-{file}")));
            }
            let log = fs::read(&path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            eprintln!("--- last lines of {}", path.display());
            let tail: Vec<_> = log.lines().rev().take(15).collect();
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
