//! The catalog: small transactional state in sled. The only module that knows sled.
//!
//! 1. It is never the only copy of a restore point or of the index: both can be rebuilt from packs and
//!    restore-point files (test `a_rebuilt_catalog_says_the_same`).
//! 2. A change is one transaction and is flushed before [`Catalog::write`] returns.
//! 3. Every value begins with a format version.
//! 4. A catalog that does not open, or holds what cannot be read, is moved aside, loudly.
//!
//! 5. A flush that fails for another reason than a full disk poisons the store like every failed sync.
//!
//! sled 0.34 reports some damage by panicking and stops for good at its first I/O error. Both stay in here: a
//! panic becomes an error, and after an I/O error the database is opened anew at the next call.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backstay_types::{ChunkId, PackId, PlanName, RestorePointId, Time};

use crate::StoreError;
use crate::disk::Disk;

/// First byte of every value.
const VALUE_VERSION: u8 = 1;
/// sled's page cache; the catalog is a few hundred KiB.
const CACHE_BYTES: u64 = 4 << 20;
/// How often and how long a handle being closed is waited for: 10 s.
const LOCK_TRIES: u32 = 1000;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// One change of a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    PutPoint(PlanName, RestorePointId, Vec<u8>),
    DropPoint(PlanName, RestorePointId),
    Damaged(PlanName, RestorePointId, String),
    Undamaged(PlanName, RestorePointId),
    PutRun(u64),
    DropRun(u64),
    /// The pack is deleted, though runs still name it.
    Dead(PackId),
    Undead(PackId),
    /// The pack holds chunks of a session that has not committed; made then.
    Fresh(PackId, Time),
    Unfresh(PackId),
    /// That copy of the chunk is damaged.
    Bad(ChunkId, PackId),
    Unbad(ChunkId),
    /// The pack's structure is damaged.
    BadPack(PackId, String),
    UnbadPack(PackId),
    NextPack(PackId),
    State(String, Vec<u8>),
}

/// All that a catalog holds, but the daemon's state.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) points: HashMap<(PlanName, RestorePointId), Vec<u8>>,
    pub(crate) damage: HashMap<(PlanName, RestorePointId), String>,
    pub(crate) runs: Vec<u64>,
    pub(crate) dead: Vec<PackId>,
    pub(crate) fresh: HashMap<PackId, Time>,
    pub(crate) bad: HashMap<ChunkId, PackId>,
    pub(crate) bad_packs: HashMap<PackId, String>,
    pub(crate) next_pack: u32,
    pub(crate) state: Vec<(String, Vec<u8>)>,
}

/// The database.
pub(crate) struct Catalog {
    path: PathBuf,
    disk: Arc<Disk>,
    /// `None` after an I/O error, until the next call opens it anew.
    db: Mutex<Option<sled::Db>>,
}

impl Catalog {
    /// Opens the database, or makes it.
    pub(crate) fn open(path: &Path, disk: &Arc<Disk>) -> Result<Self, StoreError> {
        if let Some(parent) = path.parent() {
            disk.make_dir(parent)?;
        }
        let db = open_db(path)?;
        Ok(Self { path: path.to_owned(), disk: Arc::clone(disk), db: Mutex::new(Some(db)) })
    }

    /// Reads everything, and so proves that everything can be read.
    pub(crate) fn load(&self) -> Result<Contents, StoreError> {
        self.with(|db| {
            let mut contents = Contents::default();
            for item in db.iter() {
                let (key, value) = item?;
                let bad = || sled::Error::Unsupported(format!("key {:?}", String::from_utf8_lossy(&key)));
                let key = std::str::from_utf8(&key).map_err(|_| bad())?;
                let value = match value.split_first() {
                    Some((&VALUE_VERSION, value)) => value,
                    _ => return Err(bad()),
                };
                contents.take(key, value).ok_or_else(bad)?;
            }
            contents.runs.sort_unstable();
            Ok(contents)
        })
    }

