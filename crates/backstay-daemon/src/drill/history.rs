//! The drills of a plan that are over.

use std::path::PathBuf;

use backstay_kube::cluster::drill_name;
use backstay_types::PlanName;

use crate::api_types::DrillReport;
use crate::site::Site;
use crate::{DaemonError, files};

/// Reports kept of a plan. Each is some 2 KiB, and 50 KiB at the worst (32 probes with a message of 1 KiB): 2.5 MiB.
const KEPT_MAX: usize = 50;

impl Site {
    /// The drills of a plan, oldest first.
    pub(crate) fn drills_of(&self, plan: &PlanName) -> Result<Vec<DrillReport>, DaemonError> {
        Ok(files::read_json(&self.drill_history(plan))?.unwrap_or_default())
    }

    /// Number of the next drill.
    pub(super) fn next_drill(&self, plan: &PlanName) -> Result<u64, DaemonError> {
        let past = self.drills_of(plan)?.last().map_or(0, |report| report.number);
        let left = self.left_over(plan)?.iter().map(|left| left.number).max().unwrap_or(0);
        // On a cluster the drill has a name like a plan's: not that of one there is.
        let is_free = |number: &u64| self.plans.find(&drill_name(plan, *number)).is_none();
        let first = past.max(left) + 1;
        Ok((first..).find(is_free).unwrap_or(first))
    }

    /// Adds a drill, and lets the oldest go.
    pub(super) fn remember_drill(&self, report: &DrillReport) -> Result<(), DaemonError> {
        // With a plan that was deleted meanwhile went its history.
        if self.plans.find(&report.plan).is_none() {
            return Ok(());
        }
        let mut reports = self.drills_of(&report.plan)?;
        reports.push(report.clone());
        let too_many = reports.len().saturating_sub(KEPT_MAX);
        reports.drain(..too_many);
        files::write_json(&self.drill_history(&report.plan), &reports)
    }

    fn drill_history(&self, plan: &PlanName) -> PathBuf {
        self.plans.plan_folder(plan).join("drills.json")
    }
}
