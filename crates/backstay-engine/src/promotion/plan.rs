//! Computing a promotion, and the value that is stored.

use std::fmt;

use backstay_types::frame::SiteRole;
use backstay_types::{Epoch, PlanName, RestorePointId, Span, Time};
use serde::{Deserialize, Serialize};

use super::facts::{PointFacts, PromotionFacts, PromotionRefused};
use super::steps::{Step, StepError, StepName, Steps};
use crate::role::is_leap;

/// What the apply step has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Apply {
    /// The replicas show the restore point.
    Nothing,
    /// Finish an apply that was under way to it.
    Finish,
    /// Go on to a newer one than the replicas show.
    Forward,
    /// Go back to an older one than the replicas show.
    Back,
}

impl fmt::Display for Apply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Apply::Nothing => "the replicas show it",
            Apply::Finish => "finish the apply under way",
            Apply::Forward => "bring the replicas forward",
            Apply::Back => "take the replicas back",
        })
    }
}

/// A promotion: what it will do, and how far it is. To be stored before its first step and after each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PromotionPlan {
    /// The plan.
    pub plan: PlanName,
    /// Its epoch before.
    pub epoch_before: Epoch,
    /// Its epoch from the epoch step on.
    pub epoch: Epoch,
    /// The restore point that is promoted.
    pub restore_point: RestorePointId,
    /// When its snapshot was taken.
    pub snapshot_time: Time,
    /// What is to be applied.
    pub apply: Apply,
    /// Whether the point is not whole and was accepted so.
    pub partial: bool,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// When it was asked for.
    pub asked_time: Time,
    /// Until when data is counted as lost; none in a promotion that an earlier release has begun, which counts to
    /// [`PromotionPlan::asked_time`].
    #[serde(default)]
    pub counted_from: Option<CountedFrom>,
    steps: Steps,
}

/// The moment from which a loss is counted, back to the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountedFrom {
    /// When.
    pub time: Time,
    /// Why then.
    pub reason: CountReason,
}

/// Why a loss is counted from a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CountReason {
    /// The active side was heard then for the last time: what it wrote later nobody can tell.
    LastSign,
    /// The promotion itself: the active side still answered, or was never heard.
    Promotion,
    /// The workloads were held then, and a last restore point was made.
    Held,
}

impl fmt::Display for CountReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CountReason::LastSign => "the last sign of the active side",
            CountReason::Promotion => "the promotion",
            CountReason::Held => "the hold",
        })
    }
}

/// What a request to promote leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// Carry this out.
    Promote(PromotionPlan),
    /// This side is active already: nothing to do.
    Already {
        /// Its epoch.
        epoch: Epoch,
    },
}

/// The measure of a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Data lost: from the snapshot to [`PromotionPlan::counted_from`].
    pub rpo: Span,
    /// Time lost: from the request to the last step's end; to now while it is not over.
    pub rto: Span,
}

/// Computes the promotion of a plan.
pub fn plan(facts: &PromotionFacts<'_>, now: Time) -> Result<Planned, PromotionRefused> {
    let name = || facts.plan.clone();
    match (facts.role, facts.wanted) {
        (SiteRole::Standby, _) => {}
        (SiteRole::Active, None) => return Ok(Planned::Already { epoch: facts.epoch }),
        (SiteRole::Active, Some(wanted)) => {
            return Err(PromotionRefused::ActiveAlready { plan: name(), wanted });
        }
        (SiteRole::Promoting, _) => {
            return Err(PromotionRefused::UnderWay { plan: name(), doing: "being promoted already" });
        }
        (SiteRole::Demoting, _) => {
            return Err(PromotionRefused::SteppedDown { plan: name() });
        }
    }
    let peer = facts.peer.state.as_ref();
    let fenced = facts.force || facts.lease.is_some();
    let peer_active = peer.filter(|state| {
        facts.peer.reachable && matches!(state.role, Some(SiteRole::Active | SiteRole::Promoting))
    });
    if let Some(peer) = peer_active.filter(|_| !fenced) {
        return Err(PromotionRefused::PeerActive { plan: name(), epoch: peer.epoch });
    }
    if facts.peer.reachable && peer.is_none() && !fenced {
        return Err(PromotionRefused::PeerUnknown { plan: name() });
    }
    let point = choose(facts)?;
    let believed = peer.map(|peer| peer.epoch).filter(|epoch| !is_leap(facts.epoch, *epoch));
    let known = believed.unwrap_or(facts.epoch).max(facts.epoch).max(point.id.epoch);
    if let Some(lease) = facts.lease.filter(|lease| is_leap(known, *lease)) {
        return Err(PromotionRefused::LeaseLeap { plan: name(), lease, epoch: known });
    }
    Ok(Planned::Promote(PromotionPlan {
        plan: name(),
        epoch_before: facts.epoch,
        epoch: facts.lease.map_or(known.next(), |lease| lease.max(known.next())),
        restore_point: point.id,
        snapshot_time: point.snapshot_time,
        apply: apply_of(facts, point.id),
        partial: point.damaged || !point.complete,
        warnings: warnings(facts, point, peer_active.is_some()),
        asked_time: now,
        counted_from: Some(counted_from(facts, point, now)),
        steps: Steps::default(),
    }))
}

/// A side that answers goes on writing until it hears of the promotion. One that is gone wrote until its last sign at the
/// least; a snapshot is a sign as well.
fn counted_from(facts: &PromotionFacts<'_>, point: &PointFacts, now: Time) -> CountedFrom {
    match facts.last_sign {
        Some(sign) if !facts.peer.reachable => {
            CountedFrom { time: sign.max(point.snapshot_time).min(now), reason: CountReason::LastSign }
        }
        _ => CountedFrom { time: now, reason: CountReason::Promotion },
    }
}

