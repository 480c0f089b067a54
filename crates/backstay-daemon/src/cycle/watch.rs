//! How far the standby is after a cycle, so that its active side can tell.

use std::sync::Arc;
use std::time::Duration;

use backstay_types::RestorePointId;
use backstay_types::frame::SiteRole;

use crate::plans::PlanRecord;
use crate::site::Site;

/// Between two questions: short at first, for most points are applied within a second.
const ASK_AFTER: Duration = Duration::from_millis(200);
const ASK_AFTER_MAX: Duration = Duration::from_secs(15);

impl Site {
    /// Asks the standby until it shows `point`, or has failed to; the next cycle asks anew.
    pub(super) fn watch_standby_soon(self: &Arc<Self>, record: &Arc<PlanRecord>, point: RestorePointId) {
        let (site, record) = (self.clone(), record.clone());
        self.tasks.spawn(async move {
            let mut pause = ASK_AFTER;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(ASK_AFTER_MAX),
                    () = site.stop.cancelled() => return,
                }
                let newest = site.plans.last_success(&record.name).map(|last| last.map(|last| last.point.id));
                let role = site.plans.find(&record.name).map(|record| record.state.role());
                if role != Some(SiteRole::Active) || !matches!(newest, Ok(Some(newest)) if newest == point) {
                    return;
                }
                match site.ask_plan(record.pair, &record.name).await {
                    Ok(state) if state.role != Some(SiteRole::Standby) || state.applied >= Some(point) => return,
                    Ok(state) if state.apply_failure.as_ref().is_some_and(|failure| failure.point >= point) => return,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(plan = %record.name, "the standby does not tell how far it is: {error}");
                    }
                }
            }
        });
    }
}
