//! The commit: the one function after which a restore point exists, and the proof that it ran.
//!
//! 1. The order is: packs synced → pack sealed and its folder synced → restore-point file written, synced, renamed
//!    and its folder synced → catalog flushed → visible (test `a_crash_after_any_step_leaves_all_or_nothing`).
//! 2. Nothing else makes a [`Durable`], so an acknowledgement cannot leave before.
//!
//! At a crash before the rename of the restore-point file there is no such point; after it there is, and the next
//! open tells the catalog.

use std::ops::Deref;
use std::sync::Arc;

use backstay_types::PackId;
use backstay_types::point::RestorePoint;

use crate::StoreError;
use crate::catalog::Change;
use crate::config::CommitStep;
use crate::inner::{Inner, lock};
use crate::pack::PackWriter;

/// Something that survives a crash from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a commit is to be acknowledged"]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// The thing itself.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Durable<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Makes a checked restore point durable. `writer` is taken only when its pack is sealed.
pub(crate) fn commit(
    inner: &Inner,
    writer: &mut Option<PackWriter>,
    sealed: &[PackId],
    point: RestorePoint,
) -> Result<Durable<RestorePoint>, StoreError> {
    crate::identity::remember(inner)?;
    let reached = |step| inner.config.on_step.iter().for_each(|hook| hook(step));
    let mut own: Vec<PackId> = sealed.to_vec();

    // An empty pack (its first write failed) has nothing to seal and stays with the session.
    let pack = writer.as_mut().filter(|writer| !writer.is_empty());
    if let Some(writer) = pack {
        writer.close(&inner.disk)?;
        sync_others(inner)?;
        reached(CommitStep::PacksSynced);
        inner.name_sealed(writer)?;
        own.push(writer.pack());
        lock(&inner.fresh).insert(writer.pack(), inner.now());
    } else {
        sync_others(inner)?;
        reached(CommitStep::PacksSynced);
    }
    if writer.as_ref().is_some_and(|writer| own.contains(&writer.pack())) {
        *writer = None;
    }
    reached(CommitStep::PackSealed);

    let bytes = point.encode();
    let path = inner.layout.point(&point.plan, point.id);
    inner.disk.make_dir(&inner.layout.plan(&point.plan))?;
    let temp = inner.disk.write_temp(&path, &bytes)?;
    reached(CommitStep::PointWritten);
    inner.disk.rename(&temp, &path)?;
    reached(CommitStep::PointRenamed);

    let next = inner.index.read().next_pack();
    let mut changes = vec![
        Change::PutPoint(point.plan.clone(), point.id, bytes),
        Change::Undamaged(point.plan.clone(), point.id),
        Change::NextPack(next),
    ];
    changes.extend(own.iter().copied().map(Change::Unfresh));
    if let Err(error) = inner.catalog.write(&changes) {
        // Not committed, so no later open may find it.
        if let Err(stays) = inner.disk.remove(&path) {
            inner.disk.poison(&stays);
        }
        return Err(error);
    }
    reached(CommitStep::CatalogFlushed);

    lock(&inner.fresh).retain(|pack, _| !own.contains(pack));
    inner.points.insert(Arc::new(point.clone()), None);
    Ok(Durable(point))
}

/// Syncs the packs other sessions are writing: the point may stand on chunks in them.
fn sync_others(inner: &Inner) -> Result<(), StoreError> {
    inner.packs.being_written().iter().try_for_each(|(file, path)| inner.disk.sync(file, path))
}
