//! The restore points of every plan: their files, and what is known of them in memory.
//!
//! A point is a small file (some hundred bytes for each volume) and is held in memory whole: a thousand points of
//! ten volumes are 1 MB. The file is what counts: a point the catalog names without a file was deleted, or its
//! commit failed; one with a file that the catalog does not know was committed just before a crash.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use backstay_types::point::RestorePoint;
use backstay_types::{PlanName, RestorePointId};

use crate::StoreError;
use crate::catalog::{Change, Contents};
use crate::disk::Disk;
use crate::layout::Layout;

/// Longest restore-point file: 256 volumes at under 200 bytes, and as much again.
const POINT_BYTES_MAX: u64 = 128 << 10;

/// A restore point and what is wrong with it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) point: Arc<RestorePoint>,
    pub(crate) damage: Option<String>,
}

type ByPlan = BTreeMap<PlanName, BTreeMap<RestorePointId, Held>>;

/// All restore points.
#[derive(Debug, Default)]
pub(crate) struct Points {
    by_plan: RwLock<ByPlan>,
    /// Files that could not be read, with no copy in the catalog.
    unreadable: RwLock<BTreeMap<(PlanName, RestorePointId), String>>,
}

/// Reads a restore-point file.
pub(crate) fn read_file(
    layout: &Layout,
    plan: &PlanName,
    id: RestorePointId,
) -> Result<RestorePoint, StoreError> {
    let path = layout.point(plan, id);
    let failed = |e| StoreError::io("read", &path, e);
    let damaged = |why| StoreError::PointFile {
        path: path.clone(),
        source: backstay_types::point::PointError::Damaged { why },
    };
    if fs::metadata(&path).map_err(failed)?.len() > POINT_BYTES_MAX {
        return Err(damaged("it is too long"));
    }
    let bytes = fs::read(&path).map_err(failed)?;
    let point = RestorePoint::decode(&bytes)
        .map_err(|source| StoreError::PointFile { path: path.clone(), source })?;
    if point.plan == *plan && point.id == id {
        Ok(point)
    } else {
        Err(damaged("it is another restore point's"))
    }
}

impl Points {
    /// Reads all files, with the catalog's copies to mend those that cannot be read. Returns what the catalog
    /// has to learn.
    pub(crate) fn load(
        layout: &Layout,
        disk: &Disk,
        contents: &mut Contents,
    ) -> Result<(Self, Vec<Change>), StoreError> {
        let points = Self::default();
        let mut changes = Vec::new();
        for (plan, id) in layout.list_points()? {
            let key = (plan, id);
            let copy = contents.points.remove(&key);
            let (plan, id) = key;
            let point = match read_file(layout, &plan, id) {
                Ok(point) => point,
                Err(error @ StoreError::PointFile { .. }) => {
                    let mended = copy.as_deref().and_then(|copy| RestorePoint::decode(copy).ok());
                    let Some(point) = mended.filter(|point| point.plan == plan && point.id == id) else {
                        tracing::error!(%plan, restore_point = %id, %error, "a restore point cannot be read");
                        points.unreadable_mut().insert((plan, id), error.to_string());
                        continue;
                    };
                    tracing::error!(%plan, restore_point = %id, %error, "a restore-point file was damaged; mended from the catalog");
                    disk.publish(&layout.point(&plan, id), &point.encode())?;
                    point
                }
                Err(error) => return Err(error),
            };
            if copy.is_none() {
                tracing::info!(%plan, restore_point = %id, "a restore point the catalog did not know was taken up");
                changes.push(Change::PutPoint(plan.clone(), id, point.encode()));
            }
            let damage = contents.damage.remove(&(plan, id));
            points.insert(Arc::new(point), damage);
        }
        for (plan, id) in contents.points.keys() {
            tracing::warn!(%plan, restore_point = %id, "a restore point without its file is dropped from the catalog");
            changes.push(Change::DropPoint(plan.clone(), *id));
        }
        changes.extend(contents.damage.keys().map(|(plan, id)| Change::Undamaged(plan.clone(), *id)));
        Ok((points, changes))
    }

    pub(crate) fn insert(&self, point: Arc<RestorePoint>, damage: Option<String>) {
        let (plan, id) = (point.plan.clone(), point.id);
        self.unreadable_mut().remove(&(plan.clone(), id));
        self.write().entry(plan).or_default().insert(id, Held { point, damage });
    }

    pub(crate) fn remove(&self, plan: &PlanName, id: RestorePointId) {
        if let Some(points) = self.write().get_mut(plan) {
            points.remove(&id);
        }
        self.unreadable_mut().remove(&(plan.clone(), id));
    }

    /// Notes what is wrong with a point, or that nothing is. Whether that is news.
    pub(crate) fn set_damage(&self, plan: &PlanName, id: RestorePointId, damage: Option<String>) -> bool {
        let mut by_plan = self.write();
        let Some(held) = by_plan.get_mut(plan).and_then(|points| points.get_mut(&id)) else { return false };
        let news = held.damage != damage;
        held.damage = damage;
        news
    }

    /// A plan's points, oldest first.
    pub(crate) fn of_plan(&self, plan: &PlanName) -> Vec<Held> {
        self.read().get(plan).map(|points| points.values().cloned().collect()).unwrap_or_default()
    }

    /// Every point.
    pub(crate) fn all(&self) -> Vec<Held> {
        self.read().values().flat_map(|points| points.values().cloned()).collect()
    }

    pub(crate) fn get(&self, plan: &PlanName, id: RestorePointId) -> Option<Held> {
        self.read().get(plan).and_then(|points| points.get(&id)).cloned()
    }

    pub(crate) fn newest(&self, plan: &PlanName) -> Option<Held> {
        self.read().get(plan).and_then(|points| points.values().next_back()).cloned()
    }

    pub(crate) fn count(&self) -> u64 {
        self.read().values().map(|points| points.len() as u64).sum()
    }

    /// Points whose file cannot be read, and why.
    pub(crate) fn unreadable(&self) -> Vec<(PlanName, RestorePointId, String)> {
        let unreadable = self.unreadable.read().unwrap_or_else(PoisonError::into_inner);
        unreadable.iter().map(|((plan, id), why)| (plan.clone(), *id, why.clone())).collect()
    }

    fn unreadable_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<(PlanName, RestorePointId), String>> {
        self.unreadable.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, ByPlan> {
        self.by_plan.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ByPlan> {
        self.by_plan.write().unwrap_or_else(PoisonError::into_inner)
    }
}
