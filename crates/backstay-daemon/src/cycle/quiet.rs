//! Whether anything was written since a restore point: the same reading as a cycle's, of which nothing is sent.
//!
//! 1. What was written before the reading began is seen: files by their times and contents, against what was adopted with
//!    the point; devices and images by their contents, which are read again in full.
//!
//! At a crash: nothing is left behind; what was adopted stays as it was.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use backstay_types::VolumeName;
use backstay_types::point::{PointVolume, RestorePoint};
use backstay_volume::VolumeError;

use super::objects::SentObjects;
use super::produce::{self, Job, Produced};
use super::sources::Purpose;
use crate::DaemonError;
use crate::plans::PlanRecord;
use crate::runtime::Activity;
use crate::site::Site;

impl Site {
    /// The volumes that do not show `point` any more, which was acknowledged last. The caller holds the cycle gate.
    pub(crate) async fn written_since(
        self: &Arc<Self>,
        record: &Arc<PlanRecord>,
        point: &RestorePoint,
        activity: &Arc<Activity>,
    ) -> Result<Vec<VolumeName>, DaemonError> {
        let sources = self.sources(record, Purpose::Keep).await?;
        let job = Job {
            record: record.clone(),
            sent: self.sent_states(record, &sources)?,
            objects: SentObjects::open(self.sent_objects(&record.name))?,
            sources,
            parent: Some(point.id),
            describe_by_parent: true,
            activity: activity.clone(),
        };
        let (producer, mut chunks) = produce::start(self, job);
        let mut end = None;
        while let Some(produced) = chunks.recv().await {
            if let Produced::End(read) = produced {
                end = Some(read);
            }
        }
        // What it would adopt is dropped with this: the parent stays what the receiver holds.
        producer.await.map_err(|_| DaemonError::Worker { what: "reading the volumes" })??;
        let read = end.ok_or(VolumeError::SinkClosed)?;
        let roots = |volumes: &[PointVolume]| -> BTreeMap<_, _> {
            volumes.iter().map(|volume| (volume.name.clone(), volume.root)).collect()
        };
        let (then, now) = (roots(&point.volumes), roots(&read.volumes));
        let differs = |name: &&VolumeName| then.get(*name) != now.get(*name);
        Ok(then
            .keys()
            .chain(now.keys().filter(|name| !then.contains_key(*name)))
            .filter(differs)
            .cloned()
            .collect())
    }

    /// Has everything that was written to the volumes of a plan shown in the times of its files: what is in memory alone
    /// may be written to without a new time.
    pub(crate) async fn settle(self: &Arc<Self>, record: &PlanRecord) -> Result<(), DaemonError> {
        let places = self.own_places(record);
        self.blocking("syncing the volumes", move || places.iter().try_for_each(|place| settle(place))).await
    }
}

fn settle(place: &Path) -> Result<(), DaemonError> {
    if !place.exists() {
        // The cycle says so.
        return Ok(());
    }
    let sync = || -> std::io::Result<()> {
        let file = File::open(place)?;
        if file.metadata()?.is_dir() {
            return Ok(rustix::fs::syncfs(&file)?);
        }
        // With the file system that may be mounted from it.
        rustix::fs::sync();
        file.sync_all()
    };
    sync().map_err(|source| DaemonError::io("sync", place, source))
}
