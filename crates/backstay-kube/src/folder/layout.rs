//! Where an object's file is, what its first line says, and how files are found again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstay_types::manifest::RelPath;
use backstay_types::{PlanName, RestorePointId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FILE_BYTES_MAX, FolderError};
use crate::object::CLUSTER_SCOPE;
use crate::{ObjectId, yaml};

/// Folder of what is not created before promotion; no namespace can be named so.
const DEFERRED_FOLDER: &str = "_deferred";
/// Suffix after `.yaml` that keeps `kubectl apply -R` and a capture from reading a file.
const DEFERRED_SUFFIX: &str = ".deferred";

/// Change times go on in steps of at most 10 ms.
const TICK: Duration = Duration::from_millis(20);

/// First characters of every file of ours; the rest of the line is a [`Header`] as JSON.
const HEADER_PREFIX: &str = "# backstay ";
/// A header: the longest key is under 600 bytes, the longest plan name 63.
const HEADER_BYTES_MAX: u64 = 2048;

/// Longest file name we make. 255 is the limit of every file system; the suffix of deferred files is in it.
const FILE_NAME_BYTES_MAX: usize = 255;

/// What an object in a folder is allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Written with its originals saved, kept from running.
    Held,
    /// Written as it is: it runs nothing, or the plan starts its applications.
    Applied,
    /// Not created before promotion.
    Deferred,
    /// Promoted: exactly as it was captured.
    Released,
}

/// The first line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    /// Whose it is.
    pub(super) plan: PlanName,
    /// What changed it last.
    pub(super) restore_point: RestorePointId,
    /// What it may do.
    pub(super) state: State,
    /// Its key in the bundle.
    pub(super) key: String,
}

/// A file of ours.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) header: Header,
}

impl Header {
    /// The text of a file.
    pub(super) fn render(&self, object: &Value) -> Result<String, yaml::YamlError> {
        let header = serde_json::to_string(self).expect("a header is JSON");
        let note = match self.state {
            State::Held => "Held until promotion. Written by Backstay; edits are lost at the next change.",
            State::Deferred => "Not created before promotion. Written by Backstay; edits are lost.",
            State::Applied => "Written by Backstay; edits are lost at the next change.",
            State::Released => "Released at promotion: as it was at the source.",
        };
        let body = yaml::emit(object)?;
        Ok(format!("{HEADER_PREFIX}{header}\n# {note}\n{body}"))
    }

    fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.strip_prefix(HEADER_PREFIX)?).ok()
    }

    /// The header in a file's text, if the file is ours.
    pub(super) fn of(text: &str) -> Option<Self> {
        Self::parse(text.lines().next()?)
    }
}

/// The file of an object below `dir`. A kind and a group have no `_`, so the first one ends them, whatever is in
/// the name.
pub(super) fn file_path(dir: &Path, id: &ObjectId, key: &RelPath, deferred: bool) -> PathBuf {
    let scope = key.components().next().map_or(CLUSTER_SCOPE.into(), String::from_utf8_lossy);
    let suffix = if deferred { DEFERRED_SUFFIX } else { "" };
    let mut stem = format!("{}_{}", id.kind, id.name);
    let room = FILE_NAME_BYTES_MAX - ".yaml".len() - DEFERRED_SUFFIX.len();
    if stem.len() > room {
        let digest = blake3::hash(stem.as_bytes()).to_hex();
        let digest: String = digest.chars().take(16).collect();
        while stem.len() > room - 1 - digest.len() {
            stem.pop();
        }
        stem = format!("{stem}~{digest}");
    }
    let base = if deferred { dir.join(DEFERRED_FOLDER) } else { dir.to_owned() };
    base.join(scope.as_ref()).join(format!("{stem}.yaml{suffix}"))
}

/// Where the object of a file would be if it were deferred, or no longer.
pub(super) fn other_place(dir: &Path, path: &Path) -> Option<PathBuf> {
    let inside = path.strip_prefix(dir).ok()?;
    match inside.strip_prefix(DEFERRED_FOLDER) {
        Ok(place) => Some(dir.join(place.to_str()?.strip_suffix(DEFERRED_SUFFIX)?)),
        Err(_) => Some(dir.join(DEFERRED_FOLDER).join(format!("{}{DEFERRED_SUFFIX}", inside.to_str()?))),
    }
}

