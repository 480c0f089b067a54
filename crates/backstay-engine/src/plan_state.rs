//! What a site is for a plan, and every way in which that changes: one type, one function.
//!
//! 1. An epoch never falls (test `epochs_never_fall_and_only_listed_edges_are_taken`).
//! 2. A role changes only along the edges that `ARCHITECTURE.md` shows (test `the_table_is_that_of_the_code`).
//! 3. A side that promotes knows to which restore point, and one that steps down why: there is a way out of every state
//!    (test `every_state_can_be_left`).
//!
//! Left to others: whether a peer's request is granted (`role.rs`), and making a new state durable before acting on it.

use backstay_types::Epoch;
use backstay_types::frame::SiteRole;
use serde::{Deserialize, Serialize};

use crate::handover::Handover;
use crate::promotion::PromotionPlan;
use crate::role::Local;

/// Role and epoch of a plan on one site, and what the site is in the middle of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanState {
    role: SiteRole,
    epoch: Epoch,
    #[serde(default)]
    conflict: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leap: Option<Epoch>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unconfirmed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promotion: Option<PromotionPlan>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handover: Option<Handover>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    active_until: Option<Epoch>,
    #[serde(default)]
    standing: bool,
    #[serde(default)]
    cut_off: bool,
}

/// What happened to a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Transition {
    /// A plan that is new here begins before its peer could be asked whether it runs one of the name.
    BegunUnasked,
    /// The peer was asked since, and runs none; the epoch that the plan goes on at.
    Confirmed(Epoch),
    /// An epoch was used elsewhere, by an earlier plan of the name or by the active side: nothing here begins below it.
    EpochObserved(Epoch),
    /// The active side shared the plan, at its epoch.
    Shared(Epoch),
    /// A request of the active side was granted, at its epoch.
    Followed(Epoch),
    /// The active side deleted the plan.
    Ended,
    /// Of two sides that were active the other one gave way.
    PeerGaveWay,
    /// Both sides were found active at one epoch, or may be.
    ConflictFound,
    /// They are not any more.
    ConflictOver,
    /// The other side claimed an epoch too far above this one to be believed.
    LeapClaimed(Epoch),
    /// The operator has decided that this side is right.
    LeapSetAside,
    /// Somebody is active at a higher epoch, or was: this side is not.
    Superseded(Epoch),
    /// This side has kept what it had, and runs nothing any more.
    SteppedDown,
    /// A planned takeover begins: what is held for it is released again unless it goes on.
    HandoverPrepared(Handover),
    /// The plan is offered to the peer: from now on this side runs nothing before the peer has answered.
    HandoverOffered(Handover),
    /// The peer is asked not to take over any more.
    HandoverTakenBack(Handover),
    /// The peer has agreed that this side goes on, at this epoch.
    HandoverRefused(Epoch),
    /// What was held for a handover runs again.
    HandoverOver,
    /// The epoch is raised for a promotion, which must be finished from here on.
    PromotionBegun(PromotionPlan),
    /// A promotion under way got further, or goes on to another restore point.
    PromotionWentOn(PromotionPlan),
    /// It is done.
    Promoted(Epoch),
    /// What runs here is held, in place.
    Held,
    /// It runs again.
    Unheld,
    /// The lease of automatic failover is lost: what runs here stays held until it is good again.
    LeaseLost,
    /// It is good again.
    LeaseGood,
}

impl Transition {
    /// Its name, as the table has it.
    pub const fn name(&self) -> &'static str {
        match self {
            Transition::BegunUnasked => "begun unasked",
            Transition::Confirmed(_) => "confirmed",
            Transition::EpochObserved(_) => "epoch observed",
            Transition::Shared(_) => "shared",
            Transition::Followed(_) => "followed",
            Transition::Ended => "ended",
            Transition::PeerGaveWay => "peer gave way",
            Transition::ConflictFound => "conflict found",
            Transition::ConflictOver => "conflict over",
            Transition::LeapClaimed(_) => "leap claimed",
            Transition::LeapSetAside => "leap set aside",
            Transition::Superseded(_) => "superseded",
            Transition::SteppedDown => "stepped down",
            Transition::HandoverPrepared(_) => "handover prepared",
            Transition::HandoverOffered(_) => "handover offered",
            Transition::HandoverTakenBack(_) => "handover taken back",
            Transition::HandoverRefused(_) => "handover refused",
            Transition::HandoverOver => "handover over",
            Transition::PromotionBegun(_) => "promotion begun",
            Transition::PromotionWentOn(_) => "promotion went on",
            Transition::Promoted(_) => "promoted",
            Transition::Held => "held",
            Transition::Unheld => "unheld",
            Transition::LeaseLost => "lease lost",
            Transition::LeaseGood => "lease good",
        }
    }
}

/// A transition that does not lead anywhere from a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{transition} does not follow on {role:?} at epoch {epoch}")]
pub struct Illegal {
    /// What was to happen.
    pub transition: &'static str,
    /// The role in which it does not.
    pub role: SiteRole,
    /// The epoch of that.
    pub epoch: Epoch,
}

impl PlanState {
    /// A plan that begins.
    pub const fn new(local: Local) -> Self {
        Self {
            role: local.role,
            epoch: local.epoch,
            conflict: false,
            leap: None,
            ended: false,
            unconfirmed: false,
            promotion: None,
            handover: None,
            active_until: None,
            standing: false,
            cut_off: false,
        }
    }

