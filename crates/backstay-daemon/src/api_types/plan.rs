//! Plans: applying, listing, reading.

use backstay_types::frame::SiteRole;
use backstay_types::plan::PlanSpec;
use backstay_types::{Epoch, PlanName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `POST /plans`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplyRequest {
    /// YAML, any number of documents.
    pub documents: String,
}

/// What applying one document did. `POST /plans` answers a list of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// `ReplicationPlan`, `SchedulePolicy` or `Rule`.
    pub kind: String,
    /// `metadata.name`.
    pub name: String,
    /// What happened.
    pub result: ApplyResult,
}

/// What happened to one applied document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ApplyResult {
    /// It is new.
    Created,
    /// It changed.
    Configured,
    /// It was there as it is.
    Unchanged,
}

/// Whether a request changed anything: answer of `DELETE /plans/{name}`, `suspend`, `resume`,
/// `DELETE /pairs/{peer}` and `POST /pairs/{peer}/rotate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// `false` if it already was as asked.
    pub changed: bool,
}

/// One row of `GET /plans`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanSummary {
    /// Name of the plan.
    pub name: PlanName,
    /// Name of the peer.
    pub peer: String,
    /// What this site is for it.
    pub role: SiteRole,
    /// Its epoch.
    pub epoch: Epoch,
    /// The schedule in words, such as `every 15m`; `null` if only `backstay sync` runs it.
    pub schedule: Option<String>,
    /// Whether its schedule is suspended.
    pub suspended: bool,
    /// Whether the active side has deleted it.
    #[serde(default)]
    pub ended: bool,
}

/// `GET /plans/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanDetail {
    /// Name of the plan.
    pub name: PlanName,
    /// What this site is for it.
    pub role: SiteRole,
    /// Its epoch.
    pub epoch: Epoch,
    /// Name of the peer.
    pub peer: String,
    /// What the operator wrote.
    pub spec: PlanSpec,
    /// What the other side proposes and this site has not accepted.
    #[serde(default)]
    pub proposed: Vec<FieldChange>,
}

/// One field that the other side wants to be something else; `GET /plans/{name}/proposed` lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// The field of `spec`, or `rules.NAME`.
    pub field: String,
    /// What it is here; `null` if it is not set.
    pub own: Option<Value>,
    /// What it would be; `null` if it would not be set.
    pub proposed: Option<Value>,
}

/// `POST /plans/{name}/accept`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcceptRequest {
    /// The changes that were looked at: others are refused. Without it, whatever is proposed.
    #[serde(default)]
    pub changes: Option<Vec<FieldChange>>,
}

/// Answer to [`AcceptRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// What acts here from now on; none if nothing was proposed.
    pub accepted: Vec<FieldChange>,
}
