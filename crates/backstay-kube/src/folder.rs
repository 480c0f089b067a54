//! The manifest folder: YAML files that stand in for a cluster.
//!
//! On the active side [`capture`] reads a folder that somebody else keeps. On the standby [`apply_held`] writes a
//! folder of our own, one file per object, held, and [`release`] gives every object its originals back:
//!
//! ```text
//! manifests/shop/
//!   _cluster/Namespace_shop.yaml
//!   shop/Deployment.apps_web.yaml
//!   shop/Service_web.yaml
//!   _deferred/shop/Pod_tool.yaml.deferred     not created before promotion; no tool reads this suffix
//! ```
//!
//! 1. Nothing in the folder runs before its release, whoever applies it, at whatever moment: a file appears by
//!    rename with its objects held in it (tests `what_would_run_is_held_or_deferred`,
//!    `a_crash_between_any_two_steps_is_healed_by_the_next_run`).
//! 2. After a release the objects are byte for byte the captured ones in canonical form (test
//!    `promotion_gives_the_captured_objects_back`).
//! 3. A file that would not change is not touched; a file that is not ours is never changed or removed (tests
//!    `an_unchanged_cycle_writes_nothing`, `a_foreign_file_is_left_alone`).
//! 4. One object's failure does not stop the others, and its last good file stays (test
//!    `one_failure_does_not_stop_the_others`).
//!
//! Ownership is in the file itself: its first line is a comment with plan, restore point, state and key.
//!
//! At a crash, files are old or new, never half; temporary files are swept by the next run, which does the rest.

mod apply;
mod capture;
mod files;
mod layout;
mod release;
mod standstill;

use std::io;
use std::path::{Path, PathBuf};

use backstay_types::manifest::RelPath;
use backstay_types::{Class, Classify, RestorePointId};
use serde_json::Value;

pub use apply::{ApplyOptions, ApplyReport, apply_held, check_held};
pub use capture::{CaptureError, CapturedObject, capture};
pub use layout::{State, look};
pub use release::{ReleaseReport, release, release_plan};
pub use standstill::{StandstillError, let_go, stand_still};

pub use crate::failure::{Failures, ObjectFailure};
use crate::hold::HoldSpecError;

/// Largest object: etcd takes 1.5 MiB by default and is rarely set to more than twice that.
pub const OBJECT_BYTES_MAX: usize = 4 << 20;
/// Largest file: parsed, some six times its size, so 96 MiB while it is read.
pub const FILE_BYTES_MAX: usize = 16 << 20;
/// All objects of one folder together, as JSON; they are in memory at once.
pub const BUNDLE_BYTES_MAX: usize = 64 << 20;
/// Objects of one folder.
pub const OBJECTS_MAX: usize = 100_000;

/// Why a folder cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system refused.
    #[error("{doing} {path:?}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The plan's own holds cannot be used.
    #[error(transparent)]
    Holds(#[from] HoldSpecError),
    /// A file of ours that does not read back.
    #[error("read {path:?}: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Classify for FolderError {
    fn class(&self) -> Class {
        match self {
            FolderError::Io { source, .. } => io_class(source),
            FolderError::Holds(error) => error.class(),
            FolderError::Damaged { .. } => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            FolderError::Io { source, .. } => io_hint(source),
            FolderError::Holds(error) => error.hint(),
            FolderError::Damaged { path, .. } => {
                Some(format!("remove {} and sync again: the next cycle writes it anew", path.display()))
            }
        }
    }
}

fn io_class(error: &io::Error) -> Class {
    match error.kind() {
        io::ErrorKind::NotFound => Class::NotFound,
        io::ErrorKind::PermissionDenied => Class::Unauthorized,
        _ => Class::Transient,
    }
}

fn io_hint(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::NotFound => Some("check the path, and that its file system is mounted".to_owned()),
        io::ErrorKind::PermissionDenied => Some("check the permissions of the folder".to_owned()),
        io::ErrorKind::StorageFull => {
            Some("make room; the next run goes on where this one stopped".to_owned())
        }
        _ => None,
    }
}

/// An object of a folder we wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderObject {
    /// Its key in the bundle.
    pub key: RelPath,
    /// Whether it is held, waits, or is free to run.
    pub state: State,
    /// The restore point that last changed it.
    pub restore_point: RestorePointId,
    /// Its file.
    pub file: PathBuf,
    /// The object as it is in the file.
    pub object: Value,
}

/// Reads back every object that Backstay wrote into `dir`, in file order.
pub fn objects(dir: &Path) -> Result<Vec<FolderObject>, FolderError> {
    let entries = layout::scan(dir)?;
    let read = |entry: layout::Entry| {
        let object = layout::read_object(&entry.path)?;
        let damaged = |why| FolderError::Damaged { path: entry.path.clone(), why };
        let key = RelPath::parse(entry.header.key.as_bytes()).map_err(|error| damaged(error.to_string()))?;
        let (state, restore_point) = (entry.header.state, entry.header.restore_point);
        Ok(FolderObject { key, state, restore_point, file: entry.path, object })
    };
    entries.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests;