/// The point to promote: the one named, else the newest that is not diverged.
fn choose<'a>(facts: &PromotionFacts<'a>) -> Result<&'a PointFacts, PromotionRefused> {
    let plan = || facts.plan.clone();
    let newest_of = |keeps: &dyn Fn(&PointFacts) -> bool| {
        facts.points.iter().filter(|point| !point.diverged && keeps(point)).max_by_key(|point| point.id)
    };
    let newest = newest_of(&|_| true);
    let point = match facts.wanted {
        Some(wanted) => facts.points.iter().find(|point| point.id == wanted).ok_or_else(|| {
            PromotionRefused::UnknownPoint { plan: plan(), wanted, newest: newest.map(|point| point.id) }
        })?,
        None => newest.ok_or_else(|| PromotionRefused::NoPoint { plan: plan() })?,
    };
    let (id, whole) = (point.id, newest_of(&|point| point.complete && !point.damaged).map(|point| point.id));
    match point {
        PointFacts { damaged: true, .. } if !facts.accept_partial => {
            Err(PromotionRefused::Damaged { plan: plan(), id, whole })
        }
        PointFacts { complete: false, .. } if !facts.accept_partial => {
            Err(PromotionRefused::Incomplete { plan: plan(), id, whole })
        }
        point => Ok(point),
    }
}

fn apply_of(facts: &PromotionFacts<'_>, target: RestorePointId) -> Apply {
    match (facts.applying, facts.applied) {
        (Some(applying), _) if applying == target => Apply::Finish,
        (Some(applying), _) if applying > target => Apply::Back,
        (Some(_), _) | (None, None) => Apply::Forward,
        (None, Some(applied)) => match applied.cmp(&target) {
            std::cmp::Ordering::Less => Apply::Forward,
            std::cmp::Ordering::Equal => Apply::Nothing,
            std::cmp::Ordering::Greater => Apply::Back,
        },
    }
}

fn warnings(facts: &PromotionFacts<'_>, point: &PointFacts, peer_active: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |text: String| warnings.push(text);
    if let Some(peer) = facts.peer.state.as_ref().filter(|peer| is_leap(facts.epoch, peer.epoch)) {
        warn(format!("the peer claims epoch {}, which is not believed", peer.epoch));
    }
    if facts.lease.is_some() {
        warn("by the lease: what the peer ran had to be held before".to_owned());
    } else if peer_active {
        warn("the peer is alive and active: until it steps down, both sides run".to_owned());
    } else if !facts.peer.reachable {
        warn(
            "the peer does not answer: if its workloads still run, they run until it hears of this"
                .to_owned(),
        );
    }
    let newer = facts.points.iter().filter(|other| !other.diverged && other.id > point.id).count();
    if newer > 0 {
        warn(format!("newer restore points left behind: {newer}"));
    }
    if point.diverged {
        warn(format!("{} was written by a side that had lost the active role", point.id));
    }
    if point.damaged {
        warn(format!("{} is damaged: the replicas must have what the store lost", point.id));
    } else if !point.complete {
        warn(format!("{} is incomplete", point.id));
    }
    warnings
}

impl PromotionPlan {
    /// Goes on to another restore point, at the same epoch.
    pub fn retarget(&mut self, point: RestorePointId, snapshot_time: Time) {
        self.apply = if point < self.restore_point { Apply::Back } else { Apply::Forward };
        self.restore_point = point;
        self.snapshot_time = snapshot_time;
        self.steps.rewind_to(StepName::Fence);
    }

    /// The step to carry out next, again if it was interrupted; `None` if all are done.
    pub fn next_step(&self) -> Option<StepName> {
        self.steps.next()
    }

    /// Notes that the next step begins.
    pub fn start(&mut self, step: StepName, now: Time) -> Result<(), StepError> {
        self.steps.start(step, now)
    }

    /// Notes that the next step is done.
    pub fn complete(&mut self, step: StepName, now: Time) -> Result<(), StepError> {
        self.steps.complete(step, now)
    }

    /// All steps, in order.
    pub fn steps(&self) -> &[Step] {
        self.steps.all()
    }

    /// Whether the new epoch is durable: before that a failure leaves the plan a standby, afterwards the only way is
    /// on.
    pub fn is_past_return(&self) -> bool {
        self.steps.is_done(StepName::Epoch)
    }

    /// Until when data is counted as lost.
    pub fn counted_from(&self) -> CountedFrom {
        self.counted_from.unwrap_or(CountedFrom { time: self.asked_time, reason: CountReason::Promotion })
    }

    /// Data and time lost.
    pub fn outcome(&self, now: Time) -> Outcome {
        let ended = self.steps.ended().unwrap_or(now);
        let rpo = self.counted_from().time.since(self.snapshot_time);
        Outcome { rpo, rto: ended.since(self.asked_time) }
    }
}

impl fmt::Display for PromotionPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "promote plan {} to restore point {}", self.plan, self.restore_point)?;
        writeln!(
            f,
            "  snapshot  {} (RPO {}, from {})",
            self.snapshot_time,
            self.counted_from().time.since(self.snapshot_time),
            self.counted_from().reason
        )?;
        writeln!(f, "  epoch     {} -> {}", self.epoch_before, self.epoch)?;
        writeln!(f, "  apply     {}", self.apply)?;
        for step in self.steps() {
            let took = step.duration().map(|took| format!(" ({took})")).unwrap_or_default();
            writeln!(f, "  {:<8}  {}{took}", step.state_name(), step.name)?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "  warning: {warning}"))
    }
}
