//! Taking files out of a restore point, and comparing two points.

mod destination;

use std::path::PathBuf;
use std::sync::Arc;

use backstay_store::{Change as StoreChange, ChangeKind, diff};
use backstay_types::manifest::{InvalidPath, RelPath, VolumeKind};
use backstay_types::point::{PointVolume, RestorePoint};
use backstay_types::{ChunkId, PlanName, RestorePointId};
use backstay_volume::VolumeError;

use crate::api_types::{Change, CyclePhase, DiffEntry, DiffList, RestoreOutcome, RestoreRequest};
use crate::runtime::Activity;
use crate::site::Site;
use crate::{DaemonError, clock};

/// Entries in one answer of `diff`: 20 000 × some 150 bytes = 3 MB.
const DIFF_ITEMS_MAX: usize = 20_000;

impl Site {
    fn point_or_newest(
        &self,
        plan: &PlanName,
        id: Option<RestorePointId>,
    ) -> Result<RestorePoint, DaemonError> {
        self.must_have_points(plan)?;
        match id {
            Some(id) => Ok(self.store.point(plan, id)?),
            None => {
                self.store.newest(plan)?.ok_or_else(|| DaemonError::NoRestorePoint { plan: plan.clone() })
            }
        }
    }

    /// Takes files or volumes out of a restore point.
    pub(crate) async fn restore(
        self: &Arc<Self>,
        plan: PlanName,
        request: RestoreRequest,
    ) -> Result<RestoreOutcome, DaemonError> {
        let site = self.clone();
        self.blocking("restore", move || site.restore_blocking(&plan, request)).await
    }

    fn restore_blocking(
        &self,
        plan: &PlanName,
        request: RestoreRequest,
    ) -> Result<RestoreOutcome, DaemonError> {
        let started = clock::now();
        if !request.to.is_absolute() {
            return Err(DaemonError::Request {
                message: format!("`to` is not an absolute path: {:?}", request.to),
            });
        }
        let point = self.point_or_newest(plan, request.restore_point)?;
        self.refuse_own(&request.to)?;
        let is_folder = destination::check(&request.to)?;
        let volumes = chosen_volumes(plan, &point, &request, is_folder)?;
        let paths = request.path.as_deref().map(readings).transpose()?;
        let runtime = self.runtimes.of(plan);
        let activity = Activity::begin(CyclePhase::Restore);
        activity.enter(CyclePhase::Restore, volumes.iter().map(|(volume, _)| volume.bytes).sum());
        let _shown = runtime.show(activity.clone());
        let reader = self.store.reader(point.pair);
        let (mut entries, mut bytes) = (0, 0);
        for (volume, to) in &volumes {
            let restore = |path: Option<&RelPath>| {
                backstay_volume::restore(&reader, &volume.root, volume.kind, path, to, &activity.progress)
            };
            let report = match &paths {
                None => restore(None),
                Some([escaped, literal]) => match restore(Some(escaped)) {
                    Err(VolumeError::NotInManifest { .. }) if literal != escaped => restore(Some(literal)),
                    outcome => outcome,
                },
            }
            .map_err(destination::blamed)?;
            entries += report.entries;
            bytes += report.bytes;
        }
        Ok(RestoreOutcome {
            restore_point: point.id,
            to: request.to,
            entries,
            bytes,
            duration_seconds: clock::now().since(started).as_secs_f64(),
        })
    }

    /// What differs between two restore points; without `b` the newest, without `a` the one before `b`.
    pub(crate) async fn diff(
        self: &Arc<Self>,
        plan: PlanName,
        a: Option<RestorePointId>,
        b: Option<RestorePointId>,
    ) -> Result<DiffList, DaemonError> {
        let site = self.clone();
        self.blocking("diff", move || site.diff_blocking(&plan, a, b)).await
    }

