//! The objects of a drill in namespaces of its own on the cluster beside the standby.

use std::collections::BTreeMap;
use std::time::Duration;

use backstay_kube::cluster::{VolumePlace, drill_name, isolate, volume_names, volumes_of};

use super::left_over::LeftOver;
use super::{DrillError, Rehearsal};
use crate::DaemonError;
use crate::apply::CheckFailures;
use crate::clusters::own_names;
use crate::probe::Pods;
use crate::site::Site;

/// Between two looks at what is not ready: each is a list of each kind of workload.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long namespaces may take to go: their pods have 30 seconds to end, unless they ask for more.
const GONE_WITHIN: Duration = Duration::from_secs(120);

impl Rehearsal {
    pub(super) async fn start_on_cluster(&mut self) -> Result<(), DaemonError> {
        let (site, record, point) = (self.site.clone(), self.record.clone(), self.point()?);
        let (folder, number) = (self.folder.clone(), self.drill.number);
        let work = move || {
            let objects = site.bundle(&point)?;
            // Refuses a point whose objects name a volume that it has no data of.
            site.volume_places(&record.name, &record.spec, &point, &objects)?;
            let node = site.config.load().kubernetes.node.clone();
            let found = volumes_of(&objects);
            let places: BTreeMap<_, _> = volume_names(&found, &own_names(&record.spec))
                .into_iter()
                .map(|(name, volume)| {
                    let path = super::copies::path_of(&folder, &name);
                    (volume.name.clone(), VolumePlace { path, node: node.clone() })
                })
                .collect();
            let name = drill_name(&record.name, number);
            Ok(isolate(&objects, &name, number, &record.spec, &places)?)
        };
        let isolated = self.site.blocking("preparing the objects", work).await?;
        self.drill.warnings.extend(isolated.warnings.iter().cloned());
        let isolated = self.isolated.insert(isolated);
        let cluster = self.site.cluster().await?;
        let start = cluster.start_drill(isolated, self.drill.restore_point);
        let failures = tokio::select! {
            failures = start => failures?,
            () = self.site.stop.cancelled() => return Err(DrillError::Stopped.into()),
        };
        failures.check(&self.record.name)
    }

    /// Waits until everything that was started serves.
    pub(super) async fn wait_ready(&self) -> Result<(), DaemonError> {
        let Some(isolated) = &self.isolated else { return Ok(()) };
        let (cluster, time) = (self.site.cluster().await?, self.spec().timeout());
        let mut waited_for = Vec::new();
        let ready = async {
            loop {
                waited_for = cluster.drill_not_ready(isolated, self.drill.restore_point).await?;
                if waited_for.is_empty() {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(time.to_duration(), ready) => outcome,
            () = self.site.stop.cancelled() => return Err(DrillError::Stopped.into()),
        };
        outcome.unwrap_or_else(|_| {
            let (plan, count) = (self.drill.plan.clone(), waited_for.len());
            let first = waited_for.into_iter().next().unwrap_or_default();
            Err(DrillError::NotReady { plan, time, count, first }.into())
        })
    }

    /// Where probes find what was started.
    pub(super) async fn pods(&self) -> Result<Option<Pods>, DaemonError> {
        let Some(isolated) = &self.isolated else { return Ok(None) };
        Ok(Some(Pods {
            cluster: self.site.cluster().await?,
            namespaces: isolated.namespaces.clone(),
            names: isolated.names().clone(),
        }))
    }
}

impl Site {
    /// Removes what a drill left on the cluster.
    pub(super) async fn remove_from_cluster(&self, left: &LeftOver) -> Result<(), DaemonError> {
        let name = drill_name(&left.plan, left.number);
        Ok(self.cluster().await?.end_drill(&name, GONE_WITHIN).await?)
    }
}
