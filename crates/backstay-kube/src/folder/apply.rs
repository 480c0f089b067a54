//! Apply: the objects of a restore point as files of a folder, held.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use backstay_types::plan::HoldSpec;
use backstay_types::{Class, Classify, PlanName, RestorePointId};
use serde_json::Value;

use super::capture::CapturedObject;
use super::files::Batch;
use super::layout::{self, Header, State};
use super::{Failures, FolderError};
use crate::hold::HoldError;
use crate::normalise::{PLAN_LABEL, RESTORE_POINT_ANNOTATION};
use crate::{HoldTable, ObjectError, ObjectId};

/// Kinds that hold data, or everything else: gone at the source, they stay here unless the plan says otherwise.
/// In the form keys have them.
const KEPT_KINDS: [&str; 3] = ["_Namespace", "_PersistentVolume", "_PersistentVolumeClaim"];

/// What is applied, and how.
#[derive(Debug, Clone)]
pub struct ApplyOptions<'a> {
    /// The plan that owns the objects.
    pub plan: &'a PlanName,
    /// The restore point they come from.
    pub restore_point: RestorePointId,
    /// The plan's own holds.
    pub holds: &'a [HoldSpec],
    /// Hold nothing and defer nothing.
    pub start_applications: bool,
    /// Remove namespaces, claims and volumes too when they are gone at the source.
    pub purge_all: bool,
}

/// What an apply did. Every object of the restore point is created, changed, unchanged or failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Files written for the first time.
    pub created: u64,
    /// Files written again.
    pub changed: u64,
    /// Files not touched.
    pub unchanged: u64,
    /// Files of objects that are gone at the source.
    pub removed: u64,
    /// Files that stay although their object is gone at the source: namespaces, claims, volumes.
    pub kept: u64,
    /// Objects written held, among the above.
    pub held: u64,
    /// Objects that wait for promotion, among the above.
    pub deferred: u64,
    /// The first files made, changed or removed, by the keys of their objects.
    pub written: Vec<String>,
    /// Objects that could not be written.
    pub failures: Failures,
}

/// Files that a report names; the others are counted.
const WRITTEN_NAMED_MAX: usize = 10;

