//! The end of a plan: deleted by an operator, or by its resource.
//!
//! 1. A plan that was active here is ended on its standby as well, where it is shown so and taken over no more by accident;
//!    a standby that is away is told when it comes back (test `a_standby_that_was_away_hears_of_the_end`).
//! 2. Its epoch stays known here: a plan of its name does not begin below.
//!
//! At a crash half-way the same command does the rest.

use std::sync::Arc;

use backstay_types::frame::{DropPlan, SiteRole};
use backstay_types::{PairId, PlanName};

use super::check_not_offered;
use crate::automatic::AutomaticError;
use crate::plans::{EndedPlan, PlanRecord};
use crate::site::{Site, layout};
use crate::{DaemonError, files};

impl Site {
    /// Forgets a plan; `false` if there is nothing to forget. Its restore points and replicas stay on either side, and
    /// a plan of its name that comes later goes on after them; with `purge` the restore points of this site go too.
    ///
    /// At a crash half-way the same command does the rest.
    pub(crate) async fn delete_plan(
        self: &Arc<Self>,
        name: &PlanName,
        purge: bool,
    ) -> Result<bool, DaemonError> {
        let record = self.plans.find(name);
        if record.is_none() && !(purge && self.store.newest(name)?.is_some()) {
            return Ok(false);
        }
        if let Some(record) = &record {
            check_not_offered(record)?;
        }
        let runtime = self.runtimes.of(name);
        if let Some(activity) = runtime.activity() {
            activity.progress.cancel();
        }
        let _cycle = runtime.cycle_gate(&self.wake).await;
        let _apply = runtime.apply.lock().await;
        let _fence = runtime.fence.lock().await;
        if let Some(record) = self.plans.find(name) {
            let untold = record.state.role() == SiteRole::Active && !self.is_told_of_end(&record).await?;
            let ended = EndedPlan { pair: record.pair, epoch: record.state.epoch(), untold };
            // First: what is not written down here could begin again below its epoch, and its standby would never hear.
            self.plans.ended().put(name.as_str(), ended)?;
        }
        // With the record goes the knowledge of what is frozen, and of what stands where.
        self.thaw_left_over(name).await?;
        self.release_snapshots(name).await?;
        self.plans.remove(name)?;
        files::remove_folder(&self.plans.plan_folder(name))?;
        files::remove_folder(&self.dir.join(layout::SENT).join(name.as_str()))?;
        self.forget_start(name)?;
        runtime.forget();
        if purge {
            let ids: Vec<_> = self.store.points(name)?.iter().map(|point| point.id).collect();
            self.store.delete_points(name, &ids)?;
        }
        Ok(true)
    }

    /// Tells the standby that a plan is at its end; whether it heard.
    async fn is_told_of_end(&self, record: &PlanRecord) -> Result<bool, DaemonError> {
        let name = &record.name;
        match self.ask(record.pair, DropPlan { plan: name.clone(), epoch: record.state.epoch() }.into()).await
        {
            Ok(_) => Ok(true),
            // It would see a lease that nobody renews, and take over beside what runs on here.
            Err(error) if self.wants_lease(record) => {
                let why = error.to_string();
                Err(AutomaticError::StandbyNotTold { plan: name.clone(), why }.into())
            }
            Err(error) => {
                tracing::warn!(plan = %name, "the peer was not told that the plan is gone: {error}");
                // One that says no has heard it.
                Ok(matches!(error, DaemonError::Refused { .. }))
            }
        }
    }

    /// Tells a peer that has come back what was deleted while it was away.
    pub(crate) async fn tell_of_ends(&self, pair: PairId) {
        let untold =
            self.plans.ended().all().into_iter().filter(|(_, ended)| ended.pair == pair && ended.untold);
        for (name, ended) in untold {
            let Ok(plan) = name.parse::<PlanName>() else { continue };
            if self.plans.find(&plan).is_some() {
                continue;
            }
            let frame = DropPlan { plan: plan.clone(), epoch: ended.epoch }.into();
            let told = match self.ask(pair, frame).await {
                Ok(_) | Err(DaemonError::Refused { .. }) => {
                    self.plans.ended().put(&name, EndedPlan { untold: false, ..ended }).map(drop)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = told {
                tracing::warn!(%plan, "the peer was not told that the plan is gone: {error}");
            }
        }
    }
}
