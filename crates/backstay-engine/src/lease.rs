//! The lease of automatic failover: who may run a plan's workloads when the two sites do not see each other.
//!
//! A third place, the *witness*, keeps one record for each plan and changes it only for somebody who names the version
//! they saw (compare and swap). The active side renews the record; the standby takes it once it has stood still for
//! long enough. No clock is shared and no time is ever written down: each side counts on its own, from a moment that is
//! on the safe side of what it means.
//!
//! With `after` from the plan, and clocks that run at most [`CLOCKS_APART_PERCENT`] fast or slow:
//!
//! ```text
//! active, from before it sent its last successful renewal      standby, from its first sight of that renewal
//! 0.50 after   begins to hold its controllers
//! 0.95 after   has them held (a slow clock: at most 1.00 after of true time)
//!              (a fast clock: at least 1.00 after of true time) 1.05 after   may take the record
//! ```
//!
//! 1. Two sides never run at once: the holding is over before the taking begins, whatever is lost, late or repeated on
//!    the way (test `two_sides_never_run`).
//! 2. While the sites see each other nobody takes over, whatever the witness does: the standby's answer to a question
//!    of the active side counts like a renewal, on both sides ([`StandbyLease::grant`]). So a witness that is down
//!    stops nothing by itself (test `a_witness_that_is_down_stops_nothing`).
//! 3. No witness, no takeover: only a successful swap makes a side take over.
//! 4. A dead active side is taken over within [`Terms::takeover_within`] (test `a_dead_side_is_taken_over_in_time`).
//! 5. A record that is not there, or was released, is never taken (test `what_is_not_there_is_not_taken`).
//! 6. A record is taken only if its holder said in it that somebody holds in its place when it dies
//!    ([`LeaseRecord::guarded`]): else a daemon's death would be taken for that of what it runs (tests
//!    `who_dies_alone_leaves_nobody_running_beside_another`, `what_nobody_guards_is_not_taken`).
//!
//! One process of a site has the lease at a time and runs [`ActiveLease`]; the others watch what it keeps on disk and
//! hold by [`Watch`] when it has stood still.
//!
//! Left to others: the witness, holding and promoting, keeping [`Kept`] over a restart, the epoch's durability, and who of
//! a site's processes has the lease.

mod active;
mod standby;
#[cfg(test)]
mod tests;
mod watch;

use backstay_types::{Epoch, PlanName, SiteId, Span};
use serde::{Deserialize, Serialize};

pub use active::{ActiveAction, ActiveEvent, ActiveLease, Kept, PeerAnswer, Stance};
pub use standby::{StandbyAction, StandbyEvent, StandbyLease, Waits};
pub use watch::Watch;

/// How far a site's clock may run from true time, in percent. Quartz is a thousand times better; what this covers is a
/// virtual machine whose clock is being steered.
pub const CLOCKS_APART_PERCENT: u64 = 5;

/// A moment on this machine's own clock, in milliseconds since an arbitrary start. It must never be set and go on while
/// the machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub u64);

impl Mono {
    /// This moment plus `span`.
    pub const fn plus(self, span: Span) -> Mono {
        Mono(self.0.saturating_add(span.0))
    }

    /// How long after `earlier` this is; nothing if it is not.
    pub const fn since(self, earlier: Mono) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// What the witness keeps of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseRecord {
    /// The plan.
    pub plan: PlanName,
    /// The side that may run it.
    pub holder: SiteId,
    /// Its epoch.
    pub epoch: Epoch,
    /// After how long without a change the other side may take it.
    pub after: Span,
    /// Grows with each renewal, so that each is a change.
    pub beats: u64,
    /// Its holder wants no automatic failover any more: nobody may take it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    /// Whoever renews is not alone: if it dies, another process of its machine goes on, or holds what runs there in time.
    /// Without that nobody may take the record, for what runs may have outlived who renewed. A site of a version that did
    /// not know this field never has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guarded: bool,
}

/// What the witness calls one state of a record; never used again for another, not even by a witness that lost its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub String);

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seen {
    /// Its version.
    pub version: Version,
    /// What it says.
    pub record: LeaseRecord,
}

/// Number of a question, so that an answer that comes late is not taken for that to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(u64);

