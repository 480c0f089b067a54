//! The receiver of one transfer, as a state machine without IO.
//!
//! 1. A session exists only for a sender that is admitted ([`crate::role`]); a promotion here ends it
//!    (test `a_promotion_here_ends_the_session`).
//! 2. The commit happens only when every batch it counts is stored and every chunk asked for has come (test
//!    `the_commit_waits_for_its_batches`).
//! 3. The sender cannot make it remember or store more than it asked for: open offers, open batches and chunks are
//!    counted (tests `open_offers_are_bounded`, `more_chunks_than_asked_for_are_refused`).
//! 4. Frames out of order end the session with a refusal that says so.
//!
//! What was stored before a session ended stays in the store, and the next session is answered accordingly. Left to
//! others: the bytes of batches, rebuilding patches, and what durable means.

mod batches;
mod error;
mod event;

use std::collections::{BTreeMap, VecDeque};

use backstay_types::frame::{Begin, Commit, Committed, Missing, Offer, Ready, Stored};
use backstay_types::{Epoch, RestorePointId, SessionId, Span, Time, limits};

use crate::role::{Grant, Local, Refusal, admit_begin};
use batches::Batches;
pub use error::RecvError;
pub use event::{RecvAction, RecvEvent, RecvProgress};

/// How long a commit waits for batches that are on their way on other streams.
pub const COMMIT_PATIENCE: Span = Span::from_secs(300);

#[derive(Debug)]
enum Phase {
    /// The store looks for the parent.
    Opening,
    /// Offers and batches.
    Moving,
    /// All is announced; the last batches are being stored.
    Closing { commit: Box<Commit>, since: Time },
    /// The store commits.
    Committing,
    /// Nothing more happens.
    Over,
}

/// The receiver of one transfer.
#[derive(Debug)]
pub struct RecvSession {
    begin: Begin,
    newest: Option<RestorePointId>,
    phase: Phase,
    actions: VecDeque<RecvAction>,
    next_offer: u32,
    /// Ids of each offer the store is looking through.
    offers: BTreeMap<u32, usize>,
    batches: Batches,
    /// Chunks asked for that have not come.
    owed: u64,
    progress: RecvProgress,
}

impl RecvSession {
    /// Admits a sender. `local` is the plan's state here and `newest` the newest restore point held. What the grant
    /// changes must be durable before the first action is carried out.
    pub fn open(
        begin: Begin,
        local: Option<Local>,
        newest: Option<RestorePointId>,
    ) -> Result<(Self, Grant), Refusal> {
        let grant = admit_begin(local, &begin, newest)?;
        let mut session = Self {
            newest,
            phase: Phase::Opening,
            actions: VecDeque::new(),
            next_offer: 0,
            offers: BTreeMap::new(),
            batches: Batches::default(),
            owed: 0,
            progress: RecvProgress::default(),
            begin,
        };
        match session.begin.parent {
            Some(parent) => session.actions.push_back(RecvAction::CheckParent(parent)),
            None => session.ready(false),
        }
        Ok((session, grant))
    }

    /// The session its batches carry.
    pub fn session(&self) -> SessionId {
        self.begin.session
    }

    /// The restore point being made.
    pub fn id(&self) -> RestorePointId {
        self.begin.id
    }

