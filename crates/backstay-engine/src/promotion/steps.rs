//! The steps of a promotion and the order they are carried out in.

use std::fmt;

use backstay_types::{Class, Classify, Span, Time};
use serde::{Deserialize, Serialize};

/// One step. In this order, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepName {
    /// The restore point and what it needs is here.
    CheckRestorePoint,
    /// The new epoch is durable; from here on there is no way back.
    Epoch,
    /// The peer is told, if it answers. Not before: an epoch that is lost here must not have made the peer step down.
    Fence,
    /// The replicas show the restore point.
    Apply,
    /// Root digests match.
    Verify,
    /// Objects get their own values back and start.
    Release,
    /// What was started runs.
    WaitReady,
    /// What the plan has done once it runs.
    Hooks,
    /// The report is made.
    Report,
}

impl StepName {
    /// All steps, in order.
    pub const ALL: [StepName; 9] = [
        StepName::CheckRestorePoint,
        StepName::Epoch,
        StepName::Fence,
        StepName::Apply,
        StepName::Verify,
        StepName::Release,
        StepName::WaitReady,
        StepName::Hooks,
        StepName::Report,
    ];
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StepName::CheckRestorePoint => "check restore point",
            StepName::Fence => "fence the peer",
            StepName::Epoch => "raise the epoch",
            StepName::Apply => "apply",
            StepName::Verify => "verify",
            StepName::Release => "release",
            StepName::WaitReady => "wait until ready",
            StepName::Hooks => "run the hooks",
            StepName::Report => "report",
        })
    }
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "state")]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Begun; carried out again from its start if that was interrupted.
    Running {
        /// When it first began.
        started: Time,
    },
    /// Carried out.
    Done {
        /// When it first began.
        started: Time,
        /// When it ended.
        ended: Time,
    },
}

/// A step with its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which.
    pub name: StepName,
    /// How far.
    #[serde(flatten)]
    pub state: StepState,
}

impl Step {
    /// How long it took, interruptions included; `None` until it is done.
    pub fn duration(&self) -> Option<Span> {
        match self.state {
            StepState::Done { started, ended } => Some(ended.since(started)),
            StepState::Pending | StepState::Running { .. } => None,
        }
    }

    /// The state in one word, for tables and JSON.
    pub const fn state_name(&self) -> &'static str {
        match self.state {
            StepState::Pending => "pending",
            StepState::Running { .. } => "running",
            StepState::Done { .. } => "done",
        }
    }
}

/// A step reported out of order, or a stored promotion that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// Not the step that is next.
    #[error("promotion step: expected {}, found {found}", .expected.map_or("none".to_owned(), |step| step.to_string()))]
    OutOfOrder {
        /// The next one.
        expected: Option<StepName>,
        /// The one reported.
        found: StepName,
    },
    /// A stored promotion whose steps are not the steps of a promotion.
    #[error("stored promotion: its steps are not those of a promotion in their order")]
    Damaged,
}

impl Classify for StepError {
    fn class(&self) -> Class {
        match self {
            StepError::OutOfOrder { .. } => Class::Bug,
            StepError::Damaged => Class::Corrupt,
        }
    }
}

/// The steps of one promotion: done ones, then at most one that runs, then pending ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Step>", into = "Vec<Step>")]
pub(super) struct Steps(Vec<Step>);

impl Default for Steps {
    fn default() -> Self {
        Self(StepName::ALL.map(|name| Step { name, state: StepState::Pending }).to_vec())
    }
}

impl TryFrom<Vec<Step>> for Steps {
    type Error = StepError;

    fn try_from(steps: Vec<Step>) -> Result<Self, StepError> {
        let names_fit = steps.iter().map(|step| step.name).eq(StepName::ALL);
        let rank = |step: &Step| match step.state {
            StepState::Done { .. } => 0,
            StepState::Running { .. } => 1,
            StepState::Pending => 2,
        };
        let one_runs = steps.iter().filter(|step| rank(step) == 1).count() <= 1;
        if names_fit && one_runs && steps.is_sorted_by_key(rank) {
            Ok(Self(steps))
        } else {
            Err(StepError::Damaged)
        }
    }
}

impl From<Steps> for Vec<Step> {
    fn from(steps: Steps) -> Self {
        steps.0
    }
}

impl Steps {
    pub(super) fn all(&self) -> &[Step] {
        &self.0
    }

    pub(super) fn next(&self) -> Option<StepName> {
        self.0.iter().find(|step| !matches!(step.state, StepState::Done { .. })).map(|step| step.name)
    }

    pub(super) fn is_done(&self, name: StepName) -> bool {
        self.0.iter().any(|step| step.name == name && matches!(step.state, StepState::Done { .. }))
    }

    /// When the last one ended.
    pub(super) fn ended(&self) -> Option<Time> {
        self.0.last().and_then(|step| match step.state {
            StepState::Done { ended, .. } => Some(ended),
            StepState::Pending | StepState::Running { .. } => None,
        })
    }

    /// Carries out again what follows a step.
    pub(super) fn rewind_to(&mut self, last_done: StepName) {
        for step in self.0.iter_mut().filter(|step| step.name > last_done) {
            step.state = StepState::Pending;
        }
    }

    pub(super) fn start(&mut self, name: StepName, now: Time) -> Result<(), StepError> {
        let step = self.expect(name)?;
        if step.state == StepState::Pending {
            step.state = StepState::Running { started: now };
        }
        Ok(())
    }

    pub(super) fn complete(&mut self, name: StepName, now: Time) -> Result<(), StepError> {
        let step = self.expect(name)?;
        let started = match step.state {
            StepState::Running { started } => started,
            StepState::Pending | StepState::Done { .. } => now,
        };
        step.state = StepState::Done { started, ended: now };
        Ok(())
    }

    fn expect(&mut self, name: StepName) -> Result<&mut Step, StepError> {
        let expected = self.next();
        let step = self.0.iter_mut().find(|step| Some(step.name) == expected && step.name == name);
        step.ok_or(StepError::OutOfOrder { expected, found: name })
    }
}
