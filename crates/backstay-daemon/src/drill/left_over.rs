//! What drills leave: on record before it is made, so that it can be removed after a crash.
//!
//! A record is `DIR/drills/PLAN-NUMBER.json`, beside the folder `DIR/drills/PLAN-NUMBER`. It outlives its plan: what was
//! kept is removed by `--clean` also when the plan is gone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backstay_engine::drill::Drill;
use backstay_types::{Classify, PlanName};
use serde::{Deserialize, Serialize};

use crate::site::Site;
use crate::{DaemonError, files};

/// Pauses between tries to remove what was left, which may be on a cluster that does not answer.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// What a drill leaves, or may leave if it is killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LeftOver {
    pub(super) plan: PlanName,
    pub(super) number: u64,
    /// Whether there may be objects on the cluster.
    pub(super) on_cluster: bool,
    /// Whether it stays until the next drill.
    kept: bool,
}

impl LeftOver {
    pub(super) fn of(drill: &Drill, on_cluster: bool) -> Self {
        Self { plan: drill.plan.clone(), number: drill.number, on_cluster, kept: drill.keep }
    }

    /// The name of the drill's folder, and of what else is made for it.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.plan, self.number)
    }
}

impl Site {
    pub(super) fn drill_folder(&self, left: &LeftOver) -> PathBuf {
        self.drills_folder().join(left.name())
    }

    fn drill_record(&self, left: &LeftOver) -> PathBuf {
        self.drills_folder().join(format!("{}.json", left.name()))
    }

    /// Puts on record what is about to be made.
    pub(super) fn note_drill(&self, left: &LeftOver) -> Result<(), DaemonError> {
        files::make_folder(&self.drills_folder())?;
        files::write_json(&self.drill_record(left), left)
    }

    /// What drills of a plan left.
    pub(super) fn left_over(&self, plan: &PlanName) -> Result<Vec<LeftOver>, DaemonError> {
        Ok(self.all_left_over()?.into_iter().filter(|left| left.plan == *plan).collect())
    }

    fn all_left_over(&self) -> Result<Vec<LeftOver>, DaemonError> {
        let folder = self.drills_folder();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries.collect::<std::io::Result<Vec<_>>>(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let entries = entries.map_err(|source| DaemonError::io("list", &folder, source))?;
        let is_record = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
        let records = entries.iter().map(|entry| entry.path()).filter(is_record);
        records.filter_map(|path| files::read_json(&path).transpose()).collect()
    }

    /// Removes what drills of a plan left, whether it was to be kept or not; tells whether there was anything. The caller
    /// has the plan's place.
    pub(super) async fn remove_drills(self: &Arc<Self>, plan: &PlanName) -> Result<bool, DaemonError> {
        let left = self.left_over(plan)?;
        for left in &left {
            self.remove_drill(left).await?;
        }
        Ok(!left.is_empty())
    }

    /// Removes what a drill left; last the record of it.
    pub(super) async fn remove_drill(self: &Arc<Self>, left: &LeftOver) -> Result<(), DaemonError> {
        let _alone = self.drills.removal.lock().await;
        if left.on_cluster {
            self.remove_from_cluster(left).await?;
        }
        let (site, left) = (self.clone(), left.clone());
        let work = move || {
            backstay_volume::remove_tree(&site.drill_folder(&left))?;
            files::remove(&site.drill_record(&left))
        };
        self.blocking("removing a drill", work).await
    }

    /// Removes what was cut off by a stop or a crash; tries until it is done.
    pub(crate) fn clear_drills_soon(self: &Arc<Self>) -> Result<(), DaemonError> {
        for left in self.all_left_over()?.into_iter().filter(|left| !left.kept) {
            let site = self.clone();
            self.tasks.spawn(async move { site.clear_drill(&left).await });
        }
        Ok(())
    }

    async fn clear_drill(self: &Arc<Self>, left: &LeftOver) {
        let mut pause = AGAIN;
        while let Err(error) = self.remove_drill(left).await {
            let class = error.class().label();
            tracing::warn!(plan = %left.plan, number = left.number, class, "a drill is not removed yet: {error}");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(AGAIN_MAX),
                () = self.stop.cancelled() => return,
            }
        }
        tracing::info!(plan = %left.plan, number = left.number, "removed what a drill had left");
    }
}