/// Every file of ours, in order of path. A folder that is not there has none.
pub(super) fn scan(dir: &Path) -> Result<Vec<Entry>, FolderError> {
    let mut entries = Vec::new();
    for base in [dir.to_owned(), dir.join(DEFERRED_FOLDER)] {
        for scope in list(&base)? {
            if !scope.is_dir() || scope.file_name().is_some_and(|name| name == DEFERRED_FOLDER) {
                continue;
            }
            for path in list(&scope)? {
                if let Some(header) = read_header(&path)? {
                    entries.push(Entry { path, header });
                }
            }
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// The same, by path.
pub(super) fn scan_by_path(dir: &Path) -> Result<BTreeMap<PathBuf, Header>, FolderError> {
    Ok(scan(dir)?.into_iter().map(|entry| (entry.path, entry.header)).collect())
}

/// What the files of a folder look like, without reading them: equal looks mean that nobody has changed one. `None` if one
/// was changed a moment ago, when another change might look the same.
pub fn look(dir: &Path) -> Result<Option<String>, FolderError> {
    let mut hasher = blake3::Hasher::new();
    let mut newest = Duration::ZERO;
    let bases = [dir.to_owned(), dir.join(DEFERRED_FOLDER)];
    for base in bases {
        let mut scopes = list(&base)?;
        scopes.sort();
        for scope in scopes.iter().filter(|scope| scope.is_dir()) {
            let mut files = list(scope)?;
            files.sort();
            for path in files {
                let error = |source| FolderError::Io { doing: "look at", path: path.clone(), source };
                let stat = fs::symlink_metadata(&path).map_err(error)?;
                let changed = (stat.ctime(), stat.ctime_nsec());
                hasher.update(path.as_os_str().as_encoded_bytes());
                for field in [stat.len(), stat.ino(), u64::from(stat.mode())] {
                    hasher.update(&field.to_le_bytes());
                }
                for field in [changed.0, changed.1, stat.mtime(), stat.mtime_nsec()] {
                    hasher.update(&field.to_le_bytes());
                }
                let since = Duration::new(changed.0.unsigned_abs(), u32::try_from(changed.1).unwrap_or(0));
                newest = newest.max(since);
            }
        }
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
    let is_settled = now.saturating_sub(newest) >= TICK;
    Ok(is_settled.then(|| hasher.finalize().to_hex().to_string()))
}

/// The content of a folder; nothing if it is not there.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let error = |source| FolderError::Io { doing: "list", path: dir.to_owned(), source };
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(error)).collect(),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(other) => Err(error(other)),
    }
}

fn read_header(path: &Path) -> Result<Option<Header>, FolderError> {
    let is_ours = path.to_str().is_some_and(|path| {
        let path = path.strip_suffix(DEFERRED_SUFFIX).unwrap_or(path);
        path.ends_with(".yaml")
    });
    if !is_ours || !path.is_file() {
        return Ok(None);
    }
    let error = |source| FolderError::Io { doing: "read", path: path.to_owned(), source };
    let mut start = Vec::new();
    let file = File::open(path).map_err(error)?;
    file.take(HEADER_BYTES_MAX).read_to_end(&mut start).map_err(error)?;
    Ok(Header::of(&String::from_utf8_lossy(&start)))
}

/// The text of a file; `None` if there is no such file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, FolderError> {
    let error = |source| FolderError::Io { doing: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(other) => return Err(error(other)),
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes).map_err(error)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The one object of a file of ours.
pub(super) fn read_object(path: &Path) -> Result<Value, FolderError> {
    let damaged = |why: String| FolderError::Damaged { path: path.to_owned(), why };
    let text = read_text(path)?.ok_or_else(|| damaged("the file is gone".to_owned()))?;
    let documents = yaml::parse::<Value>(&text).map_err(|error| damaged(error.to_string()))?;
    match <[Value; 1]>::try_from(documents) {
        Ok([object]) => Ok(object),
        Err(documents) => Err(damaged(format!("expected one object, found {}", documents.len()))),
    }
}