    /// Takes an event in. What to do about it comes from [`Self::poll_action`].
    pub fn handle(&mut self, event: RecvEvent, now: Time) {
        if matches!(self.phase, Phase::Over) {
            // Work of the store that was under way still reports.
            return;
        }
        let result = match event {
            RecvEvent::ParentChecked { held } => self.on_parent(held),
            RecvEvent::Offer(offer) => self.on_offer(offer),
            RecvEvent::MissingKnown { seq, missing } => self.on_missing(seq, &missing),
            RecvEvent::Batch { session, seq, count } => self.on_batch(session, seq, count),
            RecvEvent::BatchStored { seq, rejected } => self.on_stored(seq, rejected),
            RecvEvent::Commit(commit) => self.on_commit(commit, now),
            RecvEvent::PointCommitted(committed) => self.on_committed(committed),
            RecvEvent::StoreFailed(refused) => Err(RecvError::Store(refused)),
            RecvEvent::EpochSeen(epoch) => self.on_epoch(epoch),
            RecvEvent::Tick => self.on_tick(now),
            RecvEvent::ConnectionLost => {
                self.end(RecvAction::Abandon);
                return;
            }
        };
        match result {
            Ok(()) => self.commit_if_complete(),
            Err(error) => {
                let refused = error.to_frame();
                self.end(RecvAction::Refuse { refused, error });
            }
        }
    }

    /// The next thing to do; to be asked until `None` after each event.
    pub fn poll_action(&mut self) -> Option<RecvAction> {
        self.actions.pop_front()
    }

    /// Whether the session has ended, well or not.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Counters so far.
    pub fn progress(&self) -> RecvProgress {
        self.progress
    }

    /// When to send [`RecvEvent::Tick`] at the latest. A sender that scans may be silent for hours; just a commit
    /// whose batches do not come is given up.
    pub fn wake(&self) -> Option<Time> {
        match &self.phase {
            Phase::Closing { since, .. } => Some(since.plus(COMMIT_PATIENCE)),
            _ => None,
        }
    }

    fn ready(&mut self, has_parent: bool) {
        self.phase = Phase::Moving;
        self.actions.push_back(RecvAction::AnswerReady(Ready { has_parent, newest: self.newest }));
    }

    fn on_parent(&mut self, held: bool) -> Result<(), RecvError> {
        match self.phase {
            Phase::Opening => {
                self.ready(held);
                Ok(())
            }
            _ => Err(RecvError::Misuse { what: "a parent that was not asked for was checked" }),
        }
    }

    fn on_offer(&mut self, offer: Offer) -> Result<(), RecvError> {
        self.expect_moving("Offer")?;
        if offer.seq != self.next_offer {
            return Err(RecvError::OfferOutOfTurn { expected: self.next_offer, found: offer.seq });
        }
        if offer.ids.is_empty() {
            return Err(RecvError::EmptyOffer { seq: offer.seq });
        }
        if self.offers.len() >= limits::OFFERS_OPEN_MAX {
            return Err(RecvError::TooManyOffers);
        }
        self.next_offer = self.next_offer.checked_add(1).ok_or(RecvError::TooManyOffers)?;
        self.progress.chunks_offered += offer.ids.len() as u64;
        self.offers.insert(offer.seq, offer.ids.len());
        self.actions.push_back(RecvAction::QueryMissing(offer));
        Ok(())
    }

    fn on_missing(&mut self, seq: u32, missing: &[bool]) -> Result<(), RecvError> {
        if self.offers.remove(&seq) != Some(missing.len()) {
            return Err(RecvError::Misuse { what: "an offer was answered twice or in part" });
        }
        let asked = missing.iter().filter(|missing| **missing).count() as u64;
        self.owed += asked;
        self.progress.chunks_asked += asked;
        self.actions.push_back(RecvAction::AnswerMissing(Missing { seq, bits: bits(missing) }));
        Ok(())
    }

    fn on_batch(&mut self, session: SessionId, seq: u32, count: u32) -> Result<(), RecvError> {
        // A batch can overtake nothing it depends on, and be overtaken by the commit: streams have no order.
        if session != self.begin.session || matches!(self.phase, Phase::Opening | Phase::Committing) {
            return Err(RecvError::Unexpected { frame: "batch" });
        }
        if let Phase::Closing { commit, .. } = &self.phase
            && seq >= commit.batches
        {
            return Err(RecvError::Unexpected { frame: "batch" });
        }
        self.batches.arrived(seq, count)?;
        self.owed = self.owed.checked_sub(u64::from(count)).ok_or(RecvError::UnaskedChunks { seq })?;
        self.actions.push_back(RecvAction::StoreBatch { seq });
        Ok(())
    }

