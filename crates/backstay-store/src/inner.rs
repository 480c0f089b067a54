//! What all handles of one open store share, and the reading of chunks.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, TryLockError};

use backstay_types::frame::batch::Codec;
use backstay_types::{ChunkId, HashKey, PackId, PairId, Time};

use crate::cache::ChunkCache;
use crate::catalog::Catalog;
use crate::decode::{self, Bases, Undecodable};
use crate::disk::{self, Disk};
use crate::identity::Remembered;
use crate::index::{Hit, Index, PackStage, Run, Upkeep};
use crate::layout::Layout;
use crate::pack::{Entry, PackFiles, PackWriter, RECORD_HEADER_BYTES};
use crate::points::Points;
use crate::session::Sessions;
use crate::{StoreConfig, StoreError};

/// An open store.
pub(crate) struct Inner {
    pub(crate) config: StoreConfig,
    pub(crate) disk: Arc<Disk>,
    pub(crate) layout: Layout,
    pub(crate) catalog: Catalog,
    pub(crate) index: Index,
    pub(crate) packs: PackFiles,
    pub(crate) points: Points,
    pub(crate) sessions: Sessions,
    pub(crate) cache: ChunkCache,
    keys: RwLock<HashMap<PairId, HashKey>>,
    /// Asked for keys that nobody has given.
    key_source: OnceLock<KeySource>,
    /// Packs whose session ended without a commit, to be written on by the next one of the pair.
    pub(crate) orphans: Mutex<Vec<PackWriter>>,
    /// Packs with chunks of sessions that have not committed, and since when.
    pub(crate) fresh: Mutex<HashMap<PackId, Time>>,
    /// Packs whose structure is damaged.
    pub(crate) bad_packs: Mutex<HashMap<PackId, String>>,
    /// Held over the writing of runs; true while merging is held back, because somebody has bits over them.
    upkeep: Mutex<bool>,
    /// Held by garbage collection and verification.
    maintenance: Mutex<()>,
    /// Chunks and patches that came in and were not what their ids said.
    pub(crate) refused_chunks: AtomicU64,
    /// Whether the site remembers this store.
    pub(crate) remembered: Remembered,
    /// Kept for as long as the store is open.
    _lock: File,
}

/// Knows the hashing keys of pairs, also of those that are over.
pub(crate) type KeySource = Box<dyn Fn(PairId) -> Option<HashKey> + Send + Sync>;

/// What opening a store found.
pub(crate) struct Opened {
    pub(crate) config: StoreConfig,
    pub(crate) disk: Arc<Disk>,
    pub(crate) layout: Layout,
    pub(crate) catalog: Catalog,
    pub(crate) index: Index,
    pub(crate) points: Points,
    pub(crate) fresh: HashMap<PackId, Time>,
    pub(crate) bad_packs: HashMap<PackId, String>,
    pub(crate) lock: File,
}

impl Inner {
    pub(crate) fn new(opened: Opened) -> Self {
        let Opened { config, disk, layout, catalog, index, points, fresh, bad_packs, lock } = opened;
        Self {
            packs: PackFiles::new(layout.clone()),
            cache: ChunkCache::new(config.cache_bytes),
            config,
            disk,
            layout,
            catalog,
            index,
            points,
            sessions: Sessions::default(),
            keys: RwLock::default(),
            key_source: OnceLock::new(),
            orphans: Mutex::default(),
            fresh: Mutex::new(fresh),
            bad_packs: Mutex::new(bad_packs),
            upkeep: Mutex::default(),
            maintenance: Mutex::default(),
            refused_chunks: AtomicU64::new(0),
            remembered: Remembered::default(),
            _lock: lock,
        }
    }

    pub(crate) fn now(&self) -> Time {
        (self.config.clock)()
    }

