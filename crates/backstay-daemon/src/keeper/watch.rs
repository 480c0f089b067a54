//! Holds in the place of whoever has the lease, when that is dead, stopped or stuck; asks nobody.
//!
//! The note that tells of it is written before anything is held and once more after: whoever has the lease takes it away
//! before it lets go, so that a hold that ends later than that is told again, and nothing stays held unnoticed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backstay_engine::lease::{Kept, Mono, Watch};
use backstay_types::{Classify as _, Epoch, PlanName, Span};
use tokio::task::JoinSet;

use super::{KeeperError, Note, Orders, orders, plan_folder};
use crate::automatic::kept;
use crate::host_hold;
use crate::{DaemonError, clock, files};

/// After a hold that failed.
const AGAIN: Span = Span(500);

/// How a hold ended.
type Ended = (PlanName, Reason, Result<(), DaemonError>);

/// What a hold was for: the same reason holds once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reason {
    epoch: Epoch,
    fenced: bool,
    good: Option<Mono>,
}

/// One plan, as it is watched.
struct Watched {
    watch: Watch,
    /// What was read last: a file that cannot be read now may be read later.
    kept: Option<Kept>,
    held: Option<Reason>,
    is_holding: bool,
    again_at: Mono,
}

/// One process's watch over all plans of a site.
pub(crate) struct Watcher {
    dir: PathBuf,
    who: &'static str,
    plans: BTreeMap<PlanName, Watched>,
    tasks: JoinSet<Ended>,
    /// The last failure: one that lasts is told once.
    told: Option<String>,
}

impl Watcher {
    pub(crate) fn new(dir: &Path, who: &'static str) -> Self {
        Self { dir: dir.to_owned(), who, plans: BTreeMap::new(), tasks: JoinSet::new(), told: None }
    }

    /// Looks at every plan that has orders, and holds what is due. Does not wait for a hold. With `only_fenced` the lease
    /// is this process's own, and what is cut off is held by that.
    pub(crate) async fn look(&mut self, only_fenced: bool) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.took(ended);
        }
        let (dir, now) = (self.dir.clone(), clock::mono());
        let read = tokio::task::spawn_blocking(move || read(&dir, now)).await;
        let Ok((found, failures)) = read else { return };
        let failure = failures.first().map(ToString::to_string);
        if let Some(failure) = failure.as_ref().filter(|failure| self.told.as_ref() != Some(*failure)) {
            tracing::error!("{} cannot read what to hold: {failure}", self.who);
        }
        self.told = failure;
        // What cannot be read now goes on as it was read.
        if failures.is_empty() {
            self.plans.retain(|plan, _| found.iter().any(|(orders, _)| orders.plan == *plan));
        }
        for (orders, kept) in found {
            self.look_at(orders, kept, only_fenced, now);
        }
    }

    /// Whether there is anything to watch.
    pub(super) fn is_idle(&self) -> bool {
        self.plans.is_empty() && self.tasks.is_empty()
    }

    fn look_at(&mut self, orders: Orders, kept: Option<Kept>, only_fenced: bool, now: Mono) {
        let watched = self.plans.entry(orders.plan.clone()).or_insert_with(|| Watched {
            watch: Watch::new(now),
            kept: None,
            held: None,
            is_holding: false,
            again_at: now,
        });
        watched.kept = kept.or(watched.kept);
        let kept = watched.kept.unwrap_or_else(|| kept::bound_by_anything(false, now));
        let reason = Reason { epoch: orders.epoch, fenced: orders.fenced, good: kept.good };
        let is_due = orders.fenced || !only_fenced && is_due(watched.watch, kept, &orders, now);
        if !is_due || watched.held == Some(reason) || watched.is_holding || now < watched.again_at {
            return;
        }
        watched.is_holding = true;
        let (dir, who, watch) = (self.dir.clone(), self.who, watched.watch);
        self.tasks.spawn_blocking(move || {
            let held = hold(&dir, who, watch, &orders);
            (orders.plan, reason, held)
        });
    }

    fn took(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let Ok((plan, reason, held)) = ended else {
            self.plans.values_mut().for_each(|watched| watched.is_holding = false);
            return;
        };
        let Some(watched) = self.plans.get_mut(&plan) else { return };
        watched.is_holding = false;
        match held {
            Ok(()) => watched.held = Some(reason),
            Err(error) => {
                tracing::error!(%plan, class = error.class().label(), "not held: {error}");
                watched.again_at = clock::mono().plus(AGAIN);
            }
        }
    }
}

/// Every plan with orders, and what was kept of its lease; without that if it cannot be read.
fn read(dir: &Path, now: Mono) -> (Vec<(Orders, Option<Kept>)>, Vec<DaemonError>) {
    let (plans, mut failures) = orders::all(dir);
    let with_lease = |orders: Orders| {
        let kept = match kept::read(&plan_folder(dir, &orders.plan), now) {
            Ok(found) => Some(found.map(|(_, kept)| kept).unwrap_or_default()),
            Err(error) => {
                failures.push(error);
                None
            }
        };
        (orders, kept)
    };
    (plans.into_iter().map(with_lease).collect(), failures)
}

fn is_due(watch: Watch, kept: Kept, orders: &Orders, now: Mono) -> bool {
    watch.holds_at(kept, orders.terms(&kept).after()).is_some_and(|at| now >= at)
}

/// Holds, unless whoever has the lease was heard meanwhile.
fn hold(dir: &Path, who: &'static str, watch: Watch, orders: &Orders) -> Result<(), DaemonError> {
    let folder = plan_folder(dir, &orders.plan);
    let why = if orders.fenced { "the other side runs it, or is to" } else { "its lease was not renewed" };
    if !orders.fenced {
        let now = clock::mono();
        let kept = kept::read(&folder, now).ok().flatten().map(|(_, kept)| kept);
        if kept.is_some_and(|kept| !is_due(watch, kept, orders, now)) {
            return Ok(());
        }
    }
    // Of a hold that is not gone on with there is no note: whoever has the lease would hold for it.
    let note = Note { by: who.to_owned(), why: why.to_owned() };
    let noted = files::write_json_beside(&Note::path(&folder), &note);
    tracing::warn!(plan = %orders.plan, "{who} holds what runs here: {why}");
    hold_host(dir, orders)?;
    // Holding does not wait for a disk; whoever has the lease and is not told holds it for longer than it has to.
    noted?;
    files::write_json_beside(&Note::path(&folder), &note)
}

/// Holds what the orders say.
pub(crate) fn hold_host(dir: &Path, orders: &Orders) -> Result<(), DaemonError> {
    let record = host_hold::record_in(&plan_folder(dir, &orders.plan));
    let report = host_hold::hold(&orders.hold, &record).map_err(KeeperError::from)?;
    told(&orders.plan, &report);
    Ok(())
}

/// Lets it run again.
pub(crate) fn release_host(dir: &Path, orders: &Orders) -> Result<(), DaemonError> {
    let record = host_hold::record_in(&plan_folder(dir, &orders.plan));
    let report = host_hold::release(Some(&orders.hold), &record, host_hold::Release::Undo)
        .map_err(KeeperError::from)?;
    told(&orders.plan, &report);
    Ok(())
}

fn told(plan: &PlanName, report: &host_hold::HoldReport) {
    report.done.iter().for_each(|done| tracing::info!(%plan, "{done}"));
    report.warnings.iter().for_each(|warning| tracing::warn!(%plan, "{warning}"));
}
