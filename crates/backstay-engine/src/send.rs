//! The sender of one transfer, as a state machine without IO.
//!
//! ```text
//! Begin → Ready → chunks ─ offers ─ Missing ─ batches ─ Stored … → Commit → Committed
//! ```
//! The producer (scan, chunker) puts a chunk in a slot and says so; the session answers with what to do about it.
//! Bytes stay with the caller: a slot is released as soon as the receiver has its chunk.
//!
//! 1. Bytes in slots never exceed [`limits::SEND_WINDOW_BYTES`] while the producer heeds
//!    [`SendSession::wants_more`] (test `the_window_is_never_exceeded`).
//! 2. The commit leaves only when every chunk is known to be held or stored (test
//!    `every_transfer_ends_with_all_chunks_stored`).
//! 3. It never waits for something that cannot come: whenever nothing is on its way, what is left is flushed (same
//!    test: no run of it stands still).
//! 4. A peer that answers what was not asked ends the session (tests in `tests`).
//!
//! A lost connection ends the session; the next one offers everything again and learns what is missing still.
//! Left to others: encoding, batches, patches, and the clock.

mod error;
mod event;
mod slots;

use std::collections::{BTreeMap, VecDeque};

use backstay_types::frame::{Begin, Commit, Committed, Missing, Offer, Ready, Stored};
use backstay_types::{ChunkId, Span, Time, limits};

pub use error::{Misuse, SendError, Violation};
pub use event::{SendAction, SendEvent, SendProgress};
use slots::Slots;

/// An offer leaves at so many ids: 16 KiB of ids …
pub const OFFER_IDS_FLUSH: usize = 512;
/// … or at so many bytes of chunks: a sixth of the window, so that offers overlap the batches before them.
pub const OFFER_BYTES_FLUSH: u64 = 8 << 20;

/// Slots at once. The window bounds bytes, this bounds tiny chunks: 64 Ki slots of about 200 bytes of state each are
/// 13 MiB.
pub const SLOTS_MAX: usize = 64 << 10;

/// A peer that owes an answer and says nothing for so long is given up. The slowest honest answer is that to a
/// commit on a disk that syncs a whole pack.
pub const PATIENCE: Span = Span::from_secs(600);

/// Where the transfer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for `Ready`.
    Opening,
    /// Offering and sending.
    Moving,
    /// Waiting for `Committed`.
    Committing,
    /// Nothing more happens.
    Over,
}

/// The sender of one transfer.
#[derive(Debug)]
pub struct SendSession {
    begin: Begin,
    phase: Phase,
    actions: VecDeque<SendAction>,
    slots: Slots,
    /// Slots gathered for the next offer, in order.
    group: Vec<u64>,
    group_bytes: u64,
    next_offer: u32,
    /// Offers not answered yet.
    offers: BTreeMap<u32, Vec<u64>>,
    next_batch: u32,
    /// Batches sealed and not stored yet.
    batches: BTreeMap<u32, Vec<u64>>,
    /// The seal asked for covers everything handed out.
    seal_asked: bool,
    /// The producer has nothing for now.
    idle: bool,
    /// The producer is done; what to commit.
    commit: Option<Box<Commit>>,
    /// When the peer last spoke, or began to owe an answer.
    heard: Time,
    progress: SendProgress,
}

impl SendSession {
    /// Opens a transfer.
    pub fn new(begin: Begin, now: Time) -> Self {
        Self {
            actions: VecDeque::from([SendAction::SendBegin(begin.clone())]),
            begin,
            phase: Phase::Opening,
            slots: Slots::default(),
            group: Vec::new(),
            group_bytes: 0,
            next_offer: 0,
            offers: BTreeMap::new(),
            next_batch: 0,
            batches: BTreeMap::new(),
            seal_asked: false,
            idle: false,
            commit: None,
            heard: now,
            progress: SendProgress::default(),
        }
    }

    /// Takes an event in. What to do about it comes from [`Self::poll_action`].
    pub fn handle(&mut self, event: SendEvent, now: Time) {
        if self.phase == Phase::Over {
            // What was under way when the session ended still arrives.
            return;
        }
        if event.is_of_peer() || !self.peer_owes() {
            self.heard = now;
        }
        let result = match event {
            SendEvent::Ready(ready) => self.on_ready(ready),
            SendEvent::Refused(refused) => Err(SendError::Refused(refused)),
            SendEvent::Chunk { slot, id, len } => self.on_chunk(slot, id, len),
            SendEvent::ProducerIdle => {
                self.idle = true;
                Ok(())
            }
            SendEvent::ScanDone(commit) => self.on_scan_done(commit),
            SendEvent::Missing(missing) => self.on_missing(&missing),
            SendEvent::BatchSealed { seq, slots } => self.on_sealed(seq, slots),
            SendEvent::Stored(stored) => self.on_stored(&stored),
            SendEvent::Committed(committed) => self.on_committed(committed),
            SendEvent::ConnectionLost => Err(SendError::ConnectionLost),
            SendEvent::Tick => self.on_tick(now),
        };
        match result {
            Ok(()) => self.advance(),
            Err(error) => self.fail(error),
        }
    }

