//! Why a transfer fails at the sender.

use backstay_types::frame::Refused;
use backstay_types::{ChunkId, Class, Classify, RestorePointId, Span};

/// The peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A frame that has no place now.
    #[error("the peer sent {frame} out of turn")]
    Unexpected {
        /// Which.
        frame: &'static str,
    },
    /// An answer to an offer that was not made or was answered.
    #[error("the peer answered offer {seq}, which is not open")]
    OfferNotOpen {
        /// Which offer.
        seq: u32,
    },
    /// Not one bit per id.
    #[error("the peer answered offer {seq} for another number of chunks than the {expected} offered")]
    AnswerLength {
        /// Which offer.
        seq: u32,
        /// Ids in the offer.
        expected: usize,
    },
    /// An answer to a batch that was not sent or was answered.
    #[error("the peer answered batch {seq}, which is not open")]
    BatchNotOpen {
        /// Which batch.
        seq: u32,
    },
    /// A record that is not in the batch, or one named twice.
    #[error("the peer rejected record {position} of batch {seq}, which is not there or was rejected before")]
    Rejection {
        /// Which batch.
        seq: u32,
        /// Which record.
        position: u32,
    },
    /// A commit of something else.
    #[error("the peer committed restore point {found}, expected {expected}")]
    OtherPoint {
        /// Ours.
        expected: RestorePointId,
        /// The peer's.
        found: RestorePointId,
    },
}

/// The caller broke the contract of the session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// A chunk before the start or after the end of the scan.
    #[error("slot {slot} was filled out of turn")]
    ChunkOutOfTurn {
        /// Which slot.
        slot: u64,
    },
    /// A chunk that cannot be sent.
    #[error("slot {slot} holds a chunk of {len} bytes, which no chunker of ours makes")]
    ChunkLength {
        /// Which slot.
        slot: u64,
        /// Its length.
        len: u32,
    },
    /// A slot that is in use.
    #[error("slot {slot} was filled twice")]
    SlotReused {
        /// Which slot.
        slot: u64,
    },
    /// A chunk in a batch that was not to be sent.
    #[error("slot {slot} is in a batch and was not handed out")]
    SlotNotHandedOut {
        /// Which slot.
        slot: u64,
    },
    /// A batch with a wrong number, or an empty one.
    #[error("batch {seq} was sealed, expected batch {expected} with at least one chunk")]
    BatchOutOfTurn {
        /// Which batch.
        seq: u32,
        /// Which one should follow.
        expected: u32,
    },
    /// The end of a scan that was not running.
    #[error("the scan ended out of turn")]
    ScanDoneOutOfTurn,
}

/// Why a transfer failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The receiver refused; it said why.
    #[error("the peer refused: {}", .0.message)]
    Refused(Refused),
    /// The number of the new restore point is taken on the other side.
    #[error("restore point {id}: the peer holds {newest} already")]
    NumberTaken {
        /// What was to be made.
        id: RestorePointId,
        /// What is there.
        newest: RestorePointId,
    },
    /// The connection is gone.
    #[error("the connection to the peer was lost")]
    ConnectionLost,
    /// The peer owes an answer.
    #[error("the peer has not answered for {waited}")]
    Silent {
        /// Since when.
        waited: Span,
    },
    /// A chunk does not have its id, as the receiver sees it.
    #[error("chunk {id} was rejected by the peer although it was sent whole")]
    ChunkRejected {
        /// Which.
        id: ChunkId,
    },
    /// The peer broke the protocol.
    #[error(transparent)]
    Protocol(#[from] Violation),
    /// A broken assumption of our own.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

impl Classify for SendError {
    fn class(&self) -> Class {
        match self {
            SendError::Refused(refused) => Class::from_wire_code(refused.class),
            // The next attempt takes the number after.
            SendError::NumberTaken { .. } => Class::Busy,
            SendError::ConnectionLost | SendError::Silent { .. } => Class::Transient,
            SendError::ChunkRejected { .. } | SendError::Protocol(_) => Class::Corrupt,
            SendError::Misuse(_) => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            SendError::Refused(refused) => return refused.hint.clone(),
            SendError::NumberTaken { newest, .. } => {
                return Some(format!("the next number is {}", newest.number.saturating_add(1)));
            }
            SendError::ConnectionLost => "the next cycle resumes with what is missing still",
            SendError::Silent { .. } => "see the log of the peer: its disk may be stuck",
            SendError::ChunkRejected { .. } => {
                "memory or network hardware of one side damages data: check both, then sync again"
            }
            SendError::Protocol(_) => "check that both sites run a released version of backstay",
            SendError::Misuse(_) => return None,
        };
        Some(hint.to_owned())
    }
}
