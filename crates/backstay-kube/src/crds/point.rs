//! `RestorePoint`.

use backstay_types::point::Consistency;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One committed restore point. Written by Backstay, and made anew if it is deleted: how long a point stays is for the
/// plan's retention to say, so that no `kubectl delete` of a namespace takes the history with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "backstay.dev",
    version = "v1alpha1",
    kind = "RestorePoint",
    plural = "restorepoints",
    shortname = "bsrp",
    category = "backstay",
    namespaced,
    status = "RestorePointStatus",
    derive = "PartialEq",
    doc = "One committed restore point.",
    printcolumn(name = "Plan", type_ = "string", json_path = ".spec.plan"),
    printcolumn(name = "Point", type_ = "string", json_path = ".spec.id"),
    printcolumn(name = "Snapshot", type_ = "date", json_path = ".spec.snapshotTime"),
    printcolumn(name = "Consistency", type_ = "string", json_path = ".spec.consistency"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".spec.bytes", priority = "1"),
    printcolumn(name = "Wire", type_ = "integer", json_path = ".spec.wireBytes", priority = "1"),
    printcolumn(
        name = "Applied",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Applied\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RestorePointSpec {
    /// Name of the plan.
    pub plan: String,
    /// Id, such as `e3-000042`.
    #[schemars(regex(pattern = r"^e[0-9]+-[0-9]{6,}$"))]
    pub id: String,
    /// Epoch it was made in.
    pub epoch: i64,
    /// When the snapshot was taken, RFC 3339.
    pub snapshot_time: String,
    /// When it was committed, RFC 3339.
    pub committed_time: String,
    /// What it promises of the moment it shows.
    #[schemars(with = "ConsistencyName")]
    pub consistency: Consistency,
    /// Length of its files and objects together.
    pub bytes: i64,
    /// Bytes that had changed.
    pub bytes_changed: i64,
    /// Bytes on the wire.
    pub wire_bytes: i64,
    /// Kubernetes objects in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<i64>,
    /// Whether nothing was skipped.
    pub complete: bool,
}

/// Schema of [`Consistency`], which is declared where no schema is known.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
enum ConsistencyName {
    /// All volumes are of one instant: what a power cut of the whole application could have left.
    Crash,
    /// As `crash`, and the application's writers stood still.
    Application,
    /// Files were read one after the other, beside their writers.
    Fuzzy,
    /// Written by a site after it had lost the active role.
    Diverged,
    /// Each volume is of an instant of its own.
    CrashPerVolume,
    /// Made before the word was derived from what was seen: it may be anything.
    Unknown,
}

/// What became of a restore point.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestorePointStatus {
    /// `Applied`: the replicas show it; `Damaged`: `backstay verify` could not repair it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Retention rules that keep it, such as `last` and `daily`; empty if it goes next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<String>,
}
