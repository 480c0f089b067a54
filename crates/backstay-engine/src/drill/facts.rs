//! What a drill is decided from, and why it may be refused.

use backstay_types::frame::SiteRole;
use backstay_types::{Class, Classify, Epoch, PlanName, RestorePointId};

use crate::promotion::PointFacts;

/// What a drill is decided from.
#[derive(Debug, Clone)]
pub struct DrillFacts<'a> {
    /// The plan.
    pub plan: &'a PlanName,
    /// Number of the drill, from 1.
    pub number: u64,
    /// What this side is for the plan.
    pub role: SiteRole,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether a promotion or a change of roles is under way.
    pub changes_roles: bool,
    /// Whether a drill of the plan runs now.
    pub running: bool,
    /// Restore points held here, in any order.
    pub points: &'a [PointFacts],
    /// The point the operator named; the newest whole one without.
    pub wanted: Option<RestorePointId>,
    /// Whether there are objects to start.
    pub has_objects: bool,
    /// Whether they run on a cluster, where they take time to be ready.
    pub on_cluster: bool,
    /// How many probes the plan has.
    pub probes: usize,
    /// Leave in place what the drill made.
    pub keep: bool,
}

/// Why a drill is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrillRefused {
    /// The application runs here, or ran here last.
    #[error("plan {plan}: this side is {role} and has no replica to rehearse with")]
    WrongSide {
        /// The plan.
        plan: PlanName,
        /// What it is.
        role: &'static str,
    },
    /// The real thing goes on.
    #[error("plan {plan}: a takeover is under way")]
    TakeoverUnderWay {
        /// The plan.
        plan: PlanName,
    },
    /// One at a time.
    #[error("plan {plan}: a drill is under way")]
    UnderWay {
        /// The plan.
        plan: PlanName,
    },
    /// Nothing was ever received.
    #[error("plan {plan}: this side holds no whole restore point")]
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
    /// The one that was named lacks something.
    #[error("plan {plan}: restore point {wanted} is {what}")]
    NotWhole {
        /// The plan.
        plan: PlanName,
        /// What was named.
        wanted: RestorePointId,
        /// `damaged` or `incomplete`.
        what: &'static str,
        /// The newest that is whole.
        whole: Option<RestorePointId>,
    },
}

impl Classify for DrillRefused {
    fn class(&self) -> Class {
        match self {
            DrillRefused::WrongSide { .. } => Class::Fenced,
            DrillRefused::TakeoverUnderWay { .. } | DrillRefused::UnderWay { .. } => Class::Busy,
            DrillRefused::NoPoint { .. } | DrillRefused::UnknownPoint { .. } => Class::NotFound,
            DrillRefused::NotWhole { .. } => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            DrillRefused::WrongSide { plan, .. } => {
                format!("run it on the standby: backstay drill {plan}")
            }
            DrillRefused::TakeoverUnderWay { plan } => {
                format!("rehearse when it is over: backstay status {plan} --watch")
            }
            DrillRefused::UnderWay { plan } => {
                format!("wait for it; `backstay drill {plan} --history` shows how drills ended")
            }
            DrillRefused::NoPoint { plan } => {
                format!("run a cycle from the active side: backstay sync {plan}")
            }
            DrillRefused::UnknownPoint { plan, newest, .. } => match newest {
                Some(newest) => {
                    format!("the newest is {newest}; see what there is: backstay restore-points {plan}")
                }
                None => format!("run a cycle from the active side: backstay sync {plan}"),
            },
            DrillRefused::NotWhole { plan, whole, .. } => match whole {
                Some(whole) => format!(
                    "the newest whole one is {whole}; `backstay verify {plan} --repair` may mend the other"
                ),
                None => format!("`backstay verify {plan} --repair` fetches good copies where there are any"),
            },
        })
    }
}
