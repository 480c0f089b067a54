//! Planned takeover: this side, which is active, holds its workloads and gives the plan to its standby; or, as that
//! standby, takes it over.
//!
//! 1. What is decided is on disk before the frame that tells of it: see the engine's `handover`.
//! 2. Until the offer a failure rolls everything back: the workloads run again as they did.
//! 3. From the offer on nothing runs here until the outcome is known, however long that takes. The operator can end the
//!    wait with `promote --force`.
//!
//! At a crash: the next start goes on, or rolls back, by what is on disk.

mod give;
mod outcome;
mod report;
mod take;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backstay_engine::handover::{self, Handover, HandoverFacts, HandoverStep, Planned, Stage, Target};
use backstay_types::frame::{Frame, HandOver, SiteRole};
use backstay_types::point::{Consistency, RestorePoint};
use backstay_types::{PlanName, RestorePointId};
use tracing::Instrument;

use self::outcome::Outcome;
use self::report::{StepClock, composed};
use crate::api_types::{CyclePhase, PromotionReport, PromotionStep, StepState};
use crate::audit::Actor;
use crate::plans::PlanRecord;
use crate::runtime::Activity;
use crate::site::Site;
use crate::{DaemonError, clock};

/// Between two tries to end a handover that was cut off, such as while the API server is away.
const RESUME_AGAIN: Duration = Duration::from_secs(5);

impl Site {
    /// Makes the other side active, or this one, as `target` says. Asked of either side.
    pub(crate) async fn hand_over(
        self: &Arc<Self>,
        name: &PlanName,
        target: Target,
    ) -> Result<PromotionReport, DaemonError> {
        // A task of its own: whoever asked may hang up, the handover goes on.
        let (site, plan) = (self.clone(), name.clone());
        let span = tracing::info_span!("handover", plan = %name, to = target.command());
        let task = self.tasks.spawn(async move { site.hand_over_one(&plan, target).await }.instrument(span));
        task.await.map_err(|_| DaemonError::Worker { what: "the handover" })?
    }

    async fn hand_over_one(
        self: &Arc<Self>,
        name: &PlanName,
        target: Target,
    ) -> Result<PromotionReport, DaemonError> {
        let runtime = self.runtimes.of(name);
        let record = self.plans.get(name)?;
        if record.state.role() == SiteRole::Active {
            let gate = runtime.cycle_gate(&self.wake).await;
            let record = self.plans.get(name)?;
            return match self.decide(&record, target).await? {
                Planned::HandOver(handover) => {
                    let given = self.give(&runtime, &record, handover, target).await;
                    drop(gate);
                    let ended = self.end_handover(name, given?).await;
                    // A disk that is full now: what is left is done as soon as it can be.
                    if self.plans.find(name).is_some_and(|record| record.state.handover().is_some()) {
                        self.resume_handover_soon(name.clone());
                    }
                    ended
                }
                Planned::Already => self.already_there(&record, target),
                Planned::AskPeer => self.ask_peer_to_hand_over(&record).await,
            };
        }
        match self.decide(&record, target).await? {
            Planned::Already => self.already_there(&record, target),
            Planned::AskPeer | Planned::HandOver(_) => self.ask_peer_to_hand_over(&record).await,
        }
    }

    /// What [`Site::hand_over`] would do, and nothing of it.
    pub(crate) async fn handover_preview(
        &self,
        name: &PlanName,
        target: Target,
    ) -> Result<PromotionReport, DaemonError> {
        let record = self.plans.get(name)?;
        let planned = self.decide(&record, target).await?;
        let mut report = self.already_there(&record, target)?;
        if planned != Planned::Already {
            report.epoch = record.state.epoch().next();
            let pending = |step: &HandoverStep| PromotionStep {
                name: step.to_string(),
                state: StepState::Pending,
                duration_seconds: None,
            };
            report.steps = HandoverStep::ALL.iter().map(pending).collect();
            report.warnings = self.cannot_follow(&record);
            report.warnings.extend(self.was_not_held(&record));
        }
        (report.rto_seconds, report.dry_run) = (None, true);
        Ok(report)
    }

