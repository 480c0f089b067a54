//! What goes into a sender and what comes out.

use backstay_types::ChunkId;
use backstay_types::frame::{Begin, Commit, Committed, Missing, Offer, Ready, Refused, Stored};

use super::SendError;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum SendEvent {
    /// The receiver's answer to `Begin`.
    Ready(Ready),
    /// The receiver ends the session.
    Refused(Refused),
    /// The producer filled a slot with a chunk. Slots are numbered by the caller; a number may be used again once
    /// it was released.
    Chunk {
        /// Which slot.
        slot: u64,
        /// Its id.
        id: ChunkId,
        /// Its length in bytes.
        len: u32,
    },
    /// The producer has no chunk just now, though it is not done: what was gathered should not wait for more.
    ProducerIdle,
    /// The producer is done. `batches` of the commit is filled in by the session.
    ScanDone(Box<Commit>),
    /// The receiver's answer to an offer.
    Missing(Missing),
    /// A batch was closed and is being sent.
    BatchSealed {
        /// Its number: 0, 1, 2 …
        seq: u32,
        /// Slots of its chunks, in the order of its records.
        slots: Vec<u64>,
    },
    /// The receiver's answer to a batch.
    Stored(Stored),
    /// The receiver's answer to the commit.
    Committed(Committed),
    /// The connection is gone.
    ConnectionLost,
    /// Time passed; due at [`super::SendSession::wake`].
    Tick,
}

impl SendEvent {
    /// Whether the peer spoke.
    pub(super) const fn is_of_peer(&self) -> bool {
        matches!(
            self,
            SendEvent::Ready(_)
                | SendEvent::Refused(_)
                | SendEvent::Missing(_)
                | SendEvent::Stored(_)
                | SendEvent::Committed(_)
        )
    }
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendAction {
    /// Send the frame.
    SendBegin(Begin),
    /// Start the producer: against the parent if the receiver has it, else against nothing.
    Start {
        /// Whether the receiver holds the parent that `Begin` named.
        has_parent: bool,
    },
    /// Send the frame.
    SendOffer(Offer),
    /// Encode the chunks of these slots and put them into batches, in this order.
    SendChunks {
        /// Which slots.
        slots: Vec<u64>,
        /// Whether a patch will not do: one was rejected.
        whole: bool,
    },
    /// Close and send the batch that is being filled, once every chunk handed out so far is in one.
    SealBatch,
    /// Drop the bytes of this slot.
    Release {
        /// Which slot.
        slot: u64,
    },
    /// Send the frame; `stats` may be brought up to date first.
    SendCommit(Box<Commit>),
    /// The restore point is durable on the other side; it is the parent from now on.
    Finished(Committed),
    /// The session ended without a restore point. All slots can be dropped.
    Failed(SendError),
}

/// Counters of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SendProgress {
    /// Chunks produced.
    pub chunks_produced: u64,
    /// Their length before encoding.
    pub bytes_produced: u64,
    /// Chunks the receiver had already, or that were on their way twice.
    pub chunks_held: u64,
    /// Chunks the receiver stored.
    pub chunks_stored: u64,
    /// Patches the receiver could not use.
    pub patches_rejected: u64,
    /// Batches sent.
    pub batches_sent: u32,
    /// Bytes in slots now.
    pub window_bytes: u64,
}