    pub(crate) fn set_key(&self, pair: PairId, key: HashKey) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(pair, key);
    }

    /// Whether it is the first.
    pub(crate) fn set_key_source(&self, source: KeySource) -> bool {
        self.key_source.set(source).is_ok()
    }

    /// The key of a pair. It never changes, so what was told once is not asked again.
    pub(crate) fn key(&self, pair: PairId) -> Result<HashKey, StoreError> {
        let known = self.keys.read().unwrap_or_else(PoisonError::into_inner).get(&pair).cloned();
        if let Some(key) = known {
            return Ok(key);
        }
        let key = self.key_source.get().and_then(|source| source(pair)).ok_or(StoreError::NoKey { pair })?;
        self.set_key(pair, key.clone());
        Ok(key)
    }

    /// Whether the key of a pair is lost: what it made the ids of cannot be read.
    pub(crate) fn is_keyless(&self, pair: PairId) -> bool {
        matches!(self.key(pair), Err(StoreError::NoKey { .. }))
    }

    /// Takes the right to garbage collection or verification.
    pub(crate) fn maintain(&self) -> Result<Maintenance<'_>, StoreError> {
        self.disk.check()?;
        let guard = match self.maintenance.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(StoreError::MaintenanceRunning),
        };
        *lock(&self.upkeep) = true;
        Ok(Maintenance { inner: self, _guard: guard })
    }

    /// Refuses to write chunks into the last of the disk.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        let free = disk::free_bytes(self.layout.root())?;
        let enough = free >= self.config.reserve_bytes.saturating_add(bytes);
        if enough { Ok(()) } else { Err(StoreError::NoSpace { path: self.layout.root().to_owned() }) }
    }

    /// Writes what is in memory as a run if it is enough, and merges runs unless a garbage collection has bits
    /// over them.
    pub(crate) fn tidy_index(&self, least: usize) -> Result<(), StoreError> {
        let merging_held = lock(&self.upkeep);
        let keeper = self.keeper();
        if self.index.flush(keeper, least)? && !*merging_held {
            self.index.merge_young(keeper)?;
        }
        Ok(())
    }

    /// Merges all runs into one. Only from within maintenance.
    pub(crate) fn compact_index(&self) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.upkeep);
        self.index.merge_from(self.keeper(), 0)
    }

    /// Puts runs in the place of a damaged one. Only from within maintenance.
    pub(crate) fn replace_run(&self, damaged: &Arc<Run>, made: Vec<Arc<Run>>) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.upkeep);
        self.index.replace_run(self.keeper(), damaged, made)
    }

    fn keeper(&self) -> Upkeep<'_> {
        Upkeep { disk: &self.disk, layout: &self.layout, catalog: &self.catalog }
    }

    /// Starts a pack.
    pub(crate) fn new_pack(&self, pair: PairId) -> Result<PackWriter, StoreError> {
        let pack = self.index.write().new_pack()?;
        match PackWriter::create(&self.disk, &self.layout, pack, pair) {
            Ok(writer) => {
                self.packs.writing(pack, Arc::clone(writer.file()), writer.path().to_owned());
                Ok(writer)
            }
            Err(error) => {
                self.index.write().drop_pack(pack);
                Err(error)
            }
        }
    }

    /// Seals a pack: durable under its final name afterwards. On an error the writer can still be used.
    pub(crate) fn seal(&self, writer: &mut PackWriter) -> Result<(), StoreError> {
        writer.close(&self.disk)?;
        self.name_sealed(writer)
    }

    /// Removes a pack that holds nothing.
    pub(crate) fn discard(&self, writer: &PackWriter) -> Result<(), StoreError> {
        self.index.write().drop_pack(writer.pack());
        self.packs.forget(writer.pack());
        disk::remove_file(writer.path())
    }

    /// Gives a closed pack its final name.
    pub(crate) fn name_sealed(&self, writer: &PackWriter) -> Result<(), StoreError> {
        let bytes = writer.publish(&self.disk)?;
        self.index.write().set_pack(writer.pack(), PackStage::Sealed, bytes);
        self.packs.sealed(writer.pack());
        Ok(())
    }

    /// Seals the packs that broken sessions left, as far as there is room.
    pub(crate) fn seal_orphans(&self) -> Result<(), StoreError> {
        let mut orphans = lock(&self.orphans);
        while let Some(mut writer) = orphans.pop() {
            if writer.is_empty() {
                // Its first write failed; there is nothing in it.
                self.discard(&writer)?;
            } else if let Err(error) = self.seal(&mut writer) {
                orphans.push(writer);
                return Err(error);
            }
        }
        Ok(())
    }

    /// What the runs say is in a pack: at most as many entries as a pack can list.
    pub(crate) fn listed_in_runs(&self, pack: PackId) -> Result<Vec<Entry>, StoreError> {
        let runs = self.index.read().runs().to_vec();
        let mut listed = Vec::new();
        for run in runs.iter().filter(|run| run.packs().contains(&pack)) {
            for entry in run.iter() {
                let entry = entry?;
                if entry.loc.pack == pack {
                    listed.push(entry);
                }
            }
        }
        Ok(listed)
    }

    /// The checked bytes of a chunk.
    pub(crate) fn load(
        &self,
        key: &HashKey,
        id: &ChunkId,
        cache: &ChunkCache,
    ) -> Result<Arc<Vec<u8>>, StoreError> {
        self.load_below(key, id, cache, u32::from(backstay_types::limits::PATCH_DEPTH_MAX))
    }

    fn load_below(
        &self,
        key: &HashKey,
        id: &ChunkId,
        cache: &ChunkCache,
        depth_left: u32,
    ) -> Result<Arc<Vec<u8>>, StoreError> {
        if let Some(bytes) = cache.get(id) {
            return Ok(bytes);
        }
        let mut last = None;
        loop {
            let hit = self.index.read().find(id)?.ok_or(StoreError::ChunkMissing { id: *id })?;
            match self.load_at(key, &Entry { id: *id, loc: hit.loc }, cache, depth_left) {
                Ok(bytes) => {
                    let bytes = Arc::new(bytes);
                    cache.put(*id, Arc::clone(&bytes));
                    return Ok(bytes);
                }
                // Garbage collection may have moved the chunk between the lookup and the read.
                Err(error) if error.is_damage() && last != Some(hit.loc) => last = Some(hit.loc),
                Err(error) => return Err(error),
            }
        }
    }

    /// The checked bytes of one copy of a chunk.
    pub(crate) fn load_at(
        &self,
        key: &HashKey,
        entry: &Entry,
        cache: &ChunkCache,
        depth_left: u32,
    ) -> Result<Vec<u8>, StoreError> {
        let Entry { id, loc } = *entry;
        let damaged = |why: String| StoreError::ChunkDamaged { id, pack: loc.pack, why };
        let record = self.packs.record(entry)?;
        let stored = record.get(RECORD_HEADER_BYTES..).unwrap_or_default();
        let bytes = if loc.codec == Codec::Patch {
            let depth_left =
                depth_left.checked_sub(1).ok_or_else(|| damaged("patches stand too deep".to_owned()))?;
            let mut bases = Stored { inner: self, key, cache, depth_left };
            decode::patched(stored, loc.raw_len, &mut bases).map_err(|error| match error {
                Undecodable::Damaged(why) => damaged(why.to_owned()),
                Undecodable::NoBase(base) => damaged(format!("its base {base} is not in the store")),
                Undecodable::Store(error) if error.is_damage() => {
                    damaged(format!("its base cannot be read: {error}"))
                }
                Undecodable::Store(error) => error,
            })?
        } else {
            decode::whole(loc.codec, stored, loc.raw_len).map_err(|why| damaged(why.to_owned()))?
        };
        if key.chunk_id(&bytes) == id {
            Ok(bytes)
        } else {
            Err(damaged("its bytes do not match its id".to_owned()))
        }
    }

    /// The bases a stored patch names; none for a whole chunk.
    pub(crate) fn bases(&self, id: &ChunkId, hit: &Hit) -> Result<Vec<ChunkId>, StoreError> {
        if hit.loc.codec != Codec::Patch {
            return Ok(Vec::new());
        }
        let record = self.packs.record(&Entry { id: *id, loc: hit.loc })?;
        let stored = record.get(RECORD_HEADER_BYTES..).unwrap_or_default();
        decode::bases_of(stored, hit.loc.raw_len).map_err(|why| StoreError::ChunkDamaged {
            id: *id,
            pack: hit.loc.pack,
            why: why.to_owned(),
        })
    }
}

/// Bases from the store, for reading.
struct Stored<'a> {
    inner: &'a Inner,
    key: &'a HashKey,
    cache: &'a ChunkCache,
    depth_left: u32,
}

impl Bases for Stored<'_> {
    fn len(&mut self, id: &ChunkId) -> Result<Option<u32>, StoreError> {
        Ok(self.inner.index.read().find(id)?.map(|hit| hit.loc.raw_len))
    }

    fn bytes(&mut self, id: &ChunkId) -> Result<Arc<Vec<u8>>, StoreError> {
        self.inner.load_below(self.key, id, self.cache, self.depth_left)
    }
}

/// The right to garbage collection or verification. While it is held runs are added, never merged.
pub(crate) struct Maintenance<'a> {
    inner: &'a Inner,
    _guard: MutexGuard<'a, ()>,
}

impl Drop for Maintenance<'_> {
    fn drop(&mut self) {
        *lock(&self.inner.upkeep) = false;
    }
}

/// Locks; what the locks of this crate guard is changed in single calls, so a panic elsewhere leaves it whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
