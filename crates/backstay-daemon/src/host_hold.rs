//! Holding, and letting go, what runs on a host: units of systemd, control groups, and the operator's own commands.
//!
//! 1. What ran, and what was frozen, is on disk before anything of it is touched; what a hold that was cut off has noted
//!    is not asked again. So a release gives back what was, also after a crash (test
//!    `what_was_stopped_before_stays_stopped`).
//! 2. Holding and releasing may be repeated, and go on after whatever cut them off. They never overlap, whichever
//!    process asks: a lock beside the record keeps them apart.
//! 3. A hold does all it can: one thing that cannot be held keeps nothing else running, and neither does a record that cannot
//!    be written (test `what_cannot_be_written_down_is_held`). It does not wait for a slow start, which is given up (test
//!    `a_release_makes_room_for_a_hold`).
//!
//! Needs no daemon and no runtime: whoever outlives the daemon holds by the same record. Left to others: when, and whose
//! word of what to hold counts on this site (`standstill.rs`). Whoever still writes is found by `open_files.rs`.
//!
//! At a crash: the same call does the rest.

mod cgroup;
mod command;
mod error;
mod record;
mod unit;

use std::path::{Path, PathBuf};

use backstay_types::plan::HostHold;

use crate::clock;

use self::record::{HeldState, Locked, Record};

pub(crate) use self::cgroup::frozen_processes;
pub use self::error::HoldError;

/// Why something is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// It was held for nothing, and runs on as it ran: what a hold has stopped is started, and nothing else.
    Undo,
    /// This side runs the application from now on. Units that ran when they were held are started; all of them, if none
    /// ran, or if they were never held here: a machine that came back from a crash, or one that is a standby for the
    /// first time.
    TakeOver,
}

/// What was done, in words for the log and the operator; nothing where all was as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HoldReport {
    /// What was done.
    pub(crate) done: Vec<String>,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
}

/// The record of a plan, in its own folder: whoever outlives the daemon finds it there.
pub(crate) fn record_in(plan_folder: &Path) -> PathBuf {
    plan_folder.join("hold.json")
}

/// Whether the record says that something is held here.
pub(crate) fn is_held(record: &Path) -> Result<bool, HoldError> {
    Ok(Record::load(record)?.is_some_and(|record| record.state != HeldState::Released))
}

/// Stops what runs here; what it was is in `record` first.
pub(crate) fn hold(hold: &HostHold, record: &Path) -> Result<HoldReport, HoldError> {
    if !hold.holds_something() {
        return Ok(HoldReport::default());
    }
    let (mut report, mut failures) = (HoldReport::default(), Vec::new());
    let mut kept = Locked::open_to_hold(record, &mut failures);
    let mut next = kept.take().filter(|kept| kept.state != HeldState::Released).unwrap_or_default();
    if next.state == HeldState::Releasing || next.hold.commands != hold.commands {
        // What it started may run again.
        next.commands_held_boot = None;
    }
    next.state = HeldState::Held;
    next.hold = hold.clone();
    for name in &hold.units {
        if !next.units.contains_key(name) {
            match unit::state(name) {
                Ok(state) => drop(next.units.insert(name.clone(), state.runs())),
                Err(error) => {
                    // One that may run is stopped all the same, below, and started again.
                    if !matches!(error, HoldError::UnknownUnit { .. }) {
                        next.units.insert(name.clone(), true);
                    }
                    failures.push(error);
                }
            }
        }
    }
    for folder in &hold.cgroups {
        match cgroup::look(folder) {
            Ok(Some(was_frozen)) => drop(next.cgroups.entry(folder.clone()).or_insert(was_frozen)),
            Ok(None) => {
                report
                    .warnings
                    .push(format!("there is no control group {}: nothing runs in it", folder.display()));
            }
            Err(error) => failures.push(error),
        }
    }
    // What cannot be written down is held all the same: it stops, and whoever asked is told.
    failures.extend(kept.put(next).err());
    kept.hold_all(&mut report, &mut failures);
    HoldError::of(failures).map_or(Ok(report), Err)
}

/// Lets what is held run again. `hold` is what this site says now; what was held by an earlier word is let go as well.
pub(crate) fn release(hold: Option<&HostHold>, record: &Path, why: Release) -> Result<HoldReport, HoldError> {
    let mut kept = Locked::open(record)?;
    let mut next = match (why, kept.take()) {
        (Release::Undo, None) => return Ok(HoldReport::default()),
        (Release::Undo, Some(found)) if found.state == HeldState::Released => {
            return Ok(HoldReport::default());
        }
        (_, found) => found.unwrap_or_default(),
    };
    if why == Release::TakeOver {
        for name in hold.iter().flat_map(|hold| &hold.units) {
            next.units.entry(name.clone()).or_insert(true);
        }
        if !next.units.values().any(|ran| *ran) {
            next.units.values_mut().for_each(|ran| *ran = true);
        }
        // What starts the application is what this site says today.
        if let Some(commands) = hold.and_then(|hold| hold.commands.clone()) {
            next.hold.commands = Some(commands);
        }
    }
    if next.is_empty() {
        return Ok(HoldReport::default());
    }
    next.state = HeldState::Releasing;
    let (mut report, mut failures) = (HoldReport::default(), Vec::new());
    kept.put(next)?;
    kept.release_all(&mut report, &mut failures);
    if let Some(error) = HoldError::of(failures) {
        return Err(error);
    }
    kept.released()?;
    Ok(report)
}

impl Locked {
    fn hold_all(&mut self, report: &mut HoldReport, failures: &mut Vec<HoldError>) {
        let (hold, boot) = (self.record().hold.clone(), clock::boot());
        let commands_held = boot.is_some() && self.record().commands_held_boot == boot;
        // The operator's own way first: it may let the application end in peace.
        if let Some(commands) = hold.commands.as_ref().filter(|_| !commands_held) {
            match command::run(&commands.hold, commands.timeout().to_duration(), || false) {
                Ok(_) => {
                    report.done.push(format!("ran {}", commands.hold.join(" ")));
                    self.record_mut().commands_held_boot = boot;
                    failures.extend(self.store().err());
                }
                Err(error) => failures.push(error),
            }
        }
        for name in &hold.units {
            match unit::stop(name) {
                Ok(true) => report.done.push(format!("stopped {name}")),
                Ok(false) => {}
                Err(error) => failures.push(error),
            }
        }
        // Last: what is frozen cannot end.
        for folder in self.record().cgroups.keys() {
            match cgroup::freeze(folder) {
                Ok(true) => report.done.push(format!("froze {}", folder.display())),
                Ok(false) => {}
                Err(error) => failures.push(error),
            }
        }
    }

    fn release_all(&self, report: &mut HoldReport, failures: &mut Vec<HoldError>) {
        let record = self.record();
        for (folder, _) in record.cgroups.iter().filter(|(_, was_frozen)| !**was_frozen) {
            match cgroup::thaw(folder) {
                Ok(true) => report.done.push(format!("thawed {}", folder.display())),
                Ok(false) => {}
                Err(error) => failures.push(error),
            }
        }
        for name in record.units_to_start() {
            match unit::start(name, || self.is_hold_wanted()) {
                Ok(true) => report.done.push(format!("started {name}")),
                Ok(false) => {}
                Err(error) => failures.push(error),
            }
        }
        if let Some(commands) = &record.hold.commands {
            match command::run(&commands.release, commands.timeout().to_duration(), || self.is_hold_wanted())
            {
                Ok(_) => report.done.push(format!("ran {}", commands.release.join(" "))),
                Err(error) => failures.push(error),
            }
        }
    }
}

#[cfg(test)]
mod tests;
