//! Rules: what is run in an application's pods to quiet them for a snapshot.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Class, Classify, Span, limits};

/// What a background action runs when it holds, as a variable of its shell: it tells that the action holds, and
/// comes back when the snapshot is taken. `mysql -e "FLUSH TABLES WITH READ LOCK; system ${WAIT_CMD};"`.
pub const WAIT_CMD: &str = "WAIT_CMD";

/// `spec` of a `Rule`: commands that quiet an application for a snapshot. All matching pods are frozen at the same
/// time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleSpec {
    /// Whether the application writes nothing from when all actions went well until they are undone, as under `FLUSH
    /// TABLES WITH READ LOCK`. One that only flushes, such as a checkpoint, does not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stops_writes: bool,
    /// What runs where. In one pod everything runs in this order; pods do not wait for each other.
    #[schemars(length(min = 1))]
    pub rules: Vec<RuleTarget>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Actions for the pods that a selector names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleTarget {
    /// Labels of the pods, among the running ones that the plan covers.
    #[schemars(extend("minProperties" = 1))]
    pub pod_selector: BTreeMap<String, String>,
    /// Container to run in; without it the one that `kubectl.kubernetes.io/default-container` names, or the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What runs, in order.
    #[schemars(length(min = 1))]
    pub actions: Vec<RuleAction>,
}

/// One command. Write no passwords here; containers have them in their environment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleAction {
    /// What kind of action.
    #[serde(rename = "type", default)]
    pub kind: ActionKind,
    /// The command, run by `sh -c` in the container.
    pub value: String,
    /// Goes on while the snapshot is taken: it runs `${WAIT_CMD}` once it holds its lock, and lets go of the lock when
    /// that comes back. Before the snapshot only.
    #[serde(default)]
    pub background: bool,
    /// Run in one of the matching pods only, the first by name.
    #[serde(default)]
    pub run_in_single_pod: bool,
    /// How long it may take to end, in the background to hold and again to end; `30s` without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// What a failure means.
    #[serde(default)]
    pub on_error: OnError,
}

/// What kind of action a rule takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ActionKind {
    /// A command in a container.
    #[default]
    Command,
}

/// What a failed action means for the cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnError {
    /// The cycle fails; nothing is committed.
    #[default]
    Fail,
    /// The cycle goes on, and the writers do not count as stopped.
    Continue,
}

/// A rule that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// Nothing to run.
    #[error("{at}: expected at least one")]
    Empty {
        /// Which list.
        at: String,
    },
    /// Too much to run.
    #[error("{at}: {found}: at most {max} allowed")]
    TooMany {
        /// Which list.
        at: String,
        /// How many.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A command that is empty, or too long to be sent.
    #[error("{at}.value: expected 1 to {max} bytes, found {found}", max = limits::RULE_COMMAND_BYTES_MAX)]
    Command {
        /// Which action.
        at: String,
        /// How many.
        found: usize,
    },
    /// A timeout that cannot be kept.
    #[error("{at}.timeout: expected 1ms to {max}, found {found}", max = limits::RULE_TIMEOUT_MAX)]
    Timeout {
        /// Which action.
        at: String,
        /// What it says.
        found: Span,
    },
    /// A background action that never says that it holds, or another that would wait for a snapshot.
    #[error("{at}.value: expected `${{{WAIT_CMD}}}` if and only if `background` is true")]
    Wait {
        /// Which action.
        at: String,
    },
    /// Something to hold after the snapshot.
    #[error("{at}: a background action holds while the snapshot is taken, and cannot run after it")]
    BackgroundAfter {
        /// Which action.
        at: String,
    },
}

impl Classify for InvalidRule {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        match self {
            InvalidRule::Wait { .. } => Some(
                "run it where the lock is held: mysql -e \"FLUSH TABLES WITH READ LOCK; system ${WAIT_CMD};\""
                    .to_owned(),
            ),
            InvalidRule::BackgroundAfter { .. } => {
                Some("give the plan another rule as `postExecRule`, or none".to_owned())
            }
            InvalidRule::Command { .. } => {
                Some("put a long script into the image or a ConfigMap, and run it from there".to_owned())
            }
            InvalidRule::Empty { .. } | InvalidRule::TooMany { .. } | InvalidRule::Timeout { .. } => None,
        }
    }
}

