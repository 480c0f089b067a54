//! What stands in the way of automatic failover.

use std::path::PathBuf;

use backstay_types::{Class, Classify, PlanName};

use crate::witness::WitnessError;

/// Why automatic failover does not work, or refuses something.
#[derive(Debug, thiserror::Error)]
pub enum AutomaticError {
    /// No witness in `site.toml`.
    #[error("plan {plan} wants automatic failover, and no witness is set up")]
    NoWitness {
        /// The plan.
        plan: PlanName,
    },
    /// Another kind than the plan wants.
    #[error("plan {plan} wants a witness of kind {expected}, and `witness.url` names one of kind {found}")]
    OtherWitness {
        /// The plan.
        plan: PlanName,
        /// What the plan wants.
        expected: &'static str,
        /// What is set up.
        found: &'static str,
    },
    /// Nobody outlives the daemon.
    #[error("plan {plan} wants automatic failover, and no keeper runs beside this daemon")]
    NoKeeper {
        /// The plan.
        plan: PlanName,
        /// The site.
        dir: PathBuf,
    },
    /// A keeper could do nothing.
    #[error("plan {plan} wants automatic failover, and does not say what stops its application")]
    NothingToHold {
        /// The plan.
        plan: PlanName,
    },
    /// Pods outlive the daemon, and nothing there holds them.
    #[error(
        "plan {plan} wants automatic failover, and is over namespaces: there is no keeper for clusters yet"
    )]
    NoKeeperOnClusters {
        /// The plan.
        plan: PlanName,
    },
    /// The lease is being taken.
    #[error("plan {plan}: this side is taking over by itself")]
    TakingOver {
        /// The plan.
        plan: PlanName,
    },
    /// A plan whose lease would be taken once it is gone here.
    #[error(
        "plan {plan}: the standby was not told that the plan is gone, and would take over by itself: {why}"
    )]
    StandbyNotTold {
        /// The plan.
        plan: PlanName,
        /// Why it was not told.
        why: String,
    },
    /// The witness.
    #[error(transparent)]
    Witness(#[from] WitnessError),
}

impl Classify for AutomaticError {
    fn class(&self) -> Class {
        match self {
            Self::NoWitness { .. }
            | Self::OtherWitness { .. }
            | Self::NoKeeper { .. }
            | Self::NothingToHold { .. }
            | Self::NoKeeperOnClusters { .. } => Class::Invalid,
            Self::TakingOver { .. } => Class::Busy,
            Self::StandbyNotTold { .. } => Class::Transient,
            Self::Witness(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoWitness { .. } => Some(
                "set `witness.url` in site.toml of both sites to the same witness, such as one of `backstay witness`"
                    .to_owned(),
            ),
            Self::OtherWitness { .. } => {
                Some("both sites need the same witness: change `witness.url` or the plan".to_owned())
            }
            Self::NoKeeper { dir, .. } => Some(format!(
                "start `backstay keeper --site {}` as a unit of its own, on both sites: it holds the application if the \
                 daemon dies; see docs/automatic-failover.md",
                dir.display()
            )),
            Self::NothingToHold { .. } => Some(
                "name the units, control groups or commands that stop it in `hold` of the plan; where nothing is to be \
                 held, nothing can be kept from running twice"
                    .to_owned(),
            ),
            Self::NoKeeperOnClusters { .. } => Some(
                "take `automaticFailover` out of the plan, and promote by hand: `backstay promote`".to_owned(),
            ),
            Self::TakingOver { .. } => Some("`backstay status` on the other side shows how far it is".to_owned()),
            Self::StandbyNotTold { plan, .. } => Some(format!(
                "delete it when the peer is connected; or take `automaticFailover` out of the plan, wait until \
                 `backstay status {plan}` shows no failover, and delete it then"
            )),
            Self::Witness(error) => error.hint(),
        }
    }
}
