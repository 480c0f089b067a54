//! The standby side of a plan with a lease: watches it, and takes it when its time has come.

use std::sync::Arc;

use backstay_engine::lease::{Answer, AskId, Kept, Mono, StandbyAction, StandbyEvent, StandbyLease, Terms};
use backstay_engine::plan_state::Transition;
use backstay_types::frame::SiteRole;
use backstay_types::point::Consistency;
use backstay_types::{Epoch, PlanName};
use tokio::task::JoinSet;

use super::active::Taken;
use super::status::View;
use super::{Asked, POISONED, carry, pause};
use crate::plans::PlanRecord;
use crate::site::Site;
use crate::{DaemonError, clock};

/// The machine of a standby: shared with whoever answers the peer.
pub(crate) struct Standing {
    pub(super) lease: StandbyLease,
}

/// What a question to the witness brought.
type Said = (AskId, Result<Answer, String>);

impl Site {
    /// Ends when the plan does not stand by here any more; with the lease, if it was taken.
    pub(super) async fn run_standby(
        self: &Arc<Self>,
        record: &PlanRecord,
    ) -> Result<Option<Taken>, DaemonError> {
        let name = &record.name;
        // Of a time when this side was active.
        self.forget_kept(name)?;
        self.forget_orders(name)?;
        let Some(me) = self.party(record) else { return Ok(None) };
        let lease = StandbyLease::new(me, clock::mono());
        self.leases.standing.lock().expect(POISONED).insert(name.clone(), Standing { lease });
        let mut asked = Asked::new(self, record);
        let mut tasks: JoinSet<Said> = JoinSet::new();
        let mut event = StandbyEvent::Tick;
        let mut able = Able::default();
        loop {
            let now = clock::mono();
            let record = self.plans.find(name).filter(|record| record.state.role() == SiteRole::Standby);
            let wanted = record.as_ref().and_then(|record| record.spec.automatic_failover.as_ref());
            let (Some(record), Some(terms)) = (&record, wanted.map(|wanted| Terms::new(wanted.after))) else {
                self.leases.standing.lock().expect(POISONED).remove(name);
                return Ok(None);
            };
            let can = able.check(self, name, terms, now)?;
            let actions = self.step(name, event, now, record.state.epoch(), terms, can);
            for action in actions {
                match action {
                    StandbyAction::Ask { ask, question } => {
                        let (witness, id) = (asked.witness(record), asked.id.clone());
                        tasks.spawn(async move {
                            let answer = carry(witness, id, question, terms).await;
                            (ask, answer.map_err(|error| error.to_string()))
                        });
                    }
                    StandbyAction::Adopt { epoch } => self.adopt_epoch(name, epoch)?,
                    StandbyAction::Promote { epoch, good, after } => {
                        let kept = Kept { bound: Some(after), good: Some(good), ..Kept::default() };
                        return Ok(Some(Taken { epoch, kept }));
                    }
                }
            }
            let wake = self.show_standby(name, &asked, now);
            event = tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(pause(wake, now)) => StandbyEvent::Tick,
                Some(said) = tasks.join_next() => {
                    let (ask, answer) =
                        said.map_err(|_| DaemonError::Worker { what: "a question to the witness" })?;
                    asked.tell(name, answer.as_ref().err().cloned());
                    StandbyEvent::Witness { ask, answer: answer.unwrap_or(Answer::Failed) }
                }
            };
        }
    }

    /// One step of the machine, under the lock that its word to the peer is given under.
    fn step(
        &self,
        name: &PlanName,
        event: StandbyEvent,
        now: Mono,
        epoch: Epoch,
        terms: Terms,
        able: bool,
    ) -> Vec<StandbyAction> {
        let mut standing = self.leases.standing.lock().expect(POISONED);
        let Some(standing) = standing.get_mut(name) else { return Vec::new() };
        standing.lease.update(epoch, terms, able);
        standing.lease.handle(event, now)
    }

    /// The active side is at an epoch that this side has not heard of.
    fn adopt_epoch(&self, name: &PlanName, epoch: Epoch) -> Result<(), DaemonError> {
        if backstay_engine::role::is_leap(self.plans.get(name)?.state.epoch(), epoch) {
            return self.note_leap(name, epoch);
        }
        self.plans.decide(name, |record| match record.state.role() {
            SiteRole::Standby => record.apply(Transition::EpochObserved(epoch)),
            _ => Ok(()),
        })?;
        Ok(())
    }

    fn show_standby(&self, name: &PlanName, asked: &Asked, now: Mono) -> Option<Mono> {
        let standing = self.leases.standing.lock().expect(POISONED);
        let lease = &standing.get(name)?.lease;
        let (view, wake) = (
            View::Standby {
                reached: lease.is_witness_reached(),
                failure: asked.told.clone(),
                holder: lease.record().map(|record| record.holder),
                silent_since: lease.silent_since(),
                waits: lease.waits(now),
            },
            lease.wake(now),
        );
        drop(standing);
        self.leases.show(name, view);
        wake
    }

    /// Whether there is a restore point that a promotion would take.
    fn is_promotable(&self, name: &PlanName) -> Result<bool, DaemonError> {
        let points = self.store.points(name)?;
        match points.iter().rev().find(|point| point.consistency != Consistency::Diverged) {
            Some(point) => Ok(self.store.damage(name, point.id)?.is_none()),
            None => Ok(false),
        }
    }
}

/// Whether this side could be promoted: looked at now and then, since it asks the store.
#[derive(Default)]
struct Able {
    found: bool,
    looked: Option<Mono>,
}

impl Able {
    fn check(&mut self, site: &Site, name: &PlanName, terms: Terms, now: Mono) -> Result<bool, DaemonError> {
        if self.looked.is_none_or(|looked| now.since(looked) >= terms.renew_every()) {
            (self.found, self.looked) = (site.is_promotable(name)?, Some(now));
        }
        Ok(self.found)
    }
}