impl RuleSpec {
    /// Checks what the types alone cannot.
    pub fn validate(&self) -> Result<(), InvalidRule> {
        count("rules", self.rules.len())?;
        for (index, target) in self.rules.iter().enumerate() {
            let at = format!("rules[{index}]");
            count(&format!("{at}.podSelector"), target.pod_selector.len())?;
            count(&format!("{at}.actions"), target.actions.len())?;
            for (index, action) in target.actions.iter().enumerate() {
                action.validate(format!("{at}.actions[{index}]"))?;
            }
        }
        Ok(())
    }

    /// Checks that it can run after a snapshot.
    pub fn validate_after(&self) -> Result<(), InvalidRule> {
        for (rule, target) in self.rules.iter().enumerate() {
            if let Some(action) = target.actions.iter().position(|action| action.background) {
                return Err(InvalidRule::BackgroundAfter { at: format!("rules[{rule}].actions[{action}]") });
            }
        }
        Ok(())
    }
}

impl RuleAction {
    /// How long it may take.
    pub fn timeout(&self) -> Span {
        self.timeout.unwrap_or(limits::RULE_TIMEOUT_DEFAULT)
    }

    fn validate(&self, at: String) -> Result<(), InvalidRule> {
        let found = self.value.len();
        if self.value.trim().is_empty() || found > limits::RULE_COMMAND_BYTES_MAX {
            return Err(InvalidRule::Command { at, found });
        }
        if self.timeout() == Span(0) || self.timeout() > limits::RULE_TIMEOUT_MAX {
            return Err(InvalidRule::Timeout { at, found: self.timeout() });
        }
        if self.value.contains(WAIT_CMD) != self.background {
            return Err(InvalidRule::Wait { at });
        }
        Ok(())
    }
}

fn count(at: &str, found: usize) -> Result<(), InvalidRule> {
    let at = || at.to_owned();
    match found {
        0 => Err(InvalidRule::Empty { at: at() }),
        1..=limits::RULE_ITEMS_MAX => Ok(()),
        _ => Err(InvalidRule::TooMany { at: at(), found, max: limits::RULE_ITEMS_MAX }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: RuleAction) -> RuleSpec {
        let pod_selector = BTreeMap::from([("app".to_owned(), "db".to_owned())]);
        let rules = vec![RuleTarget { pod_selector, container: None, actions: vec![action] }];
        RuleSpec { stops_writes: false, rules }
    }

    fn action(value: &str) -> RuleAction {
        RuleAction { value: value.to_owned(), ..RuleAction::default() }
    }

    #[test]
    fn bounds_of_a_rule() {
        let ok = |action| rule(action).validate().is_ok();
        let timeout = |timeout| RuleAction { timeout: Some(timeout), ..action("true") };
        assert!(ok(action("true")) && !ok(action("")) && !ok(action(" \n")));
        assert!(ok(action(&"x".repeat(limits::RULE_COMMAND_BYTES_MAX))));
        assert!(!ok(action(&"x".repeat(limits::RULE_COMMAND_BYTES_MAX + 1))));
        assert!(!ok(timeout(Span(0))) && ok(timeout(Span(1))) && ok(timeout(limits::RULE_TIMEOUT_MAX)));
        assert!(!ok(timeout(Span(limits::RULE_TIMEOUT_MAX.0 + 1))));
        let mut many = rule(action("true"));
        many.rules = vec![many.rules[0].clone(); limits::RULE_ITEMS_MAX];
        assert_eq!(many.validate(), Ok(()));
        many.rules.push(many.rules[0].clone());
        assert!(matches!(many.validate(), Err(InvalidRule::TooMany { found: 65, .. })));
        many.rules[1].pod_selector.clear();
        many.rules.pop();
        let empty = many.validate().unwrap_err().to_string();
        assert_eq!(empty, "rules[1].podSelector: expected at least one");
        assert!(RuleSpec::default().validate().is_err());
    }

    #[test]
    fn background_and_waiting_belong_together() {
        let background = |value| RuleAction { background: true, ..action(value) };
        assert_eq!(rule(background("lock; ${WAIT_CMD}")).validate(), Ok(()));
        for wrong in [background("lock"), action("lock; ${WAIT_CMD}")] {
            let error = rule(wrong).validate().unwrap_err();
            assert_eq!(
                error.to_string(),
                "rules[0].actions[0].value: expected `${WAIT_CMD}` if and only if `background` is true"
            );
            assert!(error.hint().is_some());
        }
        assert!(rule(background("${WAIT_CMD}")).validate_after().is_err());
        assert_eq!(rule(action("true")).validate_after(), Ok(()));
    }
}
