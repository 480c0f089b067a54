//! The cluster beside a site: connected when it is first needed, so that a site without one asks for none, and an API
//! server that is down delays nothing but its own plans.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_kube::cluster::{Cluster, ClusterOptions, FoundVolume, VolumePlace, volumes_of};
use backstay_kube::folder::CapturedObject;
use backstay_types::plan::PlanSpec;
use backstay_types::point::RestorePoint;
use backstay_types::{Classify, PlanName, VolumeName};

use crate::DaemonError;
use crate::config::KubernetesConfig;
use crate::plans::PlanRecord;
use crate::site::Site;

/// The connection, once there is one. Its configuration is read again after [`ClusterSlot::forget`].
#[derive(Default)]
pub(crate) struct ClusterSlot(Mutex<Option<Cluster>>);

/// Pauses between tries to thaw what was left frozen.
const THAW_AGAIN: Duration = Duration::from_secs(2);
const THAW_AGAIN_MAX: Duration = Duration::from_secs(60);

const POISONED: &str = "no holder of this lock panics";

impl ClusterSlot {
    /// Connects anew at the next use.
    pub(crate) fn forget(&self) {
        *self.0.lock().expect(POISONED) = None;
    }
}

impl Site {
    /// The cluster beside this site.
    pub(crate) async fn cluster(&self) -> Result<Cluster, DaemonError> {
        if let Some(cluster) = self.cluster.0.lock().expect(POISONED).clone() {
            return Ok(cluster);
        }
        let KubernetesConfig { kubeconfig, context, .. } = self.config.load().kubernetes.clone();
        let cluster = Cluster::connect(&ClusterOptions { kubeconfig, context }).await?;
        *self.cluster.0.lock().expect(POISONED) = Some(cluster.clone());
        Ok(cluster)
    }

    /// Undoes what a daemon that died in a freeze left frozen; tries until it is done.
    pub(crate) fn thaw_left_over_soon(self: &Arc<Self>, record: &PlanRecord) {
        let (site, plan) = (self.clone(), record.name.clone());
        if !self.plans.freeze_record(&plan).exists() {
            return;
        }
        self.tasks.spawn(async move {
            let mut pause = THAW_AGAIN;
            loop {
                let runtime = site.runtimes.of(&plan);
                // No cycle may freeze meanwhile: its pods would be thawed under it.
                let gate = runtime.cycle_gate(&site.wake).await;
                if site.thaw_left_over(&plan).await.is_ok() {
                    return;
                }
                drop(gate);
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(THAW_AGAIN_MAX),
                    () = site.stop.cancelled() => return,
                }
            }
        });
    }

    /// The same, now. The caller holds the plan's cycle gate.
    pub(crate) async fn thaw_left_over(&self, plan: &PlanName) -> Result<(), DaemonError> {
        let path = self.plans.freeze_record(plan);
        if !path.exists() {
            return Ok(());
        }
        let thaw = async { Ok::<_, DaemonError>(self.cluster().await?.thaw_left_over(&path).await?) };
        match thaw.await {
            Ok(pods) => {
                tracing::warn!(%plan, pods, "thawed what an earlier daemon had left frozen");
                Ok(())
            }
            Err(error) => {
                self.metrics.count_error(error.class());
                let class = error.class().label();
                tracing::error!(%plan, class, "an application may still be frozen: {error}");
                Err(error)
            }
        }
    }

    /// Where this daemon reads a path of its node.
    pub(crate) fn on_host(&self, path: &Path) -> PathBuf {
        self.config.load().on_host(path)
    }

    /// Where the replicas of the volumes of a bundle are, by name of the PersistentVolume.
    pub(crate) fn volume_places(
        &self,
        plan: &PlanName,
        spec: &PlanSpec,
        point: &RestorePoint,
        objects: &[CapturedObject],
    ) -> Result<BTreeMap<String, VolumePlace>, DaemonError> {
        let node = self.config.load().kubernetes.node.clone();
        let record = self.plans.find(plan);
        let mut volumes = volumes_of(objects);
        if record.as_ref().is_some_and(|record| record.home) {
            volumes = at_home(spec, &volumes);
        }
        let place = |volume: VolumeName| {
            // As the cluster sees it, which is not always how this daemon does.
            let claimed = record.as_ref().and_then(|record| record.claims.get(&volume).cloned());
            VolumePlace { path: claimed.unwrap_or_else(|| self.place(plan, &volume)), node: node.clone() }
        };
        let named = backstay_kube::cluster::volume_names(&volumes, &own_names(spec));
        // A place that no replica was made for would be an empty folder, and its application start without data.
        if let Some((name, _)) = named.iter().find(|(name, _)| point.volume(name).is_none()) {
            let why = format!("its objects name volume {name}, of which it has no data");
            return Err(DaemonError::Damaged { plan: plan.clone(), point: point.id, why });
        }
        Ok(named.into_iter().map(|(name, volume)| (volume.name.clone(), place(name))).collect())
    }
}

/// Claims by the names of the namespaces where the plan was made: volumes are named by those on either side.
pub(crate) fn at_home(spec: &PlanSpec, claims: &[FoundVolume]) -> Vec<FoundVolume> {
    let home_of = |namespace: &String| {
        let found = spec.namespace_mapping.iter().find(|(_, there)| *there == namespace);
        found.map_or_else(|| namespace.clone(), |(home, _)| home.clone())
    };
    let named = |claim: &FoundVolume| FoundVolume { namespace: home_of(&claim.namespace), ..claim.clone() };
    claims.iter().map(named).collect()
}

/// The names of the volumes that a plan lists itself.
pub(crate) fn own_names(spec: &PlanSpec) -> BTreeSet<VolumeName> {
    spec.volumes.iter().map(|volume| volume.name.clone()).collect()
}
