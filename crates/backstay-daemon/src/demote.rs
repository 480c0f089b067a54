//! Stepping down: a side that was active, and learnt that it is not any more, becomes the standby of the other.
//!
//! 1. The higher epoch is on disk, with the role of one that steps down, before anything else: from then on nothing is
//!    sent, and nothing is received yet.
//! 2. First its workloads are held, and whoever still has a volume open is waited for; then all that is here is kept, and only then may the other side's data come in.
//! 3. It is tried until it is done: an API server that is away, or a full disk, delays it and loses nothing.
//!
//! At a crash: the next start goes on.

use std::sync::Arc;
use std::time::Duration;

use backstay_engine::plan_state::Transition;
use backstay_engine::role::{self, News};
use backstay_types::frame::SiteRole;
use backstay_types::{Classify, Epoch, PairId, PlanName};
use tracing::Instrument;

use crate::DaemonError;
use crate::api_types::{CyclePhase, ErrorInfo};
use crate::open_files::Counts;
use crate::plans::PlanRecord;
use crate::runtime::Activity;
use crate::site::Site;
use crate::standstill::GONE_WITHIN;

/// Pauses between tries.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Between two looks for connections that are new.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Site {
    /// A higher epoch exists: this site is not active any more, and says so from now on.
    pub(crate) fn learn_epoch(self: &Arc<Self>, name: &PlanName, epoch: Epoch) -> Result<(), DaemonError> {
        if role::is_leap(self.plans.get(name)?.state.epoch(), epoch) {
            self.note_leap(name, epoch)?;
            let record = self.plans.get(name)?;
            return Err(DaemonError::EpochLeap {
                plan: name.clone(),
                epoch: record.state.epoch(),
                claimed: epoch,
            });
        }
        // It may be heard on several ways at once: the first to come is the one that steps down.
        let (record, was_active) = self.plans.decide(name, |record| {
            if epoch <= record.state.epoch() {
                return Ok(false);
            }
            let was_stepping_down = record.state.active_until().is_some();
            record.apply(Transition::Superseded(epoch))?;
            Ok(record.state.active_until().is_some() && !was_stepping_down)
        })?;
        if was_active {
            tracing::warn!(plan = %name, %epoch, "the other site was promoted: this site is not active any more");
            self.record(&self.actor_of(record.pair), "demote", Some(name), format!("epoch {epoch}"), None);
            if let Some(activity) = self.runtimes.of(name).activity() {
                activity.progress.cancel();
            }
            self.step_down_soon(name.clone());
        }
        Ok(())
    }

    /// The other side claims an epoch that is not believed: no cycle runs until the operator has decided. Nothing steps
    /// down for it, for whoever claims it could claim any.
    pub(crate) fn note_leap(&self, name: &PlanName, claimed: Epoch) -> Result<(), DaemonError> {
        let (record, is_news) = self.plans.decide(name, |record| {
            let is_news = record.state.leap().is_none();
            record.apply(Transition::LeapClaimed(claimed))?;
            Ok(is_news)
        })?;
        if is_news {
            tracing::error!(
                plan = %name, %claimed, epoch = %record.state.epoch(),
                "the other side claims an epoch too far above this one to be believed: no cycle runs; see backstay status {name}"
            );
            let detail = format!("epoch {claimed} is claimed, {} is known", record.state.epoch());
            self.record(&self.actor_of(record.pair), "epochLeap", Some(name), detail, None);
        }
        Ok(())
    }

    /// Steps down, however often that takes.
    pub(crate) fn step_down_soon(self: &Arc<Self>, name: PlanName) {
        let site = self.clone();
        let span = tracing::info_span!("step down", plan = %name);
        let work = async move {
            let mut pause = AGAIN;
            while let Err(error) = site.step_down(&name).await {
                if site.stop.is_cancelled() {
                    return;
                }
                let runtime = site.runtimes.of(&name);
                if let DaemonError::InUse { .. } = error {
                    if runtime.apply_error().is_none_or(|told| told.message != error.to_string()) {
                        tracing::warn!("not stepped down yet: {error}");
                    }
                    // Nobody tells when they have gone.
                    pause = AGAIN;
                } else if error.is_consequence() {
                    tracing::info!("stopped, and begun again: {error}");
                } else {
                    site.metrics.count_error(error.class());
                    tracing::error!(class = error.class().label(), "not stepped down yet: {error}");
                }
                runtime.set_apply_error(Some(ErrorInfo::new(&error)));
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(AGAIN_MAX),
                    () = site.stop.cancelled() => return,
                }
            }
        };
        self.tasks.spawn(work.instrument(span));
    }

    /// Steps down, if that is what this side is doing.
    pub(crate) async fn step_down(self: &Arc<Self>, name: &PlanName) -> Result<(), DaemonError> {
        let steps_down = || self.plans.find(name).is_some_and(|record| record.state.active_until().is_some());
        if steps_down() {
            // At once: a cycle that has the gate may wait for a peer that is not there.
            self.stand_still(name).await?;
        }
        let runtime = self.runtimes.of(name);
        let _cycle = runtime.cycle_gate(&self.wake).await;
        let _apply = runtime.apply.lock().await;
        if !steps_down() {
            return Ok(());
        }
        let activity = Activity::begin(CyclePhase::Demote);
        let _shown = runtime.show(activity.clone());
        self.thaw_left_over(name).await?;
        self.stand_still(name).await?;
        self.wait_gone(name, GONE_WITHIN).await?;
        self.wait_let_go_of(name).await?;
        let kept = self.keep(&self.plans.get(name)?, &activity).await?;
        let record = self.plans.transition(name, Transition::SteppedDown)?;
        runtime.set_apply_error(None);
        tracing::info!(epoch = %record.state.epoch(), kept = %kept.id, "this site is the standby now");
        Ok(())
    }

    /// What is still open here may be written after it was kept, and would be overwritten under whoever has it open.
    async fn wait_let_go_of(self: &Arc<Self>, name: &PlanName) -> Result<(), DaemonError> {
        let record = self.plans.get(name)?;
        // Pods are gone by then; what else looks into volumes of a node is not of the plan.
        let counts = if record.spec.covers_cluster() { Counts::Writers } else { Counts::Everybody };
        let places = self.own_places(&record);
        let (site, name) = (self.clone(), name.clone());
        let work = move || site.check_unused(&name, &places, counts);
        self.blocking("looking who uses the volumes", work).await
    }

    /// Asks every peer that connects what it knows of the plans that this side is active for: one that was promoted
    /// while this side was away says so before this side does anything else. Runs until the daemon stops.
    pub(crate) async fn run_greeting(self: Arc<Self>) {
        let mut greeted = std::collections::BTreeMap::new();
        while !self.stop.is_cancelled() {
            for peer in self.net.peers() {
                let pair = peer.record.pair;
                let now = self.net.connection(pair).map(|connection| connection.stable_id());
                if now.is_some() && greeted.get(&pair) != Some(&now) {
                    let site = self.clone();
                    self.tasks.spawn(async move { site.greet(pair).await });
                }
                greeted.insert(pair, now);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    async fn greet(self: &Arc<Self>, pair: PairId) {
        self.tell_of_ends(pair).await;
        let is_active =
            |record: &Arc<PlanRecord>| record.pair == pair && record.state.role() == SiteRole::Active;
        for record in self.plans.list().iter().filter(|record| is_active(record)) {
            if let Err(error) = self.greet_about(record).await {
                tracing::warn!(plan = %record.name, "the peer does not tell what it knows: {error}");
            }
        }
    }

    /// Both sides run until this one has written down that it is superseded: it is tried until it is done.
    async fn learn_epoch_at_last(self: &Arc<Self>, name: &PlanName, epoch: Epoch) -> Result<(), DaemonError> {
        let mut pause = AGAIN;
        loop {
            let Err(error) = self.learn_epoch(name, epoch) else { return Ok(()) };
            tracing::error!(
                plan = %name, class = error.class().label(),
                "the peer is active at epoch {epoch}, and this side cannot write that down: {error}"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(AGAIN_MAX),
                () = self.stop.cancelled() => return Err(error),
            }
        }
    }

    async fn greet_about(self: &Arc<Self>, record: &PlanRecord) -> Result<(), DaemonError> {
        if record.state.unconfirmed() {
            return self.confirmed(record).await.map(drop);
        }
        let state = self.ask_plan(record.pair, &record.name).await?;
        match role::on_peer_state(record.state.local(), &state) {
            News::StepDown { epoch } => self.learn_epoch_at_last(&record.name, epoch).await,
            News::Leap { epoch } => self.learn_epoch(&record.name, epoch),
            News::Adopt { .. } | News::Nothing => {
                // Of two sides that were active the other one gave way.
                self.plans.transition(&record.name, Transition::ConflictOver).map(drop)
            }
            News::Conflict { .. } => {
                self.plans.transition(&record.name, Transition::ConflictFound)?;
                Err(DaemonError::Conflict { plan: record.name.clone(), epoch: record.state.epoch() })
            }
        }
    }
}
