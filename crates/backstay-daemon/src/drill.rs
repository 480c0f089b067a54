//! Drills: the takeover of a plan rehearsed on copies, where it disturbs nobody, while replication goes on.
//!
//! 1. Replicas, held objects, role and epoch are only read. The plan's apply gate is held while replicas are cloned, its
//!    cycle gate never (test `replication_goes_on_beside_a_drill`).
//! 2. What a drill makes is on record before it is made, and removed at its end whatever happened, unless it is to be
//!    kept (test `a_killed_drill_leaves_nothing`).
//! 3. The restore point does not expire meanwhile ([`Drills::pinned`]).
//!
//! At a crash: the next start removes what the record names.

mod cluster;
mod copies;
mod error;
mod history;
mod left_over;
mod objects;
mod probes;
mod registry;

use std::path::PathBuf;
use std::sync::Arc;

use backstay_engine::drill::{
    self, Drill, DrillFacts, DrillRefused, Step, StepName, StepState as EngineState,
};
use backstay_kube::cluster::Isolated;
use backstay_types::plan::DrillSpec;
use backstay_types::point::RestorePoint;
use backstay_types::{Classify, PlanName, RestorePointId, Span};
use backstay_volume::Progress;
use tracing::Instrument;

use crate::api_types::{
    DrillReport, DrillRequest, DrillVolume, ErrorInfo, ProbeReport, PromotionReport, PromotionStep, StepState,
};
use crate::plans::PlanRecord;
use crate::site::{Site, layout};
use crate::{DaemonError, clock};

use copies::Copies;
pub(crate) use error::DrillError;
use left_over::LeftOver;
pub(crate) use registry::Drills;
use registry::Place;

impl Site {
    /// Rehearses the takeover of a plan. A drill that was begun and failed is reported, not an error.
    pub(crate) async fn drill(
        self: &Arc<Self>,
        name: &PlanName,
        request: DrillRequest,
    ) -> Result<DrillReport, DaemonError> {
        // A task of its own: whoever asked may hang up, and what was made is removed all the same.
        let (site, plan) = (self.clone(), name.clone());
        let span = tracing::info_span!("drill", plan = %name);
        let task = self.tasks.spawn(async move { site.drill_one(&plan, request).await }.instrument(span));
        task.await.map_err(|_| DaemonError::Worker { what: "the drill" })?
    }

    async fn drill_one(
        self: &Arc<Self>,
        name: &PlanName,
        request: DrillRequest,
    ) -> Result<DrillReport, DaemonError> {
        let record = self.plans.get(name)?;
        let place = self.drills.enter(name);
        let drill = self.plan_drill(&record, request, place.is_none())?;
        let under_way = || DrillError::from(DrillRefused::UnderWay { plan: name.clone() });
        let place = place.ok_or_else(under_way)?;
        // What an earlier one left, or was to keep.
        self.remove_drills(name).await?;
        let left = LeftOver::of(&drill, record.spec.covers_cluster());
        self.note_drill(&left)?;
        tracing::info!(number = drill.number, restore_point = %drill.restore_point, "drill begins");
        let mut report = Rehearsal::new(self, record, drill, left).run(&place).await;
        report.consistency = self.word_of(name, report.restore_point);
        if let Err(error) = self.remember_drill(&report) {
            // It was carried out all the same, and whoever asked is to know how it went.
            tracing::error!(class = error.class().label(), "drill not added to the history: {error}");
        }
        let DrillReport { number, passed, rto_seconds, .. } = report;
        tracing::info!(number, passed, rto_seconds, "drill ended");
        Ok(report)
    }

    /// What a drill would do, or why it is refused.
    fn plan_drill(
        &self,
        record: &PlanRecord,
        request: DrillRequest,
        running: bool,
    ) -> Result<Drill, DaemonError> {
        let name = &record.name;
        self.must_have_points(name)?;
        let facts = DrillFacts {
            plan: name,
            number: self.next_drill(name)?,
            role: record.state.role(),
            epoch: record.state.epoch(),
            changes_roles: record.state.promotion().is_some() || record.state.handover().is_some(),
            running,
            points: &self.point_facts(name)?,
            wanted: request.restore_point,
            has_objects: record.spec.covers_cluster() || record.spec.manifests.is_some(),
            on_cluster: record.spec.covers_cluster(),
            probes: record.spec.drill.as_ref().map_or(0, |drill| drill.probes.len()),
            keep: request.keep,
        };
        Ok(drill::plan(&facts, clock::now()).map_err(DrillError::from)?)
    }

    /// The same for those who want to know before they ask for it.
    pub(crate) fn drill_preview(
        &self,
        name: &PlanName,
        restore_point: Option<RestorePointId>,
    ) -> Result<PromotionReport, DaemonError> {
        let request = DrillRequest { restore_point, keep: false };
        let drill = self.plan_drill(&*self.plans.get(name)?, request, false)?;
        Ok(PromotionReport {
            plan: name.clone(),
            epoch: drill.epoch,
            restore_point: drill.restore_point,
            consistency: self.word_of(name, drill.restore_point),
            rpo_seconds: drill.outcome().rpo.as_secs_f64(),
            rpo_counted_from: None,
            rto_seconds: None,
            steps: drill.steps().iter().map(told_step).collect(),
            waves: Vec::new(),
            warnings: drill.warnings,
            nothing_lost: false,
            dry_run: true,
        })
    }