    /// Makes changes as one transaction, durably.
    pub(crate) fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for change in changes {
            match change.encode() {
                (key, Some(value)) => {
                    let mut bytes = vec![VALUE_VERSION];
                    bytes.extend_from_slice(&value);
                    batch.insert(key.into_bytes(), bytes);
                }
                (key, None) => batch.remove(key.into_bytes()),
            }
        }
        let written = self.with(|db| {
            db.apply_batch(batch)?;
            db.flush().map(drop)
        });
        written.inspect_err(|error| {
            if matches!(error, StoreError::Io { .. }) {
                self.disk.poison(error);
            }
        })
    }

    /// A value of the daemon's state.
    pub(crate) fn state(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.with(|db| db.get(format!("state/{key}")))?;
        let versioned = value.as_deref().map(<[u8]>::split_first);
        match versioned {
            None => Ok(None),
            Some(Some((&VALUE_VERSION, value))) => Ok(Some(value.to_vec())),
            Some(_) => Err(StoreError::Catalog {
                path: self.path.clone(),
                why: format!("state {key} does not decode"),
            }),
        }
    }

    fn with<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, StoreError> {
        let mut db = self.lock();
        if db.is_none() {
            *db = Some(open_db(&self.path)?);
        }
        let Some(open) = db.as_ref() else {
            return Err(StoreError::Broken { what: "the catalog is not open" });
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| call(open)));
        let error = match outcome {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => catalog_error(&self.path, error),
            Err(_) => {
                StoreError::Catalog { path: self.path.clone(), why: "the database gave up on it".to_owned() }
            }
        };
        *db = None;
        Err(error)
    }

    fn lock(&self) -> MutexGuard<'_, Option<sled::Db>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_db(path: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        // Flushed at commit points, by ourselves.
        .flush_every_ms(None);
    let mut opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    // The store's own lock is held, so a lock on the database is that of a handle being closed: its threads let
    // go of it a little after the last handle is dropped.
    for _ in 0..LOCK_TRIES {
        if !matches!(&opened, Ok(Err(error)) if is_lock(error)) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    }
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) if is_lock(&error) => Err(StoreError::Locked { path: path.to_owned() }),
        Ok(Err(error)) => Err(catalog_error(path, error)),
        Err(_) => {
            Err(StoreError::Catalog { path: path.to_owned(), why: "the database gave up on it".to_owned() })
        }
    }
}

fn is_lock(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(source) if source.to_string().contains("could not acquire lock"))
}

fn catalog_error(path: &Path, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(source) => StoreError::io("use catalog", path, source),
        other => StoreError::Catalog { path: path.to_owned(), why: other.to_string() },
    }
}

impl Change {
    /// Key, and the value to put there or nothing to remove it.
    fn encode(&self) -> (String, Option<Vec<u8>>) {
        match self {
            Change::PutPoint(plan, id, bytes) => (format!("point/{plan}/{id}"), Some(bytes.clone())),
            Change::DropPoint(plan, id) => (format!("point/{plan}/{id}"), None),
            Change::Damaged(plan, id, why) => (format!("damage/{plan}/{id}"), Some(why.clone().into_bytes())),
            Change::Undamaged(plan, id) => (format!("damage/{plan}/{id}"), None),
            Change::PutRun(seq) => (format!("run/{seq:020}"), Some(Vec::new())),
            Change::DropRun(seq) => (format!("run/{seq:020}"), None),
            Change::Dead(pack) => (format!("dead/{pack}"), Some(Vec::new())),
            Change::Undead(pack) => (format!("dead/{pack}"), None),
            Change::Fresh(pack, at) => (format!("fresh/{pack}"), Some(at.0.to_le_bytes().to_vec())),
            Change::Unfresh(pack) => (format!("fresh/{pack}"), None),
            Change::Bad(id, pack) => (format!("bad/{id}"), Some(pack.0.to_le_bytes().to_vec())),
            Change::Unbad(id) => (format!("bad/{id}"), None),
            Change::BadPack(pack, why) => (format!("badpack/{pack}"), Some(why.clone().into_bytes())),
            Change::UnbadPack(pack) => (format!("badpack/{pack}"), None),
            Change::NextPack(pack) => ("nextpack".to_owned(), Some(pack.0.to_le_bytes().to_vec())),
            Change::State(key, value) => (format!("state/{key}"), Some(value.clone())),
        }
    }
}

impl Contents {
    /// Takes one stored item; `None` if it does not decode.
    fn take(&mut self, key: &str, value: &[u8]) -> Option<()> {
        let (kind, name) = key.split_once('/').unwrap_or((key, ""));
        match kind {
            "point" => {
                self.points.insert(point_key(name)?, value.to_vec());
            }
            "damage" => {
                self.damage.insert(point_key(name)?, String::from_utf8(value.to_vec()).ok()?);
            }
            "run" => self.runs.push(name.parse().ok()?),
            "dead" => self.dead.push(pack_key(name)?),
            "fresh" => {
                self.fresh.insert(pack_key(name)?, Time(i64::from_le_bytes(value.try_into().ok()?)));
            }
            "bad" => {
                self.bad.insert(name.parse().ok()?, PackId(u32::from_le_bytes(value.try_into().ok()?)));
            }
            "badpack" => {
                self.bad_packs.insert(pack_key(name)?, String::from_utf8(value.to_vec()).ok()?);
            }
            "nextpack" => self.next_pack = u32::from_le_bytes(value.try_into().ok()?),
            "state" => self.state.push((name.to_owned(), value.to_vec())),
            _ => return None,
        }
        Some(())
    }
}

