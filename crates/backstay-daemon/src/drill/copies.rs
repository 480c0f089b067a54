//! Copies of a restore point's volumes: clones of the replicas where those show it and their file system can, else taken
//! out of the store.

use std::path::{Path, PathBuf};

use backstay_engine::drill::DrillRefused;
use backstay_types::frame::SiteRole;
use backstay_types::manifest::{Cursor, Extent, Item};
use backstay_types::point::{PointVolume, RestorePoint};
use backstay_types::{Class, PairId, VolumeName};
use backstay_volume::Progress;

use super::{DrillError, Rehearsal};
use crate::api_types::{CopyKind, DrillVolume};
use crate::site::Site;
use crate::{DaemonError, files};

/// What is left to the file system by copies from the store: the smaller of these. It may be the one that the store is
/// on, and cycles go on.
const SPARE_BYTES: u64 = 1 << 30;
const SPARE_SHARE: u64 = 20;

/// Copies to be made.
pub(super) struct Copies(Vec<Copy>);

/// One of them.
struct Copy {
    volume: PointVolume,
    pair: PairId,
    /// The replica to clone; from the store without it.
    replica: Option<PathBuf>,
    to: PathBuf,
}

impl Copies {
    /// Those to be cloned, and those to be taken out of the store.
    pub(super) fn apart(self) -> (Copies, Copies) {
        let (cloned, restored) = self.0.into_iter().partition(|copy| copy.replica.is_some());
        (Copies(cloned), Copies(restored))
    }
}

impl Rehearsal {
    /// Finds out how each volume can be copied, and that there is room. The caller holds the apply gate.
    pub(super) async fn check(&self) -> Result<Copies, DaemonError> {
        // A takeover may have held the gate before us: the replicas are live then.
        let plan = &self.drill.plan;
        if self.site.plans.get(plan)?.state.role() != SiteRole::Standby {
            return Err(DrillError::from(DrillRefused::TakeoverUnderWay { plan: plan.clone() }).into());
        }
        let (site, folder, point) = (self.site.clone(), self.folder.clone(), self.point()?);
        let work = move || {
            files::make_folder(&folder.join("volumes"))?;
            let copies = site.copies(&point, &folder)?;
            site.check_room(&copies, &folder)?;
            Ok(copies)
        };
        self.site.blocking("checking the restore point", work).await
    }

    /// Makes copies, until they are there or the daemon stops.
    pub(super) async fn make(&mut self, copies: Copies) -> Result<(), DaemonError> {
        if copies.0.is_empty() {
            return Ok(());
        }
        let (site, progress) = (self.site.clone(), self.progress.clone());
        let work = move || {
            copies.0.iter().map(|copy| site.make_copy(copy, &progress)).collect::<Result<Vec<_>, _>>()
        };
        let stop = self.site.stop.clone();
        let mut work = std::pin::pin!(self.site.blocking("copying volumes", work));
        let made = tokio::select! {
            made = &mut work => made,
            () = stop.cancelled() => {
                self.progress.cancel();
                work.await.map_err(|_| DrillError::Stopped.into())
            }
        };
        self.volumes.extend(made?);
        Ok(())
    }
}

/// Where the copy of a volume is.
pub(super) fn path_of(folder: &Path, volume: &VolumeName) -> PathBuf {
    folder.join("volumes").join(volume.as_str())
}

impl Site {
    fn copies(&self, point: &RestorePoint, folder: &Path) -> Result<Copies, DaemonError> {
        let applied = self.plans.applied(&point.plan)?;
        let copy = |volume: &PointVolume| {
            // A replica that somebody changed is no copy of the point.
            let touched = match applied.target {
                None => self.touched(&point.plan, &applied, point, volume)?,
                Some(_) => None,
            };
            let is_shown = touched.is_some_and(|touched| touched.count == 0);
            let replica = is_shown.then(|| self.place(&point.plan, &volume.name));
            Ok::<_, DaemonError>(Copy {
                volume: volume.clone(),
                pair: point.pair,
                replica: replica.filter(|replica| backstay_volume::clones_work(replica, folder)),
                to: path_of(folder, &volume.name),
            })
        };
        Ok(Copies(point.volumes.iter().map(copy).collect::<Result<_, _>>()?))
    }

    /// Refuses copies that do not fit. The lengths of files are looked at first; only where these are too much, what of
    /// them is not a hole.
    fn check_room(&self, copies: &Copies, folder: &Path) -> Result<(), DaemonError> {
        let restored = || copies.0.iter().filter(|copy| copy.replica.is_none());
        let fail =
            |source: rustix::io::Errno| DaemonError::io("find the free space of", folder, source.into());
        let disk = rustix::fs::statvfs(folder).map_err(fail)?;
        let spare = SPARE_BYTES.min(disk.f_blocks * disk.f_frsize / SPARE_SHARE);
        let free = (disk.f_bavail * disk.f_frsize).saturating_sub(spare);
        if restored().map(|copy| copy.volume.bytes).sum::<u64>() <= free {
            return Ok(());
        }
        let needed = restored().map(|copy| self.data_bytes(copy)).sum::<Result<u64, _>>()?;
        if needed <= free {
            return Ok(());
        }
        Err(DrillError::NoRoom { folder: self.drills_folder(), free, needed }.into())
    }

    /// Bytes of a volume that are not holes.
    fn data_bytes(&self, copy: &Copy) -> Result<u64, DaemonError> {
        let reader = self.store.reader(copy.pair);
        let unreadable = |error: &dyn std::fmt::Display| DaemonError::Decision {
            class: Class::Corrupt,
            message: format!("read the manifest of volume {}: {error}", copy.volume.name),
            hint: None,
        };
        let mut cursor = Cursor::open(&reader, &copy.volume.root).map_err(|error| unreadable(&error))?;
        let mut bytes = 0;
        while let Some(item) = cursor.next_item().map_err(|error| unreadable(&error))? {
            if let Item::Extents(extents) = item {
                let data = extents.iter().filter(|extent| matches!(extent, Extent::Data { .. }));
                bytes += data.map(Extent::len).sum::<u64>();
            }
        }
        Ok(bytes)
    }

    fn make_copy(&self, copy: &Copy, progress: &Progress) -> Result<DrillVolume, DaemonError> {
        let Copy { volume, pair, replica, to } = copy;
        let reader = self.store.reader(*pair);
        let (root, kind) = (&volume.root, volume.kind);
        let made = match replica {
            Some(replica) => {
                backstay_volume::restore_cloned(&reader, root, kind, replica, to, progress)?;
                CopyKind::Cloned
            }
            None => {
                backstay_volume::restore(&reader, root, kind, None, to, progress)?;
                CopyKind::Restored
            }
        };
        Ok(DrillVolume { name: volume.name.clone(), made, path: to.clone() })
    }
}
