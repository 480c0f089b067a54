//! What stops an application on a host, as an operator writes it: in a plan for the site it is made on, and in
//! `site.toml` for a site that a plan comes to.
//!
//! Left to others: carrying it out, and whose word counts on which site (a plan that came from a peer never runs a
//! command).

use std::collections::BTreeSet;
use std::path::{Component, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drill::is_argv;
use crate::{Class, Classify, Span, limits};

/// What holds the application of a plan on a host while another site runs it: `nothing` alone, or any mix of the
/// others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostHold {
    /// Units of systemd, stopped in this order, and started in the reverse one when the application may run again: those
    /// that ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    /// Folders of control groups (version 2, or the freezer of version 1) whose processes are frozen, and thawed again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<PathBuf>,
    /// The operator's own commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<HoldCommands>,
    /// Nothing runs here that has to be held.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nothing: bool,
}

/// A command that stops an application and one that starts it, run by the daemon or the keeper. Each succeeds by
/// ending with 0, may be run again after a crash, and succeeds as well when there is nothing left to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HoldCommands {
    /// A program with its arguments: stops the application. When it has ended nothing may write any more.
    pub hold: Vec<String>,
    /// A program with its arguments: lets the application run again.
    pub release: Vec<String>,
    /// How long each may take; `30s` without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

/// A hold that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHold {
    /// Neither anything to hold, nor the word that there is nothing.
    #[error("`hold` names no units, no cgroups and no commands, and does not say `nothing: true`")]
    Empty,
    /// Nothing and something at once.
    #[error("`hold.nothing` is set beside something to hold")]
    NothingAndMore,
    /// Pods are held by their controllers.
    #[error("`hold` stops what runs on a host, and the plan is over namespaces")]
    OnCluster,
    /// A name that no unit can have.
    #[error("`hold.units`: expected the full name of a unit, such as postgresql.service, found {found:?}")]
    Unit {
        /// What it says.
        found: String,
    },
    /// A place where no control group is.
    #[error("`hold.cgroups`: expected an absolute path without `..`, found {found:?}")]
    Cgroup {
        /// What it says.
        found: PathBuf,
    },
    /// One thing twice: it would be recorded as held by itself.
    #[error("`hold` names {what} twice")]
    Twice {
        /// What.
        what: String,
    },
    /// Too much of something.
    #[error("`hold.{field}`: {found}: at most {max} allowed", max = limits::HOLD_ITEMS_MAX)]
    TooMany {
        /// Which field.
        field: &'static str,
        /// How many.
        found: usize,
    },
    /// A command that cannot be run.
    #[error("`hold.commands.{field}`: expected a program with its arguments, of 16384 bytes at most")]
    Command {
        /// Which field.
        field: &'static str,
    },
    /// A timeout that cannot be kept.
    #[error("`hold.commands.timeout`: expected 1ms to {max}, found {found}", max = limits::HOLD_TIMEOUT_MAX)]
    Timeout {
        /// What it says.
        found: Span,
    },
}

impl Classify for InvalidHold {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        match self {
            InvalidHold::OnCluster => {
                Some("controllers are held by themselves; `holds` names further custom resources".to_owned())
            }
            InvalidHold::Empty => {
                Some("say what stops the application, or `nothing: true` if nothing runs here".to_owned())
            }
            _ => None,
        }
    }
}

/// Kinds of units that hold an application, or start one.
const UNIT_KINDS: [&str; 8] =
    [".service", ".socket", ".timer", ".path", ".target", ".slice", ".scope", ".mount"];
/// systemd's own limit on the name of a unit.
const UNIT_BYTES_MAX: usize = 255;

impl HostHold {
    /// Whether there is anything to hold.
    pub fn holds_something(&self) -> bool {
        !self.units.is_empty() || !self.cgroups.is_empty() || self.commands.is_some()
    }

