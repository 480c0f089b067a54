//! Control groups: version 2, or the freezer of version 1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstay_types::Span;

use super::HoldError;
use crate::clock;

/// A process that waits for a disk is frozen once that has answered.
const FROZEN_WITHIN: Span = Span::from_secs(30);
/// Between two looks at whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How deep groups may lie in one that is looked through for our own process.
const DEPTH_MAX: usize = 32;

/// How a group is frozen.
enum Freezer {
    V2(PathBuf),
    V1(PathBuf),
}

impl Freezer {
    /// `None` if there is no such group: one whose last process has ended may be removed.
    fn of(folder: &Path) -> Result<Option<Self>, HoldError> {
        let exists = |path: &Path| {
            path.try_exists().map_err(|source| HoldError::Cgroup {
                action: "look for",
                path: path.to_owned(),
                source,
            })
        };
        if !exists(folder)? {
            return Ok(None);
        }
        if exists(&folder.join("cgroup.freeze"))? {
            return Ok(Some(Freezer::V2(folder.to_owned())));
        }
        match exists(&folder.join("freezer.state"))? {
            true => Ok(Some(Freezer::V1(folder.to_owned()))),
            false => Err(HoldError::NotACgroup { folder: folder.to_owned() }),
        }
    }

    /// Whether it was told to freeze, whatever the groups above it were told.
    fn is_told(&self) -> Result<bool, HoldError> {
        match self {
            Freezer::V2(folder) => Ok(read(&folder.join("cgroup.freeze"))?.trim() == "1"),
            Freezer::V1(folder) => Ok(read(&folder.join("freezer.self_freezing"))?.trim() == "1"),
        }
    }

    /// Whether everything in it stands still.
    fn is_frozen(&self) -> Result<bool, HoldError> {
        match self {
            Freezer::V2(folder) => {
                Ok(read(&folder.join("cgroup.events"))?.lines().any(|line| line == "frozen 1"))
            }
            Freezer::V1(folder) => Ok(read(&folder.join("freezer.state"))?.trim() == "FROZEN"),
        }
    }

    fn tell(&self, frozen: bool) -> Result<(), HoldError> {
        let (path, word) = match self {
            Freezer::V2(folder) => (folder.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
            Freezer::V1(folder) => (folder.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" }),
        };
        fs::write(&path, word).map_err(|source| HoldError::Cgroup { action: "write", path, source })
    }
}

/// Whether a group was told to freeze; `None` if there is none.
pub(super) fn look(folder: &Path) -> Result<Option<bool>, HoldError> {
    let Some(freezer) = Freezer::of(folder)? else { return Ok(None) };
    if holds_us(folder, DEPTH_MAX) {
        return Err(HoldError::OwnCgroup { folder: folder.to_owned() });
    }
    freezer.is_told().map(Some)
}

/// Freezes a group; says whether there was anything to freeze.
pub(super) fn freeze(folder: &Path) -> Result<bool, HoldError> {
    let Some(freezer) = Freezer::of(folder)? else { return Ok(false) };
    let was_told = freezer.is_told()?;
    if !was_told {
        freezer.tell(true)?;
    }
    let ended = clock::mono().plus(FROZEN_WITHIN);
    while !freezer.is_frozen()? {
        if clock::mono() >= ended {
            return Err(HoldError::NotFrozen { folder: folder.to_owned(), within: FROZEN_WITHIN });
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(!was_told)
}

/// Thaws a group; says whether there was anything to thaw.
pub(super) fn thaw(folder: &Path) -> Result<bool, HoldError> {
    let Some(freezer) = Freezer::of(folder)? else { return Ok(false) };
    let was_told = freezer.is_told()?;
    if was_told {
        freezer.tell(false)?;
    }
    Ok(was_told)
}

/// Whether a group, by its folder, stands still: what is open in it is not written.
pub(crate) fn is_frozen(folder: &Path) -> bool {
    matches!(Freezer::of(folder), Ok(Some(freezer)) if freezer.is_frozen().unwrap_or(false))
}

/// Whether our own process is in a group or in one below it.
fn holds_us(folder: &Path, depth: usize) -> bool {
    let own = std::process::id().to_string();
    let lists = |text: String| text.lines().any(|pid| pid == own);
    if fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(lists) {
        return true;
    }
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let below =
        entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    depth > 0 && below.into_iter().any(|entry| holds_us(&entry.path(), depth - 1))
}

fn read(path: &Path) -> Result<String, HoldError> {
    fs::read_to_string(path).map_err(|source: io::Error| HoldError::Cgroup {
        action: "read",
        path: path.to_owned(),
        source,
    })
}
