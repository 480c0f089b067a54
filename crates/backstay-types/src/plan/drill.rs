//! Drills: how a rehearsal finds out whether the application would work.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Class, Classify, Span, VolumeName, limits};

/// The field of [`DrillSpec`] with probes.
const PROBES: &str = "drill.probes";
/// The field of a plan with what is done once it was promoted.
const HOOKS: &str = "promoteHooks";

/// How a drill of the plan is judged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillSpec {
    /// What must be so for a drill to pass, looked at in this order. All are looked at, also after one that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeSpec>,
    /// How long the workloads may take to be ready, and each probe to pass; `60s` without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

/// One thing that must be so: exactly one of `command`, `exec`, `http` and `tcp`. It is tried again until it is, or its
/// time is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeSpec {
    /// Name, unique in the plan: a DNS label.
    #[schemars(with = "String")]
    pub name: VolumeName,
    /// A program with its arguments, run by the daemon, whose `drill.commands` (of a takeover `promote.commands`) must be
    /// on. It passes by ending with 0, and finds `BACKSTAY_PLAN`, `BACKSTAY_RESTORE_POINT`, and in a drill
    /// `BACKSTAY_DRILL_FOLDER` and `BACKSTAY_DRILL_VOLUME_<NAME>` in its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// A command in the pods that were started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecProbe>,
    /// A request that is to be answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// `HOST:PORT` that is to take a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// How long it may take to pass; that of the drill without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

/// A command in pods that were started; it passes by ending with 0 in every one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecProbe {
    /// Labels of the pods.
    #[schemars(extend("minProperties" = 1))]
    pub pod_selector: BTreeMap<String, String>,
    /// Container to run in; without it the one that `kubectl.kubernetes.io/default-container` names, or the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The program with its arguments.
    pub command: Vec<String>,
}

/// A request by HTTP: exactly one of `url` and `service`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// Where the daemon asks: `http://HOST:PORT/PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A Service that was started, asked through the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServicePort>,
    /// Status of the answer; any of 200 to 399 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub status: Option<u16>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// Name of the Service.
    pub name: String,
    /// Its namespace, as it is named at the source; the plan's only one without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The port, by number.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// What to ask for; `/` without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Probes that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDrill {
    /// Too many of them.
    #[error("{at}: {found}: at most {max} allowed", max = limits::DRILL_PROBES_MAX)]
    TooMany {
        /// Which list.
        at: &'static str,
        /// How many.
        found: usize,
    },
    /// Two probes of one name.
    #[error("{at}: two are named {name}")]
    TwoProbes {
        /// Which list.
        at: &'static str,
        /// The name.
        name: VolumeName,
    },
    /// Not exactly one way to look.
    #[error("{at} {name}: expected exactly one of `command`, `exec`, `http` and `tcp`")]
    Kind {
        /// Which list.
        at: &'static str,
        /// Which probe.
        name: VolumeName,
    },
    /// A value that does not fit.
    #[error("{at} {name}: {field}: expected {expected}")]
    Value {
        /// Which list.
        at: &'static str,
        /// Which probe.
        name: VolumeName,
        /// Which field.
        field: &'static str,
        /// What fits.
        expected: &'static str,
    },
    /// A timeout that cannot be kept.
    #[error("{at}: expected 1ms to {max}, found {found}", max = limits::DRILL_TIMEOUT_MAX)]
    Timeout {
        /// Which field.
        at: String,
        /// What it says.
        found: Span,
    },
    /// Pods are asked for, and the plan has none.
    #[error("{at} {name}: `{field}` looks into a cluster, and the plan names no namespaces")]
    NoCluster {
        /// Which list.
        at: &'static str,
        /// Which probe.
        name: VolumeName,
        /// Which field.
        field: &'static str,
    },
}

impl Classify for InvalidDrill {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        match self {
            InvalidDrill::Value { field: "http.url", .. } => {
                Some("for anything else, such as https, use a `command` probe with a tool for it".to_owned())
            }
            InvalidDrill::NoCluster { .. } => Some("use `command`, `http.url` or `tcp`".to_owned()),
            _ => None,
        }
    }
}

impl DrillSpec {
    /// How long workloads and a probe that says nothing else may take.
    pub fn timeout(&self) -> Span {
        self.timeout.unwrap_or(limits::DRILL_TIMEOUT_DEFAULT)
    }

    /// How long a probe may take.
    pub fn timeout_of(&self, probe: &ProbeSpec) -> Span {
        probe.timeout.unwrap_or(self.timeout())
    }

    /// Whether a probe has the daemon run or reach something that is not of the drill.
    pub fn leaves_the_drill(&self) -> bool {
        self.probes.iter().any(ProbeSpec::leaves_the_cluster)
    }

