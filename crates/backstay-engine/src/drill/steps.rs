//! The steps of a drill and the order they are carried out in.

use std::fmt;

use backstay_types::{Class, Classify, Span, Time};

/// One step. In this order, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepName {
    /// The restore point and what it needs is here, and there is room for a copy.
    CheckRestorePoint,
    /// A copy of each volume.
    Volumes,
    /// The objects, as a promotion would release them, where they disturb nothing.
    Objects,
    /// What was started runs.
    WaitReady,
    /// What the plan asks to be so is so.
    Probes,
    /// What the drill made is removed.
    TearDown,
}

impl StepName {
    /// All steps, in order.
    pub const ALL: [StepName; 6] = [
        StepName::CheckRestorePoint,
        StepName::Volumes,
        StepName::Objects,
        StepName::WaitReady,
        StepName::Probes,
        StepName::TearDown,
    ];
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StepName::CheckRestorePoint => "check restore point",
            StepName::Volumes => "copy volumes",
            StepName::Objects => "start objects",
            StepName::WaitReady => "wait until ready",
            StepName::Probes => "probe",
            StepName::TearDown => "tear down",
        })
    }
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Begun.
    Running {
        /// When.
        started: Time,
    },
    /// Carried out.
    Done {
        /// When it began.
        started: Time,
        /// When it ended.
        ended: Time,
    },
    /// It failed.
    Failed {
        /// When it began.
        started: Time,
        /// When it ended.
        ended: Time,
    },
    /// There was nothing to do, or a step before it failed.
    Skipped,
}

impl StepState {
    const fn is_over(self) -> bool {
        matches!(self, StepState::Done { .. } | StepState::Failed { .. } | StepState::Skipped)
    }
}

/// A step with its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub name: StepName,
    /// How far.
    pub state: StepState,
}

impl Step {
    /// How long it took; `None` if it is not over or did not run.
    pub fn duration(&self) -> Option<Span> {
        match self.state {
            StepState::Done { started, ended } | StepState::Failed { started, ended } => {
                Some(ended.since(started))
            }
            StepState::Pending | StepState::Running { .. } | StepState::Skipped => None,
        }
    }
}

/// A step reported out of order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("drill step: expected {}, found {found}", .expected.map_or("none".to_owned(), |step| step.to_string()))]
pub struct StepError {
    /// The next one.
    expected: Option<StepName>,
    /// The one reported.
    found: StepName,
}

impl Classify for StepError {
    fn class(&self) -> Class {
        Class::Bug
    }
}

/// The steps of one drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Steps([Step; 6]);

impl Steps {
    /// All of them, less those there is nothing to do for.
    pub(super) fn new(skips: impl Fn(StepName) -> bool) -> Self {
        let state = |name| if skips(name) { StepState::Skipped } else { StepState::Pending };
        Self(StepName::ALL.map(|name| Step { name, state: state(name) }))
    }

    pub(super) fn all(&self) -> &[Step] {
        &self.0
    }

    pub(super) fn next(&self) -> Option<StepName> {
        self.0.iter().find(|step| !step.state.is_over()).map(|step| step.name)
    }

    pub(super) fn start(&mut self, name: StepName, now: Time) -> Result<(), StepError> {
        self.expect(name)?.state = StepState::Running { started: now };
        Ok(())
    }

    pub(super) fn complete(&mut self, name: StepName, now: Time) -> Result<(), StepError> {
        let step = self.expect(name)?;
        step.state = StepState::Done { started: began(step.state, now), ended: now };
        Ok(())
    }

    /// The step failed: what would have followed is skipped, up to the teardown.
    pub(super) fn fail(&mut self, name: StepName, now: Time) -> Result<(), StepError> {
        let step = self.expect(name)?;
        step.state = StepState::Failed { started: began(step.state, now), ended: now };
        let follows = |step: &&mut Step| step.name > name && step.name != StepName::TearDown;
        self.0.iter_mut().filter(follows).for_each(|step| step.state = StepState::Skipped);
        Ok(())
    }

    fn expect(&mut self, name: StepName) -> Result<&mut Step, StepError> {
        let expected = self.next();
        let step = self.0.iter_mut().find(|step| Some(step.name) == expected && step.name == name);
        step.ok_or(StepError { expected, found: name })
    }
}

fn began(state: StepState, now: Time) -> Time {
    if let StepState::Running { started } = state { started } else { now }
}
