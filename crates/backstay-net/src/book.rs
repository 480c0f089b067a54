//! The peers this site is paired with.
//!
//! One file per pair, `<pair>.json`, 0600, replaced whole and durably (`files`); reads are served from memory.
//!
//! 1. A record is durable before anybody is told of it, and gone from the disk before `remove` returns.
//! 2. One record per peer site: pairing again replaces it. The new file is written before the old one goes, so a
//!    crash between leaves both, and `open` keeps the one paired last.
//! 3. One record per peer name: a name taken by another site is refused.
//! 4. Trust is decided on what this book says at that moment; a change needs no restart.

mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use arc_swap::ArcSwap;
use backstay_types::{Class, Classify, PairId};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::files;
use crate::identity::{CaCert, Fingerprint};
pub use record::PeerRecord;
pub(crate) use record::check_params;

/// Why the book of peers cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// A file cannot be read or written.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file does not hold a record.
    #[error("read {}: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The name belongs to another site.
    #[error("add peer {name}: another site is paired under that name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No such pair.
    #[error("find pair {pair}: this site has no such pair")]
    NoPair {
        /// The pair.
        pair: PairId,
    },
}

impl Classify for BookError {
    fn class(&self) -> Class {
        match self {
            BookError::Io { .. } => Class::Transient,
            BookError::Damaged { .. } => Class::Corrupt,
            BookError::NameTaken { .. } => Class::Invalid,
            BookError::NoPair { .. } => Class::NotFound,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            BookError::Io { .. } => None,
            BookError::Damaged { .. } => {
                Some("move the file away and pair the two sites again with a fresh key".to_owned())
            }
            BookError::NameTaken { name } => Some(format!(
                "remove the old one first: backstay pair remove {name}; or rename one of the sites"
            )),
            BookError::NoPair { .. } => Some("backstay pair list shows the pairs of this site".to_owned()),
        }
    }
}

/// The peers of this site. Clones share one.
#[derive(Clone, Debug)]
pub struct PeerBook(Arc<Inner>);

