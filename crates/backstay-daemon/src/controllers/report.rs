//! A site at one moment, in the words of the controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstay_engine::handover::HandoverStep;
use backstay_engine::retention;
use backstay_kube::control::{
    CycleReport, HostError, PairReport, Picture, PlanReport, PointReport, PromotionDone, StepReport,
};
use backstay_types::frame::SiteRole;
use backstay_types::plan::PlanSpec;
use backstay_types::{Class, Epoch, PlanName, RestorePointId, Span, Time};

use crate::DaemonError;
use crate::api_types::{
    CycleOutcome, CycleStatus, DrillReport, ErrorInfo, PlanStatus, PromotionReport, PromotionStep, StepState,
};
use crate::plans::PlanRecord;
use crate::site::Site;

/// Warnings of a promotion that a status holds.
const WARNINGS_MAX: usize = 20;

impl Site {
    /// Everything the controllers show. Reads files and the catalog: blocks. What cannot be told of a plan is no trouble
    /// of the others.
    pub(super) fn picture(&self, also: BTreeSet<PlanName>) -> Picture {
        let records = self.plans.list();
        let mut wanted = also;
        wanted.extend(records.iter().map(|record| record.name.clone()));
        let (mut points, mut untellable) = (BTreeMap::new(), BTreeMap::new());
        for name in wanted {
            match self.point_reports(&name) {
                Ok(reports) => {
                    points.insert(name, reports);
                }
                Err(error) => {
                    untellable.insert(name, error);
                }
            }
        }
        let mut plan = |record: &Arc<PlanRecord>| {
            let mut report = match self.plan_report(record) {
                Err(DaemonError::PlanNotFound { .. }) => return None,
                Err(error) => self.untold(record, &error),
                Ok(report) => report,
            };
            if let Some(error) = untellable.remove(&record.name) {
                report.apply_error.get_or_insert(HostError::new(&error));
            }
            Some((record.name.clone(), report))
        };
        Picture {
            plans: records.iter().filter_map(&mut plan).collect(),
            policies: self.plans.policies().all(),
            rules: self.plans.rules().all(),
            pairs: self.net.peers().into_iter().map(pair).collect(),
            points,
        }
    }

    fn plan_report(&self, record: &PlanRecord) -> Result<PlanReport, DaemonError> {
        let status = self.plan_status(&record.name)?;
        let steps = record.state.promotion().into_iter().flat_map(|promotion| promotion.steps());
        let step = |step: &backstay_engine::promotion::Step| StepReport {
            name: step.name.to_string(),
            state: step.state_name(),
            duration: step.duration(),
        };
        Ok(PlanReport {
            role: record.state.role(),
            promoted: self.is_alone(record)?,
            resource: record.resource.clone(),
            ended: record.state.ended(),
            epoch: record.state.epoch(),
            peer_epoch: self.runtimes.of(&record.name).peer_epoch(),
            // The name of the peer is another on its side, where the plan may come from.
            spec: PlanSpec { pair: status.peer.clone(), ..record.spec.clone() },
            cycle: status.cycle.as_ref().map(cycle),
            lag: status.lag_seconds.map(span),
            last_point: status.last_restore_point,
            last_success: self.last_success(record, &status)?,
            applied_point: status.applied_restore_point,
            next_run: status.next_run,
            last_freeze: status.last_cycle.as_ref().and_then(|last| last.freeze_seconds).map(span),
            consistency: status.last_cycle.as_ref().and_then(|last| last.consistency),
            below_crash: status.last_cycle.as_ref().and_then(|last| last.below_crash.clone()),
            cycle_error: status.last_cycle.as_ref().and_then(|last| last.error.as_ref()).map(told),
            apply_error: status.apply_error.as_ref().map(told),
            failed_objects: status.objects.as_ref().map(|objects| objects.failed),
            first_failures: status.objects.map(|objects| objects.first_failures).unwrap_or_default(),
            promotion_error: status.promotion_error.as_ref().map(told),
            promotion: steps.map(step).chain(handover_steps(record)).collect(),
        })
    }

    /// A plan of which no more is known than what it is, and why: on either side its last work counts as failed.
    fn untold(&self, record: &PlanRecord, error: &DaemonError) -> PlanReport {
        PlanReport {
            role: record.state.role(),
            promoted: false,
            resource: record.resource.clone(),
            ended: record.state.ended(),
            epoch: record.state.epoch(),
            peer_epoch: None,
            spec: PlanSpec { pair: self.peer_label(record), ..record.spec.clone() },
            cycle: None,
            lag: None,
            last_point: None,
            last_success: None,
            applied_point: None,
            next_run: None,
            last_freeze: None,
            consistency: None,
            below_crash: None,
            cycle_error: Some(HostError::new(error)),
            apply_error: Some(HostError::new(error)),
            failed_objects: None,
            first_failures: Vec::new(),
            promotion_error: None,
            promotion: Vec::new(),
        }
    }

    /// Whether this side became active, and has no restore point since: its peer has not come back as its standby.
    fn is_alone(&self, record: &PlanRecord) -> Result<bool, DaemonError> {
        let newest = self.newest_known(record)?;
        Ok(record.state.role() == SiteRole::Active
            && record.state.epoch() > Epoch::FIRST
            && newest.is_some_and(|newest| newest.id.epoch < record.state.epoch()))
    }

