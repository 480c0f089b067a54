//! The active side of a plan with a lease: renews it, holds the plan's controllers when it cannot, and finishes the
//! promotion that the lease was taken for.

use std::sync::Arc;

use backstay_engine::lease::{
    ActiveAction, ActiveEvent, ActiveLease, Answer, AskId, Kept, Mono, Party, PeerAnswer, Stance, Terms,
};
use backstay_engine::plan_state::Transition;
use backstay_engine::role::{self, Local, News};
use backstay_types::frame::SiteRole;
use backstay_types::{Classify, Epoch, PairId, PlanName, Span};
use tokio::task::JoinSet;

use super::status::View;
use super::{Asked, carry, pause};
use crate::api_types::PromoteRequest;
use crate::audit::Actor;
use crate::keeper::{self, Orders};
use crate::plans::PlanRecord;
use crate::site::Site;
use crate::standstill::GONE_WITHIN;
use crate::{DaemonError, clock};

/// A lease that was taken and whose promotion has to be carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) epoch: Epoch,
    pub(super) kept: Kept,
}

/// After a promotion by the lease that failed.
const PROMOTE_AGAIN: Span = Span(5_000);

/// What a task of the plan has done.
enum Done {
    Event(ActiveEvent),
    /// The witness was asked; the failure, if it was not reached.
    Witness(AskId, Result<Answer, String>),
    HeldAgain,
    Promoted(Result<(), DaemonError>),
}

/// The loop of one plan on the side that holds its lease.
struct Active {
    site: Arc<Site>,
    name: PlanName,
    pair: PairId,
    lease: ActiveLease,
    asked: Asked,
    tasks: JoinSet<Done>,
    epoch: Epoch,
    kept: Kept,
    /// The promotion that the lease was taken for, until it is done: when to try.
    promote_at: Option<Mono>,
    is_overdue_told: bool,
    /// Whether objects stood still when the lease had them held.
    stood: bool,
    is_holding_again: bool,
    /// What the keeper was told.
    orders: Option<Orders>,
    /// Whether it could not be told the last time; told once.
    orders_failed: bool,
}

impl Site {
    /// Ends when the plan is not active here any more, or has no lease any more.
    pub(super) async fn run_active(
        self: &Arc<Self>,
        record: &PlanRecord,
        taken: Option<Taken>,
    ) -> Result<(), DaemonError> {
        let now = clock::mono();
        let (epoch, kept) = match taken {
            Some(taken) => (taken.epoch, taken.kept),
            None => (record.state.epoch(), self.load_kept(record, now)?),
        };
        let after = record.spec.automatic_failover.as_ref().map(|wanted| wanted.after).or(kept.bound);
        // Neither wanted nor bound: there is nothing to give back.
        let Some(after) = after else {
            self.forget_orders(&record.name)?;
            return self.forget_kept(&record.name);
        };
        let terms = Terms::new(after);
        let me = Party { plan: record.name.clone(), site: self.id, epoch, terms };
        let mut active = Active {
            site: self.clone(),
            name: record.name.clone(),
            pair: record.pair,
            lease: ActiveLease::new(me, kept, now),
            asked: Asked::new(self, record),
            tasks: JoinSet::new(),
            epoch,
            kept,
            promote_at: taken.map(|_| now),
            is_overdue_told: false,
            stood: false,
            is_holding_again: false,
            orders: None,
            orders_failed: false,
        };
        if taken.is_some() {
            self.store_kept(&record.name, epoch, &kept)?;
        }
        active.run().await
    }

    /// Holds what runs here, at once: a cycle under way may wait for a peer that is not there. It does not come to its
    /// end, for what it captured meanwhile may be half held.
    async fn hold_here(self: &Arc<Self>, plan: &PlanName) -> Result<(), DaemonError> {
        if let Some(activity) = self.runtimes.of(plan).activity() {
            activity.progress.cancel();
        }
        if let Err(error) = self.plans.transition(plan, Transition::LeaseLost) {
            // Holding goes first: without the note a handover that is rolled back may let go, and is held again.
            tracing::warn!(%plan, "not noted that the lease is lost: {error}");
        }
        // What a keeper would hold goes first: it takes the least time, and is what acknowledges writes.
        let on_host = self.by_orders(plan, "holding what runs on the host", keeper::hold_host).await;
        self.stand_still(plan).await?;
        on_host?;
        self.wait_gone(plan, GONE_WITHIN).await
    }

