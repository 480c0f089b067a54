//! What is kept of a lease over a restart: `SITE/plans/PLAN/lease.json`, on the side that holds it.
//!
//! Moments are of use only while the machine has not been started anew: the boot they were counted from stands beside
//! them. After a crash the file is the old one or the new.

use std::path::PathBuf;

use backstay_engine::lease::{Kept, Mono};
use backstay_types::plan::AutomaticFailover;
use backstay_types::{Classify, Epoch, PlanName, Span};
use serde::{Deserialize, Serialize};

use crate::plans::PlanRecord;
use crate::site::Site;
use crate::{DaemonError, clock, files};

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptFile {
    epoch: Epoch,
    boot: Option<String>,
    bound: Option<Span>,
    good: Option<Mono>,
    anew: Option<Mono>,
    held: bool,
}

/// What is assumed where nothing can be read: that a record of ours is there, and may be taken as soon as any plan lets it.
/// The next renewal knows better.
fn bound_by_anything(record: &PlanRecord, now: Mono) -> Kept {
    Kept { bound: Some(AutomaticFailover::AFTER_MIN), good: None, anew: Some(now), held: record.cut_off }
}

impl Site {
    pub(super) fn kept_file(&self, plan: &PlanName) -> PathBuf {
        self.plans.plan_folder(plan).join("lease.json")
    }

    /// What was kept, as far as it means anything to this process.
    pub(super) fn load_kept(&self, record: &PlanRecord, now: Mono) -> Result<Kept, DaemonError> {
        let file = match files::read_json::<KeptFile>(&self.kept_file(&record.name)) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Kept::default()),
            Err(error) => {
                tracing::error!(
                    plan = %record.name,
                    class = error.class().label(),
                    "what binds this side is not known: it holds if it is not heard soon: {error}"
                );
                return Ok(bound_by_anything(record, now));
            }
        };
        if file.epoch != record.epoch {
            // Of a time when this side was active before; what is held since is the business of its stepping down.
            return Ok(Kept::default());
        }
        let same_clock = file.boot.is_some() && file.boot == clock::boot();
        Ok(Kept {
            bound: file.bound,
            good: file.good.filter(|_| same_clock),
            anew: file.anew.map(|anew| if same_clock { anew } else { now }),
            held: file.held,
        })
    }

    pub(super) fn store_kept(&self, plan: &PlanName, epoch: Epoch, kept: &Kept) -> Result<(), DaemonError> {
        let Kept { bound, good, anew, held } = *kept;
        let file = KeptFile { epoch, boot: clock::boot(), bound, good, anew, held };
        files::write_json(&self.kept_file(plan), &file)
    }

    pub(super) fn forget_kept(&self, plan: &PlanName) -> Result<(), DaemonError> {
        files::remove(&self.kept_file(plan))
    }
}
