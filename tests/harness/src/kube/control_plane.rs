//! One control plane on loopback: etcd and kube-apiserver, and as asked the controllers and the scheduler.
//!
//! It has no nodes: pods are objects that stay pending. That is what a standby looks like to Backstay, and all that
//! capture, apply and hold need.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Cluster, script};
use crate::cli::run;
use crate::eventually;
use crate::ports::free_tcp_port;

/// Alone they are ready in 5 seconds; the machine may be busy with other tests.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// A program of a control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The store.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager.
    Controllers,
    /// kube-scheduler.
    Scheduler,
}

impl Component {
    /// Its name in `control-plane.sh`, and of its log.
    fn label(self) -> &'static str {
        match self {
            Component::Etcd => "etcd",
            Component::ApiServer => "apiserver",
            Component::Controllers => "controllers",
            Component::Scheduler => "scheduler",
        }
    }
}

/// What runs besides etcd and kube-apiserver.
#[derive(Debug, Default)]
pub struct ControlPlaneOptions {
    /// kube-controller-manager: Deployments get ReplicaSets, namespaces get their default service account.
    pub controllers: bool,
    /// kube-scheduler.
    pub scheduler: bool,
    /// Further flags of kube-apiserver.
    pub api_flags: Vec<String>,
}

/// A control plane that ends with this value.
#[derive(Debug)]
pub struct ControlPlane {
    cluster: Cluster,
    running: BTreeMap<Component, Child>,
    api_port: u16,
    api_flags: Vec<String>,
    _home: TempDir,
}

impl ControlPlane {
    /// Starts one of this name, and waits until it serves.
    #[track_caller]
    pub fn start(name: &str, options: ControlPlaneOptions) -> ControlPlane {
        let home = tempfile::Builder::new().prefix("backstay-kube-").tempdir().unwrap();
        let dir = home.path().join(name);
        let [etcd, peer, api, controllers, scheduler] = std::array::from_fn(|_| free_tcp_port());
        fs::create_dir_all(dir.join("log")).unwrap();
        let settings = format!(
            "name={name} netns= ip=127.0.0.1 services=10.96.0.0/16 pods=10.244.0.0/16\n\
             etcd_port={etcd} peer_port={peer} api_port={api} controllers_port={controllers} scheduler_port={scheduler}\n"
        );
        fs::write(dir.join("settings"), settings).unwrap();
        let mut keys = Command::new(script("control-plane.sh"));
        keys.arg(&dir).arg("keys");
        run(keys).ok();
        let mut plane = ControlPlane {
            cluster: Cluster::new(dir, None),
            running: BTreeMap::new(),
            api_port: api,
            api_flags: options.api_flags,
            _home: home,
        };
        plane.launch(Component::Etcd);
        plane.launch(Component::ApiServer);
        plane.await_api();
        for (wanted, component) in
            [(options.controllers, Component::Controllers), (options.scheduler, Component::Scheduler)]
        {
            if wanted {
                plane.launch(component);
            }
        }
        // The first is made by kube-apiserver after it said that it is ready.
        let first = if options.controllers { "serviceaccount" } else { "namespace" };
        plane.await_while_alive(&format!("the default {first}"), |plane| {
            plane.cluster.has(&[first, "default", "--namespace=default"])
        });
        plane
    }

    /// The cluster, as its administrator.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// SIGKILL: connections break, watches end, requests under way may have been done or not.
    #[track_caller]
    pub fn kill(&mut self, component: Component) {
        let mut child =
            self.running.remove(&component).unwrap_or_else(|| panic!("{component:?} does not run"));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts a component that was killed, on the same data and port.
    #[track_caller]
    pub fn restart(&mut self, component: Component) {
        self.launch(component);
        if self.running.contains_key(&Component::ApiServer) {
            self.await_api();
        }
    }

    /// Kills kube-apiserver.
    #[track_caller]
    pub fn kill_apiserver(&mut self) {
        self.kill(Component::ApiServer);
    }

    /// Starts kube-apiserver again, and waits until it serves.
    #[track_caller]
    pub fn restart_apiserver(&mut self) {
        self.restart(Component::ApiServer);
    }

    fn launch(&mut self, component: Component) {
        assert!(!self.running.contains_key(&component), "{component:?} runs already");
        let log = self.cluster.dir().join("log").join(format!("{}.log", component.label()));
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        // The script becomes the program, so that the child is the program.
        let mut command = Command::new(script("control-plane.sh"));
        command.arg(self.cluster.dir()).arg(component.label());
        if component == Component::ApiServer {
            command.args(&self.api_flags);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.running.insert(component, command.spawn().unwrap());
    }

    fn await_api(&mut self) {
        self.await_while_alive("kube-apiserver", |plane| {
            // The cheap question first: a kubectl that runs 40 times a second would slow the start.
            TcpStream::connect((Ipv4Addr::LOCALHOST, plane.api_port)).is_ok()
                && plane.cluster.kubectl(["get", "--raw", "/readyz"]).code == 0
        });
    }

    fn await_while_alive(&mut self, what: &str, mut condition: impl FnMut(&ControlPlane) -> bool) {
        eventually(what, START_DEADLINE, || {
            for (component, child) in &mut self.running {
                if let Some(status) = child.try_wait().unwrap() {
                    panic!("{component:?} ended with {status}, while the test waited for {what}");
                }
            }
            condition(self)
        });
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            // It may have ended by itself; either way it is gone after this.
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            self.cluster.show_logs();
        }
    }
}