    /// What this site is for the plan.
    pub const fn role(&self) -> SiteRole {
        self.role
    }

    /// The highest epoch known here.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Role and epoch.
    pub const fn local(&self) -> Local {
        Local { role: self.role, epoch: self.epoch }
    }

    /// Whether both sides were found active at one epoch: no cycle runs until an operator has decided.
    pub const fn conflict(&self) -> bool {
        self.conflict
    }

    /// An epoch that the other side claimed and that is not believed: the same.
    pub const fn leap(&self) -> Option<Epoch> {
        self.leap
    }

    /// Whether the active side has deleted the plan: nothing comes any more, and nobody takes over by accident.
    pub const fn ended(&self) -> bool {
        self.ended
    }

    /// Whether the plan was made here while the peer could not be asked whether it runs one of this name: until it was, this
    /// side claims nothing.
    pub const fn unconfirmed(&self) -> bool {
        self.unconfirmed
    }

    /// A promotion that has begun and must be finished.
    pub const fn promotion(&self) -> Option<&PromotionPlan> {
        self.promotion.as_ref()
    }

    /// A planned takeover that this side gives up its workloads for.
    pub const fn handover(&self) -> Option<&Handover> {
        self.handover.as_ref()
    }

    /// While this side steps down: the last epoch it was active at.
    pub const fn active_until(&self) -> Option<Epoch> {
        self.active_until
    }

    /// Whether what runs here is held, in place.
    pub const fn standing(&self) -> bool {
        self.standing
    }

    /// Whether the lease of automatic failover is lost.
    pub const fn cut_off(&self) -> bool {
        self.cut_off
    }

    /// The state after `transition`; what it does not name stays as it is.
    pub fn apply(&self, transition: Transition) -> Result<PlanState, Illegal> {
        use SiteRole::{Active, Demoting, Promoting, Standby};
        let illegal = Illegal { transition: transition.name(), role: self.role, epoch: self.epoch };
        let legal = |is_legal: bool| if is_legal { Ok(()) } else { Err(illegal) };
        let mut next = self.clone();
        match transition {
            Transition::BegunUnasked => {
                legal(self.role == Active)?;
                next.unconfirmed = true;
            }
            Transition::Confirmed(epoch) => {
                next.epoch = self.epoch.max(epoch);
                (next.unconfirmed, next.conflict) = (false, false);
            }
            Transition::EpochObserved(epoch) => {
                // A promotion is bound to its epoch.
                legal(self.role != Promoting || epoch <= self.epoch)?;
                next.epoch = self.epoch.max(epoch);
            }
            Transition::Shared(epoch) | Transition::Followed(epoch) => {
                legal(self.role == Standby && epoch >= self.epoch)?;
                next.ended &= !matches!(transition, Transition::Shared(_));
                (next.epoch, next.leap) = (epoch, None);
            }
            Transition::Ended => {
                legal(self.role == Standby)?;
                next.ended = true;
            }
            Transition::PeerGaveWay => {
                legal(self.role != Standby)?;
                (next.conflict, next.leap) = (false, None);
            }
            Transition::ConflictFound => next.conflict = true,
            Transition::ConflictOver => next.conflict = false,
            Transition::LeapClaimed(epoch) => next.leap = self.leap.or(Some(epoch)),
            Transition::LeapSetAside => next.leap = None,
            Transition::Superseded(epoch) => {
                legal(epoch > self.epoch)?;
                if self.role != Standby && self.active_until.is_none() {
                    (next.role, next.active_until) = (Demoting, Some(self.epoch));
                    (next.handover, next.promotion) = (None, None);
                }
                (next.epoch, next.leap) = (epoch, None);
            }
            Transition::SteppedDown => {
                legal(self.active_until.is_some())?;
                (next.role, next.active_until, next.handover) = (Standby, None, None);
                (next.standing, next.cut_off) = (false, false);
            }
            Transition::HandoverPrepared(handover) => {
                legal(self.role == Active)?;
                next.handover = Some(handover);
            }
            Transition::HandoverOffered(handover) => {
                legal(self.role == Active)?;
                (next.role, next.handover) = (Demoting, Some(handover));
            }
            Transition::HandoverTakenBack(handover) => {
                legal(self.handover.is_some())?;
                next.handover = Some(handover);
            }
            Transition::HandoverRefused(epoch) => {
                legal(self.handover.is_some())?;
                (next.role, next.epoch) = (Active, self.epoch.max(epoch));
            }
            Transition::HandoverOver => {
                legal(self.role == Active)?;
                next.handover = None;
            }
            Transition::PromotionBegun(plan) => {
                legal(self.role == Standby && plan.epoch > self.epoch)?;
                (next.role, next.epoch, next.leap, next.ended) = (Promoting, plan.epoch, None, false);
                next.promotion = Some(plan);
            }
            Transition::PromotionWentOn(plan) => {
                legal(self.role == Promoting && plan.epoch == self.epoch)?;
                next.promotion = Some(plan);
            }
            Transition::Promoted(epoch) => {
                legal(self.role == Promoting && epoch == self.epoch)?;
                (next.role, next.promotion) = (Active, None);
            }
            Transition::Held => next.standing = true,
            Transition::Unheld => next.standing = false,
            Transition::LeaseLost => next.cut_off = true,
            Transition::LeaseGood => {
                next.cut_off = false;
                // What was held of a promotion under way is for its own step to start, which begins again.
                next.standing &= self.role != Promoting;
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
