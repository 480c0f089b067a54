//! Capture of a folder: every object in its YAML and JSON files, normalised, keyed and in order.
//!
//! Read recursively in name order. Names that begin with a dot are left out: version control, and the hidden
//! half of a mounted ConfigMap. A link to a file inside the folder is read, one that leads out of it is refused.
//! Whatever cannot be read or understood fails the capture: a bundle is whole or there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use backstay_types::manifest::RelPath;
use backstay_types::{Class, Classify};
use serde_json::Value;
use tracing::debug;

use super::{BUNDLE_BYTES_MAX, FILE_BYTES_MAX, OBJECT_BYTES_MAX, OBJECTS_MAX, io_class, io_hint};
use crate::hold::HoldError;
use crate::normalise::{NormaliseOptions, normalise};
use crate::object::{ObjectError, Scopes};
use crate::skip::{Owners, skip, whole_kind};
use crate::{GroupKind, ObjectId, canonical, yaml};

/// Folders in folders.
const DEPTH_MAX: usize = 32;

/// One object of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedObject {
    /// `<namespace or _cluster>/<group>_<kind>/<name>`.
    pub key: RelPath,
    /// The normalised object as canonical JSON.
    pub bytes: Vec<u8>,
}

/// Why a folder cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file system refused.
    #[error("read manifests {path:?}: {source}")]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Not a file that can be read to its end: a pipe, a device.
    #[error("read manifests {path:?}: expected a regular file")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// A link out of the folder.
    #[error("read manifests {path:?}: it is a link out of the folder")]
    LinkOutside {
        /// The link.
        path: PathBuf,
    },
    /// Not YAML or JSON, or too much of it.
    #[error("read manifests {path:?}, line {line}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 where the parser does not know.
        line: u64,
        /// What is wrong.
        message: String,
    },
    /// Something in a file is not an object.
    #[error("read manifests {path:?}, object {number}: {source}")]
    Object {
        /// The file.
        path: PathBuf,
        /// Which object of the file, from 1.
        number: usize,
        /// What is wrong.
        source: Box<ObjectError>,
    },
    /// A held object whose originals cannot be read.
    #[error("read manifests {path:?}, object {number}: {source}")]
    Held {
        /// The file.
        path: PathBuf,
        /// Which object of the file, from 1.
        number: usize,
        /// What is wrong.
        source: Box<HoldError>,
    },
    /// The same object twice.
    #[error("two objects are {key}: one in {first:?}, one in {second:?}")]
    Twice {
        /// Their key.
        key: RelPath,
        /// The one file.
        first: PathBuf,
        /// The other; may be the same.
        second: PathBuf,
    },
    /// Too much of something.
    #[error("read manifests {path:?}: {what}: at most {max} allowed")]
    TooMuch {
        /// Where.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
}

impl Classify for CaptureError {
    fn class(&self) -> Class {
        match self {
            CaptureError::Io { source, .. } => io_class(source),
            CaptureError::Held { source, .. } => source.class(),
            CaptureError::TooMuch { .. } => Class::LimitExceeded,
            CaptureError::NotAFile { .. }
            | CaptureError::LinkOutside { .. }
            | CaptureError::Syntax { .. }
            | CaptureError::Object { .. }
            | CaptureError::Twice { .. } => Class::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CaptureError::Io { source, .. } => io_hint(source),
            CaptureError::Object { source, .. } => source.hint(),
            CaptureError::Held { source, .. } => source.hint(),
            CaptureError::TooMuch { .. } => Some("split the file, or the plan".to_owned()),
            CaptureError::LinkOutside { .. } => Some("copy the file into the folder".to_owned()),
            CaptureError::Twice { .. } => Some("keep one of them".to_owned()),
            CaptureError::NotAFile { .. } | CaptureError::Syntax { .. } => None,
        }
    }
}

/// An object as it was read: normalised last, when all its neighbours are known.
struct Raw {
    file: usize,
    number: usize,
    id: ObjectId,
    bytes: Vec<u8>,
}

