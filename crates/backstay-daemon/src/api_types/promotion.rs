//! Promotion: what is asked and what is reported.

use backstay_engine::promotion::CountedFrom;
use backstay_types::point::Consistency;
use backstay_types::{Epoch, PlanName, RestorePointId};
use serde::{Deserialize, Serialize};

/// `POST /plans/{name}/promote`, and `POST /promote-all` (which takes no `restorePoint`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PromoteRequest {
    /// An older point than the newest.
    #[serde(default)]
    pub restore_point: Option<RestorePointId>,
    /// Report the steps and stop.
    #[serde(default)]
    pub dry_run: bool,
    /// Take over although the peer is alive and active.
    #[serde(default)]
    pub force: bool,
    /// Take over at a point that lacks something.
    #[serde(default)]
    pub accept_partial: bool,
    /// The lease of automatic failover was taken at this epoch; nobody can ask for that from outside.
    #[serde(skip)]
    pub lease: Option<Epoch>,
}

/// Answer to [`PromoteRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PromotionReport {
    /// Name of the plan.
    pub plan: PlanName,
    /// The epoch it is (or would be) promoted to.
    pub epoch: Epoch,
    /// The point the workloads start from.
    pub restore_point: RestorePointId,
    /// What that point promises; `null` where it is not known here.
    #[serde(default)]
    pub consistency: Option<Consistency>,
    /// Data lost, in seconds: from the snapshot to `rpoCountedFrom`.
    pub rpo_seconds: f64,
    /// Until when data is counted as lost, and why; `null` where nothing was promoted.
    #[serde(default)]
    pub rpo_counted_from: Option<CountedFrom>,
    /// Time taken, in seconds; `null` for a dry run.
    pub rto_seconds: Option<f64>,
    /// What was done, or would be, in order.
    pub steps: Vec<PromotionStep>,
    /// What a dry run would release on the cluster, one line a wave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<String>,
    /// What the operator should look at.
    pub warnings: Vec<String>,
    /// Of a switchover or failback: whether a reading after the hold found nothing written, and nothing was written on the
    /// side that gave the plan away since.
    #[serde(default)]
    pub nothing_lost: bool,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// One step of a promotion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PromotionStep {
    /// What it does.
    pub name: String,
    /// How far it is.
    pub state: StepState,
    /// How long it took; `null` if it did not run.
    pub duration_seconds: Option<f64>,
}

/// How far a step of a promotion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Done.
    Done,
    /// Nothing to do.
    Skipped,
    /// Failed; the promotion stopped here and goes on when asked again.
    Failed,
}
