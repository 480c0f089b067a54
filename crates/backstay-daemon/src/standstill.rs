//! Holding a plan's own workloads, in place, on the side that runs them.
//!
//! 1. What the objects were is on disk before the first of them is held, or in the objects themselves, and is what every
//!    restore point shows until they run again.
//! 2. Holding, and letting go, may be repeated after whatever cut them off. They never overlap, whoever asks: the lease, a
//!    handover, or a side that steps down.
//!
//! 3. What is held on a host is what this site's own operator says: of the plan where it was made, in `site.toml` on the
//!    other side. A plan that came over the wire runs no command here (test `a_peer_makes_nobody_run_a_command`).
//!
//! Left to others: when.

mod cluster;
mod host;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backstay_engine::plan_state::Transition;
use backstay_kube::folder::{self, ApplyOptions, CapturedObject};
use backstay_types::frame::SiteRole;
use backstay_types::manifest::RelPath;
use backstay_types::plan::HostHold;
use backstay_types::{Epoch, PlanName, RestorePointId};
use serde::{Deserialize, Serialize};

use crate::apply::CheckFailures;
use crate::host_hold::Release;
use crate::plans::PlanRecord;
use crate::site::Site;
use crate::{DaemonError, files, reserve};

/// How long pods may take to go: the default grace period of a pod is 30 s.
pub(crate) const GONE_WITHIN: Duration = Duration::from_secs(300);

/// Between two looks at what still runs.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// One object as it was.
#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    /// Canonical JSON, whose bytes are what a bundle has.
    object: String,
}

impl Site {
    fn standstill_file(&self, plan: &PlanName) -> PathBuf {
        self.plans.plan_folder(plan).join("standstill.json")
    }

    /// The objects of a plan as they were before they were held here, if they are.
    pub(crate) fn standing(&self, plan: &PlanName) -> Result<Option<Vec<CapturedObject>>, DaemonError> {
        let record = self.plans.get(plan)?;
        let has_objects = record.spec.covers_cluster() || record.spec.manifests.is_some();
        if !record.state.standing() || !has_objects {
            return Ok(None);
        }
        let Some(kept) = files::read_json::<Vec<Kept>>(&self.standstill_file(plan))? else { return Ok(None) };
        let object = |kept: Kept| match RelPath::parse(kept.key.as_bytes()) {
            Ok(key) => Ok(CapturedObject { key, bytes: kept.object.into_bytes() }),
            Err(error) => Err(DaemonError::State {
                path: self.standstill_file(plan),
                source: serde::de::Error::custom(format!("key {:?}: {error}", kept.key)),
            }),
        };
        kept.into_iter().map(object).collect::<Result<_, _>>().map(Some)
    }

    /// Holds the workloads of a plan that run here.
    pub(crate) async fn stand_still(self: &Arc<Self>, plan: &PlanName) -> Result<(), DaemonError> {
        let runtime = self.runtimes.of(plan);
        let _alone = runtime.standstill.lock().await;
        reserve::make_room(&self.dir);
        let record = self.plans.get(plan)?;
        let host = self.host_hold(&record).filter(HostHold::holds_something);
        let (objects, written) = match self.objects_to_hold(&record).await {
            Ok(found) => found,
            Err(error) => (None, Err(error)),
        };
        // Never without what the objects were: an older note of them would be taken for it.
        let noted = match written {
            Ok(()) if objects.is_some() || host.is_some() => {
                self.plans.transition(plan, Transition::Held).map(drop)
            }
            other => other,
        };
        // What cannot be held of the one keeps nothing of the other running, and neither does what cannot be written down.
        let host_held = match host {
            Some(host) => self.hold_host(&record, host).await,
            None => Ok(()),
        };
        let objects_held = match objects {
            Some(objects) => self.hold_objects(&record, objects).await,
            None => Ok(()),
        };
        host_held.and(objects_held).and(noted)
    }

