//! What a planned takeover is decided from, and why it may be refused.

use backstay_types::frame::SiteRole;
use backstay_types::{Class, Classify, Epoch, PlanName, Time};

use super::Handover;
use crate::promotion::PeerFacts;

/// Which side is to be active afterwards. Named by side and not as "the other one", so that an order that is given
/// twice is carried out once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The one that the plan was not made on: switchover.
    Away,
    /// The one that the plan was made on: failback.
    Home,
}

impl Target {
    /// The command that asks for it.
    pub const fn command(self) -> &'static str {
        match self {
            Target::Away => "switchover",
            Target::Home => "failback",
        }
    }

    /// What to tell who asked for a side that is active already.
    pub fn already(self, plan: &PlanName) -> String {
        format!(
            "nothing was done: the plan is active there already; the way back: backstay {} {plan}",
            self.way_back()
        )
    }

    /// The command that asks for the other one.
    const fn way_back(self) -> &'static str {
        match self {
            Target::Away => "failback",
            Target::Home => "switchover",
        }
    }
}

/// What a handover is decided from.
#[derive(Debug, Clone, Copy)]
pub struct HandoverFacts<'a> {
    /// The plan.
    pub plan: &'a PlanName,
    /// What this side is for it.
    pub role: SiteRole,
    /// The epoch known here.
    pub epoch: Epoch,
    /// Whether the plan was made here.
    pub is_home: bool,
    /// Which side is to be active.
    pub target: Target,
    /// The other side.
    pub peer: &'a PeerFacts,
}

/// What a request leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// This side is active: carry it out.
    HandOver(Handover),
    /// The peer is active: ask it.
    AskPeer,
    /// The target is active.
    Already,
}

/// Why a handover is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandoverRefused {
    /// It takes both sides.
    #[error("plan {plan}: the peer does not answer, and a planned takeover needs both sides")]
    PeerAway {
        /// The plan.
        plan: PlanName,
    },
    /// The peer cannot take over.
    #[error("plan {plan}: the peer is {} at epoch {theirs} and not a standby of epoch {ours}", .role.map_or("without the plan", role_name))]
    NotStandby {
        /// The plan.
        plan: PlanName,
        /// What the peer is.
        role: Option<SiteRole>,
        /// Its epoch.
        theirs: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// Neither side is active.
    #[error("plan {plan}: the peer is {}, and this side is a standby: there is nothing to hand over", .role.map_or("without the plan", role_name))]
    NobodyActive {
        /// The plan.
        plan: PlanName,
        /// What the peer is.
        role: Option<SiteRole>,
    },
    /// The outcome of an offer is not known yet.
    #[error(
        "plan {plan}: this side has offered it to the peer, and holds it until the peer says whether it took it"
    )]
    Offered {
        /// The plan.
        plan: PlanName,
    },
    /// A promotion or handover is being carried out.
    #[error("plan {plan}: this side is {doing}")]
    UnderWay {
        /// The plan.
        plan: PlanName,
        /// What it is doing.
        doing: &'static str,
    },
}

const fn role_name(role: SiteRole) -> &'static str {
    match role {
        SiteRole::Active => "active",
        SiteRole::Standby => "standby",
        SiteRole::Demoting => "stepping down",
        SiteRole::Promoting => "being promoted",
    }
}

impl Classify for HandoverRefused {
    fn class(&self) -> Class {
        match self {
            HandoverRefused::PeerAway { .. } => Class::Transient,
            HandoverRefused::NotStandby { role: Some(SiteRole::Demoting), .. }
            | HandoverRefused::UnderWay { .. } => Class::Busy,
            HandoverRefused::NotStandby { .. }
            | HandoverRefused::NobodyActive { .. }
            | HandoverRefused::Offered { .. } => Class::Fenced,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            HandoverRefused::PeerAway { plan } => {
                format!(
                    "nothing was changed; if the active side is lost: backstay promote {plan} on the standby"
                )
            }
            HandoverRefused::Offered { plan } => format!(
                "it goes on by itself once the peer is back; if the peer is lost for good, go on here: backstay \
                 promote {plan} --force"
            ),
            HandoverRefused::NotStandby { plan, role: Some(SiteRole::Demoting), .. }
            | HandoverRefused::UnderWay { plan, .. } => {
                format!("wait for it: backstay status {plan} --watch")
            }
            HandoverRefused::NotStandby { plan, role: None, .. } => {
                format!("share the plan first: backstay sync {plan}")
            }
            HandoverRefused::NotStandby { plan, .. } => {
                format!("see both sides: backstay status {plan}")
            }
            HandoverRefused::NobodyActive { plan, .. } => format!("take over here: backstay promote {plan}"),
        })
    }
}

/// Decides on a request for a handover.
pub fn plan(facts: &HandoverFacts<'_>, now: Time) -> Result<Planned, HandoverRefused> {
    let name = || facts.plan.clone();
    let is_target = facts.is_home == (facts.target == Target::Home);
    match facts.role {
        SiteRole::Active if is_target => return Ok(Planned::Already),
        SiteRole::Active | SiteRole::Standby => {}
        SiteRole::Promoting => {
            return Err(HandoverRefused::UnderWay { plan: name(), doing: "being promoted" });
        }
        SiteRole::Demoting => return Err(HandoverRefused::UnderWay { plan: name(), doing: "stepping down" }),
    }
    let Some(peer) = facts.peer.state.as_ref().filter(|_| facts.peer.reachable) else {
        return Err(HandoverRefused::PeerAway { plan: name() });
    };
    if facts.role == SiteRole::Standby {
        return match peer.role {
            Some(SiteRole::Active) if is_target => Ok(Planned::AskPeer),
            Some(SiteRole::Active) => Ok(Planned::Already),
            role => Err(HandoverRefused::NobodyActive { plan: name(), role }),
        };
    }
    if peer.role != Some(SiteRole::Standby) || peer.epoch > facts.epoch {
        let (role, theirs) = (peer.role, peer.epoch);
        return Err(HandoverRefused::NotStandby { plan: name(), role, theirs, ours: facts.epoch });
    }
    Ok(Planned::HandOver(Handover::begin(name(), facts.epoch, now)))
}
