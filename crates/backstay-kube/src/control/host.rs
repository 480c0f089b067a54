//! What the controllers need of the site they speak for, in plain types.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use crate::crds::FailoverAction;
use crate::documents::Begins;
use backstay_types::frame::SiteRole;
use backstay_types::plan::{PlanSpec, RuleSpec, SchedulePolicySpec};
use backstay_types::point::Consistency;
use backstay_types::{Class, Classify, Epoch, PlanName, RestorePointId, Span, Time};

/// A running site.
pub trait Host: Send + Sync + 'static {
    /// Who holds the Lease: unique to this process.
    fn identity(&self) -> String;

    /// The time now.
    fn now(&self) -> Time;

    /// How everything is, and the restore points here of the plans of the site and of those `also` named.
    fn look(&self, also: BTreeSet<PlanName>) -> impl Future<Output = Result<Picture, HostError>> + Send;

    /// Adds or replaces a plan.
    fn put_plan(
        &self,
        name: PlanName,
        spec: PlanSpec,
        begins: Begins,
    ) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Forgets a plan; its restore points stay.
    fn delete_plan(&self, name: PlanName) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Adds or replaces a schedule policy.
    fn put_policy(
        &self,
        name: String,
        spec: SchedulePolicySpec,
    ) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Forgets a schedule policy.
    fn delete_policy(&self, name: String) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Adds or replaces a rule.
    fn put_rule(&self, name: String, spec: RuleSpec) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Forgets a rule.
    fn delete_rule(&self, name: String) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Says which plans are kept by resources from now on: nobody else may change those.
    fn kept_by(&self, resources: BTreeMap<PlanName, String>);

    /// Carries an order out, or goes on with one that was cut off. Goes on when the future is dropped.
    fn fail_over(
        &self,
        order: FailoverOrder,
    ) -> impl Future<Output = Result<PromotionDone, HostError>> + Send + 'static;
}

/// Why a site did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    /// Its class.
    pub class: Class,
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl HostError {
    /// Another error in plain words.
    pub fn new(error: &dyn Classify) -> Self {
        Self { class: error.class(), message: error.to_string(), hint: error.hint() }
    }

    /// The message of a condition.
    pub(super) fn told(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message.clone(),
        }
    }
}

impl Classify for HostError {
    fn class(&self) -> Class {
        self.class
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// A site at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    /// Every plan.
    pub plans: BTreeMap<PlanName, PlanReport>,
    /// Every schedule policy.
    pub policies: BTreeMap<String, SchedulePolicySpec>,
    /// Every rule.
    pub rules: BTreeMap<String, RuleSpec>,
    /// Every pair.
    pub pairs: Vec<PairReport>,
    /// The restore points here of every plan that was asked for; a plan that is missing could not be looked at.
    pub points: BTreeMap<PlanName, Vec<PointReport>>,
}

/// One plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanReport {
    /// What this site is for it.
    pub role: SiteRole,
    /// Whether it became active here by promotion, and its peer has not come back as standby.
    pub promoted: bool,
    /// Uid of the resource that it was begun by, if it was.
    pub resource: Option<String>,
    /// Whether the active side has deleted it: nothing comes any more.
    pub ended: bool,
    /// Its epoch.
    pub epoch: Epoch,
    /// The epoch that the peer said last, since the daemon started.
    pub peer_epoch: Option<Epoch>,
    /// What it says, `pair` by the name that the peer has here.
    pub spec: PlanSpec,
    /// What runs now.
    pub cycle: Option<CycleReport>,
    /// Now minus the snapshot time of the newest restore point.
    pub lag: Option<Span>,
    /// The newest committed restore point.
    pub last_point: Option<RestorePointId>,
    /// When it was committed.
    pub last_success: Option<Time>,
    /// The point that the replicas here show.
    pub applied_point: Option<RestorePointId>,
    /// When the next cycle starts by schedule.
    pub next_run: Option<Time>,
    /// How long rules froze the application in the last cycle.
    pub last_freeze: Option<Span>,
    /// What the last cycle's restore point promises.
    pub consistency: Option<Consistency>,
    /// What kept it below `crash`.
    pub below_crash: Option<String>,
    /// Why the last cycle failed, if it did.
    pub cycle_error: Option<HostError>,
    /// Why the replicas could not be brought up to the newest point, if they could not.
    pub apply_error: Option<HostError>,
    /// Why the promotion under way has stopped, if it has.
    pub promotion_error: Option<HostError>,
    /// Objects of the last apply, or of the promotion under way, that could not be written.
    pub failed_objects: Option<u64>,
    /// The first of them, with the reason.
    pub first_failures: Vec<String>,
    /// The steps of the promotion under way.
    pub promotion: Vec<StepReport>,
}

impl PlanReport {
    /// Whether its resource says what it is: not so on a standby.
    pub(super) fn is_ours(&self) -> bool {
        self.role == SiteRole::Active
    }
}

/// Work under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CycleReport {
    /// What it is at, such as `transfer`.
    pub phase: &'static str,
    /// How much is done, in percent.
    pub percent: u8,
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// Seconds to go, as far as can be told.
    pub eta_seconds: Option<u64>,
    /// Bytes dealt with.
    pub bytes_done: u64,
    /// Bytes to deal with, as far as known.
    pub bytes_total: Option<u64>,
}

/// One pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairReport {
    /// Name of the peer.
    pub peer: String,
    /// Where it is reached.
    pub endpoints: Vec<String>,
    /// Whether a connection stands.
    pub is_connected: bool,
    /// When the peer was last heard.
    pub last_seen: Option<Time>,
    /// Round trip.
    pub round_trip: Option<Span>,
}

/// One restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointReport {
    /// Its plan.
    pub plan: PlanName,
    /// Which.
    pub id: RestorePointId,
    /// When the snapshot was taken.
    pub snapshot_time: Time,
    /// When it was committed.
    pub committed_time: Time,
    /// What it promises.
    pub consistency: Consistency,
    /// Length of its files and objects together.
    pub bytes: u64,
    /// Bytes that had changed.
    pub bytes_changed: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// Objects in it, if the plan has any.
    pub objects: Option<u64>,
    /// Retention rules that keep it.
    pub held_by: Vec<String>,
    /// Whether damage was found that could not be repaired.
    pub is_damaged: bool,
}

/// What a `Failover` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverOrder {
    /// What is done.
    pub action: FailoverAction,
    /// The plan.
    pub plan: PlanName,
    /// The point; the newest without it.
    pub restore_point: Option<RestorePointId>,
    /// Beside a peer that is alive and active.
    pub force: bool,
    /// Also a point that lacks something, or objects that cannot be started.
    pub accept_partial: bool,
    /// Compute and show, and do nothing.
    pub dry_run: bool,
    /// Leave what a drill made in place.
    pub keep: bool,
}

/// A promotion that is over, or would be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromotionDone {
    /// Epoch of the plan afterwards.
    pub epoch: Epoch,
    /// The point.
    pub restore_point: RestorePointId,
    /// Data lost, as time.
    pub rpo: Span,
    /// Time lost; none for a dry run.
    pub rto: Option<Span>,
    /// The steps.
    pub steps: Vec<StepReport>,
    /// What is released on the cluster, one line a wave.
    pub waves: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// One step of a promotion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// `pending`, `running`, `done`, `failed` or `skipped`.
    pub state: &'static str,
    /// How long it took.
    pub duration: Option<Span>,
}