/// Captures a folder. The answer is in key order.
pub fn capture(path: &Path) -> Result<Vec<CapturedObject>, CaptureError> {
    let files = find(path)?;
    let (mut raw, mut owners, mut scopes) = (Vec::new(), Owners::default(), Scopes::default());
    let mut total = 0;
    for (file, path) in files.iter().enumerate() {
        for (index, object) in read(path, is_json(path))?.into_iter().enumerate() {
            let number = index + 1;
            // Before its name: most of these have none.
            if let Some(reason) = kind_of(&object).and_then(|kind| whole_kind(&kind)) {
                debug!(path = %path.display(), number, %reason, "not captured");
                continue;
            }
            let id = ObjectId::of(&object).map_err(|error| CaptureError::Object {
                path: path.clone(),
                number,
                source: Box::new(error),
            })?;
            owners.add(&id);
            scopes.learn(&object);
            let bytes = canonical::to_bytes(&object);
            total += bytes.len();
            let limits = [
                (bytes.len(), OBJECT_BYTES_MAX, "bytes of one object"),
                (total, BUNDLE_BYTES_MAX, "bytes of all objects"),
                (raw.len() + 1, OBJECTS_MAX, "objects"),
            ];
            if let Some((_, max, what)) = limits.into_iter().find(|(found, max, _)| found > max) {
                return Err(CaptureError::TooMuch { path: path.clone(), what, max });
            }
            raw.push(Raw { file, number, id, bytes });
        }
    }
    finish(raw, &files, &owners, &scopes)
}

/// The kind of an object that may have no name.
fn kind_of(object: &Value) -> Option<GroupKind> {
    let text = |field| object.get(field).and_then(Value::as_str);
    let group = text("apiVersion")?.split_once('/').map_or("", |(group, _)| group);
    Some(GroupKind::new(group, text("kind")?))
}

fn finish(
    raw: Vec<Raw>,
    files: &[PathBuf],
    owners: &Owners,
    scopes: &Scopes,
) -> Result<Vec<CapturedObject>, CaptureError> {
    let volumes: BTreeSet<String> = raw
        .iter()
        .filter(|raw| raw.id.kind.is("", "PersistentVolume"))
        .map(|raw| raw.id.name.clone())
        .collect();
    let mut bundle: BTreeMap<RelPath, (usize, Vec<u8>)> = BTreeMap::new();
    for Raw { file, number, id, bytes } in raw {
        let path = || files.get(file).cloned().unwrap_or_default();
        let mut object: Value = serde_json::from_slice(&bytes).map_err(|error| CaptureError::Syntax {
            path: path(),
            line: 0,
            message: error.to_string(),
        })?;
        if let Some(reason) = skip(&id, &object, owners) {
            debug!(object = %id, %reason, "not captured");
            continue;
        }
        let volume = object.pointer("/spec/volumeName").and_then(Value::as_str);
        let keep_volume_name = volume.is_some_and(|name| volumes.contains(name));
        normalise(&mut object, NormaliseOptions { keep_volume_name, ..NormaliseOptions::default() })
            .map_err(|error| CaptureError::Held { path: path(), number, source: Box::new(error) })?;
        let key = id.key(scopes).map_err(|error| CaptureError::Object {
            path: path(),
            number,
            source: Box::new(error),
        })?;
        if let Some((first, _)) = bundle.get(&key) {
            let first = files.get(*first).cloned().unwrap_or_default();
            return Err(CaptureError::Twice { key, first, second: path() });
        }
        bundle.insert(key, (file, canonical::to_bytes(&object)));
    }
    Ok(bundle.into_iter().map(|(key, (_, bytes))| CapturedObject { key, bytes }).collect())
}

