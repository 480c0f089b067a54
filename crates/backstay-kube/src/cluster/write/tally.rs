//! What a run did, counted.

use crate::cluster::drift::Drift;
use crate::failure::Failures;

/// Warnings and drifted objects that a report names; the rest are counted.
const NAMED_MAX: usize = 100;

/// What became of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster) enum Wrote {
    Created,
    Changed,
    Recreated,
    Unchanged,
    Shared,
}

/// Counts of one run.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Tally {
    pub(in crate::cluster) created: u64,
    pub(in crate::cluster) changed: u64,
    pub(in crate::cluster) recreated: u64,
    pub(in crate::cluster) unchanged: u64,
    pub(in crate::cluster) shared: u64,
    pub(in crate::cluster) held: u64,
    pub(in crate::cluster) removed: u64,
    pub(in crate::cluster) drifted: u64,
    pub(in crate::cluster) drifts: Vec<Drift>,
    pub(in crate::cluster) warnings: Vec<String>,
    pub(in crate::cluster) failures: Failures,
}

impl Tally {
    pub(in crate::cluster) fn count(&mut self, wrote: Wrote, held: bool) {
        let count = match wrote {
            Wrote::Created => &mut self.created,
            Wrote::Changed => &mut self.changed,
            Wrote::Recreated => &mut self.recreated,
            Wrote::Unchanged => &mut self.unchanged,
            Wrote::Shared => &mut self.shared,
        };
        *count += 1;
        self.held += u64::from(held && wrote != Wrote::Shared);
    }

    pub(super) fn drift(&mut self, drift: Drift) {
        self.drifted += 1;
        if self.drifts.len() < NAMED_MAX {
            self.drifts.push(drift);
        }
    }

    pub(in crate::cluster) fn warn(&mut self, warning: String) {
        if self.warnings.len() < NAMED_MAX {
            self.warnings.push(warning);
        }
    }
}
