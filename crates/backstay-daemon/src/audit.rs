//! The audit log of a site: who did what, when, and how it ended. Append-only JSON lines in `DIR/audit.log`.
//!
//! 1. Each record holds the hash of the one before, so a record that is changed, removed or inserted later is found
//!    (test `verify_names_the_first_broken_record`). The newest records cut off as a whole are not: compare the count
//!    with a copy kept elsewhere.
//! 2. A record is on disk before `append` returns (`fdatasync`).
//! 3. Nothing secret is recorded: callers pass names and ids, never request bodies. The file is 0600.
//!
//! At a crash at most the record being written is torn. Opening cuts it off and records that it did
//! (test `a_torn_tail_is_cut_and_recorded`). A full disk fails the append and leaves the log as it was.
//!
//! Left to others: one process per log (the site's lock), and running these blocking calls off the runtime.

mod read;
mod record;

pub use read::AuditPage;
pub use record::{Actor, AuditEntry, AuditRecord};

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use backstay_types::{Class, Classify, Time};

use crate::error::{io_class, io_hint};
use record::GENESIS;

/// Name of the file inside the site's folder.
pub const FILE_NAME: &str = "audit.log";

/// One record with its newline: 4 KiB of detail, at worst six bytes each in JSON, and 8 KiB for the rest.
const LINE_BYTES_MAX: usize = 32 << 10;

/// Why the audit log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file system refused.
    #[error("{action} audit log {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record is not what was written.
    #[error("audit log record {seq} (at byte {offset}): {why}")]
    Broken {
        /// The first record that is wrong.
        seq: u64,
        /// Where it begins.
        offset: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A cursor that this log never gave.
    #[error("audit cursor {cursor}: expected one that an earlier answer gave")]
    Cursor {
        /// What was given.
        cursor: u64,
    },
}

impl Classify for AuditError {
    fn class(&self) -> Class {
        match self {
            AuditError::Io { source, .. } => io_class(source),
            AuditError::Broken { .. } => Class::Corrupt,
            AuditError::Cursor { .. } => Class::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            AuditError::Io { source, .. } => io_hint(source),
            AuditError::Broken { .. } => Some(
                "somebody or something changed the file: keep a copy of it, then move it away to begin a new log".into(),
            ),
            AuditError::Cursor { .. } => Some("begin again without `after`".into()),
        }
    }
}

/// An open audit log. Its calls block on the disk.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: File,
    tail: Mutex<Tail>,
}

/// Where the next record goes.
#[derive(Debug, Clone)]
struct Tail {
    /// Length of all whole records.
    len: u64,
    /// Number of the last record; 0 if there is none.
    seq: u64,
    /// Its hash.
    hash: String,
    /// An append failed half-way: bytes past `len` must be cut before the next.
    dirty: bool,
}

impl AuditLog {
    /// Opens or makes the log at `path`; cuts a torn last record and records that.
    ///
    /// A log whose end is damaged otherwise is moved aside, and a new one begins with a record of it: a damaged log must
    /// not keep a site from starting.
    pub fn open(path: &Path, now: Time) -> Result<Self, AuditError> {
        let fail = |action| move |source| AuditError::Io { action, path: path.to_owned(), source };
        let file = make(path).map_err(fail("open"))?;
        let size = file.metadata().map_err(fail("measure"))?.len();
        let (file, tail, detail) = match read::last_whole(&file, size).map_err(fail("read"))? {
            Some(tail) if tail.len == size => (file, tail, None),
            Some(tail) => {
                let cut = size.saturating_sub(tail.len);
                let detail = format!("cut {cut} bytes of a record that was not written to its end");
                (file, Tail { dirty: true, ..tail }, Some(detail))
            }
            None => {
                let mut aside = path.as_os_str().to_owned();
                aside.push(format!(".damaged-{}", now.0));
                std::fs::rename(path, &aside).map_err(fail("move aside"))?;
                let detail = format!("moved a log with a damaged end to {}", Path::new(&aside).display());
                (make(path).map_err(fail("open"))?, Tail::start(), Some(detail))
            }
        };
        let log = Self { path: path.to_owned(), file, tail: Mutex::new(tail) };
        if let Some(detail) = detail {
            tracing::warn!(path = %path.display(), "audit log repaired: {detail}");
            let entry = AuditEntry::new(now, &Actor::Daemon, "auditRepair").detail(detail);
            // On a full disk the site must still start; the cut is made before the next record in any case.
            if let Err(error) = log.append(entry) {
                tracing::error!("the repair is not in the audit log: {error}");
            }
        }
        Ok(log)
    }

    /// Adds a record; it is durable when this returns.
    pub fn append(&self, entry: AuditEntry) -> Result<AuditRecord, AuditError> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.dirty {
            self.file.set_len(tail.len).map_err(self.fail("repair"))?;
            tail.dirty = false;
        }
        let (record, line) = entry.seal(tail.seq + 1, &tail.hash);
        tail.dirty = true;
        self.file.write_all_at(line.as_bytes(), tail.len).map_err(self.fail("write"))?;
        self.file.sync_data().map_err(self.fail("sync"))?;
        *tail = Tail {
            len: tail.len.saturating_add(line.len() as u64),
            seq: record.seq,
            hash: record.hash.clone(),
            dirty: false,
        };
        Ok(record)
    }

    /// Records from `since` on (all without it), oldest first, one bounded page at a time: pass the `next` of a page as
    /// `after` to get the one behind it.
    pub fn read(&self, since: Option<Time>, after: Option<u64>) -> Result<AuditPage, AuditError> {
        read::page(&self.file, self.len(), since, after, |action| self.fail(action))
    }

    /// Checks every record and the chain between them; answers how many there are.
    pub fn verify(&self) -> Result<u64, AuditError> {
        read::verify(&self.file, self.len(), |action| self.fail(action))
    }

    fn len(&self) -> u64 {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).len
    }

    fn fail(&self, action: &'static str) -> impl FnOnce(io::Error) -> AuditError + use<> {
        let path = self.path.clone();
        move |source| AuditError::Io { action, path, source }
    }
}

/// Checks a log without opening it for writing, beside a daemon or without one; answers how many records there are. A
/// record that is being written just now is not looked at.
pub fn verify_file(path: &Path) -> Result<u64, AuditError> {
    let fail = |action| move |source| AuditError::Io { action, path: path.to_owned(), source };
    let file = File::open(path).map_err(fail("open"))?;
    let size = file.metadata().map_err(fail("measure"))?.len();
    let len = read::last_newline(&file, size).map_err(fail("read"))?;
    read::verify(&file, len, fail)
}

/// Opens the file, or makes it durably.
fn make(path: &Path) -> io::Result<File> {
    let is_new = !path.try_exists()?;
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    if is_new && let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

impl Tail {
    fn start() -> Self {
        Self { len: 0, seq: 0, hash: GENESIS.to_owned(), dirty: false }
    }
}

#[cfg(test)]
mod tests;
