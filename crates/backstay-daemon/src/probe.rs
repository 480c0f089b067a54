//! Probes: what must be so, or is to be done, once an application was started for a drill or by a takeover.
//!
//! Each is tried until it passes or its time is up. What a command has left running when its time is up, or when the
//! daemon stops, is killed with it.

mod command;
mod http;
mod tcp;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use backstay_kube::cluster::Cluster;
use backstay_types::plan::{ExecProbe, HttpProbe, ProbeSpec, ServicePort};
use tokio_util::sync::CancellationToken;

use crate::api_types::ProbeReport;
use crate::clock;

/// Pause before a probe is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// What is kept of what a probe says: enough for the line that matters.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Where probes look.
pub(crate) struct Prober {
    /// What the operator of this site has not allowed.
    pub(crate) needs: Needs,
    /// What commands find in their environment.
    pub(crate) environment: Vec<(String, OsString)>,
    /// Where commands run.
    pub(crate) folder: PathBuf,
    /// The pods that were started, if any were.
    pub(crate) pods: Option<Pods>,
}

/// For each kind of probe the setting of this site that allows it, unless it may be tried. A plan that was made on the
/// other side says where this one connects to, and what it runs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Needs {
    /// `command`.
    pub(crate) command: Option<&'static str>,
    /// `tcp`, and `http` with a `url`.
    pub(crate) address: Option<&'static str>,
    /// `exec`.
    pub(crate) exec: Option<&'static str>,
    /// `http` with a `service`.
    pub(crate) service: Option<&'static str>,
}

impl Needs {
    /// Why a probe is not tried at all.
    fn forbid(&self, probe: &ProbeSpec) -> Option<String> {
        let (setting, what) = match probe {
            ProbeSpec { command: Some(_), .. } => (self.command?, "commands are not run"),
            ProbeSpec { exec: Some(_), .. } => {
                (self.exec?, "commands in pods are not run for a plan of the other side")
            }
            ProbeSpec { http: Some(HttpProbe { service: Some(_), .. }), .. } => {
                (self.service?, "services are not asked for a plan of the other side")
            }
            _ => (self.address?, "addresses of a plan of the other side are not connected to"),
        };
        Some(format!("{what} here: set `{setting} = true` in site.toml"))
    }
}

/// Namespaces with what was started.
pub(crate) struct Pods {
    pub(crate) cluster: Cluster,
    pub(crate) namespaces: Vec<String>,
    /// What namespaces of the source are called here.
    pub(crate) names: BTreeMap<String, String>,
}

/// The daemon stops.
pub(crate) struct Stopped;

impl Prober {
    /// Tries a probe until it passes or its time is up.
    pub(crate) async fn try_probe(
        &self,
        probe: &ProbeSpec,
        time: Duration,
        stop: &CancellationToken,
    ) -> Result<ProbeReport, Stopped> {
        let started = clock::now();
        if let Some(message) = self.needs.forbid(probe) {
            // The operator's word does not change by asking again.
            tracing::info!(probe = %probe.name, "not probed: {message}");
            let name = probe.name.clone();
            return Ok(ProbeReport { name, passed: false, tries: 0, duration_seconds: 0.0, message });
        }
        let (mut tries, mut last) = (0, "it gave no answer in its time".to_owned());
        let until_it_passes = async {
            loop {
                tries += 1;
                match self.look(probe).await {
                    Ok(said) => return said,
                    Err(why) => last = why,
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(time, until_it_passes) => outcome,
            () = stop.cancelled() => return Err(Stopped),
        };
        let passed = outcome.is_ok();
        let mut message = outcome.unwrap_or(last);
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        let duration_seconds = clock::now().since(started).as_secs_f64();
        tracing::info!(probe = %probe.name, passed, tries, "probed");
        Ok(ProbeReport { name: probe.name.clone(), passed, tries, duration_seconds, message })
    }

    /// Looks once: what it said, or why it did not pass.
    async fn look(&self, probe: &ProbeSpec) -> Result<String, String> {
        match probe {
            ProbeSpec { command: Some(argv), .. } => {
                command::run(argv, &self.environment, &self.folder).await
            }
            ProbeSpec { tcp: Some(address), .. } => tcp::connect(address).await.map(|_| String::new()),
            ProbeSpec { http: Some(HttpProbe { url: Some(url), status, .. }), .. } => {
                http::get(url).await.and_then(|found| judged(found, *status))
            }
            ProbeSpec { http: Some(HttpProbe { service: Some(service), status, .. }), .. } => {
                self.pods()?.ask(service).await.and_then(|found| judged(found, *status))
            }
            ProbeSpec { exec: Some(exec), .. } => self.pods()?.exec(exec).await,
            // A plan is checked when it is applied, and what its peer shares is checked as well.
            _ => Err("it says nothing to look at".to_owned()),
        }
    }

    fn pods(&self) -> Result<&Pods, String> {
        self.pods.as_ref().ok_or_else(|| "nothing was started".to_owned())
    }
}

impl Pods {
    async fn exec(&self, probe: &ExecProbe) -> Result<String, String> {
        self.cluster.exec_in_pods(&self.namespaces, probe).await
    }

    async fn ask(&self, service: &ServicePort) -> Result<u16, String> {
        let namespace = match (&service.namespace, self.namespaces.as_slice()) {
            (Some(source), _) => self.names.get(source).unwrap_or(source),
            (None, [only]) => only,
            (None, _) => return Err("the plan has several namespaces: name one".to_owned()),
        };
        if !self.namespaces.contains(namespace) {
            return Err(format!("the plan has no namespace {namespace} here"));
        }
        self.cluster.ask_service(namespace, service).await
    }
}

/// Whether a status is the one that was expected.
fn judged(found: u16, expected: Option<u16>) -> Result<String, String> {
    let said = format!("status {found}");
    match expected {
        Some(expected) if found == expected => Ok(said),
        None if (200..400).contains(&found) => Ok(said),
        Some(expected) => Err(format!("status: expected {expected}, found {found}")),
        None => Err(format!("status: expected 200 to 399, found {found}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_judged() {
        for (found, expected, passes) in [
            (200, None, true),
            (399, None, true),
            (400, None, false),
            (500, Some(500), true),
            (200, Some(204), false),
        ] {
            assert_eq!(judged(found, expected).is_ok(), passes, "{found} {expected:?}");
        }
        const { assert!(MESSAGE_BYTES_MAX <= backstay_types::limits::MESSAGE_BYTES_MAX) }
    }
}
