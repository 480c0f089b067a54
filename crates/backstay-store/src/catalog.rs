//! The catalog: small transactional state in sled. The only module that knows sled.
//!
//! 1. It is never the only copy of a restore point or of the index: both can be rebuilt from packs and
//!    restore-point files (test `a_rebuilt_catalog_says_the_same`).
//! 2. A change is one transaction and is flushed before [`Catalog::write`] returns.
//! 3. Every value begins with a format version.
//! 4. A catalog that does not open, or holds what cannot be read, is moved aside, loudly.
//!
//! sled 0.34 reports some damage by panicking and stops for good at its first I/O error. Both stay in here: a
//! panic becomes an error, and after an I/O error the database is opened anew at the next call.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use backstay_types::{ChunkId, PackId, PlanName, RestorePointId, Time};

use crate::StoreError;
use crate::disk::Disk;

/// First byte of every value.
const VALUE_VERSION: u8 = 1;
/// sled's page cache; the catalog is a few hundred KiB.
const CACHE_BYTES: u64 = 4 << 20;

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
    /// `None` after an I/O error, until the next call opens it anew.
    db: Mutex<Option<sled::Db>>,
}

impl Catalog {
    /// Opens the database, or makes it.
    pub(crate) fn open(path: &Path, disk: &Disk) -> Result<Self, StoreError> {
        if let Some(parent) = path.parent() {
            disk.make_dir(parent)?;
        }
        let db = open_db(path)?;
        Ok(Self { path: path.to_owned(), db: Mutex::new(Some(db)) })
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
        self.with(|db| {
            db.apply_batch(batch.clone())?;
            db.flush().map(drop)
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
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) => Err(catalog_error(path, error)),
        Err(_) => {
            Err(StoreError::Catalog { path: path.to_owned(), why: "the database gave up on it".to_owned() })
        }
    }
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
