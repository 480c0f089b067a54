//! The side that runs: it renews, and holds its controllers when it can prove no longer that nobody takes over.

use backstay_types::{Epoch, Span};

use super::{Answer, Ask, AskId, LeaseRecord, Line, Mono, Party, Seen, Terms};

/// What happens to the active side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActiveEvent {
    /// Time has passed.
    Tick,
    /// The witness answered.
    Witness {
        /// Which question.
        ask: AskId,
        /// What it said.
        answer: Answer,
    },
    /// The peer answered.
    Peer {
        /// Which question.
        ask: AskId,
        /// What it said.
        answer: PeerAnswer,
    },
    /// [`ActiveAction::Hold`] is done: nothing of the plan runs here.
    Held,
    /// It failed; it is asked for again.
    HoldFailed,
    /// [`ActiveAction::LetGo`] is done.
    LetGo,
    /// It failed; it is asked for again.
    LetGoFailed,
    /// Another process of this machine held what runs here ([`super::Watch`]): that is taken over, and let go when it may.
    HeldByWatcher,
}

/// What the peer says when it is asked whether it stands by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAnswer {
    /// It does, and takes nothing for the plan's time from now on ([`super::StandbyLease::grant`]).
    StandsBy,
    /// It does not, or it did not answer.
    Silent,
}

/// What the active side has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActiveAction {
    /// Ask the witness.
    Ask {
        /// Number of the question.
        ask: AskId,
        /// The question.
        question: Ask,
    },
    /// Ask the peer whether it stands by.
    AskPeer {
        /// Number of the question.
        ask: AskId,
    },
    /// Hold the plan's controllers here; again if that was done before.
    Hold,
    /// Let them go on.
    LetGo,
    /// The other side took over at this epoch: step down.
    StepDown {
        /// The epoch.
        epoch: Epoch,
    },
    /// The record is released: there is no automatic failover any more.
    Disarmed,
}

/// What a restart must not forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// A record of ours may be at the witness, and the other side may go by this `after`. Nothing binds this side
    /// without one.
    pub bound: Option<Span>,
    /// Nobody can have taken over, as of this moment; of use only to a process with the same clock.
    pub good: Option<Mono>,
    /// At this moment there was no record of ours at the witness, and another is good only its whole time later.
    pub anew: Option<Mono>,
    /// Controllers are, or may be, held.
    pub held: bool,
}

/// What the plan's workloads do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    /// They run.
    Running,
    /// They are being held.
    Holding,
    /// They are held.
    Held,
    /// They are being let go.
    LettingGo,
}

/// After a failure to hold or let go.
const AGAIN: Span = Span(500);

/// What the witness has, as far as known.
#[derive(Debug, Clone)]
enum Base {
    Unread,
    Absent,
    At(Seen),
}

/// The active side's end of a lease.
#[derive(Debug, Clone)]
pub struct ActiveLease {
    me: Party,
    wanted: bool,
    guarded: bool,
    bound: Option<Span>,
    started: Mono,
    good: Option<Mono>,
    base: Base,
    /// The record that is being swapped in.
    sent: Option<LeaseRecord>,
    /// Since when there has been a record that was made where one had been before.
    anew: Option<Mono>,
    witness: Line,
    peer: Line,
    asks: u64,
    stance: Stance,
    again_at: Option<Mono>,
    witness_answers: Option<bool>,
}

impl ActiveLease {
    /// Begins to renew, from what was kept over a restart.
    pub fn new(me: Party, kept: Kept, now: Mono) -> Self {
        let stance = if kept.held { Stance::Holding } else { Stance::Running };
        Self {
            me,
            wanted: true,
            guarded: false,
            bound: kept.bound,
            started: now,
            good: kept.good.map(|good| good.min(now)),
            base: Base::Unread,
            sent: None,
            anew: kept.anew,
            witness: Line::new(now),
            peer: Line::new(now),
            asks: 0,
            stance,
            again_at: kept.held.then_some(now),
            witness_answers: None,
        }
    }

    /// What has to be on disk before an action is carried out.
    pub const fn kept(&self) -> Kept {
        let held = !matches!(self.stance, Stance::Running);
        Kept { bound: self.bound, good: self.good, anew: self.anew, held }
    }