/// Why one object cannot be written.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error("its content is not JSON: {source}")]
    Json { source: serde_json::Error },
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("its key says {key}, its content {id}")]
    Key { key: String, id: String },
    #[error("cannot be held: {0}")]
    Hold(#[from] HoldError),
    #[error("metadata.{field} is not a mapping")]
    Mark { field: &'static str },
    #[error("{path:?} exists and was not written by Backstay for plan {plan}")]
    Foreign { path: PathBuf, plan: PlanName },
    #[error("the restore point has it twice")]
    Twice,
    #[error("it cannot be written as YAML: {message}")]
    Yaml { message: String },
}

impl Classify for ApplyError {
    fn class(&self) -> Class {
        match self {
            ApplyError::Json { .. } | ApplyError::Key { .. } | ApplyError::Twice => Class::Corrupt,
            ApplyError::Object(error) => error.class(),
            ApplyError::Hold(error) => error.class(),
            ApplyError::Mark { .. } | ApplyError::Foreign { .. } => Class::Invalid,
            ApplyError::Yaml { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ApplyError::Hold(error) => error.hint(),
            ApplyError::Foreign { path, .. } => Some(format!("move {} away and sync again", path.display())),
            _ => None,
        }
    }
}

/// Writes the objects of a restore point into `dir`, held; removes those that are gone. Safe to repeat after
/// whatever interrupted it; an error leaves every file old or new.
pub fn apply_held(
    dir: &Path,
    objects: &[CapturedObject],
    options: &ApplyOptions<'_>,
) -> Result<ApplyReport, FolderError> {
    let mut batch = Batch::begin(dir)?;
    let report = plan(dir, objects, options, &mut batch)?;
    batch.commit()?;
    Ok(report)
}

/// What [`apply_held`] would do, and nothing of it: in a folder that nobody has changed, nothing.
pub fn check_held(
    dir: &Path,
    objects: &[CapturedObject],
    options: &ApplyOptions<'_>,
) -> Result<ApplyReport, FolderError> {
    plan(dir, objects, options, &mut Batch::dry(dir))
}

fn plan(
    dir: &Path,
    objects: &[CapturedObject],
    options: &ApplyOptions<'_>,
    batch: &mut Batch<'_>,
) -> Result<ApplyReport, FolderError> {
    let existing = layout::scan_by_path(dir)?;
    let apply = Apply { dir, options, table: table(objects, options)? };
    let mut report = ApplyReport::default();
    let (mut written, mut failed) = (BTreeSet::new(), BTreeSet::new());
    for object in objects {
        let key = object.key.to_string();
        let file = match apply.file(object, &key) {
            Ok(file) if written.insert(file.path.clone()) => file,
            other => {
                report.failures.add(key.clone(), &other.err().unwrap_or(ApplyError::Twice));
                failed.insert(key);
                continue;
            }
        };
        match apply.write(file, &existing, batch)? {
            Ok(outcome) => report.count(outcome, &key),
            Err(error) => report.failures.add(key, &error),
        }
    }
    for (path, header) in &existing {
        let is_ours = header.plan == *options.plan;
        if !is_ours || written.contains(path) || failed.contains(&header.key) {
            continue;
        }
        let kind = header.key.split('/').nth(1).unwrap_or_default();
        let is_moved = objects_have(&written, dir, path);
        if KEPT_KINDS.contains(&kind) && !options.purge_all && !is_moved {
            report.kept += 1;
        } else {
            report.removed += u64::from(!is_moved);
            report.name(&header.key);
            batch.remove(path.clone());
        }
    }
    Ok(report)
}

/// Whether the object of a file was written to its other place: deferred before, applied now, or back.
fn objects_have(written: &BTreeSet<PathBuf>, dir: &Path, path: &Path) -> bool {
    layout::other_place(dir, path).is_some_and(|other| written.contains(&other))
}

fn table(objects: &[CapturedObject], options: &ApplyOptions<'_>) -> Result<HoldTable, FolderError> {
    let mut table = HoldTable::new(options.holds)?;
    let is_definition = |object: &&CapturedObject| {
        object.key.components().nth(1) == Some(b"apiextensions.k8s.io_CustomResourceDefinition")
    };
    for object in objects.iter().filter(is_definition) {
        // One that does not parse fails in its own turn.
        if let Ok(definition) = serde_json::from_slice::<Value>(&object.bytes) {
            table.learn(&definition);
        }
    }
    Ok(table)
}

struct Apply<'a> {
    dir: &'a Path,
    options: &'a ApplyOptions<'a>,
    table: HoldTable,
}

/// An object ready to be written.
struct ReadyFile {
    path: PathBuf,
    key: String,
    state: State,
    /// Without the restore point, which is the old one's for a file that does not change.
    object: Value,
}

struct Outcome {
    state: State,
    write: Write,
}

enum Write {
    Created,
    Changed,
    Unchanged,
}

impl ApplyReport {
    fn name(&mut self, key: &str) {
        if self.written.len() < WRITTEN_NAMED_MAX {
            self.written.push(key.to_owned());
        }
    }

    fn count(&mut self, outcome: Outcome, key: &str) {
        if !matches!(outcome.write, Write::Unchanged) {
            self.name(key);
        }
        match outcome.write {
            Write::Created => self.created += 1,
            Write::Changed => self.changed += 1,
            Write::Unchanged => self.unchanged += 1,
        }
        self.held += u64::from(outcome.state == State::Held);
        self.deferred += u64::from(outcome.state == State::Deferred);
    }
}

impl Apply<'_> {
    fn file(&self, object: &CapturedObject, key: &str) -> Result<ReadyFile, ApplyError> {
        let mut value: Value =
            serde_json::from_slice(&object.bytes).map_err(|source| ApplyError::Json { source })?;
        let id = ObjectId::of(&value)?;
        // The bundle came over the wire: where a file goes is decided by what is in it.
        if !id.has_key(&object.key) {
            return Err(ApplyError::Key { key: key.to_owned(), id: id.to_string() });
        }
        // A reference needs the uid that its owner has in a cluster, and here is none.
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("ownerReferences");
        }
        let start = self.options.start_applications;
        let state = if start {
            State::Applied
        } else if self.table.defers(&id.kind) {
            State::Deferred
        } else if self.table.hold(&mut value)? {
            State::Held
        } else {
            State::Applied
        };
        mark(&mut value, "labels", PLAN_LABEL, self.options.plan.as_str())?;
        let path = layout::file_path(self.dir, &id, &object.key, state == State::Deferred);
        Ok(ReadyFile { path, key: key.to_owned(), state, object: value })
    }

    /// Stages a file, unless it is there already.
    fn write(
        &self,
        file: ReadyFile,
        existing: &BTreeMap<PathBuf, Header>,
        batch: &mut Batch<'_>,
    ) -> Result<Result<Outcome, ApplyError>, FolderError> {
        let state = file.state;
        let outcome = |write| Ok(Ok(Outcome { state, write }));
        let old_text = layout::read_text(&file.path)?;
        let plan = self.options.plan;
        let old_header = existing.get(&file.path);
        let write = match (&old_text, old_header) {
            (None, _) => Write::Created,
            (Some(_), Some(header)) if header.plan == *plan => Write::Changed,
            (Some(_), _) => return Ok(Err(ApplyError::Foreign { path: file.path, plan: plan.clone() })),
        };
        let header =
            |restore_point| Header { plan: plan.clone(), restore_point, state, key: file.key.clone() };
        if let (Some(old_text), Some(old_header)) = (old_text, old_header) {
            match render(&header(old_header.restore_point), &file.object) {
                Ok(same) if same == old_text => return outcome(Write::Unchanged),
                Ok(_) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        match render(&header(self.options.restore_point), &file.object) {
            Ok(text) => batch.stage(file.path, &text)?,
            Err(error) => return Ok(Err(error)),
        }
        outcome(write)
    }
}

fn render(header: &Header, object: &Value) -> Result<String, ApplyError> {
    let mut object = object.clone();
    mark(&mut object, "annotations", RESTORE_POINT_ANNOTATION, &header.restore_point.to_string())?;
    header.render(&object).map_err(|error| ApplyError::Yaml { message: error.message })
}

/// Sets a label or an annotation.
fn mark(object: &mut Value, field: &'static str, name: &str, value: &str) -> Result<(), ApplyError> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let marks = metadata.and_then(|metadata| {
        metadata.entry(field).or_insert_with(|| Value::Object(serde_json::Map::new())).as_object_mut()
    });
    let marks = marks.ok_or(ApplyError::Mark { field })?;
    marks.insert(name.to_owned(), Value::String(value.to_owned()));
    Ok(())
}
