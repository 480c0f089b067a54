//! Collecting settings from the file, the environment and flags, and turning them into a configuration.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use backstay_net::Congestion;
use backstay_types::plan::HostHold;
use backstay_types::{PlanName, Span, VolumeName};

use super::hold;
use super::keys::{KEYS, Key, absolute};
use super::units::{ByteSize, Rate};
use super::{
    ConfigError, KubernetesConfig, LogFormat, LogLevel, Origin, SiteConfig, WitnessConfig, WitnessUrl,
    default_advertise,
};

const ENVIRONMENT_PREFIX: &str = "BACKSTAY_";

/// Tables whose keys are names the operator gave.
const REPLICAS: &str = "replicas";
const MANIFESTS: &str = "manifests";
pub(super) const HOLD: &str = "hold";

/// A value before it is parsed.
pub(super) enum Raw<'a> {
    Text(&'a str),
    List(Vec<&'a str>),
}

/// What has been set so far.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) name: Option<PlanName>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) advertise: Option<Vec<String>>,
    pub(super) memory: Option<ByteSize>,
    pub(super) bandwidth: Option<Rate>,
    pub(super) congestion: Option<Congestion>,
    pub(super) store_path: Option<PathBuf>,
    pub(super) admin_listen: Option<SocketAddr>,
    pub(super) admin_token_file: Option<PathBuf>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) log_level: Option<LogLevel>,
    pub(super) retry_first: Option<Span>,
    pub(super) retry_max: Option<Span>,
    pub(super) drill_commands: Option<bool>,
    pub(super) drill_network: Option<bool>,
    pub(super) promote_commands: Option<bool>,
    pub(super) promote_network: Option<bool>,
    pub(super) kubernetes: KubernetesConfig,
    pub(super) witness_url: Option<WitnessUrl>,
    pub(super) witness_token_file: Option<PathBuf>,
    pub(super) witness_kubeconfig: Option<PathBuf>,
    pub(super) replicas: BTreeMap<PlanName, BTreeMap<VolumeName, PathBuf>>,
    pub(super) manifests: BTreeMap<PlanName, PathBuf>,
    pub(super) holds: BTreeMap<PlanName, HostHold>,
}

impl Draft {
    /// Takes every key of the file.
    pub(super) fn read_file(&mut self, table: &toml::Table) -> Result<(), ConfigError> {
        for (key, value) in table {
            match value {
                toml::Value::Table(inner) if key == HOLD => self.holds = hold::read(inner)?,
                toml::Value::Table(inner) => self.read_table(key, inner)?,
                value => self.set_toml(key, value)?,
            }
        }
        Ok(())
    }

    fn read_table(&mut self, path: &str, table: &toml::Table) -> Result<(), ConfigError> {
        let dynamic = path.split('.').next().is_some_and(|first| first == REPLICAS || first == MANIFESTS);
        let known = KEYS.iter().any(|key| key.path.starts_with(&format!("{path}.")));
        if !dynamic && !known {
            return Err(unknown(&Origin::File, path));
        }
        for (key, value) in table {
            let path = format!("{path}.{key}");
            match value {
                toml::Value::Table(inner) => self.read_table(&path, inner)?,
                value => self.set_toml(&path, value)?,
            }
        }
        Ok(())
    }

    fn set_toml(&mut self, path: &str, value: &toml::Value) -> Result<(), ConfigError> {
        let list = |values: &'_ [toml::Value]| values.iter().all(|value| value.as_str().is_some());
        match value {
            toml::Value::String(text) => self.set(&Origin::File, path, &Raw::Text(text)),
            toml::Value::Boolean(yes) => {
                self.set(&Origin::File, path, &Raw::Text(if *yes { "true" } else { "false" }))
            }
            toml::Value::Array(values) if list(values) => {
                let values = values.iter().filter_map(toml::Value::as_str).collect();
                self.set(&Origin::File, path, &Raw::List(values))
            }
            other => {
                let key = find(path).ok_or_else(|| unknown(&Origin::File, path))?;
                Err(refuse(&Origin::File, path, key.expected, &other.to_string()))
            }
        }
    }

