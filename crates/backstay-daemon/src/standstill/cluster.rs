//! The same on the cluster beside this site.

use std::sync::Arc;

use backstay_kube::cluster::ApplyOptions;
use backstay_kube::folder::CapturedObject;
use backstay_types::RestorePointId;

use crate::DaemonError;
use crate::apply::CheckFailures;
use crate::cycle::own_scope;
use crate::plans::PlanRecord;
use crate::site::Site;

impl Site {
    pub(super) async fn stand_still_on_cluster(
        &self,
        record: &PlanRecord,
        restore_point: RestorePointId,
        objects: Vec<CapturedObject>,
    ) -> Result<(), DaemonError> {
        let options = ApplyOptions {
            plan: &record.name,
            epoch: record.state.epoch(),
            restore_point,
            spec: &*record.sends_by()?,
            // They stay where they are.
            volumes: &std::collections::BTreeMap::new(),
        };
        let report = self.cluster().await?.stand_still(&Arc::new(objects), &options).await?;
        report.failures.check(&record.name)
    }

    pub(super) async fn let_go_on_cluster(
        &self,
        record: &PlanRecord,
        restore_point: RestorePointId,
        objects: Vec<CapturedObject>,
    ) -> Result<(), DaemonError> {
        let volumes = std::collections::BTreeMap::new();
        let options = ApplyOptions {
            plan: &record.name,
            epoch: record.state.epoch(),
            restore_point,
            spec: &*record.sends_by()?,
            volumes: &volumes,
        };
        let report = self.cluster().await?.let_go(&Arc::new(objects), &options).await?;
        report.failures.check(&record.name)
    }

    /// Pods of the plan that are not gone.
    pub(super) async fn running_pods(&self, record: &PlanRecord) -> Result<Vec<String>, DaemonError> {
        match own_scope(record)? {
            Some(scope) => Ok(self.cluster().await?.running_pods(&scope).await?),
            None => Ok(Vec::new()),
        }
    }
}
