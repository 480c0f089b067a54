//! What peers ask: every control stream they open, by its first frame.

use std::collections::BTreeMap;
use std::sync::Arc;

use backstay_engine::plan_state::Transition;
use backstay_engine::role::{self, Local, News, Refusal};
use backstay_net::{Connection, Control, Incoming};
use backstay_types::frame::{
    Done, DropPlan, Frame, PlanState, Points, Promoted, Proposals, SharePlan, SiteRole,
};
use backstay_types::plan::{PlanSpec, RuleSpec};
use backstay_types::{Classify, Epoch, PairId, PlanName, limits};

use crate::DaemonError;
use crate::audit::Actor;
use crate::plans::PlanRecord;
use crate::receive::refuse;
use crate::site::Site;

impl Site {
    /// Runs until the daemon stops.
    pub(crate) async fn run_incoming(self: Arc<Self>) {
        let Some(mut incoming) = self.net.incoming() else { return };
        while let Some(Incoming { connection, control, first }) = incoming.recv().await {
            let site = self.clone();
            self.tasks.spawn(async move {
                let kind = first.name();
                let peer = connection.peer().name.clone();
                let work = site.answer(&connection, control, first);
                let outcome = tokio::select! {
                    outcome = work => outcome,
                    () = site.stop.cancelled() => return,
                };
                if let Err(error) = outcome {
                    let class = error.class();
                    site.metrics.count_error(class);
                    tracing::warn!(
                        peer,
                        request = kind,
                        class = class.label(),
                        "request of the peer failed: {error}"
                    );
                }
            });
        }
    }

    async fn answer(
        self: &Arc<Self>,
        connection: &Connection,
        mut control: Control,
        first: Frame,
    ) -> Result<(), DaemonError> {
        let pair = connection.peer().pair;
        // Of a pair that was made just now the plans may not have followed yet.
        if let Err(error) = self.follow_peers() {
            tracing::warn!("plans do not go on with a peer yet: {error}");
        }
        let answer = match first {
            Frame::Begin(begin) => return self.receive(connection, control, begin).await,
            Frame::TakeOver(offer) => return self.take_over(pair, offer, &mut control).await,
            Frame::TakeBack(back) => match self.check_stands_by(&back.plan) {
                Ok(()) => self.take_back(pair, &back).await,
                Err(error) => Err(error),
            },
            Frame::HandOver(asked) => self.hand_over_as_asked(pair, &asked).await,
            Frame::SharePlan(share) => self.take_share(pair, &share).map(|()| Frame::Done(Done {})),
            Frame::DropPlan(drop) => self.take_drop(pair, &drop).map(|()| Frame::Done(Done {})),
            Frame::Promoted(promoted) => self.take_promoted(pair, &promoted).map(|()| Frame::Done(Done {})),
            Frame::QueryPlan(query) => self.told_plan(pair, &query.plan).map(Frame::PlanState),
            Frame::ListPoints(list) => self.listed_points(pair, &list.plan).map(Frame::Points),
            Frame::QueryTree(asked) => self.told_tree(pair, asked).await.map(Frame::ToldTree),
            Frame::QuerySectors(asked) => self.told_sectors(pair, asked).await.map(Frame::ToldSectors),
            other => Err(self.unexpected(pair, &other)),
        };
        match answer {
            Ok(frame) => {
                control.send(&frame).await?;
                control.finish()?;
                Ok(())
            }
            Err(error) => refuse(&mut control, error).await,
        }
    }

    /// A plan of this pair; a plan of another pair is none of this peer's business.
    pub(crate) fn plan_of(&self, pair: PairId, plan: &PlanName) -> Option<Arc<PlanRecord>> {
        self.plans.find(plan).filter(|record| record.pair == pair)
    }

