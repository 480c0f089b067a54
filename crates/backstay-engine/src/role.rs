//! Who may send, and what news of an epoch means: fencing, as pure functions on what a site knows of a plan.
//!
//! 1. Epochs only grow: nothing here ever answers with a lower one (test `an_epoch_never_goes_down`).
//! 2. Of two sites, the one with the older epoch steps down before anything else (test
//!    `two_sites_that_talk_end_with_one_active`).
//! 3. Epochs and numbers of restore points cannot be used up by a peer: it raises them by a bounded step from what is
//!    known here, and the end of either lies far above anything that it can claim (tests
//!    `a_leap_of_the_epoch_stops_the_plan_and_moves_nothing`, `numbers_cannot_be_used_up`). A claim of more is a
//!    conflict that the operator decides, not one that is passed over.
//!
//! Left to others: making a new epoch durable before acting on it, and what stepping down means for workloads.

use backstay_types::frame::{Begin, PlanState, Promoted, Refused, SharePlan, SiteRole};
use backstay_types::{Class, Classify, Epoch, PlanName, RestorePointId};

/// No plan is promoted so often: the end of the epochs would be the end of every promotion. A peer that raises an epoch
/// step by step, a durable write each, would need 281 billion of them to come here.
const EPOCH_MAX: Epoch = Epoch(1 << 48);

/// The most that a peer raises an epoch by at a time. A side that was away has missed promotions, each of which somebody
/// has asked for: nobody has asked for so many.
pub const EPOCH_STEP_MAX: u64 = 1000;

/// The highest epoch of a plan that this side knows nothing of: one every second for 136 years.
const EPOCH_NEW_MAX: Epoch = Epoch(u32::MAX as u64);

/// The most that a peer raises the number of restore points by at a time: a side that was brought back from a backup
/// lacks those made since, at one a minute for two years about a million.
const NUMBER_STEP_MAX: u64 = 1 << 20;

/// The highest number of a plan of which this side has no restore point: one a millisecond for 34 years.
const NUMBER_NEW_MAX: u64 = 1 << 40;

/// What this site knows about a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// What this site is for it.
    pub role: SiteRole,
    /// The highest epoch known here, durable.
    pub epoch: Epoch,
}

impl Local {
    /// Whether workloads may run here.
    const fn holds_active(self) -> bool {
        matches!(self.role, SiteRole::Active | SiteRole::Promoting)
    }
}