    /// When the newest restore point was committed. A sender that was restarted knows only when its snapshot was taken.
    fn last_success(&self, record: &PlanRecord, status: &PlanStatus) -> Result<Option<Time>, DaemonError> {
        if record.state.role() != SiteRole::Active {
            return Ok(self.store.newest(&record.name)?.map(|point| point.committed_time));
        }
        let last = status.last_cycle.as_ref().filter(|last| last.outcome == CycleOutcome::Succeeded);
        if let Some(last) = last {
            return Ok(Some(last.started_time.plus(span(last.duration_seconds))));
        }
        Ok(self.newest_known(record)?.map(|point| point.committed_time))
    }

    /// The restore points of a plan that are here.
    fn point_reports(&self, name: &PlanName) -> Result<Vec<PointReport>, DaemonError> {
        let points = self.store.points(name)?;
        let rules = match self.plans.find(name) {
            Some(record) => {
                let times: Vec<_> = points.iter().map(|point| (point.id, point.snapshot_time)).collect();
                retention::verdicts(&times, &record.spec.retention, &self.points_in_use(name)?)
            }
            // Without its plan no rule lets a point go.
            None => Vec::new(),
        };
        let held_by = |id: RestorePointId| {
            let verdict = rules.iter().find(|verdict| verdict.id == id);
            verdict.map(|verdict| verdict.rules.iter().map(ToString::to_string).collect()).unwrap_or_default()
        };
        let report = |point: &backstay_types::point::RestorePoint| {
            Ok(PointReport {
                plan: name.clone(),
                id: point.id,
                snapshot_time: point.snapshot_time,
                committed_time: point.committed_time,
                consistency: point.consistency,
                bytes: point.volumes.iter().map(|volume| volume.bytes).sum(),
                bytes_changed: point.stats.bytes_changed,
                wire_bytes: point.stats.wire_bytes,
                objects: point.bundle.as_ref().map(|bundle| bundle.objects),
                held_by: held_by(point.id),
                is_damaged: self.store.damage(name, point.id)?.is_some(),
            })
        };
        points.iter().map(report).collect()
    }
}

fn pair(peer: backstay_net::PeerStatus) -> PairReport {
    PairReport {
        peer: peer.record.name.clone(),
        endpoints: peer.record.endpoints.clone(),
        is_connected: peer.connected,
        last_seen: peer.last_seen,
        round_trip: peer.rtt.map(|rtt| Span(u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX))),
    }
}

fn cycle(cycle: &CycleStatus) -> CycleReport {
    CycleReport {
        phase: cycle.phase.as_str(),
        percent: u8::try_from(whole(cycle.percent.unwrap_or(0.0)).min(100)).unwrap_or(100),
        bytes_per_second: whole(cycle.bytes_per_second),
        eta_seconds: cycle.eta_seconds.map(whole),
        bytes_done: cycle.bytes_done,
        bytes_total: cycle.bytes_total,
    }
}

/// A drill that is over; one that failed is an error, since nothing else of its `Failover` says so.
pub(super) fn drill(report: DrillReport) -> Result<PromotionDone, DaemonError> {
    if !report.passed {
        let probe = report.probes.iter().find(|probe| !probe.passed);
        let probe = probe.map(|probe| format!("probe {}: {}", probe.name, probe.message));
        let why = report.error.map(|error| error.message).or(probe);
        let why = why.unwrap_or_else(|| "not all steps were done".into());
        let message = format!("drill {} failed: {why}", report.number);
        return Err(DaemonError::Decision { class: Class::Incomplete, message, hint: None });
    }
    Ok(promotion(PromotionReport {
        plan: report.plan,
        epoch: report.epoch,
        restore_point: report.restore_point,
        consistency: report.consistency,
        rpo_seconds: report.rpo_seconds,
        rpo_counted_from: None,
        rto_seconds: report.rto_seconds,
        steps: report.steps,
        waves: Vec::new(),
        warnings: report.warnings,
        nothing_lost: false,
        dry_run: false,
    }))
}

/// A finished promotion, or the plan of one.
pub(super) fn promotion(report: PromotionReport) -> PromotionDone {
    let step = |step: PromotionStep| StepReport {
        name: step.name,
        state: match step.state {
            StepState::Pending => "pending",
            StepState::Done => "done",
            StepState::Skipped => "skipped",
            StepState::Failed => "failed",
        },
        duration: step.duration_seconds.map(span),
    };
    PromotionDone {
        epoch: report.epoch,
        restore_point: report.restore_point,
        rpo: span(report.rpo_seconds),
        rto: report.rto_seconds.map(span),
        steps: report.steps.into_iter().map(step).collect(),
        waves: report.waves,
        warnings: report.warnings.into_iter().take(WARNINGS_MAX).collect(),
    }
}

fn told(error: &ErrorInfo) -> HostError {
    HostError { class: error.class, message: error.message.clone(), hint: error.hint.clone() }
}

/// Seconds of the admin API.
fn span(seconds: f64) -> Span {
    let length = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    Span(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}

/// A rate or a percentage without its fraction.
fn whole(number: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(number).unwrap_or_default().as_secs()
}

/// The steps of the handover under way on the side that gives.
fn handover_steps(record: &PlanRecord) -> impl Iterator<Item = StepReport> {
    record.state.handover().into_iter().flat_map(|handover| {
        HandoverStep::ALL.into_iter().map(move |step| {
            let done = handover.steps.iter().find(|done| done.step == step);
            StepReport {
                name: step.to_string(),
                state: if done.is_some() { "done" } else { "pending" },
                duration: done.map(|done| done.took),
            }
        })
    })
}
