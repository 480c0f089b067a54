//! The same on the host of this site.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use backstay_types::PlanName;
use backstay_types::plan::HostHold;

use crate::DaemonError;
use crate::api_types::HoldStatus;
use crate::host_hold::{self, HoldReport, Release};
use crate::plans::PlanRecord;
use crate::site::Site;

impl Site {
    /// What ran here before it was held.
    pub(crate) fn hold_file(&self, plan: &PlanName) -> PathBuf {
        host_hold::record_in(&self.plans.plan_folder(plan))
    }

    /// What stops the application of a plan on this host, by the word of this site's own operator. What a plan of the
    /// other side says of its host is nothing to this one.
    pub(crate) fn host_hold(&self, record: &PlanRecord) -> Option<HostHold> {
        if record.spec.covers_cluster() {
            return None;
        }
        let of_plan = record.spec.hold.as_ref().filter(|_| record.home).cloned();
        of_plan.or_else(|| self.config.load().holds.get(&record.name).cloned())
    }

    /// Whether anything of a plan may run on this host that nothing here would stop.
    pub(crate) fn holds_nothing(&self, record: &PlanRecord) -> bool {
        let has_volumes = !record.spec.volumes.is_empty() && !record.spec.covers_cluster();
        has_volumes && self.host_hold(record).is_none()
    }

    pub(super) async fn hold_host(
        self: &Arc<Self>,
        record: &PlanRecord,
        host: HostHold,
    ) -> Result<(), DaemonError> {
        let file = self.hold_file(&record.name);
        let work = move || Ok(host_hold::hold(&host, &file)?);
        let report = self.blocking("holding what runs on the host", work).await?;
        tell(&record.name, &report);
        Ok(())
    }

    /// Lets what runs on the host go on, or starts it where it is taken over.
    pub(crate) async fn release_host(
        self: &Arc<Self>,
        record: &PlanRecord,
        why: Release,
    ) -> Result<HoldReport, DaemonError> {
        let (file, host) = (self.hold_file(&record.name), self.host_hold(record));
        if host.is_none() && !host_hold::is_held(&file)? {
            return Ok(HoldReport::default());
        }
        let work = move || Ok(host_hold::release(host.as_ref(), &file, why)?);
        let report = self.blocking("releasing what runs on the host", work).await?;
        tell(&record.name, &report);
        Ok(report)
    }

    /// Processes that are frozen here: what they have open they do not write.
    pub(crate) fn held_processes(&self, record: &PlanRecord) -> BTreeSet<u32> {
        let cgroups = self.host_hold(record).map(|hold| hold.cgroups).unwrap_or_default();
        cgroups.iter().flat_map(|folder| host_hold::frozen_processes(folder)).collect()
    }

    /// What is held here, and how; `None` where nobody says what to hold.
    pub(crate) fn hold_status(&self, record: &PlanRecord) -> Result<Option<HoldStatus>, DaemonError> {
        let held = host_hold::is_held(&self.hold_file(&record.name))?;
        Ok(self.host_hold(record).map(|hold| HoldStatus {
            held,
            units: hold.units,
            cgroups: hold.cgroups,
            commands: hold.commands.is_some(),
            nothing: hold.nothing,
        }))
    }
}

fn tell(plan: &PlanName, report: &HoldReport) {
    report.done.iter().for_each(|done| tracing::info!(%plan, "on this host: {done}"));
    report.warnings.iter().for_each(|warning| tracing::warn!(%plan, "on this host: {warning}"));
}
