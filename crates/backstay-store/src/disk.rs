//! File operations that must be right everywhere: syncs that poison, names that appear whole, the lock.
//!
//! 1. A sync that failed is never retried: it poisons the store, because the kernel may have dropped the pages
//!    and a second sync would say "done" (test `a_failed_sync_stops_the_store`).
//! 2. A file written by [`Disk::publish`] has its whole content or does not exist under its name.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::StoreError;

/// Mode of every file of a store.
const FILE_MODE: u32 = 0o600;
/// Mode of every folder of a store.
const DIR_MODE: u32 = 0o700;

/// The store's way to its file system.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    poison: OnceLock<String>,
}

impl Disk {
    /// Fails if a sync failed before.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.poison.get().map_or(Ok(()), |why| Err(StoreError::Poisoned { why: why.clone() }))
    }

    /// Stops the store for good.
    pub(crate) fn poison(&self, why: &StoreError) {
        // Only the first reason matters: it is what the operator has to look at.
        if self.poison.set(why.to_string()).is_ok() {
            tracing::error!(error = %why, "a sync failed; the store stops");
        }
    }

    /// Makes a file's data durable.
    pub(crate) fn sync(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        self.synced(file.sync_data(), path)
    }

    /// Makes the names in a folder durable.
    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        let dir = File::open(path).map_err(|e| StoreError::io("open", path, e))?;
        self.synced(dir.sync_all(), path)
    }

    /// Takes the outcome of a sync: a failure poisons the store.
    pub(crate) fn synced(&self, outcome: io::Result<()>, path: &Path) -> Result<(), StoreError> {
        self.check()?;
        outcome.map_err(|source| {
            let error = StoreError::Io { action: "sync", path: path.to_owned(), source };
            self.poison(&error);
            error
        })
    }

    /// Makes a folder and its missing parents, durably.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), StoreError> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.make_dir(parent)?;
        }
        match DirBuilder::new().mode(DIR_MODE).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("create folder", path, e));
            }
            _ => {}
        }
        parent.map_or(Ok(()), |parent| self.sync_dir(parent))
    }

    /// Writes a temporary file beside `path` and syncs it. Give the result to [`Disk::rename`].
    pub(crate) fn write_temp(&self, path: &Path, bytes: &[u8]) -> Result<PathBuf, StoreError> {
        let temp = temp_name(path);
        let mut file = create(&temp)?;
        if let Err(e) = file.write_all(bytes) {
            let error = StoreError::io("write", &temp, e);
            remove_leftover(&temp);
            return Err(error);
        }
        self.sync(&file, &temp)?;
        Ok(temp)
    }

    /// Gives a synced file its final name, durably.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        fs::rename(from, to).map_err(|e| StoreError::io("rename", from, e))?;
        to.parent().map_or(Ok(()), |dir| self.sync_dir(dir))
    }

    /// Puts a small file in place whole, durably.
    pub(crate) fn publish(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let temp = self.write_temp(path, bytes)?;
        self.rename(&temp, path)
    }

    /// Removes a file, durably; one that is gone already is fine.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        remove_file(path)?;
        path.parent().map_or(Ok(()), |dir| self.sync_dir(dir))
    }
}

/// Suffix of files that do not count until they are renamed; removed at open.
pub(crate) const TEMP_SUFFIX: &str = "tmp";

fn temp_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(TEMP_SUFFIX);
    PathBuf::from(name)
}

/// A new, empty file for reading and writing; an old one of that name is emptied.
pub(crate) fn create(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(path)
        .map_err(|e| StoreError::io("create", path, e))
}

/// Removes a file without waiting for it to be durable; one that is gone already is fine.
pub(crate) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Removes what a failed write left; if that fails too, the next open does it.
pub(crate) fn remove_leftover(path: &Path) {
    if let Err(error) = remove_file(path) {
        tracing::warn!(%error, "a temporary file stays until the next start");
    }
}

/// The entries of a folder; none if it does not exist.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |e| StoreError::io("list", dir, e);
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths =
        entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Takes the lock of a store; held until the file is dropped.
pub(crate) fn lock(root: &Path) -> Result<File, StoreError> {
    let path = root.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(&path)
        .map_err(|e| StoreError::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: root.to_owned() }),
        Err(TryLockError::Error(e)) => Err(StoreError::io("lock", &path, e)),
    }
}

/// Bytes an ordinary process may still write on the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> Result<u64, StoreError> {
    let stat = rustix::fs::statvfs(path).map_err(|e| StoreError::io("look at", path, e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_failed_sync_stops_the_store() {
        let disk = Disk::default();
        let path = Path::new("/store/packs/01/00000001.open");
        assert!(disk.check().is_ok());
        assert!(disk.synced(Err(io::Error::from_raw_os_error(5)), path).is_err());
        // A later sync that succeeds proves nothing about the pages the first one lost.
        let error = disk.synced(Ok(()), path).unwrap_err();
        assert!(matches!(&error, StoreError::Poisoned { why } if why.contains("00000001.open")), "{error}");
        assert!(matches!(disk.check(), Err(StoreError::Poisoned { .. })));
    }
}
