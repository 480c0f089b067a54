//! Small state files, replaced whole: written beside, synced, renamed, and the folder synced.
//!
//! After a crash a file holds its old content or the new, never a part of either.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{DaemonError, reserve};

/// Makes a folder only its owner can enter, and its parents, durably.
pub(crate) fn make_folder(path: &Path) -> Result<(), DaemonError> {
    let make = || -> io::Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // A file that is synced in a folder which is not itself on disk is lost with it.
        missing.into_iter().rev().try_for_each(sync_parent)
    };
    make().map_err(|source| DaemonError::io("make folder", path, source))
}

/// Replaces a file durably; on a full disk by means of the site's [`reserve`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), DaemonError> {
    write_by(&path.with_added_extension("tmp"), path, bytes)
}

fn write_by(temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), DaemonError> {
    let replace = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        sync_parent(path)
    };
    let outcome = match replace() {
        Err(error) if reserve::give_up(path, &error) => replace(),
        outcome => outcome,
    };
    outcome.map_err(|source| DaemonError::io("write", path, source))
}

/// Removes a file durably; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), DaemonError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|source| DaemonError::io("remove", path, source))
}

/// Makes a change of the folder that a file is in durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let here = |folder: &Path| {
        if folder.as_os_str().is_empty() { Path::new(".").to_owned() } else { folder.to_owned() }
    };
    path.parent().map_or(Ok(()), |folder| File::open(here(folder))?.sync_all())
}

/// Replaces a JSON file durably.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), DaemonError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|source| DaemonError::State { path: path.to_owned(), source })?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// The same of a file that several processes write, each by a file of its own.
pub(crate) fn write_json_beside<T: Serialize>(path: &Path, value: &T) -> Result<(), DaemonError> {
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|source| DaemonError::State { path: path.to_owned(), source })?;
    write_by(&path.with_added_extension(format!("{}.tmp", std::process::id())), path, &bytes)
}

/// Reads a JSON file; `None` if it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DaemonError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| DaemonError::State { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DaemonError::io("read", path, source)),
    }
}

/// Removes a folder and all below it; one that is not there is fine.
pub(crate) fn remove_folder(path: &Path) -> Result<(), DaemonError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DaemonError::io("remove", path, source)),
    }
}