    /// Takes an event in; gives what to do.
    pub fn handle(&mut self, event: ActiveEvent, now: Mono) -> Vec<ActiveAction> {
        let mut todo = Vec::new();
        match event {
            ActiveEvent::Tick => {}
            ActiveEvent::Witness { ask, answer } => {
                if let Some(sent) = self.witness.answered(ask) {
                    self.on_witness(answer, sent, now, &mut todo);
                }
            }
            ActiveEvent::Peer { ask, answer } => {
                if let Some(sent) = self.peer.answered(ask) {
                    self.peer.next = now.max(sent.plus(self.me.terms.renew_every()));
                    if answer == PeerAnswer::StandsBy {
                        self.good = self.good.max(Some(sent));
                    }
                }
            }
            ActiveEvent::Held => self.stance = Stance::Held,
            ActiveEvent::LetGo => self.stance = Stance::Running,
            ActiveEvent::HoldFailed | ActiveEvent::LetGoFailed => self.again_at = Some(now.plus(AGAIN)),
            ActiveEvent::HeldByWatcher if matches!(self.stance, Stance::Running | Stance::LettingGo) => {
                (self.stance, self.again_at) = (Stance::Holding, Some(now));
            }
            ActiveEvent::HeldByWatcher => {}
        }
        self.settle(now, &mut todo);
        self.ask(now, &mut todo);
        todo
    }

    /// Takes over what the plan says now: its epoch, which only grows, its times, and whether failover is wanted; and
    /// whether somebody holds in this process's place if it dies.
    pub fn update(&mut self, epoch: Epoch, terms: Terms, wanted: bool, guarded: bool, now: Mono) {
        if self.wanted != wanted || self.me.terms != terms || self.guarded != guarded {
            self.witness.next = now;
        }
        self.guarded = guarded;
        self.me.epoch = self.me.epoch.max(epoch);
        self.me.terms = terms;
        self.wanted = wanted;
    }

    /// The last moment of which it is known that nobody had taken over, nor would for the plan's time.
    pub const fn good(&self) -> Option<Mono> {
        self.good
    }

    /// What the workloads do.
    pub const fn stance(&self) -> Stance {
        self.stance
    }

    /// The times of this side's plan.
    pub const fn terms(&self) -> Terms {
        self.me.terms
    }

    /// Whether automatic failover is wanted.
    pub const fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether a record of ours may be at the witness, so that this side holds if it is cut off.
    pub const fn is_armed(&self) -> bool {
        self.bound.is_some()
    }

    /// Whether the witness answered the last question; `None` before the first.
    pub const fn is_witness_reached(&self) -> Option<bool> {
        self.witness_answers
    }

    /// The record as it was last seen.
    pub const fn record(&self) -> Option<&LeaseRecord> {
        match &self.base {
            Base::At(seen) => Some(&seen.record),
            Base::Unread | Base::Absent => self.sent.as_ref(),
        }
    }

    /// When the controllers have to be held from, without a further sign; `None` while nothing binds this side.
    pub fn holds_at(&self) -> Option<Mono> {
        let terms = self.binding()?;
        Some(self.good.map_or(self.started.plus(terms.grace()), |good| good.plus(terms.hold_at())))
    }

    /// Whether the time to be held by has passed and something may still run.
    pub fn is_overdue(&self, now: Mono) -> bool {
        let from = self.good.unwrap_or(self.started);
        let passed = self.binding().is_some_and(|terms| now >= from.plus(terms.held_within()));
        passed && self.stance != Stance::Held
    }

    /// When to call [`ActiveLease::handle`] even if nothing happens.
    pub fn wake(&self) -> Option<Mono> {
        let stance = match self.stance {
            Stance::Running => self.holds_at(),
            Stance::Holding | Stance::LettingGo => self.again_at,
            Stance::Held => None,
        };
        [self.witness.wake(), self.peer.wake(), stance].into_iter().flatten().min()
    }

    /// The times that bind this side: a shorter `after` at once, a longer one when the record says so.
    fn binding(&self) -> Option<Terms> {
        self.bound.map(|bound| Terms::new(bound.min(self.me.terms.after())))
    }

    fn on_witness(&mut self, answer: Answer, sent: Mono, now: Mono, todo: &mut Vec<ActiveAction>) {
        self.witness_answers = Some(answer != Answer::Failed);
        let every = self.me.terms.renew_every();
        match answer {
            Answer::Read(None) => {
                (self.base, self.witness.next) = (Base::Absent, now);
            }
            Answer::Read(Some(seen)) => {
                if seen.record.epoch > self.me.epoch {
                    todo.push(ActiveAction::StepDown { epoch: seen.record.epoch });
                }
                let renewable = self.may_replace(&seen.record);
                if seen.record.holder == self.me.site {
                    self.bound = Some(seen.record.after);
                }
                self.base = Base::At(seen);
                self.witness.next = if renewable { now } else { now.plus(every) };
            }
            Answer::Swapped(version) => {
                let Some(record) = self.sent.take() else { return };
                self.witness.next = now.max(sent.plus(every));
                if record.released {
                    (self.bound, self.good) = (None, None);
                    todo.push(ActiveAction::Disarmed);
                } else {
                    self.renewed(&record, sent);
                }
                self.base = Base::At(Seen { version, record });
            }
            Answer::Conflict => (self.base, self.witness.next) = (Base::Unread, now),
            Answer::Failed => (self.base, self.witness.next) = (Base::Unread, now.max(sent.plus(every))),
        }
    }

