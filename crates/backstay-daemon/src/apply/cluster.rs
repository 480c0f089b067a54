//! The objects of a plan on the cluster beside this site.
//!
//! 1. One object that cannot be written stops neither the others nor the apply: all are counted, the first are named
//!    in the status, and the next restore point tries again.
//! 2. A cluster that does not answer stops the apply, which is then not finished.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use backstay_kube::cluster::{ApplyOptions, ApplyReport, Cluster, Drift, ReleaseReport};
use backstay_kube::failure::Failures;
use backstay_kube::folder::CapturedObject;
use backstay_kube::wave::ReleasePlan;
use backstay_types::plan::PlanSpec;
use backstay_types::point::RestorePoint;
use backstay_types::{Class, Classify, Epoch, PlanName};
use tokio::runtime::Handle;

use crate::DaemonError;
use crate::api_types::ObjectsStatus;
use crate::plans::Applied;
use crate::site::Site;

/// Objects, drifts and warnings of each kind that a status names; the rest are counted.
const NAMED_MAX: usize = 10;

/// A question of seven lists that are short; what waits for it is the application's data.
const EPOCH_WITHIN: Duration = Duration::from_secs(5);

impl Site {
    /// Applies objects, held. Blocks.
    pub(super) fn apply_to_cluster(
        &self,
        plan: &PlanName,
        spec: &PlanSpec,
        applied: &mut Applied,
        point: &RestorePoint,
        objects: Vec<CapturedObject>,
    ) -> Result<(), DaemonError> {
        let work = OnCluster::new(self, plan, spec, point, objects)?;
        let report = Handle::current().block_on(async {
            let cluster = self.cluster().await?;
            Ok::<_, DaemonError>(cluster.apply(&work.objects, &work.options()).await?)
        })?;
        let status = ObjectsStatus::of(report);
        tracing::info!(
            %plan,
            created = status.created,
            changed = status.changed + status.recreated,
            removed = status.removed,
            unchanged = status.unchanged,
            held = status.held,
            drifted = status.drifted,
            failed = status.failed,
            "objects of {} applied",
            point.id
        );
        status
            .first_failures
            .iter()
            .for_each(|failure| tracing::warn!(%plan, "object not applied: {failure}"));
        applied.cluster = Some(status);
        Ok(())
    }

    /// Refuses where workloads of the plan were written at a higher epoch. A cluster that does not answer soon refuses
    /// nothing: data goes on, and what the objects then need of it fails. Blocks.
    pub(crate) fn check_epoch_on_cluster(&self, plan: &PlanName) -> Result<(), DaemonError> {
        let record = self.plans.get(plan)?;
        if !record.spec.covers_cluster() {
            return Ok(());
        }
        let ask = async {
            let cluster = self.cluster().await?;
            Ok::<_, DaemonError>(cluster.check_epoch(plan, record.state.epoch()).await?)
        };
        match Handle::current().block_on(tokio::time::timeout(EPOCH_WITHIN, ask)) {
            Ok(Err(error)) if error.class() != Class::Fenced => {
                tracing::warn!(%plan, "the cluster does not tell its epoch: {error}");
                Ok(())
            }
            Ok(checked) => checked,
            Err(_) => {
                tracing::warn!(%plan, "the cluster does not tell its epoch within {EPOCH_WITHIN:?}");
                Ok(())
            }
        }
    }

    /// Gives the objects their originals back. Blocks.
    pub(crate) fn release_on_cluster(
        &self,
        plan: &PlanName,
        spec: &PlanSpec,
        point: &RestorePoint,
    ) -> Result<ReleaseReport, DaemonError> {
        let work = OnCluster::new(self, plan, spec, point, self.bundle(point)?)?;
        Handle::current().block_on(async {
            let cluster = self.cluster().await?;
            Ok(cluster.release(&work.objects, &work.options()).await?)
        })
    }

    /// What was released and is not ready. Blocks.
    pub(crate) fn not_ready(
        &self,
        plan: &PlanName,
        spec: &PlanSpec,
        point: &RestorePoint,
    ) -> Result<Vec<String>, DaemonError> {
        let work = OnCluster::new(self, plan, spec, point, self.bundle(point)?)?;
        Handle::current().block_on(async {
            let cluster = self.cluster().await?;
            Ok(cluster.not_ready(&work.objects, &work.options()).await?)
        })
    }

    /// What a promotion to `point` would release. Blocks; asks nothing of the cluster.
    pub(crate) fn release_plan(
        &self,
        plan: &PlanName,
        spec: &PlanSpec,
        point: &RestorePoint,
    ) -> Result<ReleasePlan, DaemonError> {
        let work = OnCluster::new(self, plan, spec, point, self.bundle(point)?)?;
        Ok(Handle::current().block_on(Cluster::release_plan(&work.objects, &work.options()))?)
    }
}

/// Everything that an apply or a release borrows.
struct OnCluster<'a> {
    plan: &'a PlanName,
    epoch: Epoch,
    /// In the names of the side that sends.
    spec: Cow<'a, PlanSpec>,
    point: &'a RestorePoint,
    objects: Arc<Vec<CapturedObject>>,
    volumes: std::collections::BTreeMap<String, backstay_kube::cluster::VolumePlace>,
}

impl<'a> OnCluster<'a> {
    fn new(
        site: &Site,
        plan: &'a PlanName,
        spec: &'a PlanSpec,
        point: &'a RestorePoint,
        objects: Vec<CapturedObject>,
    ) -> Result<Self, DaemonError> {
        let record = site.plans.get(plan)?;
        let objects = site.accepted_objects(&record, point, objects)?;
        let volumes = site.volume_places(plan, spec, point, &objects)?;
        let spec = if record.home { Cow::Owned(spec.reversed()?) } else { Cow::Borrowed(spec) };
        Ok(Self { plan, epoch: record.state.epoch(), spec, point, objects: Arc::new(objects), volumes })
    }

    fn options(&self) -> ApplyOptions<'_> {
        ApplyOptions {
            plan: self.plan,
            epoch: self.epoch,
            restore_point: self.point.id,
            spec: &self.spec,
            volumes: &self.volumes,
        }
    }
}

/// The first failures, each with its object.
pub(crate) fn named(failures: &Failures) -> impl Iterator<Item = String> + '_ {
    failures.named.iter().take(NAMED_MAX).map(|failure| format!("{}: {}", failure.key, failure.message))
}

impl ObjectsStatus {
    fn of(report: ApplyReport) -> Self {
        Self {
            created: report.created,
            changed: report.changed,
            recreated: report.recreated,
            unchanged: report.unchanged,
            shared: report.shared,
            removed: report.removed,
            kept: report.kept,
            held: report.held,
            deferred: report.deferred,
            drifted: report.drifted,
            failed: report.failures.count,
            first_failures: named(&report.failures).collect(),
            first_drifts: report.drifts.iter().take(NAMED_MAX).map(told).collect(),
            warnings: report.warnings.into_iter().take(NAMED_MAX).collect(),
        }
    }
}

/// `Deployment.apps shop/web: /spec/replicas changed by kubectl-edit`.
fn told(drift: &Drift) -> String {
    let fields = |what: &str, fields: &[String]| match fields {
        [] => None,
        fields => Some(format!("{} {what}", fields.join(", "))),
    };
    let parts = [fields("changed", &drift.changed), fields("added", &drift.added)];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    format!("{}: {} by {}", drift.object, parts.join(", "), drift.managers.join(", "))
}
