//! What an operator is told of a handover.

use backstay_engine::handover::{Handover, HandoverStep, Stage, StepDone};
use backstay_engine::promotion::{CountReason, CountedFrom};
use backstay_types::{Epoch, RestorePointId, Span, Time};

use crate::api_types::{PromotionReport, PromotionStep, StepState};
use crate::clock;

/// Both sides' steps, with the times of this side's clock: from the hold to the other side's word that it runs.
pub(super) fn composed(
    handover: &Handover,
    taken: Option<PromotionReport>,
    epoch: Epoch,
    taken_time: Time,
    newest: Option<RestorePointId>,
    nothing_lost: bool,
) -> PromotionReport {
    let step = |done: &StepDone| PromotionStep {
        name: done.step.to_string(),
        state: StepState::Done,
        duration_seconds: Some(done.took.as_secs_f64()),
    };
    let (point, held): (Option<RestorePointId>, Time) = match handover.stage {
        Stage::Offered { restore_point, held_time } => (Some(restore_point), held_time),
        Stage::Preparing | Stage::TakingBack { .. } => (None, handover.asked_time),
    };
    let (theirs, warnings, taken_point) = match taken {
        Some(report) => (report.steps, report.warnings, Some(report.restore_point)),
        None => (Vec::new(), Vec::new(), None),
    };
    let mut steps: Vec<PromotionStep> = handover.steps.iter().map(step).collect();
    let there = steps.iter().position(|step| step.name == HandoverStep::StepDown.to_string());
    let theirs =
        theirs.into_iter().map(|step| PromotionStep { name: format!("there: {}", step.name), ..step });
    steps.splice(there.unwrap_or(steps.len())..there.unwrap_or(steps.len()), theirs);
    PromotionReport {
        plan: handover.plan.clone(),
        epoch,
        restore_point: taken_point.or(point).or(newest).unwrap_or(RestorePointId { epoch, number: 0 }),
        consistency: None,
        rpo_seconds: 0.0,
        rpo_counted_from: Some(CountedFrom { time: held, reason: CountReason::Held }),
        rto_seconds: Some(taken_time.since(held).as_secs_f64()),
        steps,
        waves: Vec::new(),
        warnings,
        nothing_lost,
        dry_run: false,
    }
}

/// Measures steps that follow each other.
pub(super) struct StepClock(Time);

impl StepClock {
    pub(super) fn start() -> Self {
        Self(clock::now())
    }

    pub(super) fn lap(&mut self, step: HandoverStep) -> StepDone {
        let now = clock::now();
        let took: Span = now.since(std::mem::replace(&mut self.0, now));
        StepDone { step, took }
    }
}