/// Why a request of the peer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The plan was never shared with this side.
    #[error("plan {plan}: not known to this side")]
    UnknownPlan {
        /// The plan.
        plan: PlanName,
    },
    /// The peer works in an epoch that is over.
    #[error("plan {plan}: epoch {theirs} of the sender is over: this side knows epoch {ours}")]
    OldEpoch {
        /// The plan.
        plan: PlanName,
        /// The peer's.
        theirs: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// Both sides want to send, in one epoch.
    #[error("plan {plan}: this side is active at epoch {ours}, the sender claims epoch {theirs}")]
    ActiveHere {
        /// The plan.
        plan: PlanName,
        /// The peer's.
        theirs: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// The peer was promoted: this side has to step down before it receives.
    #[error("plan {plan}: this side is active at epoch {ours} and steps down for epoch {theirs} first")]
    StepsDownFirst {
        /// The plan.
        plan: PlanName,
        /// The peer's.
        theirs: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// A plan that is new here, and that the other side runs.
    #[error("plan {plan}: the other side runs a plan of this name, at epoch {theirs}")]
    RunsThere {
        /// The plan.
        plan: PlanName,
        /// The peer's.
        theirs: Epoch,
    },
    /// This side is on its way to standby.
    #[error("plan {plan}: this side is stepping down")]
    SteppingDown {
        /// The plan.
        plan: PlanName,
        /// Ours.
        ours: Epoch,
    },
    /// The point that is offered is not the newest here: the last cycle did not get this far.
    #[error("plan {plan}: expected to take over with {}, found {offered}", .newest.map_or("no restore point".to_owned(), |newest| newest.to_string()))]
    OtherPoint {
        /// The plan.
        plan: PlanName,
        /// What is offered.
        offered: RestorePointId,
        /// What is here.
        newest: Option<RestorePointId>,
    },
    /// An offer of an epoch that is not the next one.
    #[error("plan {plan}: offered epoch {theirs}, and this side knows epoch {ours}: an epoch was missed")]
    SkipsEpochs {
        /// The plan.
        plan: PlanName,
        /// The peer's.
        theirs: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// A restore point with a number that is taken.
    #[error("restore point {id} of plan {plan}: expected a number above {newest}")]
    NumberTaken {
        /// The plan.
        plan: PlanName,
        /// What the peer wants to make.
        id: RestorePointId,
        /// What is here.
        newest: RestorePointId,
    },
    /// An epoch that no plan reaches.
    #[error("plan {plan}: expected an epoch from 1 to {EPOCH_NEW_MAX}, found {found}")]
    BadEpoch {
        /// The plan.
        plan: PlanName,
        /// What the peer claims.
        found: Epoch,
    },
    /// An epoch too far above the one known here.
    #[error(
        "plan {plan}: the other side claims epoch {theirs}, and this one knows epoch {ours}: more than {EPOCH_STEP_MAX} at \
         a time is not believed"
    )]
    EpochLeap {
        /// The plan.
        plan: PlanName,
        /// The peer's.
        theirs: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// A number too far above the one known here.
    #[error(
        "plan {plan}: the other side claims restore point number {theirs}, and this one expects at most {most}"
    )]
    NumberLeap {
        /// The plan.
        plan: PlanName,
        /// The peer's.
        theirs: u64,
        /// The highest that would be believed.
        most: u64,
    },
    /// Ids that no sender of ours makes.
    #[error("restore point {id} of plan {plan}: {why}")]
    BadId {
        /// The plan.
        plan: PlanName,
        /// What the peer wants to make.
        id: RestorePointId,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Refusal {
    /// The epoch the refusing side knows, for the frame.
    pub const fn epoch(&self) -> Option<Epoch> {
        match self {
            Refusal::OldEpoch { ours, .. }
            | Refusal::ActiveHere { ours, .. }
            | Refusal::StepsDownFirst { ours, .. }
            | Refusal::SkipsEpochs { ours, .. }
            | Refusal::SteppingDown { ours, .. } => Some(*ours),
            Refusal::UnknownPlan { .. }
            | Refusal::RunsThere { .. }
            | Refusal::OtherPoint { .. }
            | Refusal::BadEpoch { .. }
            // What this side knows is not what settles it.
            | Refusal::EpochLeap { .. }
            | Refusal::NumberLeap { .. }
            | Refusal::NumberTaken { .. }
            | Refusal::BadId { .. } => None,
        }
    }

    /// The epoch this side must step down for, if that is why.
    pub const fn steps_down_for(&self) -> Option<Epoch> {
        match self {
            Refusal::StepsDownFirst { theirs, .. } => Some(*theirs),
            _ => None,
        }
    }

    /// The epoch that was claimed and is not believed, if that is why.
    pub const fn leaps_to(&self) -> Option<Epoch> {
        match self {
            Refusal::EpochLeap { theirs, .. } => Some(*theirs),
            _ => None,
        }
    }

    /// The frame that tells the peer.
    pub fn to_frame(&self) -> Refused {
        Refused::new(self, self.epoch())
    }
}

impl Classify for Refusal {
    fn class(&self) -> Class {
        match self {
            Refusal::UnknownPlan { .. } => Class::NotFound,
            Refusal::OldEpoch { .. }
            | Refusal::ActiveHere { .. }
            | Refusal::EpochLeap { .. }
            | Refusal::RunsThere { .. }
            | Refusal::SkipsEpochs { .. } => Class::Fenced,
            Refusal::OtherPoint { .. } => Class::Incomplete,
            Refusal::StepsDownFirst { .. } | Refusal::SteppingDown { .. } => Class::Busy,
            Refusal::BadEpoch { .. }
            | Refusal::NumberLeap { .. }
            | Refusal::NumberTaken { .. }
            | Refusal::BadId { .. } => Class::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Refusal::UnknownPlan { plan } => format!("share it from the active side: backstay sync {plan}"),
            Refusal::OldEpoch { plan, .. } => format!(
                "the other side was promoted: this one steps down by itself; see backstay status {plan} on both"
            ),
            Refusal::ActiveHere { plan, .. } => {
                format!("delete plan {plan} on the side that is to be the standby, then sync again")
            }
            Refusal::RunsThere { plan, .. } => format!(
                "to have it here as the standby, run a cycle there: backstay sync {plan}; to begin anew, delete it there \
                 first, or give this one another name"
            ),
            Refusal::StepsDownFirst { .. } | Refusal::SteppingDown { .. } => {
                "the next cycle goes through once it has".to_owned()
            }
            Refusal::OtherPoint { plan, .. } | Refusal::SkipsEpochs { plan, .. } => {
                format!("run a cycle, then ask again: backstay sync {plan}")
            }
            Refusal::EpochLeap { plan, .. } => leap_hint(plan),
            Refusal::NumberLeap { plan, .. } => format!(
                "one of the two sides was brought back from a backup, or is not what it says it is: compare what both list \
                 with backstay restore-points {plan}"
            ),
            Refusal::NumberTaken { newest, .. } => format!("the next number is {}", newest.number + 1),
            Refusal::BadEpoch { .. } | Refusal::BadId { .. } => return None,
        };
        Some(hint)
    }
}

/// What the operator can do about an epoch that is not believed.
pub fn leap_hint(plan: &PlanName) -> String {
    format!(
        "compare backstay status {plan} on both sides. If this one is right, it goes on after: backstay promote {plan} \
         --force. If the other one is, backstay plan delete {plan} on this one, to which the other brings it back"
    )
}

/// What a granted request changes here. Both must be durable before the request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The plan's state from now on.
    pub local: Local,
    /// Whether that differs from what it was.
    pub is_new: bool,
}

impl Grant {
    pub(crate) fn standby(before: Option<Local>, epoch: Epoch) -> Self {
        let local = Local { role: SiteRole::Standby, epoch };
        Self { local, is_new: before != Some(local) }
    }
}

/// Whether the peer may send for a plan at `theirs`: it may if this side is its standby and knows no newer epoch.
fn admit_sender(local: Local, plan: &PlanName, theirs: Epoch) -> Result<(), Refusal> {
    let (plan, ours) = (plan.clone(), local.epoch);
    if theirs < ours {
        return Err(Refusal::OldEpoch { plan, theirs, ours });
    }
    if is_leap(ours, theirs) {
        return Err(Refusal::EpochLeap { plan, theirs, ours });
    }
    match local.role {
        SiteRole::Standby => Ok(()),
        SiteRole::Demoting => Err(Refusal::SteppingDown { plan, ours }),
        SiteRole::Active | SiteRole::Promoting if theirs == ours => {
            Err(Refusal::ActiveHere { plan, theirs, ours })
        }
        SiteRole::Active | SiteRole::Promoting => Err(Refusal::StepsDownFirst { plan, theirs, ours }),
    }
}

/// Whether an epoch that a peer claims is too far above the one known here to be believed.
pub const fn is_leap(ours: Epoch, theirs: Epoch) -> bool {
    theirs.0 > ours.0.saturating_add(EPOCH_STEP_MAX) || theirs.0 > EPOCH_MAX.0
}

/// Whether an epoch is one at all, and one that a plan which is not known here may have.
pub(crate) fn check_epoch(local: Option<Local>, plan: &PlanName, found: Epoch) -> Result<(), Refusal> {
    let most = if local.is_some() { Epoch(u64::MAX) } else { EPOCH_NEW_MAX };
    if (Epoch::FIRST..=most).contains(&found) {
        Ok(())
    } else {
        Err(Refusal::BadEpoch { plan: plan.clone(), found })
    }
}

/// The highest number that a peer is believed of a plan whose newest restore point here has this one.
const fn number_most(newest: u64) -> u64 {
    if newest == 0 { NUMBER_NEW_MAX } else { newest.saturating_add(NUMBER_STEP_MAX) }
}

/// The number of the next restore point, given the highest known here, 0 for none, and the peer's newest.
pub fn next_number(plan: &PlanName, ours: u64, peer: Option<RestorePointId>) -> Result<u64, Refusal> {
    let (theirs, most) = (peer.map_or(0, |newest| newest.number), number_most(ours));
    if theirs > most {
        return Err(Refusal::NumberLeap { plan: plan.clone(), theirs, most });
    }
    Ok(ours.max(theirs).saturating_add(1))
}

/// Decides on a transfer. `newest` is the newest restore point held here.
pub fn admit_begin(
    local: Option<Local>,
    begin: &Begin,
    newest: Option<RestorePointId>,
) -> Result<Grant, Refusal> {
    let (plan, id) = (&begin.plan, begin.id);
    let bad = |why| Err(Refusal::BadId { plan: plan.clone(), id, why });
    let Some(local) = local else { return Err(Refusal::UnknownPlan { plan: plan.clone() }) };
    if id.number == 0 {
        return bad("its number is none that a sender gives");
    }
    check_epoch(Some(local), plan, id.epoch)?;
    admit_sender(local, plan, id.epoch)?;
    if begin.parent.is_some_and(|parent| parent.number >= id.number || parent.epoch > id.epoch) {
        return bad("its parent is not older");
    }
    match newest {
        Some(newest) if newest.number >= id.number => {
            Err(Refusal::NumberTaken { plan: plan.clone(), id, newest })
        }
        newest => {
            // The end of the numbers would end the plan: there would be no next one.
            let (theirs, most) = (id.number, number_most(newest.map_or(0, |newest| newest.number)));
            if theirs > most {
                return Err(Refusal::NumberLeap { plan: plan.clone(), theirs, most });
            }
            Ok(Grant::standby(Some(local), id.epoch))
        }
    }
}

/// Decides on a plan that the peer shares: new here, or updated.
pub fn admit_share(local: Option<Local>, share: &SharePlan) -> Result<Grant, Refusal> {
    check_epoch(local, &share.plan, share.epoch)?;
    if let Some(local) = local {
        admit_sender(local, &share.plan, share.epoch)?;
    }
    Ok(Grant::standby(local, share.epoch))
}

/// Decides on a question about what this side shows: it is for whoever may send.
pub fn admit_question(local: Option<Local>, plan: &PlanName, theirs: Epoch) -> Result<(), Refusal> {
    check_epoch(local, plan, theirs)?;
    match local {
        Some(local) => admit_sender(local, plan, theirs),
        None => Err(Refusal::UnknownPlan { plan: plan.clone() }),
    }
}

/// The epoch a plan begins with that has no restore point yet: not below what the peer knows of an earlier plan of
/// its name, unless the peer wants to be active itself, which its answer to the share will say.
pub fn first_epoch(own: Epoch, peer: &PlanState) -> Epoch {
    match peer.role {
        None | Some(SiteRole::Standby) if peer.epoch <= EPOCH_NEW_MAX => own.max(peer.epoch),
        _ => own,
    }
}

/// Decides on a plan that begins here, by what the peer knows of its name: never beside a side that runs it, which would
/// have to step down for what somebody applies here. The epoch that it begins with.
pub fn admit_new(plan: &PlanName, own: Epoch, peer: &PlanState) -> Result<Epoch, Refusal> {
    match peer.role {
        Some(SiteRole::Active | SiteRole::Promoting | SiteRole::Demoting) => {
            Err(Refusal::RunsThere { plan: plan.clone(), theirs: peer.epoch })
        }
        None | Some(SiteRole::Standby) => Ok(first_epoch(own, peer)),
    }
}

/// What news from the peer means for this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing new.
    Nothing,
    /// Remember the higher epoch; the role stays.
    Adopt {
        /// The epoch to make durable.
        epoch: Epoch,
    },
    /// A higher epoch exists while this side is active: hold the controllers here before anything else.
    StepDown {
        /// The epoch to make durable.
        epoch: Epoch,
    },
    /// An epoch too far above this one to be believed: run no cycle, step down for nothing, ask the operator.
    Leap {
        /// The epoch that is claimed.
        epoch: Epoch,
    },
    /// Both sides are active at one epoch, which no path of ours leads to: run no cycle, tell the operator.
    Conflict {
        /// The epoch.
        epoch: Epoch,
    },
}

