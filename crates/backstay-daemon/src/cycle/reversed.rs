//! The first cycles of a side that was the standby: what it received is what it sends against.
//!
//! The other side holds that point, or most of it. What this side remembers of an earlier time is older.

use std::sync::Arc;

use backstay_types::RestorePointId;
use backstay_types::plan::VolumeSpec;
use backstay_volume::{SentState, VolumeContext};

use super::sources::Sources;
use crate::DaemonError;
use crate::api_types::CyclePhase;
use crate::plans::PlanRecord;
use crate::runtime::Activity;
use crate::site::Site;

impl Site {
    /// Makes the sent state of volumes that were brought to a newer point than this side has sent.
    pub(super) async fn send_from_replicas(
        self: &Arc<Self>,
        record: &Arc<PlanRecord>,
        sources: &Sources,
        activity: &Arc<Activity>,
    ) -> Result<(), DaemonError> {
        let Some(shown) = self.plans.applied(&record.name)?.point else { return Ok(()) };
        let mut behind = Vec::new();
        for volume in &sources.volumes {
            if SentState::open(&self.sent(&record.name, &volume.name))?.parent_id() < Some(shown) {
                behind.push(volume.clone());
            }
        }
        if behind.is_empty() {
            return Ok(());
        }
        let (site, record, activity) = (self.clone(), record.clone(), activity.clone());
        let work = move || site.make_sent_states(&record, shown, &behind, &activity);
        self.blocking("reading the restore point that is shown", work).await
    }

    fn make_sent_states(
        &self,
        record: &PlanRecord,
        shown: RestorePointId,
        volumes: &[VolumeSpec],
        activity: &Activity,
    ) -> Result<(), DaemonError> {
        let point = match self.store.point(&record.name, shown) {
            Ok(point) => point,
            Err(error) => {
                tracing::warn!("{shown} cannot be sent against, so that everything is offered: {error}");
                return Ok(());
            }
        };
        let peer = self.peer(record.pair)?;
        let context = VolumeContext {
            plan: record.name.clone(),
            key: peer.hash_key.clone(),
            params: peer.params,
            allow_fuzzy: false,
            allow_empty: false,
        };
        activity.enter(CyclePhase::Transfer, point.volumes.iter().map(|volume| volume.bytes).sum());
        let reader = self.store.reader(point.pair);
        for volume in volumes {
            let Some(in_point) = point.volume(&volume.name) else { continue };
            let sent = SentState::open(&self.sent(&record.name, &volume.name))?;
            let made =
                backstay_volume::sent_of_point(&reader, &in_point.root, &context, &sent, &activity.progress);
            made?.adopt(shown)?;
        }
        Ok(())
    }
}