/// The files to read, in order, each once.
pub(super) fn find(root: &Path) -> Result<Vec<PathBuf>, CaptureError> {
    let real_root =
        fs::canonicalize(root).map_err(|source| CaptureError::Io { path: root.to_owned(), source })?;
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        if depth > DEPTH_MAX {
            return Err(CaptureError::TooMuch { path: folder, what: "folders in folders", max: DEPTH_MAX });
        }
        let io = |source| CaptureError::Io { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(io)?;
            if kind.is_dir() {
                folders.push((path, depth + 1));
            } else if is_manifest(&path) || kind.is_symlink() {
                files.extend(admit(path, kind.is_symlink(), &real_root, &mut seen)?);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A file to read, if it is one and was not seen under another name.
fn admit(
    path: PathBuf,
    is_link: bool,
    root: &Path,
    seen: &mut BTreeSet<PathBuf>,
) -> Result<Option<PathBuf>, CaptureError> {
    let real = match fs::canonicalize(&path) {
        Ok(real) => real,
        // A link to nowhere that would not be read anyway.
        Err(_) if is_link && !is_manifest(&path) => return Ok(None),
        Err(source) => return Err(CaptureError::Io { path, source }),
    };
    let kind = fs::metadata(&real).map_err(|source| CaptureError::Io { path: path.clone(), source })?;
    if kind.is_dir() || is_manifest(&path) {
        if !real.starts_with(root) {
            return Err(CaptureError::LinkOutside { path });
        }
        // A link to a folder inside: what is in there is read in its own place.
        if kind.is_dir() {
            return Ok(None);
        }
        if !kind.is_file() {
            return Err(CaptureError::NotAFile { path });
        }
        return Ok(seen.insert(real).then_some(path));
    }
    Ok(None)
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// Whether a file of this name is JSON; else it is YAML.
pub(super) fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

/// The objects of a file, lists taken apart.
pub(super) fn read(path: &Path, is_json: bool) -> Result<Vec<Value>, CaptureError> {
    let io = |source| CaptureError::Io { path: path.to_owned(), source };
    let syntax = |line, message| CaptureError::Syntax { path: path.to_owned(), line, message };
    let mut text = String::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
    let file = File::open(path).map_err(io)?;
    file.take(limit.saturating_add(1)).read_to_string(&mut text).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => syntax(0, "expected UTF-8".to_owned()),
        _ => io(error),
    })?;
    if text.len() > FILE_BYTES_MAX {
        return Err(CaptureError::TooMuch {
            path: path.to_owned(),
            what: "bytes of one file",
            max: FILE_BYTES_MAX,
        });
    }
    let documents: Vec<Value> = if is_json {
        let stream = serde_json::Deserializer::from_str(&text).into_iter();
        let line = |error: &serde_json::Error| u64::try_from(error.line()).unwrap_or(0);
        stream
            .collect::<Result<_, _>>()
            .map_err(|error| syntax(line(&error), "the text is not valid JSON".to_owned()))?
    } else {
        yaml::parse(&text).map_err(|error| syntax(error.line, error.message))?
    };
    let mut objects = Vec::with_capacity(documents.len());
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .for_each(|document| flatten(document, &mut objects));
    Ok(objects)
}

/// Takes `List`, and typed lists such as `PodList`, apart. Items of a typed list may leave their kind to it.
fn flatten(document: Value, out: &mut Vec<Value>) {
    let text = |field| document.get(field).and_then(Value::as_str).map(str::to_owned);
    let item_kind = text("kind").and_then(|kind| kind.strip_suffix("List").map(str::to_owned));
    let has_name = document.pointer("/metadata/name").is_some();
    let (Some(item_kind), Some(api), false, true) =
        (item_kind, text("apiVersion"), has_name, document.get("items").is_some_and(Value::is_array))
    else {
        out.push(document);
        return;
    };
    let Value::Object(mut list) = document else { return };
    let Some(Value::Array(items)) = list.remove("items") else { return };
    for mut item in items {
        if let (Some(fields), false) = (item.as_object_mut(), item_kind.is_empty()) {
            fields.entry("apiVersion").or_insert_with(|| Value::String(api.clone()));
            fields.entry("kind").or_insert_with(|| Value::String(item_kind.clone()));
        }
        // A list in a list: parsing bounds how deep.
        flatten(item, out);
    }
}
