//! Holding a folder that ran: its side steps down, or hands over.
//!
//! 1. Files that Backstay did not write are moved aside, under a suffix that no tool reads, before their objects appear
//!    as held files of ours: there is no moment at which an object of the folder may run (test
//!    `a_folder_stands_still_and_goes_on_as_it_was`).
//! 2. What was moved aside stays as it is. A side that goes on after all gets its files back; otherwise they are there
//!    for whoever looks for a comment.
//!
//! At a crash the next run does the rest: what is to be held is given by the caller, who wrote it down before.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use backstay_types::{Epoch, PlanName};

use super::apply::{ApplyOptions, ApplyReport, apply_held};
use super::capture::{CaptureError, CapturedObject, find, is_json, read};
use super::release::{ReleaseReport, release};
use super::{FolderError, layout};
use crate::ObjectId;

/// Before the epoch in the suffix of a file that was moved aside.
const ASIDE: &str = ".backstay-aside-";

/// Why a folder cannot stand still.
#[derive(Debug, thiserror::Error)]
pub enum StandstillError {
    /// Finding the files failed.
    #[error(transparent)]
    Find(#[from] CaptureError),
    /// Writing them failed.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

impl backstay_types::Classify for StandstillError {
    fn class(&self) -> backstay_types::Class {
        match self {
            StandstillError::Find(error) => error.class(),
            StandstillError::Folder(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            StandstillError::Find(error) => error.hint(),
            StandstillError::Folder(error) => error.hint(),
        }
    }
}

/// Holds `objects`, which is what `dir` was captured as, in `dir`. `epoch` is the one it ran at.
pub fn stand_still(
    dir: &Path,
    epoch: Epoch,
    objects: &[CapturedObject],
    options: &ApplyOptions<'_>,
) -> Result<ApplyReport, StandstillError> {
    let ours: BTreeSet<PathBuf> = layout::scan(dir)?.into_iter().map(|entry| entry.path).collect();
    for path in find(dir)?.into_iter().filter(|path| !ours.contains(path)) {
        let mut aside = path.clone().into_os_string();
        aside.push(format!("{ASIDE}{epoch}"));
        rename(&path, Path::new(&aside))?;
    }
    Ok(apply_held(dir, objects, options)?)
}

/// Undoes it: what had been ours runs again, and the files that were moved aside are in the place of what was made of
/// them.
pub fn let_go(dir: &Path, epoch: Epoch, plan: &PlanName) -> Result<ReleaseReport, StandstillError> {
    let report = release(dir, plan)?;
    let suffix = format!("{ASIDE}{epoch}");
    let asides = asides(dir, &suffix)?;
    let names = asides.iter().filter_map(|path| Some(PathBuf::from(path.to_str()?.strip_suffix(&suffix)?)));
    let names: Vec<_> = names.collect();
    let mut theirs = BTreeSet::new();
    for (path, name) in asides.iter().zip(&names) {
        let objects = read(path, is_json(name))?;
        theirs.extend(objects.iter().filter_map(|object| ObjectId::of(object).ok()).map(|id| id.to_string()));
    }
    for entry in layout::scan(dir)?.into_iter().filter(|entry| entry.header.plan == *plan) {
        let id = ObjectId::of(&layout::read_object(&entry.path)?).map(|id| id.to_string());
        if id.is_ok_and(|id| theirs.contains(&id)) {
            let error = |source| FolderError::Io { doing: "remove", path: entry.path.clone(), source };
            fs::remove_file(&entry.path).map_err(error)?;
        }
    }
    asides.iter().zip(&names).try_for_each(|(aside, name)| rename(aside, name))?;
    Ok(report)
}

fn rename(from: &Path, to: &Path) -> Result<(), FolderError> {
    let error = |source| FolderError::Io { doing: "rename", path: from.to_owned(), source };
    fs::rename(from, to).map_err(error)?;
    // Durable before anything that relies on it.
    let folder = to.parent().unwrap_or(to);
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(error)
}

/// Every file with this suffix.
fn asides(dir: &Path, suffix: &str) -> Result<Vec<PathBuf>, FolderError> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for path in layout::list(&folder)? {
            let is_link = path.is_symlink();
            if path.is_dir() && !is_link {
                folders.push(path);
            } else if path.to_str().is_some_and(|path| path.ends_with(suffix)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
