//! Cycles of the active side.

use backstay_engine::backoff::{Backoff, BackoffPolicy};
use backstay_engine::role;
use backstay_types::frame::{Begin, SharePlan, SiteRole};
use backstay_types::{Class, Epoch, RestorePointId, SessionId, Span};

use super::{Fault, Node, time};
use crate::net::{Question, Reply};
use crate::world::Record;

/// Between two cycles.
const INTERVAL: u64 = 5_000;
const ANSWER_WITHIN: u64 = 30_000;
const RETRY: BackoffPolicy = BackoffPolicy { first: Span(2_000), cap: Span(15_000) };

impl Node {
    pub async fn run_schedule(&self) {
        let mut backoff = Backoff::new(RETRY, self.at as u64);
        loop {
            let wait = match backoff.retry_at() {
                Some(at) => at.since(time(self.mono())).0,
                None => INTERVAL,
            };
            self.pause(wait).await;
            if self.record().role != SiteRole::Active {
                continue;
            }
            let volatile = self.volatile();
            let _gate = volatile.cycle.clone().lock_owned().await;
            match self.cycle().await {
                Ok(_) => backoff.succeeded(),
                Err(fault) => {
                    self.w.tell(self.at, || format!("cycle failed: {fault:?}"));
                    backoff.failed(time(self.mono()));
                }
            }
        }
    }

    pub async fn cycle(&self) -> Result<RestorePointId, Fault> {
        let record = self.record();
        if record.role != SiteRole::Active || record.conflict {
            return Err(Fault::Role);
        }
        let outcome = self.fenced_cycle(record).await;
        if let Err(Fault::Refused { class: Class::Fenced, epoch: Some(epoch) }) = outcome {
            self.learn_epoch(epoch).await?;
        }
        outcome
    }

    async fn fenced_cycle(&self, record: Record) -> Result<RestorePointId, Fault> {
        let epoch = self.begun(&record).await?;
        let (spec, rules) = (String::new(), String::new());
        let share = SharePlan { plan: self.w.plan.clone(), epoch, spec, rules };
        self.ask(Question::Share(share), ANSWER_WITHIN).await?;
        let peer = self.ask_plan(ANSWER_WITHIN).await?;
        let held = self.site().disk.borrow().points.keys().next_back().copied();
        let newest = peer.newest.max(held).map_or(0, |newest| newest.number);
        let id = RestorePointId { epoch, number: record.number.max(newest) + 1 };
        self.send_from_replicas().await?;
        let (content, parent, known) = {
            let disk = self.site().disk.borrow();
            let (parent, known) = disk.sent.clone().unzip();
            (disk.data.clone(), parent, known)
        };
        self.work(400).await;
        let session = SessionId(self.w.exec.draw(u64::MAX));
        let begin = Begin { session, plan: self.w.plan.clone(), id, parent };
        let has_parent = match self.ask(Question::Begin(begin), ANSWER_WITHIN).await? {
            Reply::Ready { has_parent } => has_parent,
            other => panic!("{other:?} for a begin"),
        };
        let known = known.filter(|_| has_parent);
        let is_new = |write: &&u32| known.as_ref().is_none_or(|known| !known.contains(write));
        let sent = content.iter().filter(is_new).copied().collect();
        self.work(600).await;
        // The peer may have it although its answer is lost: what is kept later needs another number.
        self.write("number", |disk| disk.record.number = disk.record.number.max(id.number)).await?;
        let commit = Question::Commit { session, id, sent, content: content.clone() };
        self.ask(commit, ANSWER_WITHIN).await?;
        self.w.acked.borrow_mut().push((1 - self.at, id, content.clone()));
        self.w.count("restore points");
        self.write_large("sent state", |disk| disk.sent = Some((id, content.clone()))).await?;
        self.write("last success", |disk| disk.last_success = Some((id, content))).await?;
        Ok(id)
    }

    async fn begun(&self, record: &Record) -> Result<Epoch, Fault> {
        if self.site().disk.borrow().last_success.is_some() {
            return Ok(record.epoch);
        }
        let epoch = role::first_epoch(record.epoch, &self.ask_plan(ANSWER_WITHIN).await?);
        if epoch != record.epoch {
            self.write("first epoch", |disk| disk.record.epoch = epoch).await?;
        }
        Ok(epoch)
    }

    /// What was received is what is sent against.
    async fn send_from_replicas(&self) -> Result<(), Fault> {
        let shown = {
            let disk = self.site().disk.borrow();
            let newer = disk.applied.filter(|shown| disk.sent.as_ref().map(|(id, _)| *id) < Some(*shown));
            newer.and_then(|shown| disk.points.get(&shown).map(|point| (shown, point.content.clone())))
        };
        match shown {
            Some(shown) => {
                self.write_large("sent state of the replica", |disk| disk.sent = Some(shown)).await
            }
            None => Ok(()),
        }
    }
}
