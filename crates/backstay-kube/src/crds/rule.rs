//! `Rule`.

use backstay_types::plan;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
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
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Plans", type_ = "integer", json_path = ".status.plans"),
    printcolumn(name = "Last freeze", type_ = "string", json_path = ".status.lastFreeze"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(transparent)]
pub struct RuleSpec(pub plan::RuleSpec);

/// Who uses a rule, and how it last went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// How many plans use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plans: Option<i64>,
    /// How long the application was held the last time, such as `240ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_freeze: Option<String>,
}
