//! Pairs that are over: what is kept of them, and who goes on where they ended.
//!
//! At a crash: see `PeerBook::open`. A file here beside the record's own is that of a change that was cut off.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay_types::{HashKey, PairId, SiteId, Time};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{BookError, PeerBook, PeerRecord, Records, Retired, io_error, record_path};
use crate::{clock, files};

/// A pair that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetiredPair {
    /// The peer as it was.
    pub record: PeerRecord,
    /// Since when.
    pub retired_at: Time,
    /// The site that goes on for this peer, if another does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<SiteId>,
}

impl RetiredPair {
    /// Of a change that was cut off: whether the pair was on its way here, rather than back from here.
    pub(super) fn took_the_place_of(&self, current: &PeerRecord, records: &Records) -> bool {
        let replaced = self.replaced_by.is_some_and(|new| records.values().any(|record| record.site == new));
        replaced && current.paired_at <= self.retired_at
    }
}

/// Reads what is kept, in the folder below the book's.
pub(super) fn read_all(dir: &Path) -> Result<Retired, BookError> {
    let dir = folder(dir);
    files::create_dir(&dir).map_err(io_error("create", &dir))?;
    let mut all = Retired::new();
    for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
        let path = entry.map_err(io_error("list", &dir))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let damaged = |why: String| BookError::Damaged { path: path.clone(), why };
        let text = Zeroizing::new(fs::read(&path).map_err(io_error("read", &path))?);
        let pair: RetiredPair = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        pair.record.check().map_err(damaged)?;
        all.insert(pair.record.pair, Arc::new(pair));
    }
    Ok(all)
}

fn folder(dir: &Path) -> PathBuf {
    dir.join("retired")
}

impl PeerBook {
    /// Every pair that is over, in pair order.
    pub fn retired(&self) -> Vec<Arc<RetiredPair>> {
        self.0.retired.load().values().cloned().collect()
    }

    /// The peer of a pair, whether it is over or not.
    pub fn of_pair(&self, pair: PairId) -> Option<Arc<PeerRecord>> {
        let over = || self.0.retired.load().get(&pair).map(|over| Arc::new(over.record.clone()));
        self.get(pair).or_else(over)
    }

    /// The hashing key of a pair, whether it is over or not.
    pub fn hash_key(&self, pair: PairId) -> Option<HashKey> {
        self.of_pair(pair).map(|record| record.hash_key.clone())
    }

    /// The name of the peer of a pair, whether it is over or not.
    pub fn name_of(&self, pair: PairId) -> Option<String> {
        self.of_pair(pair).map(|record| record.name.clone())
    }

    /// The peer with this name; if there is none now, the last that had it.
    pub fn last_named(&self, name: &str) -> Option<Arc<PeerRecord>> {
        self.by_name(name).or_else(|| self.last_over(|record| record.name == name))
    }

    /// The peer that is this site; if there is none now, as it was when its last pair ended.
    pub fn last_of_site(&self, site: SiteId) -> Option<Arc<PeerRecord>> {
        self.of_site(site).or_else(|| self.last_over(|record| record.site == site))
    }

    fn of_site(&self, site: SiteId) -> Option<Arc<PeerRecord>> {
        self.list().into_iter().find(|record| record.site == site)
    }

    fn last_over(&self, is_wanted: impl Fn(&PeerRecord) -> bool) -> Option<Arc<PeerRecord>> {
        let retired = self.0.retired.load();
        let wanted = retired.values().filter(|over| is_wanted(&over.record));
        wanted.max_by_key(|over| over.retired_at).map(|over| Arc::new(over.record.clone()))
    }

    /// The peer that goes on for a pair: its own while it stands, else that of the same site, or of the site that took
    /// its place.
    pub fn successor(&self, pair: PairId) -> Option<Arc<PeerRecord>> {
        if let Some(current) = self.get(pair) {
            return Some(current);
        }
        let retired = self.0.retired.load();
        let over = retired.get(&pair)?;
        self.successor_of_site(over.replaced_by.unwrap_or(over.record.site))
    }

