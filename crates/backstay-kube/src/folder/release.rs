//! Release: at promotion, every object of a folder is given its originals back, wave by wave.
//!
//! Planned, then executed: the plan is a value that prints. Repeating a release, or going on with one that was
//! killed, changes only what is not released yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backstay_types::{Class, Classify, PlanName};

use super::files::Batch;
use super::layout::{self, Entry, Header, State};
use super::{Failures, FolderError};
use crate::hold::{self, HoldError};
use crate::normalise::unmark;
use crate::wave::{ReleasePlan, Wave, bad_wave, wave};
use crate::{ObjectError, ObjectId};

/// What a release did. Every object of the plan is released, created, already released or failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseReport {
    /// Objects given their originals back.
    pub released: u64,
    /// Objects that had waited and are created now.
    pub created: u64,
    /// Objects that an earlier run had released.
    pub already: u64,
    /// Waves that were run.
    pub waves: Vec<i32>,
    /// What an operator should know and nothing failed for.
    pub warnings: Vec<String>,
    /// Objects that could not be released.
    pub failures: Failures,
}

/// Why one object cannot be released.
#[derive(Debug, thiserror::Error)]
enum ReleaseError {
    #[error(transparent)]
    File(#[from] FolderError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error("it cannot be written as YAML: {message}")]
    Yaml { message: String },
}

impl Classify for ReleaseError {
    fn class(&self) -> Class {
        match self {
            ReleaseError::File(error) => error.class(),
            ReleaseError::Object(error) => error.class(),
            ReleaseError::Hold(error) => error.class(),
            ReleaseError::Yaml { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ReleaseError::File(error) => error.hint(),
            ReleaseError::Object(error) => error.hint(),
            ReleaseError::Hold(error) => error.hint(),
            ReleaseError::Yaml { .. } => None,
        }
    }
}

/// The files of a plan by wave, and what cannot be put in one.
struct Sorted {
    waves: BTreeMap<i32, Vec<Entry>>,
    warnings: Vec<String>,
    failures: Failures,
}

fn sort(dir: &Path, plan: &PlanName) -> Result<Sorted, FolderError> {
    let mut sorted = Sorted { waves: BTreeMap::new(), warnings: Vec::new(), failures: Failures::default() };
    for entry in layout::scan(dir)?.into_iter().filter(|entry| entry.header.plan == *plan) {
        let read = || -> Result<_, ReleaseError> {
            let object = layout::read_object(&entry.path)?;
            let id = ObjectId::of(&object)?;
            Ok((wave(&id, &object), bad_wave(&object).map(str::to_owned)))
        };
        match read() {
            Ok((number, bad)) => {
                let key = &entry.header.key;
                let warn = |text| {
                    format!("{key}: {}: expected a number, found {text:?}", crate::wave::WAVE_ANNOTATION)
                };
                sorted.warnings.extend(bad.map(warn));
                sorted.waves.entry(number).or_default().push(entry);
            }
            Err(error) => sorted.failures.add(entry.header.key.clone(), &error),
        }
    }
    Ok(sorted)
}

/// The waves in which the objects of a plan in `dir` will be released.
pub fn release_plan(dir: &Path, plan: &PlanName) -> Result<ReleasePlan, FolderError> {
    let Sorted { waves, warnings, failures } = sort(dir, plan)?;
    let waves = waves.into_iter().map(|(number, entries)| {
        let objects = entries.into_iter().map(|entry| entry.header.key).collect();
        Wave { number, objects }
    });
    Ok(ReleasePlan { waves: waves.collect(), warnings, failures })
}

/// Releases every object of a plan in `dir`, each wave durable before the next begins. A failed object stays
/// held and is named; the others go on.
pub fn release(dir: &Path, plan: &PlanName) -> Result<ReleaseReport, FolderError> {
    let Sorted { waves, warnings, failures } = sort(dir, plan)?;
    let mut report = ReleaseReport { warnings, failures, ..ReleaseReport::default() };
    for (number, entries) in waves {
        let mut batch = Batch::begin(dir)?;
        for entry in entries {
            if entry.header.state == State::Released {
                report.already += 1;
                continue;
            }
            let deferred = entry.header.state == State::Deferred;
            match released(dir, &entry) {
                Ok((path, text)) => {
                    batch.stage(path, &text)?;
                    if deferred {
                        batch.remove(entry.path);
                    }
                    *(if deferred { &mut report.created } else { &mut report.released }) += 1;
                }
                Err(error) => report.failures.add(entry.header.key, &error),
            }
        }
        batch.commit()?;
        report.waves.push(number);
    }
    Ok(report)
}

/// Where a released object's file is, and its text.
fn released(dir: &Path, entry: &Entry) -> Result<(PathBuf, String), ReleaseError> {
    let mut object = layout::read_object(&entry.path)?;
    hold::release(&mut object)?;
    unmark(&mut object);
    let header = Header { state: State::Released, ..entry.header.clone() };
    let text = header.render(&object).map_err(|error| ReleaseError::Yaml { message: error.message })?;
    let moved =
        (entry.header.state == State::Deferred).then(|| layout::other_place(dir, &entry.path)).flatten();
    Ok((moved.unwrap_or_else(|| entry.path.clone()), text))
}