type Records = BTreeMap<PairId, Arc<PeerRecord>>;

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    records: ArcSwap<Records>,
    /// Held while files change.
    writing: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl PeerBook {
    /// Reads the records in `dir`, which is made if it is not there.
    pub fn open(dir: &Path) -> Result<Self, BookError> {
        files::create_dir(dir).map_err(io_error("create", dir))?;
        let mut records = Records::new();
        for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
            let path = entry.map_err(io_error("list", dir))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let record = read_record(&path)?;
                records.insert(record.pair, Arc::new(record));
            }
        }
        for pair in superseded(&records) {
            let path = record_path(dir, pair);
            files::remove(&path).map_err(io_error("remove", &path))?;
            records.remove(&pair);
        }
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            records: ArcSwap::from_pointee(records),
            writing: Mutex::new(()),
            changed: watch::Sender::new(0),
        })))
    }

    /// Every record, in pair order.
    pub fn list(&self) -> Vec<Arc<PeerRecord>> {
        self.0.records.load().values().cloned().collect()
    }

    /// The record of a pair.
    pub fn get(&self, pair: PairId) -> Option<Arc<PeerRecord>> {
        self.0.records.load().get(&pair).cloned()
    }

    /// The record of the peer with this name.
    pub fn by_name(&self, name: &str) -> Option<Arc<PeerRecord>> {
        self.0.records.load().values().find(|record| record.name == name).cloned()
    }

    /// The record that pins this authority, with the pinned certificate.
    pub fn by_authority(&self, fingerprint: &Fingerprint) -> Option<(Arc<PeerRecord>, CaCert)> {
        self.0.records.load().values().find_map(|record| {
            let ca = record.peer_cas.iter().find(|ca| ca.fingerprint() == *fingerprint)?;
            Some((Arc::clone(record), ca.clone()))
        })
    }

    /// Adds a record, durably. One of the same site is replaced; a name of another site is refused.
    pub fn insert(&self, record: PeerRecord) -> Result<Arc<PeerRecord>, BookError> {
        let _writing = self.writing();
        self.check(&record)?;
        let record = Arc::new(record);
        self.write(&record)?;
        let mut next = Records::clone(&self.0.records.load());
        next.insert(record.pair, Arc::clone(&record));
        let old: Vec<PairId> = superseded(&next).into_iter().filter(|pair| *pair != record.pair).collect();
        for pair in &old {
            next.remove(pair);
        }
        self.publish(next);
        for pair in old {
            self.unlink(pair)?;
        }
        Ok(record)
    }

    /// Whether `insert` would take the record.
    pub(crate) fn check(&self, record: &PeerRecord) -> Result<(), BookError> {
        match self.by_name(&record.name) {
            Some(other) if other.site != record.site => {
                Err(BookError::NameTaken { name: record.name.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Changes a record, durably.
    pub fn update(
        &self,
        pair: PairId,
        change: impl FnOnce(&mut PeerRecord),
    ) -> Result<Arc<PeerRecord>, BookError> {
        let _writing = self.writing();
        let mut record = PeerRecord::clone(&*self.get(pair).ok_or(BookError::NoPair { pair })?);
        change(&mut record);
        let record = Arc::new(record);
        self.write(&record)?;
        let mut next = Records::clone(&self.0.records.load());
        next.insert(pair, Arc::clone(&record));
        self.publish(next);
        Ok(record)
    }

    /// Forgets a pair: at once in memory, then on the disk.
    pub fn remove(&self, pair: PairId) -> Result<Arc<PeerRecord>, BookError> {
        let _writing = self.writing();
        let mut next = Records::clone(&self.0.records.load());
        let record = next.remove(&pair).ok_or(BookError::NoPair { pair })?;
        self.publish(next);
        self.unlink(pair)?;
        Ok(record)
    }

    /// Sees every change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, ()> {
        // It guards no data, so a panic while it was held left nothing half-changed in memory.
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, records: Records) {
        self.0.records.store(Arc::new(records));
        self.0.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn write(&self, record: &PeerRecord) -> Result<(), BookError> {
        let path = record_path(&self.0.dir, record.pair);
        let damaged =
            |error: serde_json::Error| BookError::Damaged { path: path.clone(), why: error.to_string() };
        let text = Zeroizing::new(serde_json::to_vec_pretty(record).map_err(damaged)?);
        files::replace(&path, &text).map_err(io_error("write", &path))
    }

    fn unlink(&self, pair: PairId) -> Result<(), BookError> {
        let path = record_path(&self.0.dir, pair);
        files::remove(&path).map_err(io_error("remove", &path))
    }
}

/// Pairs whose peer was paired again later.
fn superseded(records: &Records) -> Vec<PairId> {
    let newer = |record: &PeerRecord, other: &PeerRecord| {
        other.site == record.site && (other.paired_at, other.pair) > (record.paired_at, record.pair)
    };
    let old = records.values().filter(|record| records.values().any(|other| newer(record, other)));
    old.map(|record| record.pair).collect()
}

fn record_path(dir: &Path, pair: PairId) -> PathBuf {
    dir.join(format!("{pair}.json"))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BookError {
    move |source| BookError::Io { action, path: path.to_owned(), source }
}

fn read_record(path: &Path) -> Result<PeerRecord, BookError> {
    let damaged = |why: String| BookError::Damaged { path: path.to_owned(), why };
    let text = Zeroizing::new(fs::read(path).map_err(io_error("read", path))?);
    let record: PeerRecord = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if path.file_stem().is_none_or(|stem| stem != record.pair.to_string().as_str()) {
        return Err(damaged(format!("it holds pair {}", record.pair)));
    }
    record.check().map_err(damaged)?;
    Ok(record)
}

#[cfg(test)]
mod tests;