    fn on_stored(&mut self, seq: u32, rejected: Vec<u32>) -> Result<(), RecvError> {
        let misuse =
            RecvError::Misuse { what: "a batch that is not open was stored, or more of it than it has" };
        let Some(count) = self.batches.stored(seq) else { return Err(misuse) };
        let again = rejected.len() as u64;
        let Some(stored) = u64::from(count).checked_sub(again) else { return Err(misuse) };
        self.owed += again;
        self.progress.chunks_stored += stored;
        self.progress.patches_rejected += again;
        self.actions.push_back(RecvAction::AnswerStored(Stored { seq, rejected }));
        Ok(())
    }

    fn on_commit(&mut self, commit: Box<Commit>, now: Time) -> Result<(), RecvError> {
        self.expect_moving("Commit")?;
        // A sender knows the answer to every offer before it commits.
        if !self.offers.is_empty() {
            return Err(RecvError::Unexpected { frame: "Commit" });
        }
        if self.batches.end() > commit.batches {
            return Err(RecvError::BatchCount { announced: commit.batches, found: self.batches.end() });
        }
        if u64::from(commit.batches - self.batches.end()) > self.owed {
            // Each batch still to come has at least one chunk that was asked for.
            return Err(RecvError::BatchCount { announced: commit.batches, found: self.batches.end() });
        }
        self.phase = Phase::Closing { commit, since: now };
        Ok(())
    }

    fn commit_if_complete(&mut self) {
        let Phase::Closing { commit, .. } = &self.phase else { return };
        if !self.batches.all_stored(commit.batches) {
            return;
        }
        if self.owed > 0 {
            let error = RecvError::ChunksMissing { chunks: self.owed };
            let refused = error.to_frame();
            self.end(RecvAction::Refuse { refused, error });
            return;
        }
        if let Phase::Closing { commit, .. } = std::mem::replace(&mut self.phase, Phase::Committing) {
            self.actions.push_back(RecvAction::CommitPoint(commit));
        }
    }

    fn on_committed(&mut self, committed: Committed) -> Result<(), RecvError> {
        if !matches!(self.phase, Phase::Committing) || committed.id != self.begin.id {
            return Err(RecvError::Misuse { what: "a restore point was committed that was not to be" });
        }
        self.phase = Phase::Over;
        self.actions.push_back(RecvAction::AnswerCommitted(committed));
        Ok(())
    }

    fn on_epoch(&mut self, epoch: Epoch) -> Result<(), RecvError> {
        let theirs = self.begin.id.epoch;
        if epoch <= theirs {
            return Ok(());
        }
        Err(RecvError::Fenced { plan: self.begin.plan.clone(), theirs, ours: epoch })
    }

    fn on_tick(&mut self, now: Time) -> Result<(), RecvError> {
        match &self.phase {
            Phase::Closing { since, commit } if now.since(*since) >= COMMIT_PATIENCE => {
                Err(RecvError::BatchesLate { announced: commit.batches, stored: self.batches.stored_count() })
            }
            _ => Ok(()),
        }
    }

    fn expect_moving(&self, frame: &'static str) -> Result<(), RecvError> {
        if matches!(self.phase, Phase::Moving) { Ok(()) } else { Err(RecvError::Unexpected { frame }) }
    }

    fn end(&mut self, last: RecvAction) {
        self.phase = Phase::Over;
        // What was not carried out yet must not follow the end.
        self.actions.clear();
        self.actions.push_back(last);
    }
}

/// One bit per id, the first in the lowest bit of the first byte.
fn bits(missing: &[bool]) -> Vec<u8> {
    let byte =
        |group: &[bool]| group.iter().rev().fold(0_u8, |byte, missing| (byte << 1) | u8::from(*missing));
    missing.chunks(8).map(byte).collect()
}

#[cfg(test)]
mod tests;
