//! What a snapshot that was begun leaves to be undone, beside the sent state of its volume:
//! `DIR/sent/<plan>/<volume>/snapshot.json`.
//!
//! 1. It is on disk before anything is made: whatever kills the daemon, the next cycle and the next start find it and undo
//!    it (tests `leftover_snapshots_are_replaced`, `a_command_is_released_after_a_kill`).
//! 2. Undoing what is undone already changes nothing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::command::CommandDuty;
use super::scratch::ScratchDuty;
use crate::{SentState, VolumeError};

const FILE: &str = "snapshot.json";

/// What is to be undone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(super) enum Duty {
    /// A folder of ours with clones or a subvolume snapshot in it.
    Scratch(ScratchDuty),
    /// The operator's `release` is to be run.
    Command(CommandDuty),
}

/// The place of a volume's record.
#[derive(Debug, Clone)]
pub(crate) struct DutyFile {
    path: PathBuf,
}

impl DutyFile {
    pub(super) fn of(sent: &SentState) -> Self {
        Self { path: sent.dir().join(FILE) }
    }

    /// Makes the record durable.
    pub(super) fn write(&self, duty: &Duty) -> Result<(), VolumeError> {
        let fail = |source| VolumeError::io("write", &self.path, source);
        let part = self.path.with_extension("part");
        let bytes = serde_json::to_vec(duty).map_err(|e| fail(io::Error::other(e)))?;
        fs::write(&part, bytes).map_err(fail)?;
        File::open(&part).and_then(|file| file.sync_all()).map_err(fail)?;
        fs::rename(&part, &self.path).map_err(fail)?;
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)
    }

    /// Nothing is left to be undone. A record that a power cut brings back names what is not there.
    pub(super) fn clear(&self) -> Result<(), VolumeError> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(VolumeError::io("remove", &self.path, source))
            }
            _ => Ok(()),
        }
    }

    /// Undoes what an earlier cycle left; says whether there was anything.
    pub(super) fn settle(&self) -> Result<bool, VolumeError> {
        let fail = |source| VolumeError::io("read", &self.path, source);
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(fail(source)),
        };
        match serde_json::from_slice(&bytes)
            .map_err(|e| fail(io::Error::new(io::ErrorKind::InvalidData, e)))?
        {
            Duty::Scratch(scratch) => scratch.settle()?,
            // A command that always fails must not end all replication; `create` says so if its way is not free.
            Duty::Command(command) => {
                if let Err(error) = command.settle() {
                    tracing::warn!(%error, "what a killed cycle left could not be released");
                }
            }
        }
        self.clear()?;
        Ok(true)
    }
}

/// Undoes what a snapshot of this volume left when its daemon was killed; says whether there was anything.
pub fn release_left_over(sent: &SentState) -> Result<bool, VolumeError> {
    DutyFile::of(sent).settle()
}
