//! What can go wrong with a witness.

use std::io;
use std::path::PathBuf;

use backstay_types::{Class, Classify};

use crate::error::io_class;

/// A question to a witness that was not answered, or a witness that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// It is not there.
    #[error("reach the witness at {endpoint}: {why}")]
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        /// Why not.
        why: String,
    },
    /// It does not answer in time.
    #[error("reach the witness: no answer in {within}")]
    Slow {
        /// How long it was waited for.
        within: backstay_types::Span,
    },
    /// It refused.
    #[error("ask the witness at {endpoint}: it answered {status}: {message}")]
    Refused {
        /// Which witness.
        endpoint: String,
        /// Status of its answer.
        status: u16,
        /// What it said.
        message: String,
    },
    /// Its answer makes no sense.
    #[error("read the witness's answer: {why}")]
    Garbled {
        /// What is wrong.
        why: String,
    },
    /// Its record is damaged.
    #[error("read lease {id}: {why}")]
    Damaged {
        /// Which.
        id: String,
        /// What is wrong.
        why: String,
    },
    /// A file or folder.
    #[error("{action} {path:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else has the folder for too long.
    #[error("lock {path:?}: somebody else has held it for {held:?}")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// For how long at least.
        held: std::time::Duration,
    },
    /// No room.
    #[error("add lease {id}: the witness holds {max} leases already")]
    Full {
        /// Which.
        id: String,
        /// How many there may be.
        max: usize,
    },
    /// The token cannot be used.
    #[error("read the token of the witness, {path:?}: {why}")]
    Token {
        /// Its file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The third cluster.
    #[error(transparent)]
    Lease(#[from] backstay_kube::lease::LeaseError),
    /// Keys and certificates of a witness server.
    #[error(transparent)]
    Identity(#[from] backstay_net::IdentityError),
    /// Its socket.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// A worker thread ended without an answer.
    #[error("a worker of the witness ended without an answer")]
    Worker,
}

impl Classify for WitnessError {
    fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. } | Self::Slow { .. } => Class::Transient,
            Self::Refused { status: 401 | 403, .. } => Class::Unauthorized,
            Self::Refused { status: 500.., .. } => Class::Transient,
            Self::Refused { .. } | Self::Garbled { .. } => Class::Incompatible,
            Self::Damaged { .. } => Class::Corrupt,
            Self::Io { source, .. } | Self::Listen { source, .. } => io_class(source),
            Self::Locked { .. } => Class::Busy,
            Self::Full { .. } => Class::LimitExceeded,
            Self::Token { .. } => Class::Invalid,
            Self::Lease(error) => error.class(),
            Self::Identity(error) => error.class(),
            Self::Worker => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { .. } | Self::Slow { .. } => {
                "nothing fails over by itself while the witness is away; start it, or mend the way to it"
            }
            Self::Refused { status: 401 | 403, .. } => {
                "`witness.tokenFile` must hold what is in the file `token` of the witness's folder"
            }
            Self::Refused { .. } | Self::Garbled { .. } => {
                "run the same version of backstay there, and check `witness.url`"
            }
            Self::Damaged { .. } => {
                "end the witness, remove the file, and start it: the active side makes the record anew"
            }
            Self::Locked { .. } => {
                "end whoever holds the lock file; a lock of a dead process is gone by itself"
            }
            Self::Full { .. } => "remove the files of plans that are gone from the witness's folder `leases`",
            Self::Token { .. } => "a token is 16 characters or more, alone in its file",
            Self::Lease(error) => return error.hint(),
            Self::Identity(error) => return error.hint(),
            Self::Io { .. } | Self::Listen { .. } | Self::Worker => return None,
        };
        Some(hint.to_owned())
    }
}