    /// Removes what kept drills of a plan left; tells whether there was anything.
    pub(crate) async fn clean_drills(self: &Arc<Self>, name: &PlanName) -> Result<bool, DaemonError> {
        let place = self.drills.enter(name);
        let _place = place.ok_or_else(|| DrillError::from(DrillRefused::UnderWay { plan: name.clone() }))?;
        let removed = self.remove_drills(name).await?;
        if !removed && self.plans.find(name).is_none() {
            return Err(self.plans.unknown(name));
        }
        Ok(removed)
    }
}

/// How a drill went, for the audit log.
pub(crate) fn told(report: &DrillReport) -> String {
    let outcome = if report.passed { "passed" } else { "failed" };
    let kept = if report.kept { ", kept" } else { "" };
    format!("{} of {}: {outcome}{kept}", report.number, report.restore_point)
}

/// A drill that is carried out.
struct Rehearsal {
    site: Arc<Site>,
    record: Arc<PlanRecord>,
    drill: Drill,
    left: LeftOver,
    folder: PathBuf,
    progress: Progress,
    volumes: Vec<DrillVolume>,
    /// The objects on the cluster, once there are any.
    isolated: Option<Isolated>,
    probes: Vec<ProbeReport>,
    error: Option<ErrorInfo>,
}

impl Rehearsal {
    fn new(site: &Arc<Site>, record: Arc<PlanRecord>, drill: Drill, left: LeftOver) -> Self {
        Self {
            site: site.clone(),
            record,
            folder: site.drill_folder(&left),
            drill,
            left,
            progress: Progress::new(),
            volumes: Vec::new(),
            isolated: None,
            probes: Vec::new(),
            error: None,
        }
    }

    async fn run(mut self, place: &Place<'_>) -> DrillReport {
        if let Err(error) = self.carry_out(place).await {
            // Steps out of order are a mistake of ours; what was made is removed at the next start.
            tracing::error!(class = error.class().label(), "drill broke off: {error}");
            self.error.get_or_insert_with(|| ErrorInfo::new(&error));
        }
        self.report()
    }

    async fn carry_out(&mut self, place: &Place<'_>) -> Result<(), DrillError> {
        let runtime = self.site.runtimes.of(&self.drill.plan);
        let mut copies = None;
        while let Some(step) = self.drill.next_step() {
            self.drill.start(step, clock::now())?;
            let done = match step {
                StepName::CheckRestorePoint => {
                    // Held until the replicas are cloned: nothing writes them meanwhile, and the point, once it is
                    // pinned, can no longer expire.
                    let gate = runtime.apply.lock().await;
                    place.pin(self.drill.restore_point);
                    self.check().await.map(|found| copies = Some((found, gate)))
                }
                StepName::Volumes => match copies.take() {
                    Some((found, gate)) => self.copy(found, gate).await,
                    None => Ok(()),
                },
                StepName::Objects => self.start_objects().await,
                StepName::WaitReady => self.wait_ready().await,
                StepName::Probes => self.probe().await,
                StepName::TearDown => self.site.remove_drill(&self.left).await,
            };
            match done {
                Ok(()) => self.drill.complete(step, clock::now())?,
                Err(error) => {
                    tracing::warn!(class = error.class().label(), %step, "drill: {error}");
                    self.error.get_or_insert_with(|| ErrorInfo::new(&error));
                    copies = None;
                    self.drill.fail(step, clock::now())?;
                }
            }
        }
        Ok(())
    }

    /// Copies of the volumes: first clones, while nothing writes the replicas, then what has to come from the store.
    async fn copy(
        &mut self,
        copies: Copies,
        gate: tokio::sync::MutexGuard<'_, ()>,
    ) -> Result<(), DaemonError> {
        let (cloned, restored) = copies.apart();
        self.make(cloned).await?;
        drop(gate);
        self.make(restored).await
    }

    /// The settings of drills in the plan.
    fn spec(&self) -> DrillSpec {
        self.record.spec.drill.clone().unwrap_or_default()
    }

    fn point(&self) -> Result<RestorePoint, DaemonError> {
        Ok(self.site.store.point(&self.drill.plan, self.drill.restore_point)?)
    }

    fn report(self) -> DrillReport {
        let Self { drill, folder, volumes, isolated, probes, error, .. } = self;
        let outcome = drill.outcome();
        DrillReport {
            number: drill.number,
            time: drill.asked_time,
            passed: outcome.passed && error.is_none(),
            epoch: drill.epoch,
            restore_point: drill.restore_point,
            consistency: None,
            rpo_seconds: outcome.rpo.as_secs_f64(),
            rto_seconds: outcome.rto.map(Span::as_secs_f64),
            steps: drill.steps().iter().map(told_step).collect(),
            kept: drill.keep,
            warnings: drill.warnings,
            plan: drill.plan,
            folder,
            volumes,
            namespaces: isolated.map(|isolated| isolated.namespaces).unwrap_or_default(),
            probes,
            error,
        }
    }
}

impl Site {
    fn drills_folder(&self) -> PathBuf {
        self.dir.join(layout::DRILLS)
    }
}

/// A step for the report.
fn told_step(step: &Step) -> PromotionStep {
    PromotionStep {
        name: step.name.to_string(),
        state: match step.state {
            EngineState::Pending | EngineState::Running { .. } => StepState::Pending,
            EngineState::Done { .. } => StepState::Done,
            EngineState::Failed { .. } => StepState::Failed,
            EngineState::Skipped => StepState::Skipped,
        },
        duration_seconds: step.duration().map(Span::as_secs_f64),
    }
}