    /// The peer that goes on for a site.
    pub fn successor_of_site(&self, site: SiteId) -> Option<Arc<PeerRecord>> {
        let retired = self.0.retired.load();
        let (mut site, mut seen) = (site, HashSet::new());
        // Of two sites that took each other's place in turn, neither is paired: then nobody goes on.
        while seen.insert(site) {
            if let Some(current) = self.of_site(site) {
                return Some(current);
            }
            let of_site = retired.values().filter(|over| over.record.site == site);
            site = of_site.max_by_key(|over| over.retired_at)?.replaced_by?;
        }
        None
    }

    /// Ends a pair. The caller holds the lock for writing.
    pub(super) fn retire(&self, pair: PairId, replaced_by: Option<SiteId>) -> Result<(), BookError> {
        let mut next = Records::clone(&self.records());
        let Some(record) = next.remove(&pair) else { return Ok(()) };
        let over = self.keep_in_memory(&record, replaced_by);
        self.publish(next);
        self.write_over(&over)?;
        self.unlink(pair)
    }

    /// Does what the ends of pairs still lack on disk, as after a disk was full: none of them may be trusted again after a
    /// restart. Gives those that are done now.
    pub fn finish_removals(&self) -> Result<Vec<Arc<RetiredPair>>, BookError> {
        let _writing = self.writing();
        self.finish_retiring()
    }

    /// The same for a caller that holds the lock for writing.
    pub(super) fn finish_retiring(&self) -> Result<Vec<Arc<RetiredPair>>, BookError> {
        let mut unfinished = self.retired();
        unfinished.retain(|over| {
            let pair = over.record.pair;
            self.get(pair).is_none() && record_path(&self.0.dir, pair).exists()
        });
        for over in &unfinished {
            self.write_over(over)?;
            self.unlink(over.record.pair)?;
        }
        Ok(unfinished)
    }

    /// Keeps a pair as one that is over, durably; its own file stays.
    pub(super) fn write_retired(
        &self,
        record: &PeerRecord,
        replaced_by: Option<SiteId>,
    ) -> Result<(), BookError> {
        let over = self.keep_in_memory(record, replaced_by);
        self.write_over(&over)
    }

    fn keep_in_memory(&self, record: &PeerRecord, replaced_by: Option<SiteId>) -> Arc<RetiredPair> {
        let over = RetiredPair { record: record.clone(), retired_at: clock::now(), replaced_by };
        let over = Arc::new(over);
        self.put_in_memory(&over);
        over
    }

    fn put_in_memory(&self, over: &Arc<RetiredPair>) {
        let mut next = Retired::clone(&self.0.retired.load());
        next.insert(over.record.pair, Arc::clone(over));
        self.0.retired.store(Arc::new(next));
    }

    fn write_over(&self, over: &RetiredPair) -> Result<(), BookError> {
        let dir = folder(&self.0.dir);
        files::create_dir(&dir).map_err(io_error("create", &dir))?;
        let path = dir.join(format!("{}.json", over.record.pair));
        let damaged =
            |error: serde_json::Error| BookError::Damaged { path: path.clone(), why: error.to_string() };
        let text = Zeroizing::new(serde_json::to_vec_pretty(over).map_err(damaged)?);
        files::replace(&path, &text).map_err(io_error("write", &path))
    }

    /// A pair that stands again is not over. Its record is durable before.
    pub(super) fn unretire(&self, pair: PairId) -> Result<(), BookError> {
        let mut next = Retired::clone(&self.0.retired.load());
        if next.remove(&pair).is_none() {
            return Ok(());
        }
        self.0.retired.store(Arc::new(next));
        let path = folder(&self.0.dir).join(format!("{pair}.json"));
        files::remove(&path).map_err(io_error("remove", &path))
    }

    /// Has the pairs that are over and fit go on with another site, durably.
    pub(super) fn point_to(
        &self,
        new: SiteId,
        fits: impl Fn(&RetiredPair) -> bool,
    ) -> Result<Vec<PairId>, BookError> {
        let mut changed = Vec::new();
        for over in self.retired() {
            if over.record.site == new || !fits(&over) {
                continue;
            }
            if over.replaced_by != Some(new) {
                let over = Arc::new(RetiredPair { replaced_by: Some(new), ..RetiredPair::clone(&over) });
                self.write_over(&over)?;
                self.put_in_memory(&over);
            }
            changed.push(over.record.pair);
        }
        Ok(changed)
    }
}
