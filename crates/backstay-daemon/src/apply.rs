//! Brings the replicas of a plan to a restore point.
//!
//! 1. The target is on disk before the first byte is touched, and stays there until all volumes and objects
//!    show it. An apply that was cut off, or cannot be finished, blocks no other: what it did is seen, and any point can be
//!    applied over it (tests `a_point_that_does_not_fit_blocks_no_later_one` and its like).
//! 2. No replica is written where workloads beside it were written at a higher epoch, as far as the cluster answers: a site
//!    brought back from a backup does not know of them.
//! 3. No replica is written that somebody else writes, and none that was a source before everybody has let go of it: they
//!    are named, and it goes on once they are gone (tests of `hosthold`).
//! 4. Replicas are believed only as far as they were looked at: see [`replicas`].
//!
//! At a crash: the next start, or a promotion, applies what is wanted then.

mod cluster;
mod replicas;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backstay_engine::retention::Rule;
use backstay_kube::failure::Failures;
use backstay_kube::folder::{self, ApplyOptions, CapturedObject};
use backstay_store::ChunkReader;
use backstay_types::frame::SiteRole;
use backstay_types::plan::PlanSpec;
use backstay_types::point::{Bundle, Consistency, PointVolume, RestorePoint};
use backstay_types::{Class, Classify, PairId, PlanName, RestorePointId, Span};

use crate::api_types::{CyclePhase, ErrorInfo};
use crate::open_files::{self, Counts};
use crate::plans::{Applied, AppliedObjects};
use crate::proposed::Withheld;
use crate::runtime::{Activity, PlanRuntime};
use crate::site::Site;
use crate::{DaemonError, clock};

pub(crate) use cluster::named;

/// How long a diverged restore point stays: time enough for somebody to look what is in it.
const DIVERGED_KEPT: Span = Span(30 * 24 * 3_600_000);