    /// Takes every variable that names a key.
    pub(super) fn read_environment(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        // Sorted, so that of several wrong ones always the same is named.
        let variables: BTreeMap<_, _> = environment.into_iter().collect();
        for (variable, value) in &variables {
            let Some(name) = variable.to_str().and_then(|name| name.strip_prefix(ENVIRONMENT_PREFIX)) else {
                continue;
            };
            let origin = Origin::Environment { variable: format!("{ENVIRONMENT_PREFIX}{name}") };
            if let Some(key) = KEYS.iter().find(|key| key.variable == name) {
                let text = value.to_str();
                let text =
                    text.ok_or_else(|| refuse(&origin, key.path, key.expected, "bytes that are not UTF-8"))?;
                self.set(&origin, key.path, &Raw::Text(text))?;
            } else if is_meant_for_us(name) {
                let nearest = nearest(name, KEYS.iter().map(|key| key.variable));
                let nearest = nearest.map(|near| format!("{ENVIRONMENT_PREFIX}{near}"));
                return Err(ConfigError::UnknownKey {
                    key: format!("{ENVIRONMENT_PREFIX}{name}"),
                    nearest,
                    origin,
                });
            }
        }
        Ok(())
    }

    /// Sets one key, `replicas.PLAN.VOLUME` and `manifests.PLAN` included.
    pub(super) fn set(&mut self, origin: &Origin, path: &str, raw: &Raw<'_>) -> Result<(), ConfigError> {
        let joined;
        let (text, found) = match raw {
            Raw::Text(text) => (*text, format!("{text:?}")),
            Raw::List(values) => {
                joined = values.join(",");
                (joined.as_str(), format!("{values:?}"))
            }
        };
        let parts: Vec<_> = path.split('.').collect();
        match parts.as_slice() {
            [REPLICAS, plan, volume] => {
                let name = "a plan and a volume by name, and an absolute path";
                let bad = || refuse(origin, path, name, &found);
                let plan = plan.parse().map_err(|_| bad())?;
                let volume = volume.parse().map_err(|_| bad())?;
                self.replicas.entry(plan).or_default().insert(volume, absolute(text).ok_or_else(bad)?);
                return Ok(());
            }
            [MANIFESTS, plan] => {
                let bad = || refuse(origin, path, "a plan by name, and an absolute path", &found);
                let plan = plan.parse().map_err(|_| bad())?;
                self.manifests.insert(plan, absolute(text).ok_or_else(bad)?);
                return Ok(());
            }
            _ => {}
        }
        let key = find(path).ok_or_else(|| unknown(origin, path))?;
        // Only `advertise` takes a list.
        let fits = matches!(raw, Raw::Text(_)) || key.path == "advertise";
        let set = if fits { (key.set)(self, text) } else { None };
        set.ok_or_else(|| refuse(origin, path, key.expected, &found))
    }

    /// The witness, with what its kind needs.
    fn witness(&self) -> Result<Option<WitnessConfig>, ConfigError> {
        let (token_file, kubeconfig) = (self.witness_token_file.clone(), self.witness_kubeconfig.clone());
        let Some(url) = self.witness_url.clone() else {
            if token_file.is_some() || kubeconfig.is_some() {
                let why = "the other keys of [witness] say how to reach it";
                return Err(ConfigError::Missing { key: "witness.url", why });
            }
            return Ok(None);
        };
        let missing = match url {
            WitnessUrl::Server { .. } if token_file.is_none() => {
                Some(("witness.tokenFile", "a witness server answers nobody without its token"))
            }
            WitnessUrl::Lease { .. } if kubeconfig.is_none() => {
                Some(("witness.kubeconfig", "the Lease is kept in a third cluster"))
            }
            _ => None,
        };
        match missing {
            Some((key, why)) => Err(ConfigError::Missing { key, why }),
            None => Ok(Some(WitnessConfig { url, token_file, kubeconfig })),
        }
    }

