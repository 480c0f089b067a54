//! The drills under way: one of a plan, and the restore points that they need.

use std::collections::BTreeMap;
use std::sync::Mutex;

use backstay_types::{PlanName, RestorePointId};

const POISONED: &str = "no holder of this lock panics";

/// The drills under way.
#[derive(Default)]
pub(crate) struct Drills {
    running: Mutex<BTreeMap<PlanName, Option<RestorePointId>>>,
    /// Held while what drills left is removed.
    pub(super) removal: tokio::sync::Mutex<()>,
}

impl Drills {
    /// The place of a plan's one drill; `None` if it is taken.
    pub(super) fn enter(&self, plan: &PlanName) -> Option<Place<'_>> {
        let mut running = self.running.lock().expect(POISONED);
        if running.contains_key(plan) {
            return None;
        }
        running.insert(plan.clone(), None);
        Some(Place { drills: self, plan: plan.clone() })
    }

    /// The restore point that a drill of the plan reads.
    pub(crate) fn pinned(&self, plan: &PlanName) -> Option<RestorePointId> {
        self.running.lock().expect(POISONED).get(plan).copied().flatten()
    }
}

/// The place of a plan's one drill, given back with this value.
pub(super) struct Place<'a> {
    drills: &'a Drills,
    plan: PlanName,
}

impl Place<'_> {
    /// Keeps a restore point from expiring.
    pub(super) fn pin(&self, point: RestorePointId) {
        self.drills.running.lock().expect(POISONED).insert(self.plan.clone(), Some(point));
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.drills.running.lock().expect(POISONED).remove(&self.plan);
    }
}