/// Between two looks whether a volume is let go of: a look costs some milliseconds for a thousand processes.
const UNUSED_LOOK_EVERY: Duration = Duration::from_secs(2);

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
        if let Err(error @ DaemonError::InUse { .. }) = &result {
            if runtime.apply_error().is_none_or(|told| told.message != error.to_string()) {
                tracing::warn!(%plan, "replica not brought up to date: {error}");
            }
            self.apply_once_unused_soon(plan.clone(), &runtime);
        } else if let Err(error) = &result {
            self.metrics.count_error(error.class());
            tracing::error!(%plan, class = error.class().label(), "replica not brought up to date: {error}");
        }
        runtime.set_apply_error(result.as_ref().err().map(|error| ErrorInfo::new(error)));
    }

    /// Tries again in a while: nobody tells when a volume is let go of.
    fn apply_once_unused_soon(self: &Arc<Self>, plan: PlanName, runtime: &PlanRuntime) {
        if runtime.waits_unused.swap(true, Ordering::SeqCst) {
            return;
        }
        let site = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(UNUSED_LOOK_EVERY) => {}
                () = site.stop.cancelled() => return,
            }
            site.runtimes.of(&plan).waits_unused.store(false, Ordering::SeqCst);
            if site.plans.find(&plan).is_some() {
                site.apply_newest(&plan).await;
            }
        });
    }

    async fn try_apply_newest(
        self: &Arc<Self>,
        plan: &PlanName,
        runtime: &PlanRuntime,
    ) -> Result<(), DaemonError> {
        let _gate = runtime.apply.lock().await;
        if self.plans.get(plan)?.state.role() != SiteRole::Standby {
            return Ok(());
        }
        let Some(newest) = self.store.newest(plan)? else { return Ok(()) };
        // Whatever fails from here on is told to the active side as of this point, which may be waiting for it.
        runtime.set_apply_target(newest.id);
        let (site, name, point) = (self.clone(), plan.clone(), newest.clone());
        self.blocking("looking at the places", move || site.check_places(&name, &point)).await?;
        let activity = Activity::begin(CyclePhase::Apply);
        let _shown = runtime.show(activity.clone());
        self.bring_to(plan, newest, activity).await.map(drop)
    }

    /// Refuses to write where another plan reads or writes as well: a changed site.toml may have brought them together.
    fn check_places(&self, plan: &PlanName, point: &RestorePoint) -> Result<(), DaemonError> {
        let record = self.plans.get(plan)?;
        let withheld = self.withheld(&record, point)?.volumes;
        let mut volumes = point.volumes.iter().filter(|volume| !withheld.contains(&volume.name));
        volumes.try_for_each(|volume| self.check_alone(&record, &self.place(plan, &volume.name)))
    }

    /// Brings the replicas to `point`, wherever they are. Gives what was found in them that nobody had applied. The caller
    /// holds the plan's apply gate.
    pub(crate) async fn bring_to(
        self: &Arc<Self>,
        plan: &PlanName,
        point: RestorePoint,
        activity: Arc<Activity>,
    ) -> Result<Vec<String>, DaemonError> {
        let (site, plan) = (self.clone(), plan.clone());
        self.blocking("apply", move || site.bring_to_blocking(&plan, &point, &activity)).await
    }

    pub(crate) fn bring_to_blocking(
        &self,
        plan: &PlanName,
        point: &RestorePoint,
        activity: &Activity,
    ) -> Result<Vec<String>, DaemonError> {
        let mut applied = self.plans.applied(plan)?;
        let (point, withheld) = &self.accepted_of(plan, point)?;
        self.check_mounted(plan, &applied, point)?;
        if applied.withheld == *withheld && self.is_untouched(plan, &applied, point)? {
            let before = applied.clone();
            let told = match withheld.manifests {
                true => Vec::new(),
                false => self.apply_folder(plan, &mut applied, point)?,
            };
            applied.warn(point, told.clone());
            if applied != before {
                self.plans.set_applied(plan, &applied)?;
            }
            return Ok(told);
        }
        if !withheld.is_empty() && *withheld != applied.withheld {
            tracing::warn!(
                "kept and not applied, since nobody here has accepted it: {}",
                withheld.names().join(", ")
            );
        }
        match self.apply_point(plan, &mut applied, point, withheld, activity) {
            Err(error)
                if matches!(error.class(), Class::Corrupt | Class::NotFound) && !applied.marks.is_empty() =>
            {
                tracing::warn!(
                    "the difference to {} cannot be applied ({error}): the replicas are compared with it in full",
                    point.id
                );
                // The mounts stay known.
                applied.volumes.clear();
                applied.objects = None;
                self.apply_point(plan, &mut applied, point, withheld, activity)
            }
            outcome => outcome,
        }
    }

    /// A point without the volumes that nobody here has accepted, and what they are.
    pub(crate) fn accepted_of(
        &self,
        plan: &PlanName,
        point: &RestorePoint,
    ) -> Result<(RestorePoint, Withheld), DaemonError> {
        let withheld = self.withheld(&*self.plans.get(plan)?, point)?;
        let mut point = point.clone();
        point.volumes.retain(|volume| !withheld.volumes.contains(&volume.name));
        Ok((point, withheld))
    }

    fn apply_point(
        &self,
        plan: &PlanName,
        applied: &mut Applied,
        point: &RestorePoint,
        withheld: &Withheld,
        activity: &Activity,
    ) -> Result<Vec<String>, DaemonError> {
        activity.enter(CyclePhase::Apply, point.volumes.iter().map(|volume| volume.bytes).sum());
        let changes = |volume: &&PointVolume| applied.volumes.get(&volume.name) != Some(&volume.root);
        let changing: Vec<_> =
            point.volumes.iter().filter(changes).map(|volume| self.place(plan, &volume.name)).collect();
        if !changing.is_empty() {
            self.check_may_write(plan, &changing, applied)?;
        }
        if !applied.volumes.is_empty() && self.applied_pair(plan, applied) != Some(point.pair) {
            tracing::info!("{} has ids of another key than what is shown: compared in full", point.id);
            applied.volumes.clear();
            applied.objects = None;
        }
        applied.pair = Some(point.pair);
        // What a side kept, and what an apply that was cut off has done, is nobody's doing.
        let is_ours = applied.kept || applied.target.is_some();
        if !changing.is_empty() {
            self.begin_apply(plan, applied, point)?;
        }
        let mut told = Vec::new();
        for volume in &point.volumes {
            let before = applied.marks.get(&volume.name).cloned();
            told.extend(self.apply_volume(plan, applied, point, volume, is_ours, activity)?);
            if applied.marks.get(&volume.name) != before.as_ref() {
                self.plans.set_applied(plan, applied)?;
            }
        }
        applied.volumes.retain(|name, _| point.volume(name).is_some());
        applied.marks.retain(|name, _| point.volume(name).is_some());
        self.begin_apply(plan, applied, point)?;
        if !withheld.manifests {
            told.extend(self.apply_objects(plan, applied, point)?);
        }
        applied.withheld = withheld.clone();
        applied.point = Some(point.id);
        applied.target = None;
        applied.kept &= changing.is_empty();
        applied.time = Some(clock::now());
        applied.warn(point, told.clone());
        self.plans.set_applied(plan, applied)?;
        Ok(told)
    }

    /// Records what the replicas are on their way to, before the first byte of them is written and not before it may be.
    fn begin_apply(
        &self,
        plan: &PlanName,
        applied: &mut Applied,
        point: &RestorePoint,
    ) -> Result<(), DaemonError> {
        if applied.target == Some(point.id) {
            return Ok(());
        }
        applied.target = Some(point.id);
        self.plans.set_applied(plan, applied)
    }

    /// Refuses to write volumes beside workloads of a higher epoch, or under somebody who has them open. Blocks.
    fn check_may_write(
        &self,
        plan: &PlanName,
        places: &[PathBuf],
        applied: &Applied,
    ) -> Result<(), DaemonError> {
        self.check_epoch_on_cluster(plan)?;
        self.check_unused(plan, places, whom(applied))
    }

    /// Refuses to write volumes that somebody has open. Blocks.
    pub(crate) fn check_unused(
        &self,
        plan: &PlanName,
        places: &[PathBuf],
        counts: Counts,
    ) -> Result<(), DaemonError> {
        let users = open_files::users(places, counts, &BTreeSet::new())
            .map_err(|source| DaemonError::io("look who uses", Path::new("/proc"), source))?;
        match users.is_empty() {
            true => Ok(()),
            false => {
                let users = users.iter().take(open_files::NAMED_MAX).map(ToString::to_string).collect();
                Err(DaemonError::InUse { plan: plan.clone(), users })
            }
        }
    }

    /// The pair whose hashing key made the ids of what is shown; an older version did not write it down.
    pub(crate) fn applied_pair(&self, plan: &PlanName, applied: &Applied) -> Option<PairId> {
        let of_point = || Some(self.store.point(plan, applied.point?).ok()?.pair);
        applied.pair.or_else(of_point)
    }

    fn apply_objects(
        &self,
        plan: &PlanName,
        applied: &mut Applied,
        point: &RestorePoint,
    ) -> Result<Vec<String>, DaemonError> {
        let spec = self.plans.get(plan)?.spec.clone();
        if spec.covers_cluster() {
            // Every time: somebody may have changed the objects since. An unchanged one costs no request.
            (applied.objects, applied.object_files) = (None, None);
            self.apply_to_cluster(plan, &spec, applied, point, self.bundle(point)?)?;
            return Ok(Vec::new());
        }
        if applied.cluster.is_some() {
            // The plan has no namespaces any more: what they brought goes.
            self.apply_to_cluster(plan, &spec, applied, point, Vec::new())?;
            applied.cluster = None;
        }
        self.apply_folder(plan, applied, point)
    }

    /// The objects in the folder of manifests. Every time: somebody may have changed the files since. Files that look as
    /// they were left cost one `stat` each. Gives what was found that nobody had applied.
    fn apply_folder(
        &self,
        plan: &PlanName,
        applied: &mut Applied,
        point: &RestorePoint,
    ) -> Result<Vec<String>, DaemonError> {
        let spec = self.plans.get(plan)?.spec.clone();
        if spec.covers_cluster() {
            return Ok(Vec::new());
        }
        let dir = self.manifests(plan);
        let wanted = point.bundle.as_ref().map(|bundle| AppliedObjects::new(bundle.root, &spec));
        let was_applied = applied.objects == wanted;
        if was_applied {
            let looks = folder::look(&dir)?;
            if wanted.is_none() || (looks.is_some() && looks == applied.object_files) {
                return Ok(Vec::new());
            }
        }
        let objects = self.bundle(point)?;
        let report = folder::apply_held(&dir, &objects, &held(plan, point, &spec))?;
        report.failures.check(plan)?;
        applied.objects = wanted;
        applied.object_files = folder::look(&dir)?;
        let mended = report.created + report.changed + report.removed;
        let told = (was_applied && mended > 0).then(|| {
            let first = report.written.join(", ");
            format!(
                "objects: {mended} files in {} were changed here and are held again: {first}",
                dir.display()
            )
        });
        if let Some(message) = &told {
            tracing::warn!(%plan, "{message}");
        }
        Ok(told.into_iter().collect())
    }

    /// The objects of a restore point; none if its plan had none, and then what was applied before goes.
    pub(crate) fn bundle(&self, point: &RestorePoint) -> Result<Vec<CapturedObject>, DaemonError> {
        let Some(bundle) = &point.bundle else { return Ok(Vec::new()) };
        read_objects(&self.store.reader(point.pair), bundle)
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

/// Who must not have open what is written next.
pub(crate) const fn whom(applied: &Applied) -> Counts {
    if applied.kept { Counts::Everybody } else { Counts::Writers }
}

/// Reads a bundle.
pub(crate) fn read_objects(
    reader: &ChunkReader,
    bundle: &Bundle,
) -> Result<Vec<CapturedObject>, DaemonError> {
    let objects = backstay_volume::read_bundle(reader, &bundle.root)?;
    let objects = objects.map(|object| object.map(|(key, bytes)| CapturedObject { key, bytes }));
    Ok(objects.collect::<Result<_, _>>()?)
}

/// How the objects of a point are held in a folder.
pub(crate) fn held<'a>(plan: &'a PlanName, point: &RestorePoint, spec: &'a PlanSpec) -> ApplyOptions<'a> {
    ApplyOptions {
        plan,
        restore_point: point.id,
        holds: &spec.holds,
        start_applications: spec.start_applications,
        purge_all: false,
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
