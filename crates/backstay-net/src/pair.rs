//! Pairing: mutual trust between two sites, made with one key.
//!
//! 1. The joiner talks to nobody but the holder of the authority that the key names; the issuer tells nothing before
//!    the joiner has proved the key's secret, bound to that TLS session.
//! 2. A key is spent by the first good proof.
//! 3. The joiner's record is durable before the issuer writes its own; the issuer's before the joiner is told. A
//!    crash between leaves a record on one side at most, which trusts and sends nothing by itself and which a fresh
//!    key replaces.
//! 4. A site that is known, or was, is one that shows an authority it is known by, whoever holds the key; another one
//!    takes its place only if the operator said so (`replaces`). The same two sites keep their pair: its id, its hashing
//!    key and its parameters.
//!
//! Guarded by `tests/pairing.rs`.

mod issue;
mod join;
mod key;
mod message;
mod proof;
#[cfg(test)]
pub(crate) mod testing;
mod window;

use std::fmt;

use backstay_types::{Class, Classify, Time};

use crate::book::BookError;
use crate::close::CloseReason;
use crate::dial::Tried;
use crate::identity::{Fingerprint, IdentityError};
pub(crate) use issue::{Issue, issue, serve};
pub use issue::{Joined, JoinedAs};
pub(crate) use join::join;
use message::{MessageError, Refusal};
#[cfg(test)]
pub(crate) use window::BAD_ATTEMPTS_MAX;
pub(crate) use window::Window;

const FRESH_KEY: &str = "make a fresh key on the other site: backstay pair key";

