//! `ReplicationPlan` and `SchedulePolicy`.

use backstay_types::plan;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is protected and how: the same fields as in a plan without a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "backstay.dev",
    version = "v1alpha1",
    kind = "ReplicationPlan",
    plural = "replicationplans",
    shortname = "bsplan",
    category = "backstay",
    namespaced,
    status = "PlanStatus",
    derive = "PartialEq",
    doc = "What is protected and how.",
    printcolumn(name = "Pair", type_ = "string", json_path = ".spec.pair"),
    printcolumn(name = "Role", type_ = "string", json_path = ".status.role"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Degraded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Degraded\")].status"
    ),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.lag"),
    printcolumn(name = "RPO target", type_ = "string", json_path = ".spec.rpoTarget"),
    printcolumn(name = "Last success", type_ = "date", json_path = ".status.lastSuccess"),
    printcolumn(name = "Next run", type_ = "string", json_path = ".status.nextRun", priority = "1"),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(transparent)]
pub struct ReplicationPlanSpec(pub plan::PlanSpec);

/// How a plan is doing. Thousands of objects are never listed here: counts and the first failures are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// `Ready`, `Degraded`, `Synced` and `Consistent`, each with `observedGeneration` and a constant reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// `active` or `standby`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Epoch of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Whether the site took the plan from this resource, which stands for the plan from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<bool>,
    /// Phase of the running cycle, or `Idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The running cycle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycle: Option<CycleProgress>,
    /// Now minus the snapshot time of the newest restore point, such as `12m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
    /// The newest restore point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_restore_point: Option<String>,
    /// When the last cycle committed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<String>,
    /// When the next cycle starts, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run: Option<String>,
    /// Objects of the last cycle that could not be applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_objects: Option<i64>,
    /// The first of them, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_failures: Vec<String>,
}

/// A cycle under way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CycleProgress {
    /// How much is done, in percent.
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
    /// Bytes a second.
    pub bytes_per_second: i64,
    /// Seconds to go, as far as can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// Bytes dealt with.
    pub bytes_done: i64,
    /// Bytes to deal with, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<i64>,
}

/// A schedule that plans share by name: the same fields as in a policy without a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "backstay.dev",
    version = "v1alpha1",
    kind = "SchedulePolicy",
    plural = "schedulepolicies",
    shortname = "bssched",
    category = "backstay",
    status = "SchedulePolicyStatus",
    derive = "PartialEq",
    doc = "A schedule that plans share by name.",
    printcolumn(name = "Interval", type_ = "string", json_path = ".spec.interval"),
    printcolumn(name = "Cron", type_ = "string", json_path = ".spec.cron"),
    printcolumn(name = "Daily", type_ = "string", json_path = ".spec.daily.time"),
    printcolumn(name = "Zone", type_ = "string", json_path = ".spec.timeZone", priority = "1"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Plans", type_ = "integer", json_path = ".status.plans"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(transparent)]
pub struct SchedulePolicySpec(pub plan::SchedulePolicySpec);

/// Who uses a policy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulePolicyStatus {
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// How many plans use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plans: Option<i64>,
}