    async fn decide(&self, record: &PlanRecord, target: Target) -> Result<Planned, DaemonError> {
        if record.spec.covers_cluster() {
            // What could not come back must not go.
            record.spec.reversed()?;
        }
        crate::plan_ops::check_not_offered(record)?;
        if record.state.role() == SiteRole::Active && target == Target::Away {
            // What could not be written here as a standby's must not become one.
            self.check_can_follow(record)?;
        }
        let peer = self.peer_facts(record).await;
        let facts = HandoverFacts {
            plan: &record.name,
            role: record.state.role(),
            epoch: record.state.epoch(),
            is_home: record.home,
            target,
            peer: &peer,
        };
        Ok(handover::plan(&facts, clock::now())?)
    }

    /// Volumes that this side could not write as the standby that it becomes.
    fn cannot_follow(&self, record: &PlanRecord) -> Vec<String> {
        if !record.home {
            // Replicas are in the site's own folder.
            return Vec::new();
        }
        let listed =
            record.spec.volumes.iter().filter_map(|volume| volume.path.as_ref().or(volume.device.as_ref()));
        let places = listed.cloned().chain(record.claims.values().map(|path| self.on_host(path)));
        let is_read_only = |path: &PathBuf| {
            rustix::fs::access(path, rustix::fs::Access::WRITE_OK) == Err(rustix::io::Errno::ROFS)
        };
        let warn = |path: PathBuf| {
            format!(
                "{} is mounted read-only here: {} cannot follow, or take the plan back, until it may write there",
                path.display(),
                self.name
            )
        };
        places.filter(is_read_only).map(warn).collect()
    }

    /// An application that nobody stops here.
    fn was_not_held(&self, record: &PlanRecord) -> Option<String> {
        let place = if record.home {
            "`hold` in the plan".to_owned()
        } else {
            format!("`[hold.{}]` in its site.toml", record.name)
        };
        self.holds_nothing(record).then(|| {
            format!("nothing was held on {}: no {place} says what stops the application there", self.name)
        })
    }

    /// What this side has kept of what was written after it offered the plan, if anything was.
    fn written_after(
        &self,
        name: &PlanName,
        handover: &Handover,
    ) -> Result<Option<RestorePointId>, DaemonError> {
        let Stage::Offered { restore_point, .. } = handover.stage else { return Ok(None) };
        let points = self.store.points(name)?;
        let is_after = |point: &&RestorePoint| {
            let is_ours = point.origin == self.id && point.consistency == Consistency::Diverged;
            is_ours && point.id.epoch == restore_point.epoch && point.id > restore_point
        };
        Ok(points.iter().rfind(is_after).map(|point| point.id))
    }

    fn already_there(&self, record: &PlanRecord, target: Target) -> Result<PromotionReport, DaemonError> {
        let newest = self.newest_known(record)?;
        let newest = newest.ok_or_else(|| DaemonError::NoRestorePoint { plan: record.name.clone() })?;
        Ok(PromotionReport {
            plan: record.name.clone(),
            epoch: record.state.epoch(),
            restore_point: newest.id,
            consistency: Some(newest.consistency),
            rpo_seconds: 0.0,
            rpo_counted_from: None,
            rto_seconds: Some(0.0),
            steps: Vec::new(),
            waves: Vec::new(),
            warnings: vec![target.already(&record.name)],
            nothing_lost: false,
            dry_run: false,
        })
    }

    async fn ask_peer_to_hand_over(
        self: &Arc<Self>,
        record: &PlanRecord,
    ) -> Result<PromotionReport, DaemonError> {
        let frame = HandOver { plan: record.name.clone(), epoch: record.state.epoch() }.into();
        match self.ask_for_long(record.pair, frame).await? {
            Frame::HandedOver(done) => serde_json::from_str(&done.report).map_err(|error| {
                DaemonError::Request { message: format!("the report of the peer does not decode: {error}") }
            }),
            other => Err(self.unexpected(record.pair, &other)),
        }
    }

