//! The steps of the side that gives a plan away, up to the offer, and the way back from each of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backstay_engine::handover::{Handover, HandoverStep, Stage, Target};
use backstay_engine::plan_state::Transition;
use backstay_types::frame::SiteRole;
use backstay_types::point::RestorePoint;
use backstay_types::{Class, Classify, Epoch, PlanName, RestorePointId};
use backstay_volume::VolumeError;

use super::outcome::Outcome;
use super::report::StepClock;
use crate::api_types::CyclePhase;
use crate::open_files::{self, Counts, NAMED_MAX};
use crate::plans::PlanRecord;
use crate::runtime::{Activity, PlanRuntime};
use crate::site::Site;
use crate::standstill::GONE_WITHIN;
use crate::{DaemonError, clock};

/// Between two questions how far the standby is.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Site {
    /// The steps on the side that gives the plan away. The caller holds the cycle gate.
    pub(super) async fn give(
        self: &Arc<Self>,
        runtime: &PlanRuntime,
        record: &PlanRecord,
        mut handover: Handover,
        target: Target,
    ) -> Result<(Handover, Outcome), DaemonError> {
        let name = &record.name;
        let mut at = HandoverStep::CheckPeer;
        let prepared = self.prepare_to_give(runtime, name, &mut handover, &mut at).await;
        let _shown = runtime.show(Activity::begin(CyclePhase::HandOver));
        match prepared {
            Ok(()) => Ok(self.until_known(name, handover).await),
            Err(cause) => {
                tracing::warn!(step = %at, "rolling back: {cause}");
                if let Err(error) = self.roll_back(name).await {
                    tracing::error!(class = error.class().label(), "not rolled back yet: {error}");
                    self.resume_handover_soon(name.clone());
                }
                let (command, step) = (target.command(), at.to_string());
                let cause = Box::new(cause);
                Err(DaemonError::RolledBack { command, plan: name.clone(), step, cause })
            }
        }
    }

    /// Everything before the offer.
    async fn prepare_to_give(
        self: &Arc<Self>,
        runtime: &PlanRuntime,
        name: &PlanName,
        handover: &mut Handover,
        at: &mut HandoverStep,
    ) -> Result<(), DaemonError> {
        let mut clock = StepClock::start();
        handover.steps.push(clock.lap(HandoverStep::CheckPeer));
        *at = HandoverStep::Sync;
        let activity = Activity::begin(CyclePhase::HandOver);
        let shown = runtime.show(activity.clone());
        match self.cycle(name, &activity).await {
            Ok(point) => self.until_applied(name, point.id).await?,
            // What never settles while it runs does once it is held.
            Err(error) if is_unsettled(&error) => {
                tracing::warn!("the cycle before the hold: {error}");
            }
            Err(error) => return Err(error),
        }
        drop(shown);
        // What stopped the first cycle must not stop the last one.
        let activity = Activity::begin(CyclePhase::HandOver);
        let _shown = runtime.show(activity.clone());
        handover.steps.push(clock.lap(HandoverStep::Sync));
        *at = HandoverStep::Hold;
        self.note_preparing(name, handover)?;
        let held_time = clock::now();
        self.stand_still(name).await?;
        handover.steps.push(clock.lap(HandoverStep::Hold));
        *at = HandoverStep::WaitGone;
        self.wait_gone(name, GONE_WITHIN).await?;
        self.check_nobody_writes(name).await?;
        handover.steps.push(clock.lap(HandoverStep::WaitGone));
        *at = HandoverStep::LastSync;
        self.settle(&*self.plans.get(name)?).await?;
        let point = self.cycle(name, &activity).await.map_err(|error| written_meanwhile(name, error))?;
        handover.steps.push(clock.lap(HandoverStep::LastSync));
        *at = HandoverStep::LookAgain;
        self.check_quiet(name, &point, &activity).await.map_err(|error| written_meanwhile(name, error))?;
        handover.steps.push(clock.lap(HandoverStep::LookAgain));
        *at = HandoverStep::TakeOver;
        handover.stage = Stage::Offered { restore_point: point.id, held_time };
        let kept = handover.clone();
        let runtime = self.runtimes.of(name);
        let _fence = runtime.fence.lock().await;
        let record = self.plans.get(name)?;
        if record.state.role() != SiteRole::Active {
            // A higher epoch was learnt meanwhile: this side steps down already.
            return Err(crate::plan_ops::wrong_role(&record, "the handover"));
        }
        self.plans.transition(name, Transition::HandoverOffered(kept)).map(drop)
    }

    /// Refuses to give away what a process of this host can still write: what it is told is written would be nowhere but in
    /// what the other side's data then replaces.
    async fn check_nobody_writes(self: &Arc<Self>, name: &PlanName) -> Result<(), DaemonError> {
        let record = self.plans.get(name)?;
        if record.spec.covers_cluster() {
            // Its pods are gone.
            return Ok(());
        }
        let (places, frozen) = (self.own_places(&record), self.held_processes(&record));
        let work = move || {
            open_files::users(&places, Counts::WritingProcesses, &frozen)
                .map_err(|source| DaemonError::io("look who uses", Path::new("/proc"), source))
        };
        let users = self.blocking("looking who uses the volumes", work).await?;
        match users.is_empty() {
            true => Ok(()),
            false => {
                let users = users.iter().take(NAMED_MAX).map(ToString::to_string).collect();
                Err(DaemonError::StillWritten { plan: name.clone(), users })
            }
        }
    }

    /// Refuses to give away what was written since it was read last, or may be.
    async fn check_quiet(
        self: &Arc<Self>,
        name: &PlanName,
        point: &RestorePoint,
        activity: &Arc<Activity>,
    ) -> Result<(), DaemonError> {
        self.check_nobody_writes(name).await?;
        let record = self.plans.get(name)?;
        self.settle(&record).await?;
        let written = self.written_since(&record, point, activity).await?;
        match written.is_empty() {
            true => Ok(()),
            false => {
                let what = written.iter().map(|volume| format!("volume {volume}")).collect();
                Err(DaemonError::WrittenMeanwhile { plan: name.clone(), what })
            }
        }
    }

    /// Waits until the standby shows a point: nothing is stopped here for one that cannot take over.
    async fn until_applied(
        self: &Arc<Self>,
        name: &PlanName,
        point: RestorePointId,
    ) -> Result<(), DaemonError> {
        loop {
            let record = self.plans.get(name)?;
            let state = self.ask_plan(record.pair, name).await?;
            if let Some(failure) = state.apply_failure.filter(|failure| failure.point >= point) {
                let peer = self.peer_label(&record);
                let (class, message) = (Class::from_wire_code(failure.class), failure.message);
                return Err(DaemonError::StandbyBehind { peer, point: failure.point, class, message });
            }
            if state.role != Some(SiteRole::Standby) || state.applied >= Some(point) {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = self.stop.cancelled() => return Err(DaemonError::Stopping { what: "the handover" }),
            }
        }
    }

    /// Nothing is held before this is on disk: after a crash it says what to let go.
    fn note_preparing(&self, name: &PlanName, handover: &Handover) -> Result<(), DaemonError> {
        // Refused where a higher epoch was learnt meanwhile: this side steps down already.
        self.plans.transition(name, Transition::HandoverPrepared(handover.clone())).map(drop)
    }

    /// This side goes on after all, at an epoch that the peer has agreed to.
    pub(super) async fn go_on_at(self: &Arc<Self>, name: &PlanName, epoch: Epoch) -> Result<(), DaemonError> {
        self.plans.decide(name, |record| match record.state.handover().is_some() {
            true => record.apply(Transition::HandoverRefused(epoch)),
            // A higher epoch was learnt meanwhile: this side steps down already.
            false => Ok(()),
        })?;
        self.roll_back(name).await
    }

    /// The workloads run again as they did. The handover is over only then: a crash in between lets go once more.
    pub(super) async fn roll_back(self: &Arc<Self>, name: &PlanName) -> Result<(), DaemonError> {
        // One that learnt a higher epoch meanwhile stays held: it steps down.
        if self.plans.get(name)?.state.role() != SiteRole::Active {
            return Ok(());
        }
        let record = self.plans.get(name)?;
        if !record.state.cut_off() {
            // By the orders of an offer a keeper may have held as well: whoever has the lease would hold by its note.
            self.give_orders(&record, &mut None)?;
            self.forget_note(name)?;
            self.let_go(name).await?;
        }
        let (record, ()) = self.plans.decide(name, |record| match record.state.role() {
            SiteRole::Active => record.apply(Transition::HandoverOver),
            _ => Ok(()),
        })?;
        if record.state.cut_off() {
            // Also if the lease was lost only now. It lets go itself when it is good again.
            self.stand_still(name).await?;
        }
        self.wake.notify_one();
        Ok(())
    }
}

/// Whether a cycle failed only because a file was written again and again while it was read.
const fn is_unsettled(error: &DaemonError) -> bool {
    matches!(
        error,
        DaemonError::Volume(VolumeError::Unsettled { .. }) | DaemonError::BelowMinimum { may_pass: true, .. }
    )
}

/// What is written again and again once nothing is to be written any more.
fn written_meanwhile(plan: &PlanName, error: DaemonError) -> DaemonError {
    match error {
        DaemonError::Volume(VolumeError::Unsettled { path }) => {
            DaemonError::WrittenMeanwhile { plan: plan.clone(), what: vec![path] }
        }
        DaemonError::BelowMinimum { may_pass: true, why, .. } => {
            DaemonError::WrittenMeanwhile { plan: plan.clone(), what: vec![why] }
        }
        other => other,
    }
}
