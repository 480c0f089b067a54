//! What goes into a receiver and what comes out.

use backstay_types::frame::{Commit, Committed, Missing, Offer, Ready, Refused, Stored};
use backstay_types::{Epoch, RestorePointId, SessionId};

use super::RecvError;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum RecvEvent {
    /// The store looked for the parent.
    ParentChecked {
        /// Whether it holds all of it.
        held: bool,
    },
    /// The sender offers chunks.
    Offer(Offer),
    /// The store looked through an offer.
    MissingKnown {
        /// Which offer.
        seq: u32,
        /// For each of its ids, whether the store lacks it.
        missing: Vec<bool>,
    },
    /// A batch came, with this header. Its bytes stay with the caller.
    Batch {
        /// The session it names.
        session: SessionId,
        /// Its number.
        seq: u32,
        /// Its records.
        count: u32,
    },
    /// The store took a batch in.
    BatchStored {
        /// Which batch.
        seq: u32,
        /// Records that did not rebuild, each once.
        rejected: Vec<u32>,
    },
    /// The sender has sent all.
    Commit(Box<Commit>),
    /// The store made the restore point durable.
    PointCommitted(Committed),
    /// The store failed; what to tell the sender.
    StoreFailed(Refused),
    /// The plan's epoch here changed: a promotion, or news from elsewhere.
    EpochSeen(Epoch),
    /// The connection is gone.
    ConnectionLost,
    /// Time passed; due at [`super::RecvSession::wake`].
    Tick,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecvAction {
    /// See whether the store holds all of this restore point.
    CheckParent(RestorePointId),
    /// Send the frame.
    AnswerReady(Ready),
    /// See which of these chunks the store lacks. Chunks of this session that are stored already count as held.
    QueryMissing(Offer),
    /// Send the frame.
    AnswerMissing(Missing),
    /// Check and store the batch that came with this number.
    StoreBatch {
        /// Which batch.
        seq: u32,
    },
    /// Send the frame.
    AnswerStored(Stored),
    /// Commit the restore point of [`super::RecvSession::id`].
    CommitPoint(Box<Commit>),
    /// Send the frame; the session is over.
    AnswerCommitted(Committed),
    /// Send the frame; the session is over.
    Refuse {
        /// The frame.
        refused: Refused,
        /// Why, for the log.
        error: RecvError,
    },
    /// The session is over, with nobody to tell.
    Abandon,
}

/// Counters of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecvProgress {
    /// Chunks offered.
    pub chunks_offered: u64,
    /// Chunks of those that were not here.
    pub chunks_asked: u64,
    /// Chunks stored.
    pub chunks_stored: u64,
    /// Patches that did not rebuild.
    pub patches_rejected: u64,
}