    /// The next thing to do; to be asked until `None` after each event.
    pub fn poll_action(&mut self) -> Option<SendAction> {
        self.actions.pop_front()
    }

    /// Whether the producer may fill another slot: one largest chunk still fits the window.
    pub fn wants_more(&self) -> bool {
        self.phase == Phase::Moving && self.commit.is_none() && self.has_room()
    }

    /// Whether the session has ended, well or not.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Counters so far.
    pub fn progress(&self) -> SendProgress {
        SendProgress { window_bytes: self.slots.bytes(), ..self.progress }
    }

    /// When to send [`SendEvent::Tick`] at the latest; `None` while the peer owes nothing.
    pub fn wake(&self) -> Option<Time> {
        (self.phase != Phase::Over && self.peer_owes()).then(|| self.heard.plus(PATIENCE))
    }

    fn has_room(&self) -> bool {
        self.slots.bytes() + limits::CHUNK_BYTES_MAX as u64 <= limits::SEND_WINDOW_BYTES
            && self.slots.len() < SLOTS_MAX
            && self.group.len() < limits::OFFER_IDS_MAX
            && self.batches_ahead() < limits::BATCHES_OPEN_MAX / 2
    }

    /// How far the batches run ahead of the oldest that is not stored. Streams have no order: one that is stuck must
    /// not let the others run past what a receiver keeps. The half above the bound is for what is in slots already:
    /// a full window is fewer than 40 batches.
    fn batches_ahead(&self) -> usize {
        self.batches.first_key_value().map_or(0, |(oldest, _)| (self.next_batch - oldest) as usize)
    }

    fn peer_owes(&self) -> bool {
        match self.phase {
            Phase::Opening | Phase::Committing => true,
            Phase::Moving => !self.offers.is_empty() || !self.batches.is_empty(),
            Phase::Over => false,
        }
    }

    fn on_ready(&mut self, ready: Ready) -> Result<(), SendError> {
        if self.phase != Phase::Opening {
            return Err(Violation::Unexpected { frame: "Ready" }.into());
        }
        if let Some(newest) = ready.newest.filter(|newest| newest.number >= self.begin.id.number) {
            return Err(SendError::NumberTaken { id: self.begin.id, newest });
        }
        self.phase = Phase::Moving;
        self.actions
            .push_back(SendAction::Start { has_parent: ready.has_parent && self.begin.parent.is_some() });
        Ok(())
    }

    fn on_chunk(&mut self, slot: u64, id: ChunkId, len: u32) -> Result<(), SendError> {
        if self.phase != Phase::Moving || self.commit.is_some() {
            return Err(Misuse::ChunkOutOfTurn { slot }.into());
        }
        if len == 0 || len as usize > limits::CHUNK_BYTES_MAX {
            return Err(Misuse::ChunkLength { slot, len }.into());
        }
        self.idle = false;
        self.progress.chunks_produced += 1;
        self.progress.bytes_produced += u64::from(len);
        if !self.slots.insert(slot, id, len)? {
            // The same bytes are on their way in another slot; the commit waits for that one.
            self.progress.chunks_held += 1;
            self.actions.push_back(SendAction::Release { slot });
            return Ok(());
        }
        self.group.push(slot);
        self.group_bytes += u64::from(len);
        Ok(())
    }

    fn on_scan_done(&mut self, commit: Box<Commit>) -> Result<(), SendError> {
        if self.phase != Phase::Moving || self.commit.is_some() {
            return Err(Misuse::ScanDoneOutOfTurn.into());
        }
        self.commit = Some(commit);
        Ok(())
    }

    fn on_missing(&mut self, missing: &Missing) -> Result<(), SendError> {
        let Some(slots) = self.offers.remove(&missing.seq) else {
            return Err(Violation::OfferNotOpen { seq: missing.seq }.into());
        };
        if missing.bits.len() != slots.len().div_ceil(8) || missing_past(missing, slots.len()) {
            return Err(Violation::AnswerLength { seq: missing.seq, expected: slots.len() }.into());
        }
        let mut wanted = Vec::new();
        for (index, slot) in slots.into_iter().enumerate() {
            if missing.contains(index) {
                wanted.push(slot);
            } else {
                self.progress.chunks_held += 1;
                self.release(slot);
            }
        }
        self.hand_out(wanted, false);
        Ok(())
    }