    /// The objects of a plan as they are before they are held, and whether that is on disk. Each has it with it as well.
    async fn objects_to_hold(
        self: &Arc<Self>,
        record: &Arc<PlanRecord>,
    ) -> Result<(Option<Vec<CapturedObject>>, Result<(), DaemonError>), DaemonError> {
        if let Some(objects) = self.standing(&record.name)? {
            return Ok((Some(objects), Ok(())));
        }
        let Some(objects) = self.own_objects(record).await? else { return Ok((None, Ok(()))) };
        let kept = objects.iter().map(|object| Kept {
            key: object.key.to_string(),
            object: String::from_utf8_lossy(&object.bytes).into_owned(),
        });
        let written = files::write_json(&self.standstill_file(&record.name), &kept.collect::<Vec<_>>());
        Ok((Some(objects), written))
    }

    async fn hold_objects(
        self: &Arc<Self>,
        record: &Arc<PlanRecord>,
        objects: Vec<CapturedObject>,
    ) -> Result<(), DaemonError> {
        let point = running_point(record);
        if record.spec.covers_cluster() {
            return self.stand_still_on_cluster(record, point, objects).await;
        }
        let (dir, record) = (self.manifests(&record.name), record.clone());
        self.blocking("holding the objects", move || {
            let options = ApplyOptions {
                plan: &record.name,
                restore_point: point,
                holds: &record.spec.holds,
                start_applications: record.spec.start_applications,
                purge_all: false,
            };
            let report = folder::stand_still(&dir, active_epoch(&record), &objects, &options)?;
            report.failures.check(&record.name)
        })
        .await
    }

    /// Lets the workloads of a plan run again, as they were, if this side is to run them.
    pub(crate) async fn let_go(self: &Arc<Self>, plan: &PlanName) -> Result<(), DaemonError> {
        let runtime = self.runtimes.of(plan);
        let _alone = runtime.standstill.lock().await;
        reserve::make_room(&self.dir);
        let record = self.plans.get(plan)?;
        // One that learnt a higher epoch while it waited here stays held.
        if !record.state.standing() || record.state.role() != SiteRole::Active {
            return Ok(());
        }
        let objects = match self.standing(plan)? {
            Some(objects) => objects,
            None if !record.spec.covers_cluster() && record.spec.manifests.is_none() => Vec::new(),
            // Somebody removed the file: what is held has its originals with it.
            None => self.own_objects(&record).await?.unwrap_or_default(),
        };
        if record.spec.covers_cluster() {
            self.let_go_on_cluster(&record, running_point(&record), objects).await?;
        } else if record.spec.manifests.is_some() {
            let (dir, record) = (self.manifests(plan), record.clone());
            self.blocking("releasing the objects", move || {
                folder::let_go(&dir, active_epoch(&record), &record.name)?.failures.check(&record.name)
            })
            .await?;
        }
        let record = self.plans.get(plan)?;
        self.release_host(&record, Release::Undo).await?;
        self.plans.transition(plan, Transition::Unheld)?;
        Ok(())
    }

    /// Returns when nothing of the plan runs here any more, or not within `patience`.
    pub(crate) async fn wait_gone(&self, plan: &PlanName, patience: Duration) -> Result<(), DaemonError> {
        let record = self.plans.get(plan)?;
        let ended = tokio::time::Instant::now() + patience;
        loop {
            let running = self.running_pods(&record).await?;
            if running.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= ended {
                return Err(DaemonError::StillRuns {
                    plan: plan.clone(),
                    count: running.len(),
                    first: running.into_iter().next().unwrap_or_default(),
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The objects of a plan as they are here; `None` for a plan of volumes alone.
    async fn own_objects(
        &self,
        record: &Arc<PlanRecord>,
    ) -> Result<Option<Vec<CapturedObject>>, DaemonError> {
        if record.spec.covers_cluster() {
            return self.capture_own(record).await.map(Some);
        }
        let Some(folder) = self.listed_manifests(record) else { return Ok(None) };
        self.blocking("capturing the objects", move || Ok(Some(folder::capture(&folder.path)?))).await
    }
}

/// The epoch that the workloads which are held ran at.
pub(crate) fn active_epoch(record: &PlanRecord) -> Epoch {
    record.state.active_until().unwrap_or(record.state.epoch())
}

/// Marks what is held with where it came from: the point that shows it is yet to be made.
fn running_point(record: &PlanRecord) -> RestorePointId {
    RestorePointId { epoch: active_epoch(record), number: record.number + 1 }
}
