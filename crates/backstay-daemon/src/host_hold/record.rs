//! The record of a hold: what ran before it, on disk before anything is touched.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use backstay_types::plan::HostHold;
use serde::{Deserialize, Serialize};

use super::HoldError;
use crate::{DaemonError, files};

/// How far a hold is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum HeldState {
    /// Held, or being held.
    Held,
    /// Being let go.
    Releasing,
    /// It runs again.
    #[default]
    Released,
}

/// What was held, and what it was before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) state: HeldState,
    /// By which word it was held last.
    pub(super) hold: HostHold,
    /// Units, and whether they ran.
    pub(super) units: BTreeMap<String, bool>,
    /// Control groups, and whether they were frozen already.
    pub(super) cgroups: BTreeMap<PathBuf, bool>,
    /// During which start of the machine the command that holds has done so: what the next one started is not held.
    #[serde(default)]
    pub(super) commands_held_boot: Option<String>,
}

impl Record {
    pub(super) fn load(path: &Path) -> Result<Option<Self>, HoldError> {
        Ok(files::read_json(path).map_err(Box::new)?)
    }

    /// Whether there is nothing to let go.
    pub(super) fn is_empty(&self) -> bool {
        self.units.is_empty() && self.cgroups.is_empty() && self.hold.commands.is_none()
    }

    /// Units that ran, the one that was stopped last first.
    pub(super) fn units_to_start(&self) -> impl Iterator<Item = &String> {
        let ran = |name: &&String| self.units.get(*name) == Some(&true);
        let listed = self.hold.units.iter().rev().filter(ran);
        // Of an earlier word, whose order is not known any more.
        let others = self.units.keys().filter(|name| !self.hold.units.contains(name)).filter(ran);
        listed.chain(others)
    }
}

/// The record of a plan, and the lock that keeps everybody else from it for as long as this lives.
pub(super) struct Locked {
    path: PathBuf,
    record: Option<Record>,
    /// What a caller finds where nothing was ever held.
    none: Record,
    /// Shared by whoever is about to hold: a release in the middle of a slow start makes room for it.
    wanted: Option<File>,
    _lock: Option<File>,
}

/// Opens a lock beside a record, read-only where it is there: a disk that has become read-only is locked all the same.
fn lock_beside(path: &Path, extension: &str) -> Result<File, HoldError> {
    let beside = path.with_added_extension(extension);
    let made = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&beside);
    let opened = File::open(&beside).or_else(|_| made());
    Ok(opened.map_err(|source| Box::new(DaemonError::io("lock", &beside, source)))?)
}

fn lock_exclusively(path: &Path) -> Result<File, HoldError> {
    let lock = lock_beside(path, "lock")?;
    lock.lock().map_err(|source| Box::new(DaemonError::io("lock", path, source)))?;
    Ok(lock)
}

impl Locked {
    /// Waits for whoever holds or releases by this record.
    pub(super) fn open(path: &Path) -> Result<Self, HoldError> {
        let lock = lock_exclusively(path)?;
        let (record, wanted) = (Record::load(path)?, lock_beside(path, "wanted")?);
        let none = Record::default();
        Ok(Self { path: path.to_owned(), record, none, wanted: Some(wanted), _lock: Some(lock) })
    }

    /// The same for a hold, which waits for no release, and goes on without what cannot be opened or read: that stops nothing
    /// from being held.
    pub(super) fn open_to_hold(path: &Path, failures: &mut Vec<HoldError>) -> Self {
        let told = |wanted: File| {
            wanted.lock_shared().map_err(|source| Box::new(DaemonError::io("lock", path, source)))?;
            Ok(wanted)
        };
        let mut kept = |result| match result {
            Ok(file) => Some(file),
            Err(error) => {
                failures.push(error);
                None
            }
        };
        let wanted = kept(lock_beside(path, "wanted").and_then(told));
        let lock = kept(lock_exclusively(path));
        // Whoever releases next is not to give up for a hold that is done.
        drop(wanted);
        let record = Record::load(path).unwrap_or_else(|error| {
            failures.push(error);
            None
        });
        Self { path: path.to_owned(), record, none: Record::default(), wanted: None, _lock: lock }
    }

    /// Whether somebody waits to hold.
    pub(super) fn is_hold_wanted(&self) -> bool {
        let Some(wanted) = &self.wanted else { return false };
        match wanted.try_lock() {
            // Given back at once: whoever is about to hold must not wait for this look. A file that cannot be unlocked
            // is not locked.
            Ok(()) => wanted.unlock().is_err(),
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(_)) => false,
        }
    }

    /// The record as it was found, to be put again.
    pub(super) fn take(&mut self) -> Option<Record> {
        self.record.take()
    }

    pub(super) fn record(&self) -> &Record {
        self.record.as_ref().unwrap_or(&self.none)
    }

    pub(super) fn record_mut(&mut self) -> &mut Record {
        self.record.get_or_insert_default()
    }

    /// Writes a record durably.
    pub(super) fn put(&mut self, record: Record) -> Result<(), HoldError> {
        self.record = Some(record);
        self.store()
    }

    pub(super) fn store(&self) -> Result<(), HoldError> {
        Ok(files::write_json(&self.path, self.record()).map_err(Box::new)?)
    }

    /// Everything runs again.
    pub(super) fn released(&mut self) -> Result<(), HoldError> {
        let record = self.record_mut();
        record.state = HeldState::Released;
        record.commands_held_boot = None;
        self.store()
    }
}
