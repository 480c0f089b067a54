//! What is kept of a lease over a restart: `SITE/plans/PLAN/lease.json`, on the side that holds it.
//!
//! Read as well by whoever watches over the daemon or goes on in its place: see `keeper`.
//!
//! Moments are of use only while the machine has not been started anew: the boot they were counted from stands beside
//! them. After a crash the file is the old one or the new.

use std::path::{Path, PathBuf};

use backstay_engine::lease::{Kept, Mono};
use backstay_types::plan::AutomaticFailover;
use backstay_types::{Classify, Epoch, PlanName, Span};
use serde::{Deserialize, Serialize};

use crate::plans::PlanRecord;
use crate::site::Site;
use crate::{DaemonError, clock, files};

/// Its name.
const FILE: &str = "lease.json";

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
pub(crate) fn bound_by_anything(held: bool, now: Mono) -> Kept {
    Kept { bound: Some(AutomaticFailover::AFTER_MIN), good: None, anew: Some(now), held }
}

/// What was kept in a plan's folder, as far as it means anything to this machine, and at which epoch.
pub(crate) fn read(folder: &Path, now: Mono) -> Result<Option<(Epoch, Kept)>, DaemonError> {
    let Some(file) = files::read_json::<KeptFile>(&folder.join(FILE))? else { return Ok(None) };
    let same_clock = file.boot.is_some() && file.boot == clock::boot();
    let kept = Kept {
        bound: file.bound,
        good: file.good.filter(|_| same_clock),
        anew: file.anew.map(|anew| if same_clock { anew } else { now }),
        held: file.held,
    };
    Ok(Some((file.epoch, kept)))
}

pub(crate) fn store(folder: &Path, epoch: Epoch, kept: &Kept) -> Result<(), DaemonError> {
    let Kept { bound, good, anew, held } = *kept;
    let file = KeptFile { epoch, boot: clock::boot(), bound, good, anew, held };
    files::write_json(&folder.join(FILE), &file)
}

pub(crate) fn forget(folder: &Path) -> Result<(), DaemonError> {
    files::remove(&folder.join(FILE))
}

impl Site {
    pub(super) fn kept_file(&self, plan: &PlanName) -> PathBuf {
        self.plans.plan_folder(plan).join(FILE)
    }

    /// What was kept, as far as it means anything to this process.
    pub(super) fn load_kept(&self, record: &PlanRecord, now: Mono) -> Result<Kept, DaemonError> {
        match read(&self.plans.plan_folder(&record.name), now) {
            // Of a time when this side was active before; what is held since is the business of its stepping down.
            Ok(found) => Ok(found
                .filter(|(epoch, _)| *epoch == record.state.epoch())
                .map(|(_, kept)| kept)
                .unwrap_or_default()),
            Err(error) => {
                tracing::error!(
                    plan = %record.name,
                    class = error.class().label(),
                    "what binds this side is not known: it holds if it is not heard soon: {error}"
                );
                Ok(bound_by_anything(record.state.cut_off(), now))
            }
        }
    }

    pub(super) fn store_kept(&self, plan: &PlanName, epoch: Epoch, kept: &Kept) -> Result<(), DaemonError> {
        store(&self.plans.plan_folder(plan), epoch, kept)
    }

    pub(super) fn forget_kept(&self, plan: &PlanName) -> Result<(), DaemonError> {
        forget(&self.plans.plan_folder(plan))
    }
}
