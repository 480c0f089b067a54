//! Status of a plan: what runs, what ran, how far behind.

use std::path::PathBuf;
use std::time::Duration;

use backstay_types::frame::SiteRole;
use backstay_types::plan::MinimumConsistency;
use backstay_types::point::Consistency;
use backstay_types::{Class, Epoch, PlanName, RestorePointId, Time};
use serde::{Deserialize, Serialize, Serializer};

use super::{ErrorInfo, LastDrill};

/// `GET /plans/{name}/status`; `GET /status` lists one for each plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Name of the plan.
    pub plan: PlanName,
    /// What this site is for it.
    pub role: SiteRole,
    /// Its epoch.
    pub epoch: Epoch,
    /// Name of the peer.
    pub peer: String,
    /// Whether a connection to the peer stands.
    pub connected: bool,
    /// Now minus the snapshot time of the newest restore point; `null` before the first.
    pub lag_seconds: Option<f64>,
    /// The lag the operator wants to stay under; a whole number of seconds stands without a fraction.
    #[serde(serialize_with = "whole")]
    pub rpo_target_seconds: Option<f64>,
    /// The newest committed restore point.
    pub last_restore_point: Option<RestorePointId>,
    /// The restore point the standby's replicas show.
    pub applied_restore_point: Option<RestorePointId>,
    /// When the next cycle starts by schedule.
    pub next_run: Option<Time>,
    /// The cycle that runs now.
    pub cycle: Option<CycleStatus>,
    /// The cycle before.
    pub last_cycle: Option<LastCycle>,
    /// Why the standby's replicas could not be brought up to the newest restore point, if they could not.
    pub apply_error: Option<ErrorInfo>,
    /// What was last found in the standby's replicas that nobody had applied, and was put right; `null` if nothing ever
    /// was.
    #[serde(default)]
    pub replica_warning: Option<ReplicaWarning>,
    /// On the active side: how far the standby is, as it said last; `null` before it did.
    #[serde(default)]
    pub standby: Option<StandbyStatus>,
    /// Why the takeover that is under way here has stopped, if it has: it goes on when it is asked for again.
    pub promotion_error: Option<ErrorInfo>,
    /// Whether the active side has deleted the plan: nothing comes any more, and its restore points stay here.
    pub ended: bool,
    /// What its objects became on the cluster beside the standby; `null` where there is none.
    #[serde(default)]
    pub objects: Option<ObjectsStatus>,
    /// The last rehearsal of its takeover on this side; `null` before the first.
    #[serde(default)]
    pub last_drill: Option<LastDrill>,
    /// Whether its schedule is suspended.
    pub suspended: bool,
    /// The least that a restore point of the plan may promise; a cycle that cannot keep it fails.
    #[serde(default)]
    pub minimum_consistency: Option<MinimumConsistency>,
    /// Who would take over by itself, and when; `null` for a plan without automatic failover.
    #[serde(default)]
    pub automatic_failover: Option<AutomaticStatus>,
    /// What stops the application on this host; `null` where nobody says, and for a plan over namespaces.
    #[serde(default)]
    pub hold: Option<HoldStatus>,
    /// What the other side proposes and this site has not accepted; `null` where nothing waits.
    #[serde(default)]
    pub proposed: Option<ProposedStatus>,
    /// What this side has changed and the other one has not accepted, as it said last; `null` where nothing waits.
    #[serde(default)]
    pub peer_proposed: Option<ProposedStatus>,
}

/// What stops the application of a plan on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HoldStatus {
    /// Whether it is held now.
    pub held: bool,
    /// Units of systemd.
    pub units: Vec<String>,
    /// Control groups.
    pub cgroups: Vec<PathBuf>,
    /// Whether commands of the operator hold and release.
    pub commands: bool,
    /// Whether the operator says that nothing runs here.
    pub nothing: bool,
}

/// What somebody changed in replicas, or what their file system cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaWarning {
    /// When it was found.
    pub time: Time,
    /// What the replicas were brought to then.
    pub restore_point: RestorePointId,
    /// What was found, a sentence for each volume.
    pub messages: Vec<String>,
}

/// How far the standby of a plan is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StandbyStatus {
    /// When it said so.
    pub time: Time,
    /// What its replicas show.
    pub applied_restore_point: Option<RestorePointId>,
    /// Why they do not show the newest restore point, if that was tried and failed.
    pub apply_error: Option<StandbyError>,
}

/// Why a standby could not be brought to a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StandbyError {
    /// The restore point.
    pub restore_point: RestorePointId,
    /// Class of the failure.
    pub class: Class,
    /// What failed and why.
    pub message: String,
}

/// Changes that wait for the operator of the site that was told of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProposedStatus {
    /// Fields of the plan, and `rules.NAME`.
    pub fields: Vec<String>,
    /// Since when they are proposed, as far as this side knows.
    pub since: Option<Time>,
    /// The epoch of the side that proposes them.
    pub epoch: Option<Epoch>,
    /// What restore points have of it and no replica shows: `volume NAME`, `namespace NAME`, `manifests`.
    pub withheld: Vec<String>,
}