    /// Checks what the types alone cannot.
    pub fn validate(&self) -> Result<(), InvalidHold> {
        match (self.nothing, self.holds_something()) {
            (false, false) => return Err(InvalidHold::Empty),
            (true, true) => return Err(InvalidHold::NothingAndMore),
            _ => {}
        }
        for (field, found) in [("units", self.units.len()), ("cgroups", self.cgroups.len())] {
            if found > limits::HOLD_ITEMS_MAX {
                return Err(InvalidHold::TooMany { field, found });
            }
        }
        if let Some(found) = self.units.iter().find(|unit| !is_unit(unit)) {
            return Err(InvalidHold::Unit { found: found.clone() });
        }
        let is_plain = |path: &PathBuf| {
            let climbs = path.components().any(|part| matches!(part, Component::ParentDir));
            path.is_absolute() && !climbs && !path.as_os_str().as_encoded_bytes().contains(&0)
        };
        if let Some(found) = self.cgroups.iter().find(|path| !is_plain(path)) {
            return Err(InvalidHold::Cgroup { found: found.clone() });
        }
        let mut named = BTreeSet::new();
        let all =
            self.units.iter().cloned().chain(self.cgroups.iter().map(|path| path.display().to_string()));
        for what in all {
            if !named.insert(what.clone()) {
                return Err(InvalidHold::Twice { what });
            }
        }
        self.commands.as_ref().map_or(Ok(()), HoldCommands::validate)
    }
}

impl HoldCommands {
    /// How long each may take.
    pub fn timeout(&self) -> Span {
        self.timeout.unwrap_or(limits::HOLD_TIMEOUT_DEFAULT)
    }

    fn validate(&self) -> Result<(), InvalidHold> {
        for (field, argv) in [("hold", &self.hold), ("release", &self.release)] {
            if !is_argv(argv) {
                return Err(InvalidHold::Command { field });
            }
        }
        match self.timeout {
            Some(found) if found == Span(0) || found > limits::HOLD_TIMEOUT_MAX => {
                Err(InvalidHold::Timeout { found })
            }
            _ => Ok(()),
        }
    }
}

/// The letters that systemd allows in the name of a unit, and a kind that can be stopped. It is an argument of a
/// program: none begins like an option, and none is a pattern.
fn is_unit(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || ":_.\\@-".contains(c);
    let has_kind = |kind: &&str| name.strip_suffix(kind).is_some_and(|stem| !stem.is_empty());
    name.len() <= UNIT_BYTES_MAX
        && name.chars().all(is_letter)
        && !name.starts_with('-')
        && UNIT_KINDS.iter().any(has_kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(json: &str) -> HostHold {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn a_hold_says_what_it_holds() {
        for good in [
            r#"{"nothing": true}"#,
            r#"{"units": ["postgresql.service", "postgresql@15-main.service", "report.timer"]}"#,
            r#"{"cgroups": ["/sys/fs/cgroup/shop"]}"#,
            r#"{"commands": {"hold": ["stop-shop"], "release": ["start-shop", "-v"], "timeout": "1h"}}"#,
            r#"{"units": ["a.service"], "cgroups": ["/c"], "commands": {"hold": ["x"], "release": ["y"]}}"#,
        ] {
            assert_eq!(hold(good).validate(), Ok(()), "{good}");
        }
        for bad in [
            r#"{}"#,
            r#"{"nothing": false}"#,
            r#"{"nothing": true, "units": ["a.service"]}"#,
            r#"{"nothing": true, "commands": {"hold": ["x"], "release": ["y"]}}"#,
            r#"{"units": ["postgresql"]}"#,
            r#"{"units": [".service"]}"#,
            r#"{"units": ["--now.service"]}"#,
            r#"{"units": ["*.service"]}"#,
            r#"{"units": ["a b.service"]}"#,
            r#"{"units": ["a.service", "a.service"]}"#,
            r#"{"cgroups": ["shop"]}"#,
            r#"{"cgroups": ["/sys/fs/cgroup/../../etc"]}"#,
            r#"{"commands": {"hold": [], "release": ["y"]}}"#,
            r#"{"commands": {"hold": ["x"], "release": [""]}}"#,
            r#"{"commands": {"hold": ["x"], "release": ["y"], "timeout": "0s"}}"#,
            r#"{"commands": {"hold": ["x"], "release": ["y"], "timeout": "3601s"}}"#,
        ] {
            assert!(hold(bad).validate().is_err(), "{bad}");
        }
    }

    #[test]
    fn items_have_a_limit() {
        let units = |count| HostHold {
            units: (0..count).map(|n| format!("u{n}.service")).collect(),
            ..HostHold::default()
        };
        assert_eq!(units(limits::HOLD_ITEMS_MAX).validate(), Ok(()));
        assert!(matches!(
            units(limits::HOLD_ITEMS_MAX + 1).validate(),
            Err(InvalidHold::TooMany { field: "units", .. })
        ));
    }
}
