//! The planned takeover: the active side holds its workloads, makes a last restore point, and offers the plan to its
//! standby.
//!
//! 1. From the offer on, the side that made it runs nothing until it knows the outcome: either the other side took
//!    over, or it never will (test `never_do_both_sides_run`). Before the offer a failure leaves everything as it was.
//! 2. It never will once it has durably learnt an epoch above the one it was offered: what is still under way of the
//!    offer is then refused as an epoch that is over.
//!
//! Left to others: carrying steps out, and storing the value after each change, before the frame it leads to is sent.

mod facts;

use backstay_types::frame::{SiteRole, TakeBack, TakeOver};
use backstay_types::{Epoch, PlanName, RestorePointId, Span, Time};
use serde::{Deserialize, Serialize};

pub use facts::{HandoverFacts, HandoverRefused, Planned, Target, plan};

use crate::role::{Grant, Local, Refusal, check_epoch, is_leap};

/// How far a handover is, as far as it matters after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "stage")]
pub enum Stage {
    /// Nothing was offered yet: it can be rolled back here alone.
    Preparing,
    /// The peer may have been told to take over.
    Offered {
        /// With this point.
        restore_point: RestorePointId,
        /// Since when the workloads are held.
        held_time: Time,
    },
    /// The peer would not take over, and is told that it may not any more.
    TakingBack {
        /// The epoch this side goes on at.
        epoch: Epoch,
    },
}

/// One step, for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HandoverStep {
    /// The peer is a standby of this epoch.
    CheckPeer,
    /// A cycle while the workloads still run, so that the last one is short.
    Sync,
    /// The workloads are held.
    Hold,
    /// What they ran is gone.
    WaitGone,
    /// The last restore point, of held workloads.
    LastSync,
    /// Nothing was written since, and nobody can.
    LookAgain,
    /// The peer takes over.
    TakeOver,
    /// This side becomes its standby.
    StepDown,
}

impl HandoverStep {
    /// All steps, in order.
    pub const ALL: [HandoverStep; 8] = [
        HandoverStep::CheckPeer,
        HandoverStep::Sync,
        HandoverStep::Hold,
        HandoverStep::WaitGone,
        HandoverStep::LastSync,
        HandoverStep::LookAgain,
        HandoverStep::TakeOver,
        HandoverStep::StepDown,
    ];
}

impl std::fmt::Display for HandoverStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            HandoverStep::CheckPeer => "check the peer",
            HandoverStep::Sync => "sync",
            HandoverStep::Hold => "hold",
            HandoverStep::WaitGone => "wait until gone",
            HandoverStep::LastSync => "last sync",
            HandoverStep::LookAgain => "look again",
            HandoverStep::TakeOver => "hand over",
            HandoverStep::StepDown => "step down",
        })
    }
}

/// A step that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepDone {
    /// Which.
    pub step: HandoverStep,
    /// How long it took.
    pub took: Span,
}

/// A handover under way. To be stored before the workloads are held, and at each change of its stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handover {
    /// The plan.
    pub plan: PlanName,
    /// The epoch that is offered.
    pub epoch: Epoch,
    /// When it was asked for.
    pub asked_time: Time,
    /// How far it is.
    #[serde(flatten)]
    pub stage: Stage,
    /// What was done.
    pub steps: Vec<StepDone>,
}

/// What came back for an offer, or for taking it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Done,
    /// It was refused, by a side that knows this epoch, if it said so.
    Refused(Option<Epoch>),
    /// None: it may have been done or not, or be done later.
    Lost,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Release what is held and go on at the epoch of before.
    RollBack,
    /// Offer, once more if need be.
    Offer,
    /// Tell the peer that it may not take over any more; store the stage first.
    TakeBack {
        /// The epoch to go on at.
        epoch: Epoch,
    },
    /// Release what is held and go on at a new epoch.
    RunAt {
        /// The epoch.
        epoch: Epoch,
    },
    /// The peer is active: become its standby.
    StepDown {
        /// Its epoch.
        epoch: Epoch,
    },
}

impl Handover {
    /// One that begins now.
    pub fn begin(plan: PlanName, epoch: Epoch, now: Time) -> Self {
        Self { plan, epoch: epoch.next(), asked_time: now, stage: Stage::Preparing, steps: Vec::new() }
    }

    /// What to do after whatever cut it off.
    pub const fn resume(&self) -> Next {
        match self.stage {
            Stage::Preparing => Next::RollBack,
            Stage::Offered { .. } => Next::Offer,
            Stage::TakingBack { epoch } => Next::TakeBack { epoch },
        }
    }