    /// The same where namespaces have other names.
    pub(super) fn renamed(&self, name: impl Fn(&String) -> String) -> Self {
        Self { probes: renamed(&self.probes, name), ..self.clone() }
    }

    /// Checks what the types alone cannot.
    pub fn validate(&self, covers_cluster: bool) -> Result<(), InvalidDrill> {
        timeout("drill.timeout".to_owned(), self.timeout)?;
        validate(PROBES, &self.probes, covers_cluster)
    }
}

/// Checks what is done once a plan was promoted.
pub(super) fn validate_hooks(hooks: &[ProbeSpec], covers_cluster: bool) -> Result<(), InvalidDrill> {
    validate(HOOKS, hooks, covers_cluster)
}

fn validate(at: &'static str, probes: &[ProbeSpec], covers_cluster: bool) -> Result<(), InvalidDrill> {
    if probes.len() > limits::DRILL_PROBES_MAX {
        return Err(InvalidDrill::TooMany { at, found: probes.len() });
    }
    let mut names = BTreeSet::new();
    for probe in probes {
        if !names.insert(&probe.name) {
            return Err(InvalidDrill::TwoProbes { at, name: probe.name.clone() });
        }
        timeout(format!("{at} {}: timeout", probe.name), probe.timeout)?;
        probe.validate(at, covers_cluster)?;
    }
    Ok(())
}

/// The same where namespaces have other names.
pub(super) fn renamed(probes: &[ProbeSpec], name: impl Fn(&String) -> String) -> Vec<ProbeSpec> {
    let mut probes = probes.to_vec();
    let services = probes.iter_mut().filter_map(|probe| probe.http.as_mut()?.service.as_mut());
    for namespace in services.filter_map(|service| service.namespace.as_mut()) {
        *namespace = name(namespace);
    }
    probes
}

fn timeout(at: String, span: Option<Span>) -> Result<(), InvalidDrill> {
    match span {
        Some(found) if found == Span(0) || found > limits::DRILL_TIMEOUT_MAX => {
            Err(InvalidDrill::Timeout { at, found })
        }
        _ => Ok(()),
    }
}

impl ProbeSpec {
    /// Whether the daemon runs or reaches something for it that is not of the plan's cluster.
    pub fn leaves_the_cluster(&self) -> bool {
        self.exec.is_none() && self.http.as_ref().is_none_or(|http| http.service.is_none())
    }

    fn validate(&self, at: &'static str, covers_cluster: bool) -> Result<(), InvalidDrill> {
        let name = || self.name.clone();
        let wrong = |field, expected| Err(InvalidDrill::Value { at, name: name(), field, expected });
        let kinds = [self.command.is_some(), self.exec.is_some(), self.http.is_some(), self.tcp.is_some()];
        if kinds.into_iter().filter(|is| *is).count() != 1 {
            return Err(InvalidDrill::Kind { at, name: name() });
        }
        if self.command.as_ref().is_some_and(|argv| !is_argv(argv)) {
            return wrong("command", ARGV);
        }
        if let Some(exec) = &self.exec {
            if !covers_cluster {
                return Err(InvalidDrill::NoCluster { at, name: name(), field: "exec" });
            }
            if exec.pod_selector.is_empty() {
                return wrong("exec.podSelector", "a label");
            }
            if !is_argv(&exec.command) {
                return wrong("exec.command", ARGV);
            }
        }
        if self.tcp.as_ref().is_some_and(|address| !is_address(address)) {
            return wrong("tcp", "HOST:PORT");
        }
        match &self.http {
            None => Ok(()),
            Some(HttpProbe { status: Some(status), .. }) if !(100..=599).contains(status) => {
                wrong("http.status", "100 to 599")
            }
            Some(HttpProbe { url: Some(url), service: None, .. }) if !is_url(url) => {
                wrong("http.url", "http://HOST:PORT/PATH")
            }
            Some(HttpProbe { url: Some(_), service: None, .. }) => Ok(()),
            Some(HttpProbe { url: None, service: Some(_), .. }) if !covers_cluster => {
                Err(InvalidDrill::NoCluster { at, name: name(), field: "http.service" })
            }
            Some(HttpProbe { url: None, service: Some(service), .. }) => service.validate(wrong),
            Some(_) => wrong("http", "exactly one of `url` and `service`"),
        }
    }
}