/// Automatic failover of a plan, as this side sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AutomaticStatus {
    /// The witness of this site; `null` if none is set up.
    pub witness: Option<String>,
    /// Whether it answered the last question.
    pub reachable: bool,
    /// The site that holds the lease, by name, as it was last seen.
    pub holder: Option<String>,
    /// On the active side: since its last proof that nobody has taken over. On the standby: since the last sign of the
    /// active side.
    pub lease_age_seconds: Option<f64>,
    /// `after` of the plan.
    #[serde(rename = "after")]
    pub after_seconds: f64,
    /// What this side does next by itself, and when.
    pub would_do: String,
    /// Why the witness was not reached, if it was not.
    pub error: Option<String>,
    /// Why nobody would take over by itself although all else is well: nothing holds what runs where the daemon is dead.
    #[serde(default)]
    pub warning: Option<String>,
}

/// The last apply of a plan's objects to a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectsStatus {
    /// Objects that were not there.
    pub created: u64,
    /// Objects written because the source, or somebody on the standby, had changed them.
    pub changed: u64,
    /// Objects deleted and created anew, because a field changed that cannot be.
    pub recreated: u64,
    /// Objects that cost no request.
    pub unchanged: u64,
    /// Objects that the standby has its own of.
    pub shared: u64,
    /// Objects deleted because they are gone at the source.
    pub removed: u64,
    /// Objects that stay although they are gone at the source.
    pub kept: u64,
    /// Objects that are held, among the above.
    pub held: u64,
    /// Objects that wait for promotion.
    pub deferred: u64,
    /// Objects that somebody else changed on the standby.
    pub drifted: u64,
    /// Objects that could not be written.
    pub failed: u64,
    /// The first of them, with the reason.
    pub first_failures: Vec<String>,
    /// The first that drifted, with the fields.
    pub first_drifts: Vec<String>,
    /// What an operator should know and nothing failed for.
    pub warnings: Vec<String>,
}

/// A cycle, promotion, restore or verification that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CycleStatus {
    /// What it is at.
    pub phase: CyclePhase,
    /// 0 to 100; `null` while the total is not known.
    pub percent: Option<f64>,
    /// Bytes dealt with.
    pub bytes_done: u64,
    /// Bytes to deal with, as far as known.
    pub bytes_total: Option<u64>,
    /// Rate over the last seconds.
    pub bytes_per_second: f64,
    /// Estimate of what is left.
    pub eta_seconds: Option<f64>,
}

/// What a running operation is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CyclePhase {
    /// Waiting for the connection or for another cycle.
    Waiting,
    /// Taking snapshots.
    Snapshot,
    /// Walking, reading and sending what changed.
    Transfer,
    /// The receiver makes it durable.
    Commit,
    /// The replica is brought up to it.
    Apply,
    /// Taking over.
    Promote,
    /// Becoming the standby: what is here is kept first.
    Demote,
    /// Giving the workloads to the other side.
    HandOver,
    /// Checking stored data.
    Verify,
    /// Writing files out.
    Restore,
}

impl CyclePhase {
    /// As it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            CyclePhase::Waiting => "waiting",
            CyclePhase::Snapshot => "snapshot",
            CyclePhase::Transfer => "transfer",
            CyclePhase::Commit => "commit",
            CyclePhase::Apply => "apply",
            CyclePhase::Promote => "promote",
            CyclePhase::Demote => "demote",
            CyclePhase::HandOver => "handOver",
            CyclePhase::Verify => "verify",
            CyclePhase::Restore => "restore",
        }
    }
}

/// A cycle that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastCycle {
    /// When it started.
    pub started_time: Time,
    /// How it ended.
    pub outcome: CycleOutcome,
    /// Why it failed, if it did.
    pub error: Option<ErrorInfo>,
    /// How long it took.
    pub duration_seconds: f64,
    /// How long rules kept the application frozen; `null` where the plan has none.
    #[serde(default)]
    pub freeze_seconds: Option<f64>,
    /// What its restore point promises; `null` where there is none.
    #[serde(default)]
    pub consistency: Option<Consistency>,
    /// What kept it below `crash`, with the volume; `null` where nothing did.
    #[serde(default)]
    pub below_crash: Option<String>,
}

/// How a cycle ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CycleOutcome {
    /// A restore point was committed.
    Succeeded,
    /// None was.
    Failed,
}

/// Writes `1200` rather than `1200.0`: the target is what an operator wrote, and scripts compare it.
fn whole<S: Serializer>(seconds: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    let millis = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match millis {
        Some(length) if length.subsec_nanos() == 0 => serializer.serialize_some(&length.as_secs()),
        _ => seconds.serialize(serializer),
    }
}
