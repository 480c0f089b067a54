//! The first cycles of a side that was the standby: what it sends against.
//!
//! 1. That is what the other side shows. If that is what this side received, it is made from the store. If the other side
//!    was active until it stepped down, it has kept what it wrote as a point that this side never had: of that one the
//!    manifest and the fingerprints of sectors are asked for, so that pages travel as pages whoever wrote them.
//! 2. If that fails, it is the point that this side showed when it was promoted: the other side holds most of it, and
//!    where it has written since, whole chunks travel.
//! 3. What this side remembers of an earlier time is older, and used no more. Once this side has sent a point, that is
//!    what it sends against.
//!
//! At a crash: a state counts once it is whole; the next cycle begins again.

use std::sync::Arc;

use backstay_types::plan::VolumeSpec;
use backstay_types::point::RestorePoint;
use backstay_types::{Class, Classify, RestorePointId};
use backstay_volume::{Elsewhere, PendingState, SentState, VolumeContext};

use super::sources::Sources;
use super::standby::Standby;
use crate::DaemonError;
use crate::api_types::CyclePhase;
use crate::meter::Wire;
use crate::plans::PlanRecord;
use crate::runtime::Activity;
use crate::site::Site;

impl Site {
    /// Makes the sent state of volumes of which a newer point is shown than this side has sent; `theirs` is what the
    /// standby shows. Gives what was put on the wire for it.
    pub(super) async fn send_from_what_is_shown(
        self: &Arc<Self>,
        record: &Arc<PlanRecord>,
        sources: &Sources,
        theirs: Option<RestorePointId>,
        activity: &Arc<Activity>,
    ) -> Result<Wire, DaemonError> {
        let ours = self.plans.applied(&record.name)?.point;
        let mut wire = Wire::default();
        if let Some(theirs) =
            theirs.filter(|theirs| theirs.epoch < record.state.epoch() && Some(*theirs) > ours)
        {
            let behind = self.behind(record, sources, theirs)?;
            if !behind.is_empty() {
                let standby = Arc::new(Standby::new(self, record)?);
                let made = self.send_from_theirs(record, theirs, behind, &standby, activity).await;
                wire = standby.wire();
                if let Err(error) = made {
                    if self.stop.is_cancelled() || activity.progress.is_cancelled() {
                        return Err(error);
                    }
                    tracing::warn!(
                        class = error.class().label(),
                        "{theirs}, which the other side shows, cannot be sent against, so that whole chunks travel \
                         where it has written: {error}"
                    );
                }
            }
        }
        if let Some(ours) = ours {
            let behind = self.behind(record, sources, ours)?;
            if !behind.is_empty() {
                self.send_from_ours(record, ours, behind, activity).await?;
            }
        }
        Ok(wire)
    }

    /// The volumes of which this side has sent nothing newer than `shown`.
    fn behind(
        &self,
        record: &PlanRecord,
        sources: &Sources,
        shown: RestorePointId,
    ) -> Result<Vec<VolumeSpec>, DaemonError> {
        let mut behind = Vec::new();
        for volume in &sources.volumes {
            if SentState::open(&self.sent(&record.name, &volume.name))?.parent_id() < Some(shown) {
                behind.push(volume.clone());
            }
        }
        Ok(behind)
    }

    async fn send_from_theirs(
        self: &Arc<Self>,
        record: &Arc<PlanRecord>,
        theirs: RestorePointId,
        behind: Vec<VolumeSpec>,
        standby: &Arc<Standby>,
        activity: &Arc<Activity>,
    ) -> Result<(), DaemonError> {
        let point = match self.store.point(&record.name, theirs) {
            Err(error) if error.class() == Class::NotFound => {
                tracing::info!(
                    "{theirs}, which the other side shows, was never here: asking what it is like"
                );
                standby.point(theirs).await?
            }
            here => here?,
        };
        if point.pair != record.pair {
            tracing::info!(
                "{theirs}, which the other side shows, has ids of another key: everything is offered"
            );
            return Ok(());
        }
        if point.origin == self.id {
            // Sent by this side, which has not heard of it: what it remembers is as good, and knows what was read.
            return Ok(());
        }
        let (site, record, activity) = (self.clone(), record.clone(), activity.clone());
        let standby = standby.clone();
        let work = move || site.make_sent_states(&record, &point, Some(&*standby), &behind, &activity);
        self.blocking("reading the restore point that the other side shows", work).await
    }

    async fn send_from_ours(
        self: &Arc<Self>,
        record: &Arc<PlanRecord>,
        ours: RestorePointId,
        behind: Vec<VolumeSpec>,
        activity: &Arc<Activity>,
    ) -> Result<(), DaemonError> {
        let point = match self.store.point(&record.name, ours) {
            Ok(point) if point.pair != record.pair => {
                tracing::info!("{ours} has ids of another key: everything is offered");
                return Ok(());
            }
            Ok(point) => point,
            Err(error) => {
                tracing::warn!("{ours} cannot be sent against, so that everything is offered: {error}");
                return Ok(());
            }
        };
        let (site, record, activity) = (self.clone(), record.clone(), activity.clone());
        let work = move || site.make_sent_states(&record, &point, None, &behind, &activity);
        self.blocking("reading the restore point that is shown", work).await
    }

    fn make_sent_states(
        &self,
        record: &PlanRecord,
        point: &RestorePoint,
        elsewhere: Option<&dyn Elsewhere>,
        volumes: &[VolumeSpec],
        activity: &Activity,
    ) -> Result<(), DaemonError> {
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
        let mut made: Vec<PendingState> = Vec::with_capacity(volumes.len());
        for volume in volumes {
            let Some(in_point) = point.volume(&volume.name) else { continue };
            let sent = SentState::open(&self.sent(&record.name, &volume.name))?;
            let (root, progress) = (&in_point.root, &activity.progress);
            made.push(backstay_volume::sent_of_point(&reader, elsewhere, root, &context, &sent, progress)?);
        }
        // All or none: a volume against another point than the others is one that is offered whole.
        made.into_iter().try_for_each(|state| state.adopt(point.id).map_err(DaemonError::from))
    }
}
