//! Computing a drill, and the value that says how far it is.

use backstay_types::frame::SiteRole;
use backstay_types::{Epoch, PlanName, RestorePointId, Span, Time};

use super::facts::{DrillFacts, DrillRefused};
use super::steps::{Step, StepError, StepName, StepState, Steps};
use crate::promotion::PointFacts;

/// A drill: what it rehearses, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drill {
    /// The plan.
    pub plan: PlanName,
    /// Number of the drill.
    pub number: u64,
    /// Epoch of the plan, which a drill does not change.
    pub epoch: Epoch,
    /// The restore point that is rehearsed.
    pub restore_point: RestorePointId,
    /// When its snapshot was taken.
    pub snapshot_time: Time,
    /// When it was asked for.
    pub asked_time: Time,
    /// Whether what it made is left in place.
    pub keep: bool,
    /// What the operator should know.
    pub warnings: Vec<String>,
    steps: Steps,
}

/// The measure of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether every step was carried out.
    pub passed: bool,
    /// Data that would be lost: from the snapshot to the request.
    pub rpo: Span,
    /// Time until the application was there: from the request to the end of the last probe. `None` if it never was.
    pub rto: Option<Span>,
}

/// Computes the drill of a plan.
pub fn plan(facts: &DrillFacts<'_>, now: Time) -> Result<Drill, DrillRefused> {
    let name = || facts.plan.clone();
    if facts.changes_roles || facts.role == SiteRole::Promoting {
        return Err(DrillRefused::TakeoverUnderWay { plan: name() });
    }
    if facts.running {
        return Err(DrillRefused::UnderWay { plan: name() });
    }
    match facts.role {
        SiteRole::Standby => {}
        SiteRole::Active => return Err(DrillRefused::WrongSide { plan: name(), role: "active" }),
        SiteRole::Demoting | SiteRole::Promoting => {
            return Err(DrillRefused::WrongSide { plan: name(), role: "stepping down" });
        }
    }
    let point = choose(facts)?;
    let skips = |step: StepName| match step {
        StepName::Objects => !facts.has_objects,
        StepName::WaitReady => !facts.on_cluster,
        StepName::Probes => facts.probes == 0,
        StepName::TearDown => facts.keep,
        StepName::CheckRestorePoint | StepName::Volumes => false,
    };
    Ok(Drill {
        plan: name(),
        number: facts.number,
        epoch: facts.epoch,
        restore_point: point.id,
        snapshot_time: point.snapshot_time,
        asked_time: now,
        keep: facts.keep,
        warnings: warnings(facts, point),
        steps: Steps::new(skips),
    })
}

const fn is_whole(point: &PointFacts) -> bool {
    point.complete && !point.damaged
}

/// The point to rehearse: the one named, else the newest that is whole and not diverged.
fn choose<'a>(facts: &DrillFacts<'a>) -> Result<&'a PointFacts, DrillRefused> {
    let shared = || facts.points.iter().filter(|point| !point.diverged);
    let whole = shared().filter(|point| is_whole(point)).max_by_key(|point| point.id);
    let plan = || facts.plan.clone();
    let Some(wanted) = facts.wanted else {
        return whole.ok_or_else(|| DrillRefused::NoPoint { plan: plan() });
    };
    let point = facts.points.iter().find(|point| point.id == wanted).ok_or_else(|| {
        let newest = shared().map(|point| point.id).max();
        DrillRefused::UnknownPoint { plan: plan(), wanted, newest }
    })?;
    if is_whole(point) {
        return Ok(point);
    }
    let what = if point.damaged { "damaged" } else { "incomplete" };
    Err(DrillRefused::NotWhole { plan: plan(), wanted, what, whole: whole.map(|point| point.id) })
}

fn warnings(facts: &DrillFacts<'_>, point: &PointFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    let newer = facts.points.iter().filter(|other| !other.diverged && other.id > point.id);
    let broken = newer.filter(|other| !is_whole(other)).count();
    if facts.wanted.is_none() && broken > 0 {
        warnings.push(format!("newer restore points that are not whole: {broken}"));
    }
    if point.diverged {
        warnings.push(format!("{} was written by a side that had lost the active role", point.id));
    }
    if facts.probes == 0 {
        warnings.push("the plan has no probes: nothing looked at the application".to_owned());
    }
    warnings
}

impl Drill {
    /// The step to carry out next; `None` if all are over.
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

    /// Notes that the next step failed: what is left is to tear down.
    pub fn fail(&mut self, step: StepName, now: Time) -> Result<(), StepError> {
        self.steps.fail(step, now)
    }

    /// All steps, in order.
    pub fn steps(&self) -> &[Step] {
        self.steps.all()
    }

    /// How it went so far.
    pub fn outcome(&self) -> Outcome {
        let is_done = |step: &Step| matches!(step.state, StepState::Done { .. } | StepState::Skipped);
        let is_failed = |step: &Step| matches!(step.state, StepState::Failed { .. });
        let rehearsed = || self.steps().iter().filter(|step| step.name != StepName::TearDown);
        let ended = |step: &Step| match step.state {
            StepState::Done { ended, .. } => Some(ended),
            _ => None,
        };
        let was_there = rehearsed().all(is_done);
        let rto = rehearsed().filter_map(ended).max().filter(|_| was_there);
        Outcome {
            passed: was_there && !self.steps().iter().any(is_failed),
            rpo: self.asked_time.since(self.snapshot_time),
            rto: rto.map(|ended| ended.since(self.asked_time)),
        }
    }
}
