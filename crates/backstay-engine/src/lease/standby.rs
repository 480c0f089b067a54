//! The side that stands by: it watches the record, and takes it when it has stood still for long enough.

use backstay_types::{Epoch, Span};

use super::{Answer, Ask, AskId, LeaseRecord, Line, Mono, Party, Seen, Terms, Version};

/// What happens to the standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandbyEvent {
    /// Time has passed.
    Tick,
    /// The witness answered.
    Witness {
        /// Which question.
        ask: AskId,
        /// What it said.
        answer: Answer,
    },
}

/// What the standby has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandbyAction {
    /// Ask the witness.
    Ask {
        /// Number of the question.
        ask: AskId,
        /// The question.
        question: Ask,
    },
    /// The active side is at an epoch this side did not know.
    Adopt {
        /// The epoch.
        epoch: Epoch,
    },
    /// The lease is taken: promote at this epoch, and renew from now on ([`super::ActiveLease`]).
    Promote {
        /// The epoch.
        epoch: Epoch,
        /// When the lease was good: before it was asked for.
        good: Mono,
        /// The `after` of the record.
        after: Span,
    },
}

/// Why the standby does not take over now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// The witness has not answered.
    Witness,
    /// There is no record, or it was released.
    NoLease,
    /// The record is of an epoch that is over, or this side's own from before.
    OtherEpoch,
    /// Nobody would hold in the place of who renews: what runs on the other side may outlive it.
    Unguarded,
    /// This side cannot be promoted.
    Unable,
    /// The other side is alive, or was until a moment ago: not before this.
    Until(Mono),
    /// The lease is being taken.
    Taking,
}

/// A record that is watched.
#[derive(Debug, Clone)]
struct Watched {
    seen: Seen,
    /// First sight of this version.
    since: Mono,
    /// Last sight of it.
    last: Mono,
}

/// The standby's end of a lease.
#[derive(Debug, Clone)]
pub struct StandbyLease {
    me: Party,
    able: bool,
    watched: Option<Watched>,
    /// When the peer was last told that this side stands by.
    granted: Mono,
    witness: Line,
    asks: u64,
    /// The swap that was sent, until it is known whether it happened.
    taking: Option<(Version, LeaseRecord)>,
    taken: bool,
    witness_answers: Option<bool>,
}

impl StandbyLease {
    /// Begins to watch. What was granted before a restart is not known: it may have been just now.
    pub fn new(me: Party, now: Mono) -> Self {
        Self {
            me,
            able: false,
            watched: None,
            granted: now,
            witness: Line::new(now),
            asks: 0,
            taking: None,
            taken: false,
            witness_answers: None,
        }
    }

    /// Takes an event in; gives what to do.
    pub fn handle(&mut self, event: StandbyEvent, now: Mono) -> Vec<StandbyAction> {
        let mut todo = Vec::new();
        if let StandbyEvent::Witness { ask, answer } = event
            && let Some(sent) = self.witness.answered(ask)
        {
            self.on_witness(answer, sent, now, &mut todo);
        }
        if self.witness.open.is_none() && !self.taken {
            let is_due = now >= self.witness.next;
            let question = match self.may_take(now) {
                // Again as well: of two swaps over one version at most one happens.
                Ok(epoch) if self.taking.is_none() || is_due => self.take(epoch),
                _ if is_due => Some(Ask::Read),
                _ => None,
            };
            if let Some(question) = question {
                self.asks += 1;
                let ask = AskId(self.asks);
                self.witness.ask(ask, now);
                todo.push(StandbyAction::Ask { ask, question });
            }
        }
        todo
    }

    /// The peer asks whether this side stands by. `true`: it does, and takes nothing for the plan's time from now on.
    pub fn grant(&mut self, now: Mono) -> bool {
        let stands_by = !self.taken && self.taking.is_none();
        if stands_by {
            self.granted = self.granted.max(now);
        }
        stands_by
    }

    /// Takes over what the plan says now. `able`: whether a promotion of this side would go through.
    pub fn update(&mut self, epoch: Epoch, terms: Terms, able: bool) {
        self.me.epoch = self.me.epoch.max(epoch);
        self.me.terms = terms;
        self.able = able;
    }

    /// Why it does not take over.
    pub fn waits(&self, now: Mono) -> Waits {
        if self.taken || self.taking.is_some() {
            return Waits::Taking;
        }
        self.may_take(now).err().unwrap_or(Waits::Taking)
    }

