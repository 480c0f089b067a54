//! Why a keeper does not run.

use std::io;
use std::path::PathBuf;

use backstay_types::{Class, Classify};

use crate::error::io_class;
use crate::host_hold::HoldError;

/// A keeper, or a guard, that cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// There is one.
    #[error("keep {dir:?}: a keeper of this site is running already")]
    RunsAlready {
        /// The site.
        dir: PathBuf,
    },
    /// What runs here is not held, or does not run again.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// A lock, or its folder.
    #[error("{action} {path:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Classify for KeeperError {
    fn class(&self) -> Class {
        match self {
            Self::RunsAlready { .. } => Class::Busy,
            Self::Hold(error) => error.class(),
            Self::Io { source, .. } => io_class(source),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::RunsAlready { .. } => Some("one is enough: end the other one first".to_owned()),
            Self::Hold(error) => error.hint(),
            Self::Io { .. } => None,
        }
    }
}