fn point_key(name: &str) -> Option<(PlanName, RestorePointId)> {
    let (plan, id) = name.split_once('/')?;
    Some((plan.parse().ok()?, id.parse().ok()?))
}

fn pack_key(name: &str) -> Option<PackId> {
    u32::from_str_radix(name, 16).ok().map(PackId)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;

    use backstay_types::Epoch;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Write(Vec<(u8, u8, Option<u8>)>),
        Reopen,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let change = (0..6_u8, 0..5_u8, prop::option::of(any::<u8>()));
        let op = prop_oneof![
            5 => prop::collection::vec(change, 1..8).prop_map(Op::Write),
            1 => Just(Op::Reopen),
        ];
        prop::collection::vec(op, 1..20)
    }

    /// A change of one of six kinds, and how the map sees it.
    fn change(kind: u8, n: u8, value: Option<u8>) -> Change {
        let plan: PlanName = format!("plan{n}").parse().unwrap();
        let point = RestorePointId { epoch: Epoch(1), number: u64::from(n) };
        let pack = PackId(u32::from(n));
        let chunk = ChunkId([n; 32]);
        match (kind, value) {
            (0, Some(value)) => Change::PutPoint(plan, point, vec![value; 300]),
            (0, None) => Change::DropPoint(plan, point),
            (1, Some(value)) => Change::Damaged(plan, point, format!("why {value}")),
            (1, None) => Change::Undamaged(plan, point),
            (2, Some(value)) => Change::Fresh(pack, Time(i64::from(value))),
            (2, None) => Change::Unfresh(pack),
            (3, Some(value)) => Change::Bad(chunk, PackId(u32::from(value))),
            (3, None) => Change::Unbad(chunk),
            (4, Some(_)) => Change::Dead(pack),
            (4, None) => Change::Undead(pack),
            (_, value) => Change::State(format!("key{n}"), vec![value.unwrap_or_default()]),
        }
    }

    /// What the contents say, in the words of the map.
    fn flat(contents: &Contents) -> BTreeMap<(u8, u8), Option<u8>> {
        let number = |id: &RestorePointId| u8::try_from(id.number).unwrap();
        let low = |pack: &PackId| u8::try_from(pack.0).unwrap();
        let mut flat = BTreeMap::new();
        flat.extend(contents.points.iter().map(|((_, id), bytes)| ((0, number(id)), bytes.first().copied())));
        flat.extend(
            contents.damage.iter().map(|((_, id), why)| {
                ((1, number(id)), why.strip_prefix("why ").and_then(|n| n.parse().ok()))
            }),
        );
        flat.extend(contents.fresh.iter().map(|(pack, at)| ((2, low(pack)), u8::try_from(at.0).ok())));
        flat.extend(contents.bad.iter().map(|(id, pack)| ((3, *id.0.first().unwrap()), Some(low(pack)))));
        flat.extend(contents.dead.iter().map(|pack| ((4, low(pack)), None)));
        flat.extend(contents.state.iter().map(|(key, value)| {
            ((5, key.strip_prefix("key").and_then(|n| n.parse().ok()).unwrap()), value.first().copied())
        }));
        flat
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_catalog_agrees_with_a_map(ops in ops()) {
            let dir = tempfile::tempdir().unwrap();
            let disk = Arc::new(Disk::default());
            let path = dir.path().join("catalog");
            let mut catalog = Catalog::open(&path, &disk).unwrap();
            let mut map: BTreeMap<(u8, u8), Option<u8>> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Write(changes) => {
                        let batch: Vec<Change> = changes.iter().map(|(k, n, v)| change(*k, *n, *v)).collect();
                        catalog.write(&batch).unwrap();
                        for (kind, n, value) in changes {
                            match (kind, value) {
                                (5, value) => drop(map.insert((5, n), Some(value.unwrap_or_default()))),
                                (4, Some(_)) => drop(map.insert((4, n), None)),
                                (_, Some(value)) => drop(map.insert((kind, n), Some(value))),
                                (_, None) => drop(map.remove(&(kind, n))),
                            }
                        }
                    }
                    Op::Reopen => {
                        drop(catalog);
                        catalog = Catalog::open(&path, &disk).unwrap();
                    }
                }
                prop_assert_eq!(flat(&catalog.load().unwrap()), map.clone());
            }
        }
    }

    #[test]
    fn a_value_of_another_version_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::default());
        let catalog = Catalog::open(dir.path(), &disk).unwrap();
        catalog.with(|db| db.insert("state/new", vec![VALUE_VERSION + 1, 5])).unwrap();
        assert!(catalog.state("new").is_err());
        assert!(matches!(catalog.load(), Err(StoreError::Catalog { .. })));
    }
}
