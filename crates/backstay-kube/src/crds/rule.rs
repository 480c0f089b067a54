//! `Rule`.

use std::collections::BTreeMap;

use backstay_types::Span;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Commands that quiet an application for a snapshot. All matching pods are frozen at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "backstay.dev",
    version = "v1alpha1",
    kind = "Rule",
    plural = "rules",
    shortname = "bsrule",
    category = "backstay",
    namespaced,
    status = "RuleStatus",
    derive = "PartialEq",
    doc = "Commands that quiet an application for a snapshot.",
    printcolumn(name = "Last freeze", type_ = "string", json_path = ".status.lastFreeze"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RuleSpec {
    /// What runs where.
    #[schemars(length(min = 1))]
    pub rules: Vec<RuleTarget>,
}

/// Actions for the pods that a selector names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleTarget {
    /// Labels of the pods.
    pub pod_selector: BTreeMap<String, String>,
    /// Container to run in; the first without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What runs, in order.
    #[schemars(length(min = 1))]
    pub actions: Vec<RuleAction>,
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleAction {
    /// What kind of action.
    #[serde(rename = "type", default)]
    pub kind: ActionKind,
    /// The command, run by `sh -c`.
    pub value: String,
    /// Goes on until the snapshot is taken, holding a lock, and is then ended.
    #[serde(default)]
    pub background: bool,
    /// Run in one of the matching pods only.
    #[serde(default)]
    pub run_in_single_pod: bool,
    /// How long it may take; `30s` without it.
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
    /// The cycle goes on; its restore point is crash-consistent.
    Continue,
}

/// How a rule last went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// How long the application was held the last time, such as `240ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_freeze: Option<String>,
}