    fn take_share(self: &Arc<Self>, pair: PairId, share: &SharePlan) -> Result<(), DaemonError> {
        let mut spec: PlanSpec = serde_json::from_str(&share.spec).map_err(|error| DaemonError::Request {
            message: format!("shared plan does not decode: {error}"),
        })?;
        spec.validate().map_err(|source| DaemonError::Plan { plan: share.plan.clone(), source })?;
        let rules: BTreeMap<String, RuleSpec> = serde_json::from_str(&share.rules).map_err(|error| {
            DaemonError::Request { message: format!("shared rules do not decode: {error}") }
        })?;
        let old = self.plans.find(&share.plan);
        if let Some(old) = old.as_ref().filter(|old| old.home) {
            spec = self.as_made_here(old, spec)?;
        }
        if old.as_ref().is_some_and(|old| old.pair != pair) {
            return Err(DaemonError::OtherPair { plan: share.plan.clone() });
        }
        let kept = self.store.points(&share.plan)?;
        if kept.iter().any(|point| point.pair != pair && self.peer(point.pair).is_ok()) {
            return Err(DaemonError::OtherPair { plan: share.plan.clone() });
        }
        let newest = kept.last().map(|point| point.id);
        match old {
            Some(_) => {
                let outcome = self.plans.decide(&share.plan, |record| {
                    if record.state.unconfirmed() {
                        // With no epoch of its own in the answer: the sender must not step down for this plan.
                        let (plan, theirs) = (share.plan.clone(), share.epoch);
                        return Err(Refusal::ActiveHere { plan, theirs, ours: theirs }.into());
                    }
                    let grant = role::admit_share(Some(record.state.local()), share)?;
                    record.apply(Transition::Shared(grant.local.epoch))?;
                    if record.home {
                        return Ok(record.take_shared(spec, share.epoch));
                    }
                    // A peer of before says nothing, and accepts everything.
                    record.minimum = spec.minimum().unwrap_or(record.minimum);
                    record.spec = spec;
                    record.rules = rules;
                    Ok(false)
                });
                let (record, is_proposed) = self.or_step_down(&share.plan, outcome)?;
                if is_proposed {
                    self.tell_proposed(&record)?;
                }
                Ok(())
            }
            None => {
                // A plan that was deleted here and left restore points is known by their epoch.
                let local = newest.map(|newest| Local { role: SiteRole::Standby, epoch: newest.epoch });
                let grant = role::admit_share(local, share)?;
                let mut record = PlanRecord::new(share.plan.clone(), pair, grant.local, spec, false);
                record.number = newest.map_or(0, |newest| newest.number);
                record.peer_site = self.peer(pair).ok().map(|peer| peer.site);
                record.minimum = record.spec.minimum().unwrap_or_default();
                record.rules = rules;
                self.plans.put(record)?;
                self.plans.ended().remove(share.plan.as_str())?;
                tracing::info!(plan = %share.plan, "this site is the standby of a new plan");
                Ok(())
            }
        }
    }

    /// A plan that comes back to where it was made keeps its policy, unless the other side has changed what the policy
    /// says. Policies are this site's own: what is shared names none.
    fn as_made_here(&self, own: &PlanRecord, mut spec: PlanSpec) -> Result<PlanSpec, DaemonError> {
        spec.schedule_policy = None;
        let resolved = self.resolved(own)?;
        if spec.schedule == resolved.schedule && spec.retention == resolved.retention {
            spec.schedule.clone_from(&own.spec.schedule);
            spec.schedule_policy.clone_from(&own.spec.schedule_policy);
            spec.retention = own.spec.retention;
        }
        if spec.minimum() == resolved.minimum() {
            spec.minimum_consistency = own.spec.minimum_consistency;
            spec.allow_fuzzy = own.spec.allow_fuzzy;
        }
        Ok(spec)
    }

    /// The operator of this site is to know what the other side wants of it.
    fn tell_proposed(&self, record: &PlanRecord) -> Result<(), DaemonError> {
        let told = self.proposed_status(record)?.map(|status| status.fields.join(", ")).unwrap_or_default();
        tracing::warn!(
            plan = %record.name,
            "the active side has changed {told}; that is for this site to accept: backstay plan accept {}",
            record.name
        );
        let peer = Actor::Peer(self.peer_label(record));
        self.record(&peer, "planPropose", Some(&record.name), told, None);
        Ok(())
    }

