//! Why something on a host is not held, or does not run again.

use std::io;
use std::path::PathBuf;

use backstay_types::{Class, Classify, Span};

use crate::DaemonError;

/// A hold, or a release, that did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// A program that cannot be started.
    #[error("run {program}: {source}")]
    Run {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A command that says it did not do it.
    #[error("{command} ended with {status}: {words}")]
    Ended {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        words: String,
    },
    /// A command that takes too long.
    #[error("{command} was not done within {within}, and was killed")]
    Late {
        /// The command.
        command: String,
        /// How long it had.
        within: Span,
    },
    /// A release that somebody who holds does not wait for.
    #[error("{command} was given up: the application is to be held again")]
    GivenUp {
        /// The command.
        command: String,
    },
    /// A unit that systemd does not know.
    #[error("systemd knows no unit {unit}")]
    UnknownUnit {
        /// Its name.
        unit: String,
    },
    /// A unit that did not do what it was told.
    #[error("unit {unit}: expected {expected}, found {found}")]
    Unit {
        /// Its name.
        unit: String,
        /// What it was to be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A folder that freezes nothing.
    #[error(
        "{folder:?} has neither cgroup.freeze nor freezer.state: it is no control group that can be frozen"
    )]
    NotACgroup {
        /// The folder.
        folder: PathBuf,
    },
    /// Freezing it would freeze who is to thaw it.
    #[error("control group {folder:?} holds backstay itself")]
    OwnCgroup {
        /// The folder.
        folder: PathBuf,
    },
    /// A file of a control group.
    #[error("{action} {path:?}: {source}")]
    Cgroup {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A control group with something that does not stop.
    #[error("control group {folder:?} is not frozen within {within}")]
    NotFrozen {
        /// The folder.
        folder: PathBuf,
        /// How long was waited.
        within: Span,
    },
    /// The record of what ran.
    #[error(transparent)]
    Record(#[from] Box<DaemonError>),
    /// More than one thing went wrong.
    #[error("{first}; and {more} more failed")]
    Several {
        /// The first.
        first: Box<HoldError>,
        /// How many others.
        more: usize,
    },
}

impl HoldError {
    /// All that failed as one.
    pub(super) fn of(failures: Vec<Self>) -> Option<Self> {
        let more = failures.len().saturating_sub(1);
        let first = failures.into_iter().next()?;
        Some(if more == 0 { first } else { Self::Several { first: Box::new(first), more } })
    }
}

impl Classify for HoldError {
    fn class(&self) -> Class {
        match self {
            HoldError::UnknownUnit { .. } | HoldError::NotACgroup { .. } | HoldError::OwnCgroup { .. } => {
                Class::Invalid
            }
            HoldError::Run { .. }
            | HoldError::Ended { .. }
            | HoldError::Unit { .. }
            | HoldError::NotFrozen { .. }
            | HoldError::Cgroup { .. } => Class::Incomplete,
            HoldError::Late { .. } | HoldError::GivenUp { .. } => Class::Transient,
            HoldError::Record(error) => error.class(),
            HoldError::Several { first, .. } => first.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            HoldError::UnknownUnit { unit } => {
                format!(
                    "correct `units` of the hold; see what there is: systemctl list-units --all '{unit}*'"
                )
            }
            HoldError::Unit { unit, .. } => format!("see what it says: systemctl status {unit}"),
            HoldError::NotACgroup { .. } => {
                "name a folder below /sys/fs/cgroup (version 2), or below /sys/fs/cgroup/freezer (version 1)"
                    .into()
            }
            HoldError::OwnCgroup { .. } => "name the control group of the application alone".into(),
            HoldError::Run { .. } | HoldError::Ended { .. } => {
                "a command of a hold must succeed as well when there is nothing left to do".into()
            }
            HoldError::Late { .. } => "give it longer with `commands.timeout` of the hold".into(),
            HoldError::GivenUp { .. } => "it runs again once its lease is good".into(),
            HoldError::NotFrozen { .. } => "something in it waits for a disk; it is tried again".into(),
            HoldError::Cgroup { .. } => "the daemon must be root to freeze".into(),
            HoldError::Record(error) => return error.hint(),
            HoldError::Several { first, .. } => return first.hint(),
        })
    }
}
