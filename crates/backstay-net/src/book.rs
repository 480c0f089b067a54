//! The peers this site is paired with.
//!
//! One file per pair, `<pair>.json`, 0600, replaced whole and durably (`files`); reads are served from memory. A pair that
//! is over lies in `retired/<pair>.json`: its hashing key made the ids of chunks that are still stored, and its
//! authorities say who may go on where it ended.
//!
//! 1. A record is durable before anybody is told of it, and not a peer's any more before `remove` returns. What the disk
//!    refused of a removal is done when it is asked for again, and before another pair is made
//!    (tests `a_removal_that_was_not_written_is_finished`, `a_replacement_that_was_not_written_is_finished`).
//! 2. One record per peer site: pairing again replaces it. The new file is written before the old one goes, so a
//!    crash between leaves both, and `open` keeps the one paired last.
//! 3. One record per peer name: a name taken by another site is refused.
//! 4. Trust is decided on what this book says at that moment; a change needs no restart.
//! 5. A hashing key is never forgotten nor changed, whatever becomes of its pair (tests `a_removed_pair_keeps_its_key`,
//!    `a_pair_is_not_given_another_key`): its file in `retired` is durable before the record's own goes.

mod record;
mod retired;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use arc_swap::ArcSwap;
use backstay_types::{Class, Classify, PairId, SiteId};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::files;
use crate::identity::{CaCert, Fingerprint};
pub use record::PeerRecord;
pub(crate) use record::check_params;
pub use retired::RetiredPair;

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
    #[error("find peer {peer}: this site is not paired with it")]
    NoPair {
        /// The name of the peer that it was with, or the pair if that is not known.
        peer: String,
    },
    /// The id of a pair that this site has, and it is not that pair.
    #[error("add peer {name}: it claims the pair with {other}")]
    PairTaken {
        /// Who claims it.
        name: String,
        /// Whose it is.
        other: String,
    },
}

impl Classify for BookError {
    fn class(&self) -> Class {
        match self {
            BookError::Io { .. } => Class::Transient,
            BookError::Damaged { .. } => Class::Corrupt,
            BookError::NameTaken { .. } | BookError::PairTaken { .. } => Class::Invalid,
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
                "if that one is gone for good: pair with `--replaces {name}`, and its plans go on with the new one; if not, \
                 rename one of the sites, or remove the old one first: backstay pair remove {name}"
            )),
            BookError::PairTaken { .. } => Some(
                "make sure that the key came from the right site, then make a fresh one there".to_owned(),
            ),
            BookError::NoPair { .. } => Some("backstay pair list shows the pairs of this site".to_owned()),
        }
    }
}

/// The peers of this site. Clones share one.
#[derive(Clone, Debug)]
pub struct PeerBook(Arc<Inner>);