impl ServicePort {
    fn validate(
        &self,
        wrong: impl Fn(&'static str, &'static str) -> Result<(), InvalidDrill>,
    ) -> Result<(), InvalidDrill> {
        let is_name = |name: &str| super::is_namespace(name);
        if !is_name(&self.name) || !self.namespace.as_deref().is_none_or(is_name) {
            return wrong("http.service", "the name of a Service, and of a namespace");
        }
        let is_path = |path: &str| path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
        if self.port == 0 || !self.path.as_deref().is_none_or(is_path) {
            return wrong("http.service", "a port, and a path that begins with /");
        }
        Ok(())
    }
}

const ARGV: &str = "a program with its arguments, of 16384 bytes at most";

pub(super) fn is_argv(argv: &[String]) -> bool {
    let bytes: usize = argv.iter().map(String::len).sum();
    argv.first().is_some_and(|program| !program.is_empty())
        && bytes <= limits::RULE_COMMAND_BYTES_MAX
        && !argv.iter().any(|argument| argument.contains('\0'))
}

/// `HOST:PORT`.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_host = |c: char| c.is_ascii_graphic() && !"/@?#".contains(c);
        !host.is_empty() && host.chars().all(is_host) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn is_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://") else { return false };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    // Without a port it is 80.
    (is_address(host) || is_address(&format!("{host}:80"))) && rest.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drill(probes: &str) -> DrillSpec {
        serde_json::from_str(&format!(r#"{{"probes": [{probes}]}}"#)).expect(probes)
    }

    #[test]
    fn probes_say_one_thing_each() {
        for good in [
            r#"{"name": "a", "command": ["true"]}"#,
            r#"{"name": "a", "tcp": "localhost:5432", "timeout": "5s"}"#,
            r#"{"name": "a", "tcp": "[::1]:5432"}"#,
            r#"{"name": "a", "http": {"url": "http://127.0.0.1:8080/health?full=1", "status": 204}}"#,
            r#"{"name": "a", "http": {"url": "http://localhost"}}"#,
            r#"{"name": "a", "http": {"service": {"name": "web", "port": 80, "path": "/ok"}}}"#,
            r#"{"name": "a", "exec": {"podSelector": {"app": "db"}, "command": ["psql", "-c", "select 1"]}}"#,
        ] {
            assert_eq!(drill(good).validate(true), Ok(()), "{good}");
        }
        for bad in [
            r#"{"name": "a"}"#,
            r#"{"name": "a", "command": ["true"], "tcp": "localhost:1"}"#,
            r#"{"name": "a", "command": []}"#,
            r#"{"name": "a", "tcp": "localhost"}"#,
            r#"{"name": "a", "tcp": "localhost:0"}"#,
            r#"{"name": "a", "http": {}}"#,
            r#"{"name": "a", "http": {"url": "https://localhost/"}}"#,
            r#"{"name": "a", "http": {"url": "http://user@host/"}}"#,
            r#"{"name": "a", "http": {"url": "http://a b/"}}"#,
            r#"{"name": "a", "http": {"url": "http://localhost", "status": 99}}"#,
            r#"{"name": "a", "http": {"service": {"name": "web/../x", "port": 80}}}"#,
            r#"{"name": "a", "exec": {"podSelector": {}, "command": ["true"]}}"#,
            r#"{"name": "a", "command": ["true"], "timeout": "0s"}"#,
            r#"{"name": "a", "command": ["true"], "timeout": "2h"}"#,
            r#"{"name": "a", "command": ["true"]}, {"name": "a", "tcp": "localhost:1"}"#,
        ] {
            assert!(drill(bad).validate(true).is_err(), "{bad}");
        }
    }

    #[test]
    fn probes_that_leave_the_drill_are_told_apart() {
        for (probe, leaves) in [
            (r#"{"name": "a", "command": ["true"]}"#, true),
            (r#"{"name": "a", "tcp": "localhost:1"}"#, true),
            (r#"{"name": "a", "http": {"url": "http://localhost/"}}"#, true),
            (r#"{"name": "a", "http": {"service": {"name": "web", "port": 80}}}"#, false),
            (r#"{"name": "a", "exec": {"podSelector": {"app": "db"}, "command": ["true"]}}"#, false),
        ] {
            assert_eq!(drill(probe).leaves_the_drill(), leaves, "{probe}");
        }
        assert!(!DrillSpec::default().leaves_the_drill());
    }

    #[test]
    fn without_a_cluster_there_are_no_pods() {
        for probe in [
            r#"{"name": "a", "http": {"service": {"name": "web", "port": 80}}}"#,
            r#"{"name": "a", "exec": {"podSelector": {"app": "db"}, "command": ["true"]}}"#,
        ] {
            assert!(matches!(drill(probe).validate(false), Err(InvalidDrill::NoCluster { .. })), "{probe}");
        }
    }
}