    /// The configuration, if everything that must be set is, and nothing contradicts anything.
    pub(super) fn finish(self) -> Result<SiteConfig, ConfigError> {
        let witness = self.witness()?;
        let name =
            self.name.ok_or(ConfigError::Missing { key: "name", why: "peers know this site by it" })?;
        let listen = self.listen.ok_or(ConfigError::Missing {
            key: "listen",
            why: "peers connect there, such as \"0.0.0.0:7443\"",
        })?;
        if self.admin_listen.is_some() && self.admin_token_file.is_none() {
            let why = "the admin API is not offered on the network without a bearer token";
            return Err(ConfigError::Missing { key: "admin.tokenFile", why });
        }
        let defaults = SiteConfig::default_for(name.as_str(), listen);
        let retry_first = self.retry_first.unwrap_or(defaults.retry_first);
        let retry_max = self.retry_max.unwrap_or(defaults.retry_max);
        if retry_first > retry_max {
            let expected = format!("at most `retry.max`, which is {retry_max}");
            return Err(refuse(&Origin::File, "retry.first", &expected, &retry_first.to_string()));
        }
        Ok(SiteConfig {
            name: name.to_string(),
            listen,
            advertise: self
                .advertise
                .filter(|list| !list.is_empty())
                .unwrap_or_else(|| default_advertise(listen)),
            memory: self.memory.unwrap_or(defaults.memory),
            bandwidth: self.bandwidth,
            congestion: self.congestion.unwrap_or_default(),
            store_path: self.store_path,
            admin_listen: self.admin_listen,
            admin_token_file: self.admin_token_file,
            log_format: self.log_format.unwrap_or_default(),
            log_level: self.log_level.unwrap_or_default(),
            retry_first,
            retry_max,
            drill_commands: self.drill_commands.unwrap_or(defaults.drill_commands),
            drill_network: self.drill_network.unwrap_or(defaults.drill_network),
            promote_commands: self.promote_commands.unwrap_or(defaults.promote_commands),
            promote_network: self.promote_network.unwrap_or(defaults.promote_network),
            kubernetes: self.kubernetes,
            witness,
            replicas: self.replicas,
            manifests: self.manifests,
            holds: self.holds,
        })
    }
}

fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

fn refuse(origin: &Origin, key: &str, expected: &str, found: &str) -> ConfigError {
    ConfigError::Value {
        origin: origin.clone(),
        key: key.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

fn unknown(origin: &Origin, path: &str) -> ConfigError {
    if path == REPLICAS || path.starts_with("replicas.") {
        let nearest = Some("replicas.PLAN.VOLUME".to_owned());
        return ConfigError::UnknownKey { origin: origin.clone(), key: path.to_owned(), nearest };
    }
    let tables = KEYS.iter().filter_map(|key| key.path.split_once('.')).map(|(table, _)| table);
    let known = KEYS.iter().map(|key| key.path).chain(tables).chain([REPLICAS, MANIFESTS, HOLD]);
    ConfigError::UnknownKey { origin: origin.clone(), key: path.to_owned(), nearest: nearest(path, known) }
}

/// The known word that `word` was probably meant to be: one it begins, one without its table, or one at most a third of
/// its letters away, with its table or without.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|one| {
            let key = one.split_once('.').map_or(one, |(_, key)| key);
            let is_part = one.starts_with(word) || key == word;
            let distance = |form| (strsim::damerau_levenshtein(word, form), form != one, form.len());
            (!is_part, distance(one).min(distance(key)), one)
        })
        .min()
        .filter(|(other, (distance, _, len), _)| !other || *distance <= word.len().max(*len) / 3)
        .map(|(_, _, one)| one.to_owned())
}

/// Whether a variable that names no key was meant to: its table is one of ours, and it is not one of those that
/// Kubernetes sets in every pod beside a Service named `backstay-…`.
fn is_meant_for_us(name: &str) -> bool {
    let tables = ["LIMITS_", "NETWORK_", "STORE_", "ADMIN_", "LOG_", "RETRY_", "KUBERNETES_", "WITNESS_"];
    let service_link = name.contains("_SERVICE_") || name.ends_with("_PORT") || name.contains("_PORT_");
    tables.iter().any(|table| name.starts_with(table)) && !service_link
}
