//! `site.toml`: what an operator sets for one site.
//!
//! 1. Order: the file, then the environment (`BACKSTAY_<TABLE>_<KEY>`), then flags; a later one wins
//!    (test `flags_win_over_the_environment_and_that_over_the_file`).
//! 2. An unknown key is an error that names it and the nearest known one
//!    (test `an_unknown_key_is_named_with_the_nearest_known_one`).
//! 3. Every value is parsed here, once, into a type that cannot be wrong; nothing else of the daemon reads text.
//! 4. Secrets are never values, only paths of files.
//!
//! Nothing is written here: `backstay init` writes the first file from [`SiteConfig::to_toml`].

mod draft;
mod error;
mod hold;
mod keys;
mod print;
mod units;
mod witness;

pub use error::{ConfigError, Origin};
pub use units::{ByteSize, InvalidUnit, Rate};
pub use witness::{WitnessConfig, WitnessUrl};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use backstay_net::Congestion;
use backstay_types::plan::HostHold;
use backstay_types::{PlanName, Span, VolumeName};

use draft::{Draft, Raw};

/// Name of the file in the site's folder.
pub const FILE_NAME: &str = "site.toml";

/// Where a site listens if nothing else is said.
pub const DEFAULT_LISTEN: &str = "0.0.0.0:7443";

/// The effective configuration of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteConfig {
    /// Its name: a DNS label.
    pub name: String,
    /// Where it listens for peers (UDP).
    pub listen: SocketAddr,
    /// Where peers are told to reach it, as `HOST:PORT`; `listen` if nothing is set and it names an address.
    pub advertise: Vec<String>,
    /// Memory the daemon may use for data in flight.
    pub memory: ByteSize,
    /// Most that is sent to one peer; no limit without it.
    pub bandwidth: Option<Rate>,
    /// Congestion controller of connections.
    pub congestion: Congestion,
    /// Where the store is, if not in the site's folder.
    pub store_path: Option<PathBuf>,
    /// Where the admin API listens besides the socket.
    pub admin_listen: Option<SocketAddr>,
    /// File with the bearer token of `admin_listen`.
    pub admin_token_file: Option<PathBuf>,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: LogLevel,
    /// Wait after a first failed cycle or connection; doubles with each further one …
    pub retry_first: Span,
    /// … up to this.
    pub retry_max: Span,
    /// Whether a drill may run the commands that a plan, which its active side writes, names as probes.
    pub drill_commands: bool,
    /// Whether a drill may connect to the addresses that a plan of the other side names as probes.
    pub drill_network: bool,
    /// Whether a takeover may run the commands that a plan names as hooks; those in pods as well, if it is a plan of the
    /// other side.
    pub promote_commands: bool,
    /// Whether a takeover may connect to what a plan of the other side names as hooks.
    pub promote_network: bool,
    /// The cluster beside this site.
    pub kubernetes: KubernetesConfig,
    /// Who decides about automatic failovers; none without it.
    pub witness: Option<WitnessConfig>,
    /// Where volumes of a plan live on this site when it is the standby, if not in the site's folder.
    pub replicas: BTreeMap<PlanName, BTreeMap<VolumeName, PathBuf>>,
    /// Where the objects of a plan are written on this site when it is the standby, if not in the site's folder.
    pub manifests: BTreeMap<PlanName, PathBuf>,
    /// What stops the application of a plan on this host, where the plan itself, made here, does not say.
    pub holds: BTreeMap<PlanName, HostHold>,
}

/// How the cluster beside a site is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// A kubeconfig; without one, the pod's service account, or what `KUBECONFIG` and the home folder say.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it other than the current one.
    pub context: Option<String>,
    /// The node this daemon runs on: it reads the volumes of this node, and offers replicas on it.
    pub node: Option<String>,
    /// Where this daemon sees the root of that node's file system; `/` without it.
    pub host_root: Option<PathBuf>,
    /// Whether plans, policies and actions are also taken from custom resources, and reported there.
    pub controllers: bool,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What is logged: this and everything graver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// What needs an operator.
    Error,
    /// What may come to need one.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// How it happens.
    Debug,
    /// Every step.
    Trace,
}

impl LogLevel {
    /// As it is written in `site.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Settings from the command line: dotted keys, such as `limits.bandwidth`, with their values as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    settings: Vec<(String, String)>,
}

impl Overrides {
    /// Sets a key; the last one set wins.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.settings.push((key.into(), value.into()));
    }
}

impl SiteConfig {
    /// Where this daemon reads a path of its node.
    pub(crate) fn on_host(&self, path: &Path) -> PathBuf {
        match &self.kubernetes.host_root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// What `backstay init` begins with.
    pub fn default_for(name: &str, listen: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            listen,
            advertise: default_advertise(listen),
            memory: keys::DEFAULT_MEMORY,
            bandwidth: None,
            congestion: Congestion::default(),
            store_path: None,
            admin_listen: None,
            admin_token_file: None,
            log_format: LogFormat::default(),
            log_level: LogLevel::default(),
            retry_first: keys::DEFAULT_RETRY_FIRST,
            retry_max: keys::DEFAULT_RETRY_MAX,
            drill_commands: false,
            drill_network: false,
            promote_commands: false,
            promote_network: false,
            kubernetes: KubernetesConfig::default(),
            witness: None,
            replicas: BTreeMap::new(),
            manifests: BTreeMap::new(),
            holds: BTreeMap::new(),
        }
    }

    /// Reads `DIR/site.toml`, then this process's environment, then `overrides`.
    pub fn load(dir: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let path = dir.join(FILE_NAME);
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path, source })?;
        Self::resolve(&text, std::env::vars_os(), overrides)
    }

    /// As [`SiteConfig::load`], from text and an environment that are given.
    pub fn resolve(
        text: &str,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let table: toml::Table =
            text.parse().map_err(|source: toml::de::Error| ConfigError::syntax(&source))?;
        let mut draft = Draft::default();
        draft.read_file(&table)?;
        draft.read_environment(environment)?;
        for (key, value) in &overrides.settings {
            draft.set(&Origin::Flag, key, &Raw::Text(value))?;
        }
        draft.finish()
    }

    /// Where a plan's volume lives on this site, if the operator chose a place.
    pub fn replica(&self, plan: &PlanName, volume: &VolumeName) -> Option<&Path> {
        self.replicas.get(plan).and_then(|volumes| volumes.get(volume)).map(PathBuf::as_path)
    }

    /// Where a plan's objects are written on this site, if the operator chose a place.
    pub fn manifest_folder(&self, plan: &PlanName) -> Option<&Path> {
        self.manifests.get(plan).map(PathBuf::as_path)
    }

    /// The bandwidth limit in bytes a second.
    pub fn bandwidth_bytes_per_second(&self) -> Option<u64> {
        self.bandwidth.map(Rate::bytes_per_second)
    }
}

/// An address that peers can be told: not "every address of this machine".
fn default_advertise(listen: SocketAddr) -> Vec<String> {
    if listen.ip().is_unspecified() { Vec::new() } else { vec![listen.to_string()] }
}

#[cfg(test)]
mod tests;