    /// A renewal is on its way: from here on the record may be there, whether or not the answer comes.
    ///
    /// One that does not follow on ours is no proof by itself. The witness lost its data, and the other side may have
    /// taken the lost record; or the other side has a record there that is good to it, although its epoch is over. If
    /// ours was good until now neither can be. Else the other side has held, or has replaced this record, once it has not
    /// renewed its own for its whole time.
    fn renewing(&mut self, record: &LeaseRecord, now: Mono) {
        let Some(terms) = self.binding() else {
            // Nobody can take what is not there.
            (self.bound, self.good) = (Some(record.after), Some(now));
            return;
        };
        let is_good = self.good.is_some_and(|good| now < good.plus(terms.held_within()));
        let is_ours = matches!(&self.base, Base::At(seen) if seen.record.holder == self.me.site);
        if !is_ours && !is_good {
            self.anew = Some(now);
        }
        self.bound = Some(terms.after().min(record.after));
    }

    /// The record was ours, as of `sent`.
    fn renewed(&mut self, record: &LeaseRecord, sent: Mono) {
        self.bound = Some(record.after);
        let wait = Terms::new(record.after).take_after();
        if self.anew.is_none_or(|since| sent >= since.plus(wait)) {
            (self.anew, self.good) = (None, self.good.max(Some(sent)));
        }
    }

    /// Whether a record is ours to replace: our own, or one of an epoch that is over.
    fn may_replace(&self, record: &LeaseRecord) -> bool {
        record.epoch < self.me.epoch || (record.epoch == self.me.epoch && record.holder == self.me.site)
    }

    fn settle(&mut self, now: Mono, todo: &mut Vec<ActiveAction>) {
        let holds_at = self.holds_at();
        let must_hold = holds_at.is_some_and(|at| now >= at);
        // What is let go has to be held again in time: not on a sign that is old already.
        let may_let_go = holds_at.is_none_or(|at| now.plus(self.me.terms.let_go_within()) < at);
        let again = self.again_at.is_some_and(|at| now >= at);
        let next = match self.stance {
            Stance::Running if must_hold => (Stance::Holding, ActiveAction::Hold),
            Stance::Held if may_let_go => (Stance::LettingGo, ActiveAction::LetGo),
            Stance::Holding if again => (Stance::Holding, ActiveAction::Hold),
            Stance::LettingGo if again && must_hold => (Stance::Holding, ActiveAction::Hold),
            Stance::LettingGo if again => (Stance::LettingGo, ActiveAction::LetGo),
            _ => return,
        };
        self.again_at = None;
        self.stance = next.0;
        todo.push(next.1);
    }

    fn ask(&mut self, now: Mono, todo: &mut Vec<ActiveAction>) {
        if self.peer.is_due(now) {
            let ask = self.next_ask();
            self.peer.ask(ask, now);
            todo.push(ActiveAction::AskPeer { ask });
        }
        if !self.witness.is_due(now) {
            return;
        }
        let question = match &self.base {
            Base::At(seen) if self.may_replace(&seen.record) => {
                Ask::Swap { over: Some(seen.version.clone()), record: self.next_record(seen.record.beats) }
            }
            // Also a release: a record that was sent and not acknowledged may still arrive.
            Base::Absent => Ask::Swap { over: None, record: self.next_record(0) },
            Base::Unread | Base::At(_) => Ask::Read,
        };
        if let Ask::Swap { record, .. } = &question {
            if !record.released {
                self.renewing(record, now);
            }
            self.sent = Some(record.clone());
        }
        let ask = self.next_ask();
        self.witness.ask(ask, now);
        todo.push(ActiveAction::Ask { ask, question });
    }

    fn next_record(&self, beats: u64) -> LeaseRecord {
        LeaseRecord {
            plan: self.me.plan.clone(),
            holder: self.me.site,
            epoch: self.me.epoch,
            after: self.me.terms.after(),
            beats: beats.saturating_add(1),
            released: !self.wanted,
            guarded: self.guarded,
        }
    }

    fn next_ask(&mut self) -> AskId {
        self.asks += 1;
        AskId(self.asks)
    }
}