/// Why two sites were not paired.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The text is no key.
    #[error("read the pair key: {why}")]
    Malformed {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The key is this site's own.
    #[error("join with the pair key: it was made by this site")]
    Own,
    /// The key is too old.
    #[error("join with the pair key: it expired at {at}")]
    Expired {
        /// When.
        at: Time,
    },
    /// The issuer does not know it.
    #[error("join with the pair key: it is not a key of site {issuer}")]
    Wrong {
        /// The site that the key names.
        issuer: String,
    },
    /// Somebody used it before.
    #[error("join with the pair key: it was used already")]
    Used,
    /// Too many bad attempts were made.
    #[error("join with the pair key: site {issuer} closed the pairing window after too many bad attempts")]
    Closed {
        /// The site that the key names.
        issuer: String,
    },
    /// The issuer is there, but has no window open.
    #[error("join with the pair key: no pairing window is open at {endpoint}: {reason}")]
    NoWindow {
        /// Where.
        endpoint: String,
        /// How it refused.
        reason: CloseReason,
    },
    /// Another site answers.
    #[error("join with the pair key: {endpoint} presents authority {found}, the key names {expected}")]
    OtherAuthority {
        /// Where.
        endpoint: String,
        /// The authority in the key.
        expected: Fingerprint,
        /// The one that was met.
        found: Fingerprint,
    },
    /// The issuer holds its authority but not the key's secret.
    #[error("join with the pair key: site {issuer} could not prove that it made it")]
    Unproved {
        /// The site that the key names.
        issuer: String,
    },
    /// No endpoint of the key answers.
    #[error("reach site {issuer}: {}", Tried::list(tried))]
    Unreachable {
        /// The site that the key names.
        issuer: String,
        /// What was tried and how it failed.
        tried: Vec<Tried>,
    },
    /// The issuer refused for a reason that is not the key's.
    #[error("join with the pair key: site {issuer} says: {why}")]
    Refused {
        /// The site that the key names.
        issuer: String,
        /// The reason.
        why: String,
    },
    /// The issuer knows this site by another authority.
    #[error("join with the pair key: site {issuer} knows this site by another certificate authority")]
    KnownByAnother {
        /// The site that the key names.
        issuer: String,
    },
    /// The issuer is a site that this one knows by another authority.
    #[error(
        "join with the pair key: site {issuer} presents authority {found} and says that it is the peer {name}, which is \
         known by another one"
    )]
    NotThePeer {
        /// The site that the key names.
        issuer: String,
        /// The peer that it says it is.
        name: String,
        /// What it presents.
        found: Fingerprint,
    },
    /// No peer of this name is known, and its place is to be taken.
    #[error("{action}: there is no peer {name} whose place could be taken")]
    NothingToReplace {
        /// What was asked for.
        action: &'static str,
        /// The name.
        name: String,
    },
    /// The connection was lost half-way: nothing was stored on this side.
    #[error("join with the pair key: the exchange broke off: {why}")]
    Broken {
        /// How.
        why: String,
    },
    /// This side stored the pair; whether the other did is not known.
    #[error("join with the pair key: site {issuer} did not confirm the pair: {why}")]
    Unconfirmed {
        /// The site that the key names.
        issuer: String,
        /// How the exchange broke off.
        why: String,
    },
    /// Not of the form `HOST:PORT`, or too many.
    #[error(
        "make a pair key: endpoint {endpoint:?}: expected HOST:PORT, at most {} of them",
        crate::endpoint::ENDPOINTS_MAX
    )]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// Nobody knows where this site is reached.
    #[error("make a pair key: this site has no address that others could reach")]
    NoEndpoint,
    /// Too many keys at once.
    #[error("make a pair key: too many keys are pending")]
    TooManyKeys,
    /// The peers cannot be stored.
    #[error(transparent)]
    Book(#[from] BookError),
    /// Our identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Classify for PairError {
    fn class(&self) -> Class {
        match self {
            PairError::Malformed { .. }
            | PairError::Own
            | PairError::Endpoint { .. }
            | PairError::NoEndpoint
            | PairError::Expired { .. }
            | PairError::Used => Class::Invalid,
            PairError::Wrong { .. }
            | PairError::Closed { .. }
            | PairError::NoWindow { .. }
            | PairError::OtherAuthority { .. }
            | PairError::KnownByAnother { .. }
            | PairError::NotThePeer { .. }
            | PairError::Unproved { .. } => Class::Unauthorized,
            PairError::NothingToReplace { .. } => Class::NotFound,
            PairError::Refused { .. } => Class::Invalid,
            PairError::Unreachable { .. } | PairError::Broken { .. } | PairError::Unconfirmed { .. } => {
                Class::Transient
            }
            PairError::TooManyKeys => Class::Busy,
            PairError::Book(error) => error.class(),
            PairError::Identity(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            PairError::Malformed { .. } => "copy the whole key, from bsk1_ to its last letter",
            PairError::Own => "run pair join on the other site",
            PairError::Expired { .. } => {
                "make a fresh key on the other site (backstay pair key), or compare the clocks"
            }
            PairError::NoWindow { .. } => {
                "the other site was restarted, or is another one: make a fresh key there: backstay pair key"
            }
            PairError::OtherAuthority { .. } => {
                "another site or somebody in between answers there: check the endpoints in pair key --endpoint"
            }
            PairError::Unreachable { .. } => {
                "check that the daemon runs there, and that UDP passes to the endpoints of the key"
            }
            PairError::Unconfirmed { .. } => {
                "backstay pair list shows whether the peer connects; if not, join again with a fresh key"
            }
            PairError::Refused { .. } => "set that right on the other site; the same key can then be used",
            PairError::Endpoint { .. } | PairError::NoEndpoint => {
                "name one: backstay pair key --endpoint HOST:PORT"
            }
            PairError::KnownByAnother { .. } => {
                "if this site was made anew in the place of the old one, make the key there with: backstay pair key \
                 --replaces NAME, the name that this site has there"
            }
            PairError::NotThePeer { name, .. } => {
                return Some(format!(
                    "if {name} was made anew, join with `--replaces {name}`; if not, somebody else gave you the key"
                ));
            }
            PairError::NothingToReplace { .. } => "backstay pair list and backstay plan list show the names",
            PairError::TooManyKeys => "wait until some expire",
            PairError::Wrong { .. }
            | PairError::Used
            | PairError::Closed { .. }
            | PairError::Unproved { .. }
            | PairError::Broken { .. } => FRESH_KEY,
            PairError::Book(error) => return error.hint(),
            PairError::Identity(error) => return error.hint(),
        };
        Some(text.to_owned())
    }
}

impl PairError {
    fn refused(refusal: Refusal, issuer: &str, at: Time) -> Self {
        let issuer = issuer.to_owned();
        match refusal {
            Refusal::Wrong => PairError::Wrong { issuer },
            Refusal::Expired => PairError::Expired { at },
            Refusal::Used => PairError::Used,
            Refusal::Closed => PairError::Closed { issuer },
            Refusal::NameTaken => PairError::Refused {
                issuer,
                why: "another of its peers has the name of this site".to_owned(),
            },
            Refusal::OtherAuthority => PairError::KnownByAnother { issuer },
            Refusal::NothingToReplace => PairError::Refused {
                issuer,
                why: "the peer whose place this site should take is not known there any more".to_owned(),
            },
            Refusal::Failed(why) => PairError::Broken { why: format!("site {issuer} says: {why}") },
        }
    }

    fn broken(error: &MessageError) -> Self {
        PairError::Broken { why: error.to_string() }
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Window")
    }
}
