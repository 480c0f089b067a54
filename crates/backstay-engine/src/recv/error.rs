//! Why a receiver ends a transfer.

use backstay_types::frame::Refused;
use backstay_types::{Class, Classify, Epoch, PlanName, limits};

/// Why a transfer is refused on the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    /// A frame that has no place now.
    #[error("{frame} came out of turn")]
    Unexpected {
        /// Which.
        frame: &'static str,
    },
    /// Offers are numbered from 0 and come in order.
    #[error("offer number: expected {expected}, found {found}")]
    OfferOutOfTurn {
        /// The next one.
        expected: u32,
        /// The one that came.
        found: u32,
    },
    /// An offer of nothing.
    #[error("offer {seq} has no chunks")]
    EmptyOffer {
        /// Which.
        seq: u32,
    },
    /// More offers than the receiver keeps.
    #[error("more than {max} offers are open", max = limits::OFFERS_OPEN_MAX)]
    TooManyOffers,
    /// A batch of nothing.
    #[error("batch {seq} has no chunks")]
    EmptyBatch {
        /// Which.
        seq: u32,
    },
    /// A batch that came before.
    #[error("batch {seq} came twice")]
    BatchTwice {
        /// Which.
        seq: u32,
    },
    /// A batch too far ahead.
    #[error("batch {seq} came while batch {oldest} is open: at most {max} allowed", max = limits::BATCHES_OPEN_MAX)]
    TooManyBatches {
        /// Which.
        seq: u32,
        /// The oldest that is not stored.
        oldest: u32,
    },
    /// Chunks that nobody asked for.
    #[error("batch {seq} has more chunks than were asked for")]
    UnaskedChunks {
        /// Which batch.
        seq: u32,
    },
    /// A commit that does not fit what came.
    #[error("commit of {announced} batches: found {found} and chunks for fewer")]
    BatchCount {
        /// What the commit says.
        announced: u32,
        /// One past the highest that came.
        found: u32,
    },
    /// A commit without all chunks.
    #[error("commit with {chunks} chunks that were asked for and never came")]
    ChunksMissing {
        /// How many.
        chunks: u64,
    },
    /// Batches of a commit that do not come.
    #[error("commit of {announced} batches: {stored} came in time")]
    BatchesLate {
        /// What the commit says.
        announced: u32,
        /// What is stored.
        stored: u32,
    },
    /// This side was promoted meanwhile.
    #[error("plan {plan}: epoch {theirs} of the sender is over: this side knows epoch {ours}")]
    Fenced {
        /// The plan.
        plan: PlanName,
        /// The sender's.
        theirs: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// The store failed.
    #[error("{}", .0.message)]
    Store(Refused),
    /// A broken assumption of our own.
    #[error("{what}")]
    Misuse {
        /// Which.
        what: &'static str,
    },
}

impl RecvError {
    /// The frame that tells the sender.
    pub fn to_frame(&self) -> Refused {
        match self {
            RecvError::Store(refused) => refused.clone(),
            RecvError::Fenced { ours, .. } => Refused::new(self, Some(*ours)),
            _ => Refused::new(self, None),
        }
    }
}

impl Classify for RecvError {
    fn class(&self) -> Class {
        match self {
            RecvError::Unexpected { .. }
            | RecvError::OfferOutOfTurn { .. }
            | RecvError::EmptyOffer { .. }
            | RecvError::EmptyBatch { .. }
            | RecvError::BatchTwice { .. }
            | RecvError::UnaskedChunks { .. }
            | RecvError::BatchCount { .. }
            | RecvError::ChunksMissing { .. } => Class::Corrupt,
            RecvError::TooManyOffers | RecvError::TooManyBatches { .. } => Class::LimitExceeded,
            RecvError::BatchesLate { .. } => Class::Transient,
            RecvError::Fenced { .. } => Class::Fenced,
            RecvError::Store(refused) => Class::from_wire_code(refused.class),
            RecvError::Misuse { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self.class() {
            Class::Corrupt | Class::LimitExceeded if !matches!(self, RecvError::Store(_)) => {
                Some("check that both sites run a released version of backstay".to_owned())
            }
            Class::Fenced => Some(
                "the other side was promoted: this one steps down by itself; see backstay status".to_owned(),
            ),
            _ => match self {
                RecvError::Store(refused) => refused.hint.clone(),
                _ => None,
            },
        }
    }
}