    /// Does with the orders of a plan what a keeper would do.
    async fn by_orders(
        self: &Arc<Self>,
        plan: &PlanName,
        what: &'static str,
        work: fn(&std::path::Path, &Orders) -> Result<(), DaemonError>,
    ) -> Result<(), DaemonError> {
        let (dir, folder) = (self.dir.clone(), self.plans.plan_folder(plan));
        self.blocking(what, move || Orders::load(&folder)?.map_or(Ok(()), |orders| work(&dir, &orders))).await
    }

    /// Lets what was held here go on.
    async fn let_go_here(self: &Arc<Self>, plan: &PlanName) -> Result<(), DaemonError> {
        let record = self.plans.transition(plan, Transition::LeaseGood)?;
        // What was held of a promotion under way is for its own step to start, which begins again.
        if record.state.role() == SiteRole::Promoting {
            return self.forget_note(plan);
        }
        // One that steps down, or hands over, stays held.
        if record.state.role() != SiteRole::Active || record.state.handover().is_some() {
            return Ok(());
        }
        self.forget_note(plan)?;
        self.by_orders(plan, "releasing what runs on the host", keeper::release_host).await?;
        self.let_go(plan).await
    }

    /// Asks the peer whether it stands by, and takes in what it says of the plan.
    async fn ask_stands_by(
        self: &Arc<Self>,
        pair: PairId,
        plan: &PlanName,
    ) -> Result<PeerAnswer, DaemonError> {
        if self.net.connection(pair).is_none() {
            return Ok(PeerAnswer::Silent);
        }
        let state = self.ask_plan(pair, plan).await?;
        let record = self.plans.get(plan)?;
        let local = Local { role: record.state.role(), epoch: record.state.epoch() };
        if let News::StepDown { epoch } | News::Leap { epoch } = role::on_peer_state(local, &state) {
            self.learn_epoch(plan, epoch)?;
            return Ok(PeerAnswer::Silent);
        }
        Ok(match state.role {
            // One that has no such plan, or is on its way to standing by, takes nothing either.
            None | Some(SiteRole::Standby | SiteRole::Demoting) => PeerAnswer::StandsBy,
            Some(SiteRole::Active | SiteRole::Promoting) => PeerAnswer::Silent,
        })
    }

    async fn promote_by_lease(self: Arc<Self>, plan: PlanName, epoch: Epoch) -> Result<(), DaemonError> {
        tracing::warn!(%plan, %epoch, "the active side is gone: taking over by the lease");
        let request = PromoteRequest { lease: Some(epoch), ..PromoteRequest::default() };
        let outcome = self.promote(&plan, request).await;
        let detail = format!("automatic failover at epoch {epoch}");
        self.record(&Actor::Daemon, "promote", Some(&plan), detail, outcome.as_ref().err());
        outcome.map(drop)
    }
}

