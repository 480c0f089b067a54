//! Brings the replicas of a plan to a restore point.
//!
//! 1. The target is on disk before the first byte is touched, and stays there until all volumes and objects
//!    show it; an apply that was cut off is finished before anything else is applied.
//! 2. No replica is written where workloads beside it were written at a higher epoch, as far as the cluster answers: a site
//!    brought back from a backup does not know of them.
//! 3. Applying is idempotent: what the manifests of two points say differs is written, and writing it twice
//!    changes nothing.
//!
//! At a crash: the next start finishes the apply; a promotion finishes it first.

mod cluster;

use std::sync::Arc;

use backstay_engine::retention::Rule;
use backstay_kube::failure::Failures;
use backstay_kube::folder::{self, ApplyOptions, CapturedObject};
use backstay_types::frame::SiteRole;
use backstay_types::point::{Consistency, RestorePoint};
use backstay_types::{Class, Classify, PlanName, RestorePointId, Span};

use crate::api_types::{CyclePhase, ErrorInfo};
use crate::plans::{Applied, AppliedObjects};
use crate::runtime::{Activity, PlanRuntime};
use crate::site::Site;
use crate::{DaemonError, clock, private};

pub(crate) use cluster::named;

/// How long a diverged restore point stays: time enough for somebody to look what is in it.
const DIVERGED_KEPT: Span = Span(30 * 24 * 3_600_000);

impl Site {
    /// Brings the replicas of a standby plan to its newest restore point, in a task of its own.
    pub(crate) fn apply_newest_soon(self: &Arc<Self>, plan: PlanName) {
        let site = self.clone();
        self.tasks.spawn(async move { site.apply_newest(&plan).await });
    }

    /// Brings the replicas to the newest restore point now. A failure is logged, counted and shown in status; the
    /// next commit or start tries again.
    pub(crate) async fn apply_newest(self: &Arc<Self>, plan: &PlanName) {
        let runtime = self.runtimes.of(plan);
        let result = self.try_apply_newest(plan, &runtime).await;
        if result.is_err() && self.stop.is_cancelled() {
            tracing::info!(%plan, "the apply was cut off by the stop; it goes on at the next start");
            return;
        }
        if let Err(error) = &result {
            self.metrics.count_error(error.class());
            tracing::error!(%plan, class = error.class().label(), "replica not brought up to date: {error}");
        }
        runtime.set_apply_error(result.as_ref().err().map(|error| ErrorInfo::new(error)));
    }

    async fn try_apply_newest(
        self: &Arc<Self>,
        plan: &PlanName,
        runtime: &PlanRuntime,
    ) -> Result<(), DaemonError> {
        let _gate = runtime.apply.lock().await;
        if self.plans.get(plan)?.role != SiteRole::Standby {
            return Ok(());
        }
        let Some(newest) = self.store.newest(plan)? else { return Ok(()) };
        let (site, name, point) = (self.clone(), plan.clone(), newest.clone());
        self.blocking("looking at the places", move || site.check_places(&name, &point)).await?;
        let activity = Activity::begin(CyclePhase::Apply);
        let _shown = runtime.show(activity.clone());
        self.bring_to(plan, newest, activity).await
    }

    /// Refuses to write where another plan reads or writes as well: a changed site.toml may have brought them together.
    fn check_places(&self, plan: &PlanName, point: &RestorePoint) -> Result<(), DaemonError> {
        let record = self.plans.get(plan)?;
        let withheld = self.withheld(&record, point)?.volumes;
        let mut volumes = point.volumes.iter().filter(|volume| !withheld.contains(&volume.name));
        volumes.try_for_each(|volume| self.check_alone(&record, &self.place(plan, &volume.name)))
    }

    /// Brings the replicas to `point`. The caller holds the plan's apply gate.
    pub(crate) async fn bring_to(
        self: &Arc<Self>,
        plan: &PlanName,
        point: RestorePoint,
        activity: Arc<Activity>,
    ) -> Result<(), DaemonError> {
        let (site, plan) = (self.clone(), plan.clone());
        self.blocking("apply", move || site.bring_to_blocking(&plan, &point, &activity)).await
    }

    fn bring_to_blocking(
        &self,
        plan: &PlanName,
        point: &RestorePoint,
        activity: &Activity,
    ) -> Result<(), DaemonError> {
        let mut applied = self.plans.applied(plan)?;
        if let Some(unfinished) = applied.target.filter(|target| *target != point.id) {
            // Only the difference between two whole points can be applied: finish the one that was begun.
            let finished = self
                .store
                .point(plan, unfinished)
                .map_err(DaemonError::from)
                .and_then(|unfinished| self.apply_point(plan, &mut applied, &unfinished, activity));
            match finished {
                Err(error) if matches!(error.class(), Class::Corrupt | Class::NotFound) => {
                    tracing::warn!(
                        "the apply of {unfinished} that was cut off cannot be finished ({error}): the replicas are \
                         compared with {} in full",
                        point.id
                    );
                    applied.volumes.clear();
                    applied.objects = None;
                }
                finished => finished?,
            }
        }
        let record = self.plans.get(plan)?;
        if applied.point != Some(point.id)
            || applied.target.is_some()
            || applied.withheld != self.withheld(&record, point)?
        {
            self.apply_point(plan, &mut applied, point, activity)?;
        }
        Ok(())
    }

