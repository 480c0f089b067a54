//! Planned takeover: this side, which is active, holds its workloads and gives the plan to its standby; or, as that
//! standby, takes it over.
//!
//! 1. What is decided is on disk before the frame that tells of it: see the engine's `handover`.
//! 2. Until the offer a failure rolls everything back: the workloads run again as they did.
//! 3. From the offer on nothing runs here until the outcome is known, however long that takes. The operator can end the
//!    wait with `promote --force`.
//!
//! At a crash: the next start goes on, or rolls back, by what is on disk.

mod take;

use std::sync::Arc;
use std::time::Duration;

use backstay_engine::handover::{
    self, Answer, Handover, HandoverFacts, HandoverStep, Next, Planned, Stage, StepDone, Target,
};
use backstay_types::frame::{Frame, HandOver, SiteRole, TakeBack};
use backstay_types::{Classify, Epoch, PlanName, RestorePointId, Span, Time};
use tracing::Instrument;

use crate::api_types::{CyclePhase, PromotionReport, PromotionStep, StepState};
use crate::ask::CONNECT_WITHIN;
use crate::audit::Actor;
use crate::plans::PlanRecord;
use crate::runtime::{Activity, PlanRuntime};
use crate::site::Site;
use crate::standstill::GONE_WITHIN;
use crate::{DaemonError, clock};

/// Between two tries to end a handover that was cut off, such as while the API server is away.
const RESUME_AGAIN: Duration = Duration::from_secs(5);