    /// What follows the outcome, with the cycle gate open again.
    async fn end_handover(
        self: &Arc<Self>,
        name: &PlanName,
        (mut handover, outcome): (Handover, Outcome),
    ) -> Result<PromotionReport, DaemonError> {
        let (report, failure, epoch) = match outcome {
            Outcome::TakenBack { cause } => return Err(cause),
            Outcome::TakenOver { report, failure, epoch } => (report, failure, epoch),
        };
        let taken_time = clock::now();
        self.learn_epoch(name, epoch)?;
        let mut clock = StepClock::start();
        let stepped_down = self.step_down(name).await;
        handover.steps.push(clock.lap(HandoverStep::StepDown));
        if let Some(message) = failure {
            return Err(DaemonError::TakenOverInPart { plan: name.clone(), epoch, message });
        }
        let record = self.plans.get(name)?;
        let newest = self.newest_known(&record)?.map(|point| point.id);
        let kept = self.written_after(name, &handover)?;
        let nothing_lost = handover.looked_again() && kept.is_none() && stepped_down.is_ok();
        let mut report = composed(&handover, report, epoch, taken_time, newest, nothing_lost);
        report.warnings.extend(self.cannot_follow(&record));
        report.warnings.extend(self.was_not_held(&record));
        if let Some(kept) = kept {
            report.warnings.push(format!(
                "{} was written to after the last sync: that is not on the side that is active now, and is kept here as \
                 the diverged restore point {kept}",
                self.name
            ));
        }
        if let Err(error) = stepped_down {
            report.warnings.push(format!("this side has not become the standby yet: {error}"));
        }
        tracing::info!(%epoch, "the other side has taken over");
        Ok(report)
    }

    /// Goes on with a handover that a stop or a crash cut off.
    pub(crate) fn resume_handover_soon(self: &Arc<Self>, name: PlanName) {
        let site = self.clone();
        let span = tracing::info_span!("handover", plan = %name);
        let work = async move {
            loop {
                let outcome = site.resume_handover(&name).await;
                site.record(
                    &Actor::Daemon,
                    "handover",
                    Some(&name),
                    "resumed".into(),
                    outcome.as_ref().err(),
                );
                let Err(error) = outcome else { return };
                tracing::warn!("the handover that was cut off: {error}");
                // One that is over, whatever came of it, is not gone on with.
                if site.plans.find(&name).is_none_or(|record| record.state.handover().is_none()) {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(RESUME_AGAIN) => {}
                    () = site.stop.cancelled() => return,
                }
            }
        };
        self.tasks.spawn(work.instrument(span));
    }

    async fn resume_handover(self: &Arc<Self>, name: &PlanName) -> Result<(), DaemonError> {
        let runtime = self.runtimes.of(name);
        let gate = runtime.cycle_gate(&self.wake).await;
        let record = self.plans.get(name)?;
        let Some(handover) = record.state.handover().cloned() else { return Ok(()) };
        let _shown = runtime.show(Activity::begin(CyclePhase::HandOver));
        if record.state.role() == SiteRole::Active {
            // It was not offered yet, or was taken back: what is left is to let go.
            return self.roll_back(name).await;
        }
        let given = self.until_known(name, handover).await;
        drop(gate);
        self.end_handover(name, given).await.map(|_| ())
    }

    /// The operator ends the wait for the outcome: this side goes on, whatever became of the offer.
    pub(crate) async fn force_back(
        self: &Arc<Self>,
        name: &PlanName,
        handover: &Handover,
    ) -> Result<PromotionReport, DaemonError> {
        self.go_on_at(name, handover.epoch.next()).await?;
        let record = self.plans.get(name)?;
        if record.state.role() != SiteRole::Active {
            // The peer's word came at the same moment: it did take over.
            return Err(crate::plan_ops::wrong_role(&record, "going on"));
        }
        let mut report = self.already_there(&record, Target::Home)?;
        report.warnings = vec![format!(
            "the handover is ended, and this side runs on at epoch {}; if the peer took over meanwhile, both sides run \
             until it hears of this",
            record.state.epoch()
        )];
        Ok(report)
    }
}
