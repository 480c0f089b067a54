//! Snapshots of cycles that a killed daemon has left: released at the start, and before a plan is forgotten, for then no
//! next cycle does it.

use std::sync::Arc;

use backstay_types::PlanName;
use backstay_volume::SentState;

use crate::DaemonError;
use crate::site::{Site, layout};

impl Site {
    /// Releases what was left of any plan, in a task of its own.
    pub(crate) fn release_snapshots_soon(self: &Arc<Self>) {
        for record in self.plans.list() {
            let (site, plan) = (self.clone(), record.name.clone());
            self.tasks.spawn(async move {
                let runtime = site.runtimes.of(&plan);
                // The snapshot of a cycle under way is not left over.
                let _gate = runtime.cycle_gate(&site.wake).await;
                if let Err(error) = site.release_snapshots(&plan).await {
                    site.metrics.count_error(backstay_types::Classify::class(&error));
                    tracing::error!(%plan, "a snapshot of an earlier cycle is still there: {error}");
                }
            });
        }
    }

    /// Releases what was left of a plan, now. Requires the plan's cycle gate.
    pub(crate) async fn release_snapshots(self: &Arc<Self>, plan: &PlanName) -> Result<(), DaemonError> {
        let folder = self.dir.join(layout::SENT).join(plan.as_str());
        let plan = plan.clone();
        self.blocking("releasing snapshots", move || {
            let fail = |source| DaemonError::io("list", &folder, source);
            let volumes = match std::fs::read_dir(&folder) {
                Ok(volumes) => volumes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(source) => return Err(fail(source)),
            };
            for volume in volumes {
                let volume = volume.map_err(fail)?.path();
                if volume.is_dir() && backstay_volume::release_left_over(&SentState::open(&volume)?)? {
                    tracing::info!(%plan, volume = %volume.display(), "released what an earlier daemon had left of its snapshot");
                }
            }
            Ok(())
        })
        .await
    }
}
