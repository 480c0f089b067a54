//! The store as its users see it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backstay_types::point::RestorePoint;
use backstay_types::{ChunkId, HashKey, PairId, PlanName, RestorePointId};
use serde::{Deserialize, Serialize};

use crate::catalog::Change;
use crate::gc::{self, GcPlan, GcReport};
use crate::ingest::Ingest;
use crate::inner::Inner;
use crate::reader::ChunkReader;
use crate::rebuild::{self, RebuildReport};
use crate::verify::{self, VerifyProgress, VerifyReport};
use crate::{StoreConfig, StoreError, open, repair};

/// An open store; clones share it. It is closed when the last clone, reader and session is gone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// How large a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreUsage {
    /// Bytes of all packs.
    pub bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Entries of the index; a chunk with two copies may count twice until runs are merged.
    pub chunks: u64,
    /// Restore points.
    pub points: u64,
    /// Chunks and patches refused since the store was opened, because they were not what their id said.
    pub refused_chunks: u64,
}

impl Store {
    /// Opens the store of a site folder, or makes it. A second process is refused with class `Busy`.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        open::open(config).map(|inner| Self { inner })
    }

    /// Rebuilds the catalog and the index of a site folder nobody has open, from packs and restore-point files.
    pub fn rebuild_catalog(dir: &Path) -> Result<RebuildReport, StoreError> {
        rebuild::rebuild(StoreConfig::new(dir))
    }

    /// [`Store::rebuild_catalog`] for a store that is not at its usual place.
    pub fn rebuild_catalog_with(config: StoreConfig) -> Result<RebuildReport, StoreError> {
        rebuild::rebuild(config)
    }

    /// Gives the store the key that made the chunk ids of a pair.
    pub fn set_key(&self, pair: PairId, key: HashKey) {
        self.inner.set_key(pair, key);
    }

    /// Where the store learns the key of a pair at the moment that it needs it: a pair may be made while the store is
    /// open, and one that is over still has restore points. Only the first source counts.
    pub fn set_key_source(&self, source: impl Fn(PairId) -> Option<HashKey> + Send + Sync + 'static) {
        if !self.inner.set_key_source(Box::new(source)) {
            tracing::warn!("the store has a source of hashing keys already");
        }
    }

    /// Begins to receive a restore point.
    pub fn begin(&self, pair: PairId, plan: &PlanName, id: RestorePointId) -> Result<Ingest, StoreError> {
        Ingest::begin(&self.inner, pair, plan, id)
    }

    /// Reads the chunks of a pair.
    pub fn reader(&self, pair: PairId) -> ChunkReader {
        ChunkReader::new(Arc::clone(&self.inner), pair)
    }

    /// A plan's restore points, oldest first.
    pub fn points(&self, plan: &PlanName) -> Result<Vec<RestorePoint>, StoreError> {
        self.inner.disk.check()?;
        Ok(self.inner.points.of_plan(plan).into_iter().map(|held| RestorePoint::clone(&held.point)).collect())
    }

    /// One restore point; if there is none, the error names the newest.
    pub fn point(&self, plan: &PlanName, id: RestorePointId) -> Result<RestorePoint, StoreError> {
        self.inner.disk.check()?;
        let held = self.inner.points.get(plan, id);
        held.map(|held| RestorePoint::clone(&held.point)).ok_or_else(|| self.no_such_point(plan, id))
    }

    /// The newest restore point of a plan.
    pub fn newest(&self, plan: &PlanName) -> Result<Option<RestorePoint>, StoreError> {
        self.inner.disk.check()?;
        Ok(self.inner.points.newest(plan).map(|held| RestorePoint::clone(&held.point)))
    }

    /// Deletes restore points, durably; their chunks go with the next garbage collection. Those that do not exist
    /// are passed over.
    pub fn delete_points(&self, plan: &PlanName, ids: &[RestorePointId]) -> Result<(), StoreError> {
        let inner = &self.inner;
        inner.disk.check()?;
        let mut changes = Vec::new();
        for id in ids {
            inner.disk.remove(&inner.layout.point(plan, *id)).or_else(|error| match error {
                // The plan never had a folder.
                StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
                error => Err(error),
            })?;
            inner.points.remove(plan, *id);
            changes.push(Change::DropPoint(plan.clone(), *id));
            changes.push(Change::Undamaged(plan.clone(), *id));
        }
        inner.catalog.write(&changes)
    }

    /// Why a restore point is marked damaged; `None` if it is not.
    pub fn damage(&self, plan: &PlanName, id: RestorePointId) -> Result<Option<String>, StoreError> {
        self.inner.disk.check()?;
        if let Some(held) = self.inner.points.get(plan, id) {
            return Ok(held.damage);
        }
        let unreadable =
            self.inner.points.unreadable().into_iter().find(|(of, which, _)| of == plan && *which == id);
        unreadable.map(|(_, _, why)| Some(why)).ok_or_else(|| self.no_such_point(plan, id))
    }

    fn no_such_point(&self, plan: &PlanName, id: RestorePointId) -> StoreError {
        let newest = self.inner.points.newest(plan).map(|held| held.point.id);
        StoreError::NoSuchPoint { plan: plan.clone(), id, newest }
    }

    /// Works out what a garbage collection would do.
    pub fn gc_plan(&self) -> Result<GcPlan, StoreError> {
        gc::plan(&self.inner)
    }

    /// Carries out a garbage collection. What is needed by now is left, however old the plan is.
    pub fn gc(&self, plan: GcPlan) -> Result<GcReport, StoreError> {
        gc::execute(&self.inner, &plan)
    }

    /// Re-hashes all packs and walks all restore points, or those of one plan. Marks restore points that are
    /// damaged, and unmarks those that are whole again.
    pub fn verify(
        &self,
        plan: Option<&PlanName>,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<VerifyReport, StoreError> {
        verify::verify(&self.inner, plan, progress)
    }

    /// Puts a good copy in the place of a damaged chunk, durably. Returns whether the chunk is sound now: `false`
    /// means that these bytes are not its bytes.
    pub fn repair_chunk(&self, pair: PairId, id: ChunkId, bytes: &[u8]) -> Result<bool, StoreError> {
        repair::repair(&self.inner, pair, id, bytes)
    }

    /// How large the store is.
    pub fn usage(&self) -> StoreUsage {
        let state = self.inner.index.read();
        StoreUsage {
            bytes: state.packs().values().map(|pack| pack.bytes).sum(),
            packs: state.packs().len() as u64,
            chunks: state.count(),
            points: self.inner.points.count(),
            refused_chunks: self.inner.refused_chunks.load(Ordering::Relaxed),
        }
    }

    /// A value of the daemon's state.
    pub fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.disk.check()?;
        self.inner.catalog.state(key)
    }

    /// Sets a value of the daemon's state, durably. It is in the catalog alone: what must outlive a lost catalog
    /// belongs into a file.
    pub fn state_put(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.inner.disk.check()?;
        self.inner.catalog.write(&[Change::State(key.to_owned(), value.to_vec())])
    }
}
