//! `Failover`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A promotion, switchover, failback or drill. What is asked for never changes; what was done is in the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "backstay.dev",
    version = "v1alpha1",
    kind = "Failover",
    plural = "failovers",
    shortname = "bsfo",
    category = "backstay",
    namespaced,
    status = "FailoverStatus",
    derive = "PartialEq",
    doc = "A promotion, switchover, failback or drill.",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action"),
    printcolumn(name = "Plan", type_ = "string", json_path = ".spec.plan"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "RPO", type_ = "string", json_path = ".status.rpo"),
    printcolumn(name = "RTO", type_ = "string", json_path = ".status.rto"),
    printcolumn(
        name = "Done",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Complete\")].status"
    ),
    printcolumn(
        name = "Failed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Failed\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self == oldSelf", "message": "what is asked for never changes: delete this Failover and create another"}
]))]
pub struct FailoverSpec {
    /// What to do.
    pub action: FailoverAction,
    /// Name of the plan.
    pub plan: String,
    /// Restore point to promote; the newest without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_point: Option<String>,
    /// Promote beside a peer that is alive and active.
    #[serde(default)]
    pub force: bool,
    /// Promote an incomplete restore point.
    #[serde(default)]
    pub accept_partial: bool,
    /// Compute and show the plan, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// `Drill`: leave what was made in place.
    #[serde(default)]
    pub keep: bool,
}

/// What a `Failover` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailoverAction {
    /// Unplanned takeover.
    Promote,
    /// Planned takeover, with a final sync.
    Switchover,
    /// Going home.
    Failback,
    /// Rehearsal in isolation.
    Drill,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverStatus {
    /// `Accepted`, `Complete`, `Failed`. One that is complete or failed never runs again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The steps, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<FailoverStep>,
    /// The step under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Epoch of the plan afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Measured recovery point: data lost, as time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<String>,
    /// Measured recovery time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<String>,
    /// What is released on the cluster, one line a wave; the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<String>,
    /// The restore point that is promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_point: Option<String>,
    /// What the operator should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverStep {
    /// Its name.
    pub name: String,
    /// `pending`, `running`, `done`, `failed` or `skipped`.
    pub state: String,
    /// How long it took, such as `1s200ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}