    fn on_sealed(&mut self, seq: u32, slots: Vec<u64>) -> Result<(), SendError> {
        if seq != self.next_batch || slots.is_empty() {
            return Err(Misuse::BatchOutOfTurn { seq, expected: self.next_batch }.into());
        }
        for slot in &slots {
            self.slots.seal(*slot)?;
        }
        self.next_batch += 1;
        self.progress.batches_sent += 1;
        self.batches.insert(seq, slots);
        Ok(())
    }

    fn on_stored(&mut self, stored: &Stored) -> Result<(), SendError> {
        let Some(slots) = self.batches.remove(&stored.seq) else {
            return Err(Violation::BatchNotOpen { seq: stored.seq }.into());
        };
        let mut rejected = vec![false; slots.len()];
        for position in &stored.rejected {
            let place = usize::try_from(*position).ok().and_then(|position| rejected.get_mut(position));
            match place {
                Some(place) if !*place => *place = true,
                _ => return Err(Violation::Rejection { seq: stored.seq, position: *position }.into()),
            }
        }
        let mut again = Vec::new();
        for (slot, rejected) in slots.into_iter().zip(rejected) {
            if !rejected {
                self.progress.chunks_stored += 1;
                self.release(slot);
            } else if let Some(id) = self.slots.reopen_whole(slot)? {
                // A whole chunk that does not check out is damaged here or there; sending it for ever helps neither.
                return Err(SendError::ChunkRejected { id });
            } else {
                self.progress.patches_rejected += 1;
                again.push(slot);
            }
        }
        self.hand_out(again, true);
        Ok(())
    }

    fn on_committed(&mut self, committed: Committed) -> Result<(), SendError> {
        if self.phase != Phase::Committing {
            return Err(Violation::Unexpected { frame: "Committed" }.into());
        }
        if committed.id != self.begin.id {
            return Err(Violation::OtherPoint { expected: self.begin.id, found: committed.id }.into());
        }
        self.phase = Phase::Over;
        self.actions.push_back(SendAction::Finished(committed));
        Ok(())
    }

    fn on_tick(&mut self, now: Time) -> Result<(), SendError> {
        let waited = now.since(self.heard);
        if self.peer_owes() && waited >= PATIENCE { Err(SendError::Silent { waited }) } else { Ok(()) }
    }

    /// Gives slots to the encoder.
    fn hand_out(&mut self, slots: Vec<u64>, whole: bool) {
        if !slots.is_empty() {
            slots.iter().for_each(|slot| self.slots.hand_out(*slot));
            self.seal_asked = false;
            self.actions.push_back(SendAction::SendChunks { slots, whole });
        }
    }

    fn release(&mut self, slot: u64) {
        self.slots.remove(slot);
        self.actions.push_back(SendAction::Release { slot });
    }

    /// Does what the new state allows: offers, a seal, the commit.
    fn advance(&mut self) {
        if self.phase != Phase::Moving {
            return;
        }
        // Nothing will join the group or the open batch by itself.
        let ebb = self.idle || self.commit.is_some() || !self.has_room();
        let is_ripe = self.group.len() >= OFFER_IDS_FLUSH || self.group_bytes >= OFFER_BYTES_FLUSH || ebb;
        if is_ripe && !self.group.is_empty() && self.offers.len() < limits::OFFERS_OPEN_MAX {
            self.offer();
        }
        // A batch short of its size leaves only when nothing that is on its way could fill it: while the scan goes
        // on, a batch that gets stored lets the producer go on; afterwards just offers bring more.
        let stores = !self.batches.is_empty() && self.commit.is_none();
        let rests = self.offers.is_empty() && self.group.is_empty() && !stores;
        if rests && ebb && self.slots.handed_out() > 0 && !self.seal_asked {
            self.seal_asked = true;
            self.actions.push_back(SendAction::SealBatch);
        }
        if self.slots.len() == 0
            && let Some(mut commit) = self.commit.take()
        {
            commit.batches = self.next_batch;
            self.phase = Phase::Committing;
            self.actions.push_back(SendAction::SendCommit(commit));
        }
    }

    fn offer(&mut self) {
        let slots = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        let ids = slots.iter().filter_map(|slot| self.slots.id(*slot)).collect();
        let seq = self.next_offer;
        self.next_offer += 1;
        self.offers.insert(seq, slots);
        self.actions.push_back(SendAction::SendOffer(Offer { seq, ids }));
    }

    fn fail(&mut self, error: SendError) {
        self.phase = Phase::Over;
        // What was not carried out yet must not follow a failure.
        self.actions.clear();
        self.actions.push_back(SendAction::Failed(error));
    }
}

/// Whether a bit is set behind the last id.
fn missing_past(missing: &Missing, ids: usize) -> bool {
    (ids..missing.bits.len() * 8).any(|index| missing.contains(index))
}

#[cfg(test)]
mod tests;
