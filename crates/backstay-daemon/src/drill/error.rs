//! What can fail in a drill, beyond what can fail in what it does.

use std::path::PathBuf;

use backstay_engine::drill::{DrillRefused, StepError};
use backstay_types::{Class, Classify, PlanName, Span};

/// A failure of a drill.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// It was not begun.
    #[error(transparent)]
    Refused(#[from] DrillRefused),
    /// A copy of the volumes does not fit, or would leave too little for replication to go on.
    #[error("copy the volumes: {folder:?} has {free} bytes to spare, {needed} are needed")]
    NoRoom {
        /// Where the copies would be.
        folder: PathBuf,
        /// What may be used.
        free: u64,
        /// What they take.
        needed: u64,
    },
    /// Probes did not pass in their time.
    #[error("{failed} of {all} probes of plan {plan} failed; the first, {first}")]
    Probes {
        /// The plan.
        plan: PlanName,
        /// How many did not.
        failed: usize,
        /// How many there are.
        all: usize,
        /// Name of the first, and why.
        first: String,
    },
    /// Workloads were not there in their time.
    #[error("{count} workloads of plan {plan} are not ready after {time}; the first, {first}")]
    NotReady {
        /// The plan.
        plan: PlanName,
        /// How long was waited.
        time: Span,
        /// How many are not.
        count: usize,
        /// The first, and what it lacks.
        first: String,
    },
    /// The daemon was told to stop.
    #[error("finish the drill: the daemon stops")]
    Stopped,
    /// A step out of order.
    #[error(transparent)]
    Step(#[from] StepError),
}

impl Classify for DrillError {
    fn class(&self) -> Class {
        match self {
            DrillError::Refused(error) => error.class(),
            DrillError::NoRoom { .. } | DrillError::Stopped => Class::Transient,
            DrillError::NotReady { .. } | DrillError::Probes { .. } => Class::Incomplete,
            DrillError::Step(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            DrillError::Refused(error) => error.hint(),
            DrillError::NoRoom { folder, .. } => Some(format!(
                "make room there, or mount a larger disk at {}; where it is of the file system of the replicas and that \
                 can clone (XFS, btrfs), copies of the newest restore point take no room",
                folder.display()
            )),
            DrillError::NotReady { plan, .. } | DrillError::Probes { plan, .. } => Some(format!(
                "look at what was rehearsed: backstay drill {plan} --keep leaves it in place until --clean"
            )),
            DrillError::Stopped => Some("give the command again when the daemon runs".to_owned()),
            DrillError::Step(_) => None,
        }
    }
}