type Records = BTreeMap<PairId, Arc<PeerRecord>>;
type Retired = BTreeMap<PairId, Arc<RetiredPair>>;

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    records: ArcSwap<Records>,
    retired: ArcSwap<Retired>,
    /// Held while files change.
    writing: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl PeerBook {
    /// Reads the records in `dir`, which is made if it is not there.
    pub fn open(dir: &Path) -> Result<Self, BookError> {
        files::create_dir(dir).map_err(io_error("create", dir))?;
        let records = read_records(dir)?;
        let book = Self(Arc::new(Inner {
            dir: dir.to_owned(),
            retired: ArcSwap::from_pointee(retired::read_all(dir)?),
            records: ArcSwap::from_pointee(records),
            writing: Mutex::new(()),
            changed: watch::Sender::new(0),
        }));
        book.finish_what_a_crash_cut_off()?;
        Ok(book)
    }

    /// A pair is in two files only if a change was cut off: one of the two goes.
    fn finish_what_a_crash_cut_off(&self) -> Result<(), BookError> {
        let _writing = self.writing();
        for pair in superseded(&self.records()) {
            self.retire(pair, None)?;
        }
        for retired in self.retired() {
            let Some(current) = self.get(retired.record.pair) else { continue };
            if retired.took_the_place_of(&current, &self.records()) {
                self.retire(current.pair, retired.replaced_by)?;
            } else {
                self.unretire(current.pair)?;
            }
        }
        Ok(())
    }

    /// Every record, in pair order.
    pub fn list(&self) -> Vec<Arc<PeerRecord>> {
        self.records().values().cloned().collect()
    }

    /// The record of a pair.
    pub fn get(&self, pair: PairId) -> Option<Arc<PeerRecord>> {
        self.records().get(&pair).cloned()
    }

    /// The record of the peer with this name.
    pub fn by_name(&self, name: &str) -> Option<Arc<PeerRecord>> {
        self.records().values().find(|record| record.name == name).cloned()
    }

    /// The record that pins this authority, with the pinned certificate.
    pub fn by_authority(&self, fingerprint: &Fingerprint) -> Option<(Arc<PeerRecord>, CaCert)> {
        self.records().values().find_map(|record| {
            let ca = record.peer_cas.iter().find(|ca| ca.fingerprint() == *fingerprint)?;
            Some((Arc::clone(record), ca.clone()))
        })
    }

    /// Adds a record, durably. One of the same site is replaced; a name of another site is refused.
    pub fn insert(&self, record: PeerRecord) -> Result<Arc<PeerRecord>, BookError> {
        self.insert_in_place_of(record, None)
    }

    /// Adds a record, durably, of a site that takes the place of another: that one's pair is over, and whatever was
    /// bound to it goes on with the new one.
    pub fn insert_in_place_of(
        &self,
        record: PeerRecord,
        replaced: Option<SiteId>,
    ) -> Result<Arc<PeerRecord>, BookError> {
        let _writing = self.writing();
        self.check(&record, replaced)?;
        // Its name may be that of a peer that was removed.
        self.finish_retiring()?;
        let record = Arc::new(record);
        let mut next = Records::clone(&self.records());
        next.insert(record.pair, Arc::clone(&record));
        let mut old: Vec<PairId> = superseded(&next);
        let of_replaced =
            |other: &&Arc<PeerRecord>| replaced == Some(other.site) && other.site != record.site;
        old.extend(next.values().filter(of_replaced).map(|other| other.pair));
        old.retain(|pair| *pair != record.pair);
        for pair in &old {
            if let Some(over) = next.remove(pair) {
                self.write_retired(&over, replaced.map(|_| record.site))?;
            }
        }
        self.write(&record)?;
        self.publish(next);
        for pair in old {
            self.unlink(pair)?;
        }
        self.unretire(record.pair)?;
        if let Some(replaced) = replaced.filter(|replaced| *replaced != record.site) {
            self.point_to(record.site, |over| over.record.site == replaced)?;
        }
        Ok(record)
    }

    /// Has whatever was bound to peers of this name go on with `new`; those that are still paired are over. Gives the
    /// pairs that went on.
    pub fn replace(&self, name: &str, new: SiteId) -> Result<Vec<PairId>, BookError> {
        let _writing = self.writing();
        // Of an earlier try the disk may know nothing yet.
        self.finish_retiring()?;
        let records = self.records();
        if let Some(over) = records.values().find(|record| record.name == name && record.site != new) {
            self.retire(over.pair, Some(new))?;
        }
        self.point_to(new, |over| over.record.name == name)
    }

    /// Whether `insert` would take the record.
    pub(crate) fn check(&self, record: &PeerRecord, replaced: Option<SiteId>) -> Result<(), BookError> {
        let name = || record.name.clone();
        match self.by_name(&record.name) {
            Some(other) if other.site != record.site && Some(other.site) != replaced => {
                return Err(BookError::NameTaken { name: name() });
            }
            _ => {}
        }
        match self.of_pair(record.pair) {
            Some(other) if other.site != record.site || other.hash_key != record.hash_key => {
                Err(BookError::PairTaken { name: name(), other: other.name.clone() })
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
        let mut record = PeerRecord::clone(&*self.get(pair).ok_or_else(|| self.no_pair(pair))?);
        change(&mut record);
        let record = Arc::new(record);
        self.write(&record)?;
        let mut next = Records::clone(&self.records());
        next.insert(pair, Arc::clone(&record));
        self.publish(next);
        Ok(record)
    }

    /// Ends a pair: at once in memory, then on the disk. Its hashing key stays.
    pub fn remove(&self, pair: PairId) -> Result<Arc<PeerRecord>, BookError> {
        let _writing = self.writing();
        let record = self.get(pair).ok_or_else(|| self.no_pair(pair))?;
        self.retire(pair, None)?;
        Ok(record)
    }

    /// The error that there is no such pair.
    pub(crate) fn no_pair(&self, pair: PairId) -> BookError {
        BookError::NoPair { peer: self.name_of(pair).unwrap_or_else(|| pair.to_string()) }
    }

    /// Sees every change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, ()> {
        // It guards no data, so a panic while it was held left nothing half-changed in memory.
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn records(&self) -> Arc<Records> {
        self.0.records.load_full()
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

fn read_records(dir: &Path) -> Result<Records, BookError> {
    let mut records = Records::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let record = read_record(&path)?;
            records.insert(record.pair, Arc::new(record));
        }
    }
    Ok(records)
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
