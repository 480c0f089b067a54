//! `Rule`.

use backstay_types::plan;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Commands that quiet an application for a snapshot: the same fields as in a rule without a cluster.
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
#[serde(transparent)]
pub struct RuleSpec(pub plan::RuleSpec);

/// How a rule last went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// How long the application was held the last time, such as `240ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_freeze: Option<String>,
}
