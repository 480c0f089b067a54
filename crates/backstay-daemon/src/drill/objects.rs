//! The objects of a drill in a folder of its own, as a promotion would release them.

use backstay_kube::folder::{self, ApplyOptions};

use super::Rehearsal;
use crate::DaemonError;
use crate::apply::CheckFailures;

impl Rehearsal {
    pub(super) async fn start_objects(&mut self) -> Result<(), DaemonError> {
        if self.record.spec.covers_cluster() {
            return self.start_on_cluster().await;
        }
        let (site, record, point) = (self.site.clone(), self.record.clone(), self.point()?);
        let folder = self.folder.join("manifests");
        let work = move || {
            let options = ApplyOptions {
                plan: &record.name,
                restore_point: point.id,
                holds: &record.spec.holds,
                start_applications: record.spec.start_applications,
                purge_all: false,
            };
            folder::apply_held(&folder, &site.bundle(&point)?, &options)?.failures.check(&record.name)?;
            folder::release(&folder, &record.name)?.failures.check(&record.name)
        };
        self.site.blocking("writing the objects", work).await
    }
}