    fn apply_point(
        &self,
        plan: &PlanName,
        applied: &mut Applied,
        point: &RestorePoint,
        activity: &Activity,
    ) -> Result<(), DaemonError> {
        let withheld = self.withheld(&*self.plans.get(plan)?, point)?;
        if !withheld.is_empty() && withheld != applied.withheld {
            tracing::warn!(
                "kept and not applied, since nobody here has accepted it: {}",
                withheld.names().join(", ")
            );
        }
        let volumes = || point.volumes.iter().filter(|volume| !withheld.volumes.contains(&volume.name));
        activity.enter(CyclePhase::Apply, volumes().map(|volume| volume.bytes).sum());
        if volumes().any(|volume| applied.volumes.get(&volume.name) != Some(&volume.root)) {
            self.check_epoch_on_cluster(plan)?;
        }
        applied.target = Some(point.id);
        self.plans.set_applied(plan, applied)?;
        let reader = self.store.reader(point.pair);
        for volume in volumes() {
            let from = applied.volumes.get(&volume.name).copied();
            if from == Some(volume.root) {
                continue;
            }
            let target = self.place(plan, &volume.name);
            self.check_alone(&*self.plans.get(plan)?, &target)?;
            private::make_way(&self.dir, &target)?;
            let report = backstay_volume::apply(
                &reader,
                from.as_ref(),
                &volume.root,
                volume.kind,
                &target,
                &activity.progress,
            )?;
            if from.is_some() && report.compared_in_full {
                tracing::warn!(volume = %volume.name, "the replica was not as it was left: compared and made whole");
            }
            applied.volumes.insert(volume.name.clone(), volume.root);
            self.plans.set_applied(plan, applied)?;
        }
        applied.volumes.retain(|name, _| point.volume(name).is_some());
        if !withheld.manifests {
            self.apply_objects(plan, applied, point)?;
        }
        applied.withheld = withheld;
        applied.point = Some(point.id);
        applied.target = None;
        applied.time = Some(clock::now());
        self.plans.set_applied(plan, applied)
    }

    fn apply_objects(
        &self,
        plan: &PlanName,
        applied: &mut Applied,
        point: &RestorePoint,
    ) -> Result<(), DaemonError> {
        let spec = self.plans.get(plan)?.spec.clone();
        if spec.covers_cluster() {
            // Every time: somebody may have changed the objects since. An unchanged one costs no request.
            applied.objects = None;
            return self.apply_to_cluster(plan, &spec, applied, point, self.bundle(point)?);
        }
        if applied.cluster.is_some() {
            // The plan has no namespaces any more: what they brought goes.
            self.apply_to_cluster(plan, &spec, applied, point, Vec::new())?;
            applied.cluster = None;
        }
        let wanted = point.bundle.as_ref().map(|bundle| AppliedObjects::new(bundle.root, &spec));
        if applied.objects == wanted {
            return Ok(());
        }
        let objects = self.bundle(point)?;
        let options = ApplyOptions {
            plan,
            restore_point: point.id,
            holds: &spec.holds,
            start_applications: spec.start_applications,
            purge_all: false,
        };
        let report = folder::apply_held(&self.manifests(plan), &objects, &options)?;
        report.failures.check(plan)?;
        applied.objects = wanted;
        Ok(())
    }

    /// The objects of a restore point; none if its plan had none, and then what was applied before goes.
    pub(crate) fn bundle(&self, point: &RestorePoint) -> Result<Vec<CapturedObject>, DaemonError> {
        let Some(bundle) = &point.bundle else { return Ok(Vec::new()) };
        let reader = self.store.reader(point.pair);
        let objects = backstay_volume::read_bundle(&reader, &bundle.root)?;
        let objects = objects.map(|object| object.map(|(key, bytes)| CapturedObject { key, bytes }));
        Ok(objects.collect::<Result<_, _>>()?)
    }

    /// The points that must stay whatever the plan's retention says: those that a replica shows or is on its way to or
    /// from, or that a drill has copied, and what was kept of a side that had lost the active role.
    pub(crate) fn points_in_use(&self, plan: &PlanName) -> Result<Vec<(RestorePointId, Rule)>, DaemonError> {
        let applied = self.plans.applied(plan)?;
        let in_use = applied.point.into_iter().chain(applied.target).chain(self.drills.pinned(plan));
        let now = clock::now();
        let points = self.store.points(plan)?;
        let diverged = points.iter().filter(|point| {
            point.consistency == Consistency::Diverged && now.since(point.committed_time) < DIVERGED_KEPT
        });
        let diverged = diverged.map(|point| (point.id, Rule::Diverged));
        Ok(in_use.map(|id| (id, Rule::InUse)).chain(diverged).collect())
    }
}

/// Failures of single objects as one error.
pub(crate) trait CheckFailures {
    /// An error if any object failed, naming the first.
    fn check(&self, plan: &PlanName) -> Result<(), DaemonError>;
}

impl CheckFailures for Failures {
    fn check(&self, plan: &PlanName) -> Result<(), DaemonError> {
        match self.named.first() {
            None => Ok(()),
            Some(first) => Err(DaemonError::Objects {
                plan: plan.clone(),
                failed: self.count,
                first: format!("{}: {}", first.key, first.message),
            }),
        }
    }
}