/// A question to the witness. Whoever carries it answers exactly once, [`Answer::Failed`] at the latest after
/// [`Terms::answer_within`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// What the record is.
    Read,
    /// Replace the version that is named, or make the record if none is.
    Swap {
        /// The version that must be there; none if nothing may be.
        over: Option<Version>,
        /// What to put there.
        record: LeaseRecord,
    },
}

/// What the witness said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The record, if there is one.
    Read(Option<Seen>),
    /// It was replaced; this is its version now.
    Swapped(Version),
    /// Another version is there.
    Conflict,
    /// Nothing, or not in time: a swap may have happened, or may yet.
    Failed,
}

/// The times of a lease, all from `after` of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    after: Span,
}

impl Terms {
    /// For a plan's `after`.
    pub const fn new(after: Span) -> Self {
        Self { after }
    }

    /// `after` itself.
    pub const fn after(self) -> Span {
        self.after
    }

    /// Without a sign of life for so long, the standby may take the lease.
    pub const fn take_after(self) -> Span {
        Span(self.percent(100 + CLOCKS_APART_PERCENT).0.saturating_add(1))
    }

    /// Without a sign for so long, the active side's controllers must be held.
    pub const fn held_within(self) -> Span {
        self.percent(100 - CLOCKS_APART_PERCENT)
    }

    /// Without a sign for so long, the active side begins to hold: what is left to [`Terms::held_within`] is for doing
    /// it.
    pub const fn hold_at(self) -> Span {
        self.percent(50)
    }

    /// Without a sign for so long, those begin to hold who only watch: a little later than whoever has the lease, which
    /// does it better, and early enough all the same.
    pub const fn watcher_holds_at(self) -> Span {
        self.percent(55)
    }

    /// How long holding may take.
    pub const fn hold_within(self) -> Span {
        Span(self.held_within().0.saturating_sub(self.hold_at().0))
    }

    /// How long letting go may take: it begins early enough to be over when holding would begin.
    pub const fn let_go_within(self) -> Span {
        self.percent(25)
    }

    /// Between two renewals, and two looks: five signs may be lost in a row before anything is held.
    pub const fn renew_every(self) -> Span {
        self.percent(10)
    }

    /// How long a question may take: three that fail fit before anything is held.
    pub const fn answer_within(self) -> Span {
        Span(self.after.0 / 6)
    }

    /// A standby that could not see the record for so long counts anew: a witness that was down has heard nobody, and
    /// the active side gets time to renew.
    pub const fn gap(self) -> Span {
        self.percent(50)
    }

    /// A side that starts and cannot know when it renewed last has so long to renew before it holds.
    pub const fn grace(self) -> Span {
        self.percent(20)
    }

    /// From the death of the active side to the swap, at most, on a standby that reaches the witness all the time and
    /// whose clock is slow: the last renewal is seen one look and its answer late, then time runs, then the swap.
    pub const fn takeover_within(self) -> Span {
        let counted = self.take_after().0 + self.renew_every().0 + 2 * self.answer_within().0;
        Span(counted * 100 / (100 - CLOCKS_APART_PERCENT))
    }

    const fn percent(self, percent: u64) -> Span {
        Span(self.after.0.saturating_mul(percent) / 100)
    }
}

/// Who asks, and about what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// The plan.
    pub plan: PlanName,
    /// This site.
    pub site: SiteId,
    /// The epoch known here.
    pub epoch: Epoch,
    /// The times of this side's plan.
    pub terms: Terms,
}

/// One kind of question of which at most one is open.
#[derive(Debug, Clone, Copy)]
struct Line {
    open: Option<(AskId, Mono)>,
    next: Mono,
}

impl Line {
    const fn new(now: Mono) -> Self {
        Self { open: None, next: now }
    }

    /// Whether it is time for a question.
    fn is_due(&self, now: Mono) -> bool {
        self.open.is_none() && now >= self.next
    }

    fn ask(&mut self, id: AskId, now: Mono) {
        self.open = Some((id, now));
    }

    /// When the question was asked that this answers; `None` for one that is not open.
    fn answered(&mut self, id: AskId) -> Option<Mono> {
        let (_, sent) = self.open.filter(|(open, _)| *open == id)?;
        self.open = None;
        Some(sent)
    }

    /// When to ask again, if no question is open.
    fn wake(&self) -> Option<Mono> {
        self.open.is_none().then_some(self.next)
    }
}