    /// Whether the witness answered the last question; `None` before the first.
    pub const fn is_witness_reached(&self) -> Option<bool> {
        self.witness_answers
    }

    /// The record as it was last seen.
    pub fn record(&self) -> Option<&LeaseRecord> {
        self.watched.as_ref().map(|watched| &watched.seen.record)
    }

    /// Since when the other side has given no sign of life here.
    pub fn silent_since(&self) -> Option<Mono> {
        self.watched.as_ref().map(|watched| watched.since.max(self.granted))
    }

    /// When to call [`StandbyLease::handle`] even if nothing happens.
    pub fn wake(&self, now: Mono) -> Option<Mono> {
        let next = self.witness.wake()?;
        match self.may_take(now) {
            Err(Waits::Until(at)) => Some(next.min(at)),
            _ => Some(next),
        }
    }

    fn on_witness(&mut self, answer: Answer, sent: Mono, now: Mono, todo: &mut Vec<StandbyAction>) {
        self.witness_answers = Some(answer != Answer::Failed);
        let every = self.me.terms.renew_every();
        self.witness.next = now.max(sent.plus(every));
        match answer {
            Answer::Read(None) => (self.watched, self.taking) = (None, None),
            Answer::Read(Some(seen)) => {
                if self.taking.as_ref().is_some_and(|(over, _)| *over != seen.version) {
                    self.taking = None;
                }
                if seen.record.epoch > self.me.epoch && seen.record.holder != self.me.site {
                    self.me.epoch = seen.record.epoch;
                    todo.push(StandbyAction::Adopt { epoch: seen.record.epoch });
                }
                self.watch(seen, now);
            }
            Answer::Swapped(_) => {
                let Some((_, record)) = self.taking.take() else { return };
                self.taken = true;
                todo.push(StandbyAction::Promote { epoch: record.epoch, good: sent, after: record.after });
            }
            Answer::Conflict => {
                (self.watched, self.taking, self.witness.next) = (None, None, now);
            }
            // A swap may yet arrive: until the record has another version, nothing is granted.
            Answer::Failed => {}
        }
    }

    fn watch(&mut self, seen: Seen, now: Mono) {
        let gap = self.terms_of(&seen.record).gap();
        let since = match &self.watched {
            Some(watched) if watched.seen.version == seen.version && now.since(watched.last) <= gap => {
                watched.since
            }
            _ => now,
        };
        self.watched = Some(Watched { seen, since, last: now });
    }

    /// The epoch to take the lease at, if it may be taken now.
    fn may_take(&self, now: Mono) -> Result<Epoch, Waits> {
        let Some(watched) = &self.watched else {
            return Err(if self.witness_answers == Some(true) { Waits::NoLease } else { Waits::Witness });
        };
        let (record, terms) = (&watched.seen.record, self.terms_of(&watched.seen.record));
        if record.released {
            return Err(Waits::NoLease);
        }
        let is_own = record.holder == self.me.site;
        // Our own is one that was taken just before a crash, if it is of an epoch that has not begun here.
        let epoch = match (is_own, record.epoch.cmp(&self.me.epoch)) {
            (true, std::cmp::Ordering::Greater) => record.epoch,
            (false, std::cmp::Ordering::Equal) => record.epoch.next(),
            _ => return Err(Waits::OtherEpoch),
        };
        if !is_own && !record.guarded {
            return Err(Waits::Unguarded);
        }
        if now.since(watched.last) > terms.gap() {
            return Err(Waits::Witness);
        }
        if !self.able {
            return Err(Waits::Unable);
        }
        let silent = if is_own { self.granted } else { self.granted.max(watched.since) };
        let at = silent.plus(terms.take_after());
        if now < at { Err(Waits::Until(at)) } else { Ok(epoch) }
    }

    /// The longer of both sides' times: the record says what the active side keeps to.
    fn terms_of(&self, record: &LeaseRecord) -> Terms {
        Terms::new(record.after.max(self.me.terms.after()))
    }

    fn take(&mut self, epoch: Epoch) -> Option<Ask> {
        let seen = &self.watched.as_ref()?.seen;
        let record = LeaseRecord {
            plan: self.me.plan.clone(),
            holder: self.me.site,
            epoch,
            after: self.me.terms.after(),
            beats: seen.record.beats.saturating_add(1),
            released: false,
            // Not before this side's own keeper has been seen.
            guarded: false,
        };
        self.taking = Some((seen.version.clone(), record.clone()));
        Some(Ask::Swap { over: Some(seen.version.clone()), record })
    }
}
