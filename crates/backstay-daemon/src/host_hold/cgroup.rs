//! Control groups: version 2, or the freezer of version 1.

use std::collections::BTreeSet;
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
    if processes(folder, DEPTH_MAX).contains(&std::process::id()) {
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
        if let Freezer::V1(_) = freezer {
            // One that was busy when it was told may miss it: told again it is asked again.
            freezer.tell(true)?;
        }
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

/// The processes of a group that stands still: none of it writes. None of one that does not.
pub(crate) fn frozen_processes(folder: &Path) -> BTreeSet<u32> {
    let is_frozen = matches!(Freezer::of(folder), Ok(Some(freezer)) if freezer.is_frozen().unwrap_or(false));
    if is_frozen { processes(folder, DEPTH_MAX) } else { BTreeSet::new() }
}

/// The processes of a group and of those below it.
fn processes(folder: &Path, depth: usize) -> BTreeSet<u32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut found: BTreeSet<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    let groups = entries.filter_map(Result::ok);
    let groups = groups.filter(|entry| depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()));
    found.extend(groups.flat_map(|entry| processes(&entry.path(), depth - 1)));
    found
}

fn read(path: &Path) -> Result<String, HoldError> {
    fs::read_to_string(path).map_err(|source: io::Error| HoldError::Cgroup {
        action: "read",
        path: path.to_owned(),
        source,
    })
}
