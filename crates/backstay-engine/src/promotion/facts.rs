//! What a promotion is decided from, and why it may be refused.

use backstay_types::frame::{PlanState, SiteRole};
use backstay_types::{Class, Classify, Epoch, PlanName, RestorePointId, Time};

/// A restore point held here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointFacts {
    /// Which.
    pub id: RestorePointId,
    /// When its snapshot was taken.
    pub snapshot_time: Time,
    /// Whether chunks of it are known to be damaged or lost.
    pub damaged: bool,
    /// Whether it has everything the plan asked for.
    pub complete: bool,
    /// Whether a side wrote it after it had lost the active role; never chosen unless named.
    pub diverged: bool,
}

/// What is known of the other side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerFacts {
    /// Whether it answered just now.
    pub reachable: bool,
    /// What it last said about the plan.
    pub state: Option<PlanState>,
}

/// What a promotion is decided from.
#[derive(Debug, Clone)]
pub struct PromotionFacts<'a> {
    /// The plan.
    pub plan: &'a PlanName,
    /// What this side is for it.
    pub role: SiteRole,
    /// The epoch known here.
    pub epoch: Epoch,
    /// Restore points held here, in any order.
    pub points: &'a [PointFacts],
    /// The point the replicas show.
    pub applied: Option<RestorePointId>,
    /// The point an apply that has not finished was going to.
    pub applying: Option<RestorePointId>,
    /// The other side.
    pub peer: &'a PeerFacts,
    /// When it was last heard, as far as is known.
    pub last_sign: Option<Time>,
    /// The point the operator named; the newest without.
    pub wanted: Option<RestorePointId>,
    /// Go ahead beside an active peer.
    pub force: bool,
    /// The lease of automatic failover was taken at this epoch: the peer holds what it ran.
    pub lease: Option<Epoch>,
    /// Go ahead with a point that is not whole.
    pub accept_partial: bool,
}

/// Why a promotion is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromotionRefused {
    /// The peer answers and is active.
    #[error("plan {plan}: the peer is alive and active at epoch {epoch}")]
    PeerActive {
        /// The plan.
        plan: PlanName,
        /// The peer's epoch.
        epoch: Epoch,
    },
    /// The peer answers, but not what it is for the plan.
    #[error("plan {plan}: the peer is alive and does not tell whether it is active")]
    PeerUnknown {
        /// The plan.
        plan: PlanName,
    },
    /// Nothing was ever received.
    #[error("plan {plan}: this side holds no restore point")]
    NoPoint {
        /// The plan.
        plan: PlanName,
    },
    /// The operator named one that is not here.
    #[error("plan {plan}: restore point {wanted} is not held here")]
    UnknownPoint {
        /// The plan.
        plan: PlanName,
        /// What was named.
        wanted: RestorePointId,
        /// The newest that is here.
        newest: Option<RestorePointId>,
    },
    /// Chunks of it are damaged.
    #[error("plan {plan}: restore point {id} is damaged")]
    Damaged {
        /// The plan.
        plan: PlanName,
        /// Which point.
        id: RestorePointId,
        /// The newest that is whole.
        whole: Option<RestorePointId>,
    },
    /// Parts of it are missing.
    #[error("plan {plan}: restore point {id} is incomplete")]
    Incomplete {
        /// The plan.
        plan: PlanName,
        /// Which point.
        id: RestorePointId,
        /// The newest that is whole.
        whole: Option<RestorePointId>,
    },
    /// An active side cannot be taken to an older point by promoting it.
    #[error("plan {plan}: this side is active already and cannot be promoted to restore point {wanted}")]
    ActiveAlready {
        /// The plan.
        plan: PlanName,
        /// What was named.
        wanted: RestorePointId,
    },
    /// The other side was promoted, and this one learned of it.
    #[error("plan {plan}: this side has stepped down")]
    SteppedDown {
        /// The plan.
        plan: PlanName,
    },
    /// The lease is of an epoch too far above the one known here.
    #[error("plan {plan}: the lease is of epoch {lease}, and this side knows epoch {epoch}")]
    LeaseLeap {
        /// The plan.
        plan: PlanName,
        /// The epoch of the lease.
        lease: Epoch,
        /// The epoch known here.
        epoch: Epoch,
    },
    /// A promotion is being carried out.
    #[error("plan {plan}: this side is {doing}")]
    UnderWay {
        /// The plan.
        plan: PlanName,
        /// What it is doing.
        doing: &'static str,
    },
}

impl Classify for PromotionRefused {
    fn class(&self) -> Class {
        match self {
            PromotionRefused::PeerActive { .. }
            | PromotionRefused::PeerUnknown { .. }
            | PromotionRefused::ActiveAlready { .. }
            | PromotionRefused::LeaseLeap { .. }
            | PromotionRefused::SteppedDown { .. } => Class::Fenced,
            PromotionRefused::NoPoint { .. } | PromotionRefused::UnknownPoint { .. } => Class::NotFound,
            PromotionRefused::Damaged { .. } => Class::Corrupt,
            PromotionRefused::Incomplete { .. } => Class::Incomplete,
            PromotionRefused::UnderWay { .. } => Class::Busy,
        }
    }

    fn hint(&self) -> Option<String> {
        let list = |plan| format!("see what there is: backstay restore-points {plan}");
        let other = |plan: &PlanName, whole: &Option<RestorePointId>| match whole {
            Some(whole) => format!(
                "the newest whole one is {whole}: backstay promote {plan} --restore-point {whole}; or, if the replicas have \
                 what the store lost, --accept-partial"
            ),
            None => {
                "no whole one is held; if the replicas have what the store lost: --accept-partial".to_owned()
            }
        };
        Some(match self {
            PromotionRefused::PeerActive { plan, .. } => format!(
                "if both sides are well: backstay switchover {plan}; if that one is not to be trusted, stop its workloads \
                 first, then: backstay promote {plan} --force"
            ),
            PromotionRefused::PeerUnknown { plan } => format!(
                "stop the workloads there first; if they are not to be trusted: backstay promote {plan} --force"
            ),
            PromotionRefused::NoPoint { plan } => {
                format!("run a cycle from the active side: backstay sync {plan}")
            }
            PromotionRefused::UnknownPoint { plan, newest, .. } => match newest {
                Some(newest) => format!("the newest is {newest}; {}", list(plan)),
                None => list(plan),
            },
            PromotionRefused::Damaged { plan, whole, .. }
            | PromotionRefused::Incomplete { plan, whole, .. } => other(plan, whole),
            PromotionRefused::ActiveAlready { plan, wanted } => {
                format!("take older data out with: backstay restore {plan} --restore-point {wanted} --to DIR")
            }
            PromotionRefused::LeaseLeap { plan, .. } => crate::role::leap_hint(plan),
            PromotionRefused::SteppedDown { plan } => {
                format!("the other side was promoted; both epochs are in: backstay status {plan}")
            }
            PromotionRefused::UnderWay { plan, .. } => format!("wait for it: backstay status {plan} --watch"),
        })
    }
}