    fn diff_blocking(
        &self,
        plan: &PlanName,
        a: Option<RestorePointId>,
        b: Option<RestorePointId>,
    ) -> Result<DiffList, DaemonError> {
        let new = self.point_or_newest(plan, b)?;
        let old = match a {
            Some(a) => Some(self.store.point(plan, a)?),
            None => self.store.points(plan)?.into_iter().rfind(|point| point.id < new.id),
        };
        let mut list = DiffList { items: Vec::new(), truncated: false };
        for volume in &new.volumes {
            let before = old.as_ref().and_then(|old| old.volume(&volume.name)).map(|volume| volume.root);
            self.diff_manifest(volume.name.as_str(), (&old, before), (&new, Some(volume.root)), &mut list)?;
        }
        let gone =
            old.iter().flat_map(|old| &old.volumes).filter(|volume| new.volume(&volume.name).is_none());
        for volume in gone {
            self.diff_manifest(volume.name.as_str(), (&old, Some(volume.root)), (&new, None), &mut list)?;
        }
        let bundle = |point: &RestorePoint| point.bundle.as_ref().map(|bundle| bundle.root);
        let (before, after) = (old.as_ref().and_then(bundle), bundle(&new));
        self.diff_manifest("objects", (&old, before), (&new, after), &mut list)?;
        Ok(list)
    }

    fn diff_manifest(
        &self,
        name: &str,
        (old, before): (&Option<RestorePoint>, Option<ChunkId>),
        (new, after): (&RestorePoint, Option<ChunkId>),
        list: &mut DiffList,
    ) -> Result<(), DaemonError> {
        if before == after {
            return Ok(());
        }
        let old_reader = self.store.reader(old.as_ref().map_or(new.pair, |old| old.pair));
        let new_reader = self.store.reader(new.pair);
        diff(&old_reader, before.as_ref(), &new_reader, after.as_ref(), &mut |change: StoreChange| {
            if list.items.len() < DIFF_ITEMS_MAX {
                list.items.push(entry(name, &change));
            } else {
                list.truncated = true;
            }
        })?;
        Ok(())
    }
}

fn entry(volume: &str, change: &StoreChange) -> DiffEntry {
    let kind = match change.kind {
        ChangeKind::Added => Change::Added,
        ChangeKind::Removed => Change::Removed,
        ChangeKind::Modified { content: true, .. } => Change::Changed,
        ChangeKind::Modified { content: false, .. } => Change::Metadata,
    };
    DiffEntry { volume: volume.to_owned(), path: change.path.to_string(), change: kind, bytes: change.bytes }
}

/// What a path on the command line may mean: the form that `diff` prints, or else the name as it is.
fn readings(text: &str) -> Result<[RelPath; 2], DaemonError> {
    let text = text.trim_matches('/');
    let bad = |error: InvalidPath| DaemonError::Request { message: error.to_string() };
    let literal = RelPath::parse(text.as_bytes()).map_err(bad)?;
    let escaped = RelPath::parse_escaped(text).unwrap_or_else(|_| literal.clone());
    Ok([escaped, literal])
}

/// Volumes to take out, each with where it goes. An image goes into a folder that `is_folder` already under its
/// volume's name, and is otherwise the file `to` itself.
fn chosen_volumes(
    plan: &PlanName,
    point: &RestorePoint,
    request: &RestoreRequest,
    is_folder: bool,
) -> Result<Vec<(PointVolume, PathBuf)>, DaemonError> {
    let alone = |volume: &PointVolume| {
        let to = &request.to;
        let inside = volume.kind == VolumeKind::Block && is_folder;
        vec![(volume.clone(), if inside { to.join(volume.name.as_str()) } else { to.clone() })]
    };
    if let Some(name) = &request.volume {
        let volume = point.volume(name).ok_or_else(|| DaemonError::VolumeNotFound {
            plan: plan.clone(),
            point: point.id,
            volume: name.to_string(),
        })?;
        return Ok(alone(volume));
    }
    match point.volumes.as_slice() {
        [only] => Ok(alone(only)),
        volumes if request.path.is_some() => {
            Err(DaemonError::VolumeUnclear { plan: plan.clone(), count: volumes.len() })
        }
        volumes => Ok(volumes.iter().map(|v| (v.clone(), request.to.join(v.name.as_str()))).collect()),
    }
}