fn on_epoch(local: Local, theirs: Epoch, peer_holds_active: bool) -> News {
    if is_leap(local.epoch, theirs) {
        return News::Leap { epoch: theirs };
    }
    match theirs.cmp(&local.epoch) {
        std::cmp::Ordering::Less => News::Nothing,
        std::cmp::Ordering::Equal if peer_holds_active && local.holds_active() => {
            News::Conflict { epoch: theirs }
        }
        std::cmp::Ordering::Equal => News::Nothing,
        // Also when the peer is not active itself: somebody is, or was, at that epoch, and it is not this side.
        std::cmp::Ordering::Greater if local.role == SiteRole::Standby => News::Adopt { epoch: theirs },
        std::cmp::Ordering::Greater => News::StepDown { epoch: theirs },
    }
}

/// The peer says it was promoted.
pub fn on_promoted(local: Local, promoted: &Promoted) -> News {
    on_epoch(local, promoted.epoch, true)
}

/// The peer says what it knows of the plan.
pub fn on_peer_state(local: Local, peer: &PlanState) -> News {
    match peer.role {
        None => News::Nothing,
        Some(role) => {
            let holds_active = Local { role, epoch: peer.epoch }.holds_active();
            on_epoch(local, peer.epoch, holds_active)
        }
    }
}

/// The peer refused with an epoch of its own: the answer an old active side gets when it tries to send.
pub fn on_refused(local: Local, refused: &Refused) -> News {
    refused.epoch.map_or(News::Nothing, |epoch| on_epoch(local, epoch, false))
}

#[cfg(test)]
mod tests;