/// Between two tries to reach the peer about an offer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a handover that is over comes to.
enum Outcome {
    /// The peer took over, and this is what it said.
    TakenOver { report: Option<PromotionReport>, failure: Option<String>, epoch: Epoch },
    /// This side goes on, at this epoch.
    TakenBack { cause: DaemonError },
}

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
        if record.role == SiteRole::Active {
            let gate = runtime.cycle_gate(&self.wake).await;
            let record = self.plans.get(name)?;
            return match self.decide(&record, target).await? {
                Planned::HandOver(handover) => {
                    let given = self.give(&runtime, &record, handover, target).await;
                    drop(gate);
                    let ended = self.end_handover(name, given?).await;
                    // A disk that is full now: what is left is done as soon as it can be.
                    if self.plans.find(name).is_some_and(|record| record.handover.is_some()) {
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
            report.epoch = record.epoch.next();
            let pending = |step: &HandoverStep| PromotionStep {
                name: step.to_string(),
                state: StepState::Pending,
                duration_seconds: None,
            };
            report.steps = HandoverStep::ALL.iter().map(pending).collect();
            report.warnings.clear();
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
        let peer = self.peer_facts(record).await;
        let facts = HandoverFacts {
            plan: &record.name,
            role: record.role,
            epoch: record.epoch,
            is_home: record.home,
            target,
            peer: &peer,
        };
        Ok(handover::plan(&facts, clock::now())?)
    }

    fn already_there(&self, record: &PlanRecord, target: Target) -> Result<PromotionReport, DaemonError> {
        let newest = self.newest_known(record)?;
        let newest = newest.ok_or_else(|| DaemonError::NoRestorePoint { plan: record.name.clone() })?;
        Ok(PromotionReport {
            plan: record.name.clone(),
            epoch: record.epoch,
            restore_point: newest.id,
            rpo_seconds: 0.0,
            rto_seconds: Some(0.0),
            steps: Vec::new(),
            waves: Vec::new(),
            warnings: vec![target.already(&record.name)],
            dry_run: false,
        })
    }

    async fn ask_peer_to_hand_over(
        self: &Arc<Self>,
        record: &PlanRecord,
    ) -> Result<PromotionReport, DaemonError> {
        let frame = HandOver { plan: record.name.clone(), epoch: record.epoch }.into();
        match self.ask_for_long(record.pair, frame).await? {
            Frame::HandedOver(done) => serde_json::from_str(&done.report).map_err(|error| {
                DaemonError::Request { message: format!("the report of the peer does not decode: {error}") }
            }),
            other => Err(self.unexpected(record.pair, &other)),
        }
    }

    /// The steps on the side that gives the plan away. The caller holds the cycle gate.
    async fn give(
        self: &Arc<Self>,
        runtime: &PlanRuntime,
        record: &PlanRecord,
        mut handover: Handover,
        target: Target,
    ) -> Result<(Handover, Outcome), DaemonError> {
        let name = &record.name;
        let activity = Activity::begin(CyclePhase::HandOver);
        let _shown = runtime.show(activity.clone());
        let mut at = HandoverStep::CheckPeer;
        match self.prepare_to_give(name, &mut handover, &mut at, &activity).await {
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
        name: &PlanName,
        handover: &mut Handover,
        at: &mut HandoverStep,
        activity: &Arc<Activity>,
    ) -> Result<(), DaemonError> {
        let mut clock = StepClock::start();
        handover.steps.push(clock.lap(HandoverStep::CheckPeer));
        *at = HandoverStep::Sync;
        self.cycle(name, activity).await?;
        handover.steps.push(clock.lap(HandoverStep::Sync));
        *at = HandoverStep::Hold;
        self.note_preparing(name, handover)?;
        let held_time = clock::now();
        self.stand_still(name).await?;
        handover.steps.push(clock.lap(HandoverStep::Hold));
        *at = HandoverStep::WaitGone;
        self.wait_gone(name, GONE_WITHIN).await?;
        handover.steps.push(clock.lap(HandoverStep::WaitGone));
        *at = HandoverStep::LastSync;
        let point = self.cycle(name, activity).await?;
        handover.steps.push(clock.lap(HandoverStep::LastSync));
        *at = HandoverStep::TakeOver;
        handover.stage = Stage::Offered { restore_point: point.id, held_time };
        let kept = handover.clone();
        let runtime = self.runtimes.of(name);
        let _fence = runtime.fence.lock().await;
        let record = self.plans.get(name)?;
        if record.role != SiteRole::Active {
            // A higher epoch was learnt meanwhile: this side steps down already.
            return Err(crate::plan_ops::wrong_role(&record, "the handover"));
        }
        self.plans.update(name, |record| {
            record.role = SiteRole::Demoting;
            record.handover = Some(kept);
        })?;
        Ok(())
    }

    /// Nothing is held before this is on disk: after a crash it says what to let go.
    fn note_preparing(&self, name: &PlanName, handover: &Handover) -> Result<(), DaemonError> {
        let kept = handover.clone();
        let record = self.plans.update(name, |record| {
            if record.role == SiteRole::Active {
                record.handover = Some(kept);
            }
        })?;
        match record.role {
            SiteRole::Active => Ok(()),
            // A higher epoch was learnt meanwhile: this side steps down already.
            _ => Err(crate::plan_ops::wrong_role(&record, "the handover")),
        }
    }

    /// From the offer to the day that it is known who runs the plan.
    async fn until_known(self: &Arc<Self>, name: &PlanName, mut handover: Handover) -> (Handover, Outcome) {
        let mut clock = StepClock::start();
        let mut next = handover.resume();
        let mut refusal = None;
        loop {
            let asked = match next {
                Next::StepDown { epoch } => {
                    handover.steps.push(clock.lap(HandoverStep::TakeOver));
                    let failure = refusal.map(|error: DaemonError| error.to_string());
                    return (handover, Outcome::TakenOver { report: None, failure, epoch });
                }
                Next::RunAt { epoch } => match self.go_on_at(name, epoch).await {
                    Ok(()) => {
                        let stopped = DaemonError::Stopping { what: "the handover" };
                        return (handover, Outcome::TakenBack { cause: refusal.unwrap_or(stopped) });
                    }
                    Err(error) => {
                        tracing::warn!("this side does not go on yet: {error}");
                        if self.is_stopping_within(ASK_AGAIN).await {
                            let cause = DaemonError::Stopping { what: "the handover" };
                            return (handover, Outcome::TakenBack { cause });
                        }
                        continue;
                    }
                },
                Next::RollBack => Err(DaemonError::Stopping { what: "the handover" }),
                Next::Offer => match handover.offer() {
                    Some(offer) => self.ask_about(name, offer.into()).await,
                    None => Err(DaemonError::Stopping { what: "the handover" }),
                },
                Next::TakeBack { epoch } => {
                    handover.stage = Stage::TakingBack { epoch };
                    let kept = handover.clone();
                    match self
                        .plans
                        .update(name, |record| record.handover = record.handover.is_some().then_some(kept))
                    {
                        Ok(_) => self.ask_about(name, TakeBack { plan: name.clone(), epoch }.into()).await,
                        Err(error) => Err(error),
                    }
                }
            };
            // Whatever the peer says: a higher epoch that was learnt on another way ends it, and so does the operator.
            if let Ok(record) = self.plans.get(name)
                && (record.handover.is_none() || record.role == SiteRole::Active)
            {
                if record.role == SiteRole::Active {
                    return (
                        handover,
                        Outcome::TakenBack { cause: DaemonError::Forced { plan: name.clone() } },
                    );
                }
                let report = asked.ok().and_then(report_of);
                handover.steps.push(clock.lap(HandoverStep::TakeOver));
                return (handover, Outcome::TakenOver { report, failure: None, epoch: record.epoch });
            }
            let answer = match asked {
                Ok(frame) => {
                    if let Some(report) = report_of(frame) {
                        let epoch = report.epoch;
                        handover.steps.push(clock.lap(HandoverStep::TakeOver));
                        let report = Some(report);
                        return (handover, Outcome::TakenOver { report, failure: None, epoch });
                    }
                    Answer::Done
                }
                Err(DaemonError::Refused { peer, class, message, hint, epoch }) => {
                    tracing::warn!(class = class.label(), "{peer} does not take over: {message}");
                    refusal = Some(DaemonError::Refused { peer, class, message, hint, epoch });
                    Answer::Refused(epoch)
                }
                Err(error) => {
                    tracing::warn!("the outcome of the handover is not known yet: {error}");
                    Answer::Lost
                }
            };
            // A refusal of what is taken back changes nothing either.
            let asked_before = matches!(handover.stage, Stage::TakingBack { .. });
            next = handover.on_answer(answer);
            let is_open = answer == Answer::Lost || (asked_before && matches!(next, Next::TakeBack { .. }));
            if is_open && self.is_stopping_within(ASK_AGAIN).await {
                let cause = DaemonError::Stopping { what: "the handover" };
                return (handover, Outcome::TakenBack { cause });
            }
        }
    }

    /// Waits; says whether the daemon is stopping.
    async fn is_stopping_within(&self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.stop.cancelled()).await.is_ok()
    }

    async fn ask_about(self: &Arc<Self>, name: &PlanName, frame: Frame) -> Result<Frame, DaemonError> {
        let pair = self.plans.get(name)?.pair;
        self.net.wait_connection(pair, CONNECT_WITHIN).await?;
        let record = self.plans.get(name)?;
        if record.handover.is_none() || record.role != SiteRole::Demoting {
            // The operator did not wait for the peer: what it is asked now it would do beside this side.
            return Err(DaemonError::Forced { plan: name.clone() });
        }
        // As long as the connection stands: the peer may have much to start.
        self.ask_for_long(pair, frame).await
    }

    /// This side goes on after all, at an epoch that the peer has agreed to.
    async fn go_on_at(self: &Arc<Self>, name: &PlanName, epoch: Epoch) -> Result<(), DaemonError> {
        self.plans.update(name, |record| {
            if record.handover.is_some() {
                record.epoch = record.epoch.max(epoch);
                record.role = SiteRole::Active;
            }
        })?;
        self.roll_back(name).await
    }

    /// The workloads run again as they did. The handover is over only then: a crash in between lets go once more.
    async fn roll_back(self: &Arc<Self>, name: &PlanName) -> Result<(), DaemonError> {
        // One that learnt a higher epoch meanwhile stays held: it steps down.
        if self.plans.get(name)?.role != SiteRole::Active {
            return Ok(());
        }
        if !self.plans.get(name)?.cut_off {
            self.let_go(name).await?;
        }
        let record = self.plans.update(name, |record| record.handover = None)?;
        if record.cut_off {
            // Also if the lease was lost only now. It lets go itself when it is good again.
            self.stand_still(name).await?;
        }
        self.wake.notify_one();
        Ok(())
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
        let newest = self.newest_known(&*self.plans.get(name)?)?.map(|point| point.id);
        let mut report = composed(&handover, report, epoch, taken_time, newest);
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
                if site.plans.find(&name).is_none_or(|record| record.handover.is_none()) {
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
        let Some(handover) = record.handover.clone() else { return Ok(()) };
        let _shown = runtime.show(Activity::begin(CyclePhase::HandOver));
        if record.role == SiteRole::Active {
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
        if record.role != SiteRole::Active {
            // The peer's word came at the same moment: it did take over.
            return Err(crate::plan_ops::wrong_role(&record, "going on"));
        }
        let mut report = self.already_there(&record, Target::Home)?;
        report.warnings = vec![format!(
            "the handover is ended, and this side runs on at epoch {}; if the peer took over meanwhile, both sides run \
             until it hears of this",
            record.epoch
        )];
        Ok(report)
    }
}

fn report_of(frame: Frame) -> Option<PromotionReport> {
    match frame {
        Frame::TakenOver(taken) => serde_json::from_str(&taken.report).ok(),
        _ => None,
    }
}

/// Both sides' steps, with the times of this side's clock: from the hold to the other side's word that it runs.
fn composed(
    handover: &Handover,
    taken: Option<PromotionReport>,
    epoch: Epoch,
    taken_time: Time,
    newest: Option<RestorePointId>,
) -> PromotionReport {
    let step = |done: &StepDone| PromotionStep {
        name: done.step.to_string(),
        state: StepState::Done,
        duration_seconds: Some(done.took.as_secs_f64()),
    };
    let (point, held): (Option<RestorePointId>, Time) = match handover.stage {
        Stage::Offered { restore_point, held_time } => (Some(restore_point), held_time),
        Stage::Preparing | Stage::TakingBack { .. } => (None, handover.asked_time),
    };
    let (theirs, warnings, taken_point) = match taken {
        Some(report) => (report.steps, report.warnings, Some(report.restore_point)),
        None => (Vec::new(), Vec::new(), None),
    };
    let mut steps: Vec<PromotionStep> = handover.steps.iter().map(step).collect();
    let there = steps.iter().position(|step| step.name == HandoverStep::StepDown.to_string());
    let theirs =
        theirs.into_iter().map(|step| PromotionStep { name: format!("there: {}", step.name), ..step });
    steps.splice(there.unwrap_or(steps.len())..there.unwrap_or(steps.len()), theirs);
    PromotionReport {
        plan: handover.plan.clone(),
        epoch,
        restore_point: taken_point.or(point).or(newest).unwrap_or(RestorePointId { epoch, number: 0 }),
        rpo_seconds: 0.0,
        rto_seconds: Some(taken_time.since(held).as_secs_f64()),
        steps,
        waves: Vec::new(),
        warnings,
        dry_run: false,
    }
}

/// Measures steps that follow each other.
struct StepClock(Time);

impl StepClock {
    fn start() -> Self {
        Self(clock::now())
    }

    fn lap(&mut self, step: HandoverStep) -> StepDone {
        let now = clock::now();
        let took: Span = now.since(std::mem::replace(&mut self.0, now));
        StepDone { step, took }
    }
}