    /// What to do after an answer to the present stage.
    pub fn on_answer(&self, answer: Answer) -> Next {
        match (self.stage, answer) {
            (Stage::Preparing, _) => Next::RollBack,
            (Stage::Offered { .. }, Answer::Done) => Next::StepDown { epoch: self.epoch },
            (Stage::TakingBack { epoch }, Answer::Done) => Next::RunAt { epoch },
            // It knows an epoch that this side does not: whoever runs, it is not this side.
            (Stage::Offered { .. }, Answer::Refused(Some(epoch))) if self.is_superseded_by(epoch) => {
                Next::StepDown { epoch }
            }
            // It took over after all.
            (Stage::TakingBack { .. }, Answer::Refused(Some(epoch))) if self.is_superseded_by(epoch) => {
                Next::StepDown { epoch }
            }
            (Stage::Offered { .. }, Answer::Refused(_)) => Next::TakeBack { epoch: self.epoch.next() },
            (Stage::Offered { .. }, Answer::Lost) => Next::Offer,
            (Stage::TakingBack { epoch }, Answer::Refused(_) | Answer::Lost) => Next::TakeBack { epoch },
        }
    }

    /// An epoch too far above the one that is offered is not believed, as nowhere else.
    fn is_superseded_by(&self, epoch: Epoch) -> bool {
        epoch >= self.epoch && !is_leap(self.epoch, epoch)
    }

    /// The frame of the present stage.
    pub fn offer(&self) -> Option<TakeOver> {
        match self.stage {
            Stage::Offered { restore_point, held_time } => {
                Some(TakeOver { plan: self.plan.clone(), epoch: self.epoch, restore_point, held_time })
            }
            Stage::Preparing | Stage::TakingBack { .. } => None,
        }
    }

    /// Whether a reading after the hold found nothing written.
    pub fn looked_again(&self) -> bool {
        self.steps.iter().any(|done| done.step == HandoverStep::LookAgain)
    }

    /// Whether the peer may run the workloads: then this side must not.
    pub const fn is_offered(&self) -> bool {
        !matches!(self.stage, Stage::Preparing)
    }
}

/// What an offer means for the side that gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// Promote: at exactly the epoch of the offer.
    Promote,
    /// It was taken over before: say so again, or go on with it.
    Again,
}

/// Decides on an offer. `newest` is the newest restore point held here.
pub fn admit_take_over(
    local: Option<Local>,
    offer: &TakeOver,
    newest: Option<RestorePointId>,
) -> Result<Offered, Refusal> {
    let (plan, theirs) = (offer.plan.clone(), offer.epoch);
    let Some(local) = local else { return Err(Refusal::UnknownPlan { plan }) };
    check_epoch(Some(local), &plan, theirs)?;
    let ours = local.epoch;
    match local.role {
        SiteRole::Active | SiteRole::Promoting if theirs == ours => Ok(Offered::Again),
        _ if theirs <= ours => Err(Refusal::OldEpoch { plan, theirs, ours }),
        SiteRole::Demoting => Err(Refusal::SteppingDown { plan, ours }),
        SiteRole::Active | SiteRole::Promoting => Err(Refusal::ActiveHere { plan, theirs, ours }),
        SiteRole::Standby if theirs > ours.next() => Err(Refusal::SkipsEpochs { plan, theirs, ours }),
        SiteRole::Standby if newest != Some(offer.restore_point) => {
            Err(Refusal::OtherPoint { plan, offered: offer.restore_point, newest })
        }
        SiteRole::Standby => Ok(Offered::Promote),
    }
}

/// Decides on an offer that is taken back.
pub fn admit_take_back(local: Option<Local>, back: &TakeBack) -> Result<Grant, Refusal> {
    let (plan, theirs) = (back.plan.clone(), back.epoch);
    let Some(local) = local else { return Err(Refusal::UnknownPlan { plan }) };
    check_epoch(Some(local), &plan, theirs)?;
    let ours = local.epoch;
    match local.role {
        _ if is_leap(ours, theirs) => Err(Refusal::EpochLeap { plan, theirs, ours }),
        SiteRole::Standby if theirs >= ours => Ok(Grant::standby(Some(local), theirs)),
        SiteRole::Standby => Err(Refusal::OldEpoch { plan, theirs, ours }),
        SiteRole::Demoting => Err(Refusal::SteppingDown { plan, ours }),
        SiteRole::Active | SiteRole::Promoting => Err(Refusal::ActiveHere { plan, theirs, ours }),
    }
}

#[cfg(test)]
mod tests;