impl Active {
    async fn run(&mut self) -> Result<(), DaemonError> {
        let mut event = ActiveEvent::Tick;
        loop {
            let now = clock::mono();
            let Some(record) = self.site.plans.find(&self.name) else { return Ok(()) };
            match record.state.role() {
                SiteRole::Active | SiteRole::Promoting => {
                    // One that began by the lease and was cut off is gone on with; nobody may be there to ask.
                    self.promote_at.take_if(|_| record.state.promotion().is_none());
                    self.site.leases.standing.lock().expect(super::POISONED).remove(&self.name);
                }
                SiteRole::Standby if self.promote_at.is_some() || !self.tasks.is_empty() => {}
                SiteRole::Standby | SiteRole::Demoting => return Ok(()),
            }
            self.give_orders(&record);
            self.follow(&record, now);
            let mut actions = Vec::new();
            if self.lease.stance() == Stance::Running && self.site.is_noted(&self.name) {
                tracing::warn!(plan = %self.name, "somebody else has held what runs here");
                actions.extend(self.lease.handle(ActiveEvent::HeldByWatcher, now));
            }
            actions.extend(self.lease.handle(event, now));
            self.keep(&actions)?;
            for action in actions {
                if self.carry_out(&record, action)? {
                    return Ok(());
                }
            }
            self.hold_again(&record);
            self.promote_if_due(now);
            self.show(now);
            event = tokio::select! {
                () = self.site.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause(self.lease.wake(), now)) => ActiveEvent::Tick,
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.took(done),
                    Err(_) => return Err(DaemonError::Worker { what: "a task of the lease" }),
                },
            };
        }
    }

    /// A full disk must not keep this side from renewing: whoever has no orders is not there.
    fn give_orders(&mut self, record: &PlanRecord) {
        if record.state.role() == SiteRole::Standby {
            return;
        }
        let given = self.site.give_orders(record, &mut self.orders);
        if let Err(error) = &given {
            if !self.orders_failed {
                let class = error.class().label();
                tracing::error!(plan = %self.name, class, "the keeper has no orders: {error}");
            }
            self.orders = None;
        }
        self.orders_failed = given.is_err();
    }

    /// Takes over what the plan says now.
    fn follow(&mut self, record: &PlanRecord, now: Mono) {
        self.epoch = self.epoch.max(record.state.epoch());
        let wanted = record.spec.automatic_failover.as_ref();
        let after = wanted.map(|wanted| wanted.after).or(self.kept.bound);
        if let Some(after) = after {
            let terms = Terms::new(after);
            let guarded = self.site.is_guarded(self.orders.as_ref());
            self.lease.update(self.epoch, terms, wanted.is_some(), guarded, now);
        }
    }

    /// What must not be forgotten is on disk before it is acted on.
    fn keep(&mut self, actions: &[ActiveAction]) -> Result<(), DaemonError> {
        let kept = self.lease.kept();
        if kept == self.kept {
            return Ok(());
        }
        match self.site.store_kept(&self.name, self.epoch, &kept) {
            Ok(()) => self.kept = kept,
            // Holding does not wait for a disk.
            Err(error) if actions.contains(&ActiveAction::Hold) => {
                tracing::error!(plan = %self.name, "what is held is not recorded: {error}");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Carries out an action; `true` ends the loop.
    fn carry_out(&mut self, record: &PlanRecord, action: ActiveAction) -> Result<bool, DaemonError> {
        let (site, name, pair) = (self.site.clone(), self.name.clone(), self.pair);
        match action {
            ActiveAction::Ask { ask, question } => {
                let (witness, id) = (self.asked.witness(record), self.asked.id.clone());
                let terms = self.lease.terms();
                self.tasks.spawn(async move {
                    let answer = carry(witness, id, question, terms).await;
                    Done::Witness(ask, answer.map_err(|error| error.to_string()))
                });
            }
            ActiveAction::AskPeer { ask } => {
                let within = self.lease.terms().answer_within().to_duration();
                self.tasks.spawn(async move {
                    let answer = tokio::time::timeout(within, site.ask_stands_by(pair, &name)).await;
                    let answer = match answer {
                        Ok(Ok(answer)) => answer,
                        Ok(Err(error)) => {
                            tracing::debug!(plan = %name, "the peer does not say that it stands by: {error}");
                            PeerAnswer::Silent
                        }
                        Err(_) => PeerAnswer::Silent,
                    };
                    Done::Event(ActiveEvent::Peer { ask, answer })
                });
            }
            ActiveAction::Hold => {
                tracing::warn!(plan = %name, "neither the witness nor the peer was heard: holding what runs here");
                site.record(
                    &Actor::Daemon,
                    "hold",
                    Some(&name),
                    "cut off from witness and peer".into(),
                    None,
                );
                self.tasks.spawn(async move {
                    match site.hold_here(&name).await {
                        Ok(()) => Done::Event(ActiveEvent::Held),
                        Err(error) => {
                            tracing::error!(plan = %name, class = error.class().label(), "not held: {error}");
                            Done::Event(ActiveEvent::HoldFailed)
                        }
                    }
                });
            }
            ActiveAction::LetGo => {
                tracing::info!(plan = %name, "the lease is good again: letting go what was held");
                site.record(&Actor::Daemon, "letGo", Some(&name), "the lease is good again".into(), None);
                self.tasks.spawn(async move {
                    match site.let_go_here(&name).await {
                        Ok(()) => Done::Event(ActiveEvent::LetGo),
                        Err(error) => {
                            tracing::error!(plan = %name, class = error.class().label(), "not let go: {error}");
                            Done::Event(ActiveEvent::LetGoFailed)
                        }
                    }
                });
            }
            ActiveAction::StepDown { epoch } => {
                self.site.learn_epoch(&self.name, epoch)?;
                // Also when this side was yet to be promoted: that lease is gone.
                return Ok(true);
            }
            ActiveAction::Disarmed => {
                tracing::info!(plan = %self.name, "the lease is released: no automatic failover any more");
                self.site.forget_kept(&self.name)?;
                self.site.forget_orders(&self.name)?;
                self.kept = Kept::default();
                return Ok(record.spec.automatic_failover.is_none());
            }
        }
        Ok(false)
    }

    fn took(&mut self, done: Done) -> ActiveEvent {
        match done {
            Done::Event(event) => event,
            Done::Witness(ask, answer) => {
                self.asked.tell(&self.name, answer.as_ref().err().cloned());
                ActiveEvent::Witness { ask, answer: answer.unwrap_or(Answer::Failed) }
            }
            Done::HeldAgain => {
                self.is_holding_again = false;
                ActiveEvent::Tick
            }
            Done::Promoted(outcome) => {
                if let Err(error) = outcome {
                    let class = error.class().label();
                    tracing::error!(plan = %self.name, class, "takeover by the lease failed, tried again: {error}");
                    self.promote_at = Some(clock::mono().plus(PROMOTE_AGAIN));
                }
                ActiveEvent::Tick
            }
        }
    }

    /// What the lease holds may be let go by a handover that is rolled back: it is held again.
    fn hold_again(&mut self, record: &PlanRecord) {
        let is_held = self.lease.stance() == Stance::Held;
        if is_held && self.stood && !record.state.standing() && !self.is_holding_again {
            tracing::warn!(plan = %self.name, "held again: the lease is not good");
            self.is_holding_again = true;
            let (site, name) = (self.site.clone(), self.name.clone());
            self.tasks.spawn(async move {
                if let Err(error) = site.stand_still(&name).await {
                    tracing::error!(plan = %name, class = error.class().label(), "not held: {error}");
                }
                Done::HeldAgain
            });
        }
        self.stood = is_held && (self.stood || record.state.standing());
    }

    fn promote_if_due(&mut self, now: Mono) {
        if self.promote_at.take_if(|at| *at <= now).is_some() {
            let (site, name, epoch) = (self.site.clone(), self.name.clone(), self.epoch);
            self.tasks.spawn(async move { Done::Promoted(site.promote_by_lease(name, epoch).await) });
        }
    }

    fn show(&mut self, now: Mono) {
        let is_overdue = self.lease.is_overdue(now);
        if is_overdue && !self.is_overdue_told {
            tracing::error!(
                plan = %self.name,
                "what runs here was not held in time: the other side may take over while it runs; stop it by hand"
            );
        }
        self.is_overdue_told = is_overdue;
        self.site.leases.show(
            &self.name,
            View::Active {
                reached: self.lease.is_witness_reached(),
                failure: self.asked.told.clone(),
                holder: self.lease.record().map(|record| record.holder),
                good: self.lease.good(),
                holds_at: self.lease.holds_at(),
                stance: self.lease.stance(),
                is_overdue,
                after: self.lease.terms().after(),
            },
        );
    }
}