    /// The active side stopped replicating: the copies here stay until the plan is deleted here too. Nothing takes over
    /// by itself any more: what the other side runs goes on there, without a lease.
    fn take_drop(&self, pair: PairId, drop: &DropPlan) -> Result<(), DaemonError> {
        if self.plan_of(pair, &drop.plan).is_none() {
            return Ok(());
        }
        self.check_stands_by(&drop.plan)?;
        let (_, is_standby) = self.plans.decide(&drop.plan, |record| {
            if drop.epoch < record.state.epoch() {
                let (theirs, ours) = (drop.epoch, record.state.epoch());
                return Err(Refusal::OldEpoch { plan: drop.plan.clone(), theirs, ours }.into());
            }
            if record.state.role() == SiteRole::Standby {
                record.apply(Transition::Ended)?;
                record.spec.suspend = true;
                record.spec.automatic_failover = None;
            } else {
                record.apply(Transition::PeerGaveWay)?;
            }
            Ok(record.state.role() == SiteRole::Standby)
        })?;
        if is_standby {
            tracing::info!(plan = %drop.plan, "the active side deleted the plan; its restore points stay here");
        } else {
            tracing::info!(plan = %drop.plan, "the other side deleted its plan of this name");
        }
        Ok(())
    }

    fn take_promoted(self: &Arc<Self>, pair: PairId, promoted: &Promoted) -> Result<(), DaemonError> {
        let Some(record) = self.plan_of(pair, &promoted.plan) else { return Ok(()) };
        self.runtimes.of(&promoted.plan).set_peer_epoch(promoted.epoch);
        match role::on_promoted(record.state.local(), promoted) {
            News::Nothing => Ok(()),
            News::Adopt { epoch } | News::StepDown { epoch } | News::Leap { epoch } => {
                self.learn_epoch(&promoted.plan, epoch)
            }
            News::Conflict { epoch } => {
                tracing::error!(
                    plan = %promoted.plan, %epoch,
                    "both sites are active at one epoch: this one runs no more cycles; compare both sites' data, and \
                     delete the plan on the site that is to give way"
                );
                self.plans.transition(&promoted.plan, Transition::ConflictFound)?;
                let (plan, known) = (promoted.plan.clone(), record.state.epoch());
                Err(DaemonError::EpochShrinks { plan, known, asked: epoch })
            }
        }
    }

    /// What this site knows of a plan.
    pub(crate) fn plan_state(&self, pair: PairId, plan: &PlanName) -> Result<PlanState, DaemonError> {
        let record = self.plan_of(pair, plan);
        // A deleted plan tells what was kept of it, so that one of its name goes on after that.
        let told = record.is_some() || self.plans.find(plan).is_none();
        let newest = if told { self.store.newest(plan)? } else { None };
        let ended = self.plans.ended().get(plan.as_str()).filter(|ended| ended.pair == pair);
        let kept_epoch = newest.as_ref().map_or(Epoch(0), |point| point.id.epoch);
        let kept_epoch = kept_epoch.max(ended.map_or(Epoch(0), |ended| ended.epoch));
        // One that was begun while the peer was away claims no epoch yet.
        let own_epoch = |record: &Arc<PlanRecord>| {
            if record.state.unconfirmed() { Epoch(0) } else { record.state.epoch() }
        };
        Ok(PlanState {
            plan: plan.clone(),
            role: record.as_ref().map(|record| record.state.role()),
            epoch: record.as_ref().map_or(kept_epoch, own_epoch),
            newest: newest.as_ref().map(|point| point.id),
            newest_snapshot_time: newest.as_ref().map(|point| point.snapshot_time),
            applied: if record.is_some() { self.plans.applied(plan)?.point } else { None },
            apply_failure: record.as_ref().and_then(|_| self.runtimes.of(plan).apply_failure()),
            proposals: match &record {
                Some(record) => self.told_proposals(record)?,
                None => Proposals::default(),
            },
        })
    }

    fn listed_points(&self, pair: PairId, plan: &PlanName) -> Result<Points, DaemonError> {
        let mut points = self.store.points(plan)?;
        // Also those of an earlier pair with it.
        let goes_on_with = |of: PairId| self.net.book().successor(of).map(|peer| peer.pair);
        points.retain(|point| point.pair == pair || goes_on_with(point.pair) == Some(pair));
        let surplus = points.len().saturating_sub(limits::LISTED_POINTS_MAX);
        Ok(Points { points: points.split_off(surplus) })
    }
}
