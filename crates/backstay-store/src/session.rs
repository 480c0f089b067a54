//! Sessions in flight: what they stand on and must not be freed under them.
//!
//! 1. Every chunk a session was told is held stays for as long as the session lives (test
//!    `collection_never_frees_what_is_needed`).
//! 2. So does everything the plan's restore points reached when it began, because the sender does not even offer
//!    what it knows to be in the parent.
//!
//! Memory: one bit for each chunk of the runs a session has chunks in, 1.25 MB for 10 M chunks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use backstay_types::point::RestorePoint;
use backstay_types::{ChunkId, PackId};

use crate::index::{Hit, Marks};
use crate::inner::lock;

/// One session's claims.
#[derive(Debug)]
pub(crate) struct Session {
    /// Packs from here on are claimed whole: they hold what is not in runs yet.
    pub(crate) floor: PackId,
    /// The plan's restore points at the beginning.
    pub(crate) points: Vec<Arc<RestorePoint>>,
    pins: Mutex<Marks>,
}

impl Session {
    pub(crate) fn new(floor: PackId, points: Vec<Arc<RestorePoint>>) -> Self {
        Self { floor, points, pins: Mutex::default() }
    }

    /// Claims a chunk. To be called while the index is still held for the lookup, so that a garbage collection
    /// sees either the claim or, from then on, is seen.
    pub(crate) fn pin(&self, hit: &Hit) {
        lock(&self.pins).insert_if_in_run(hit);
    }

    /// Whether the session claimed that chunk before.
    pub(crate) fn has_pinned(&self, id: &ChunkId, hit: &Hit) -> bool {
        lock(&self.pins).contains(id, hit)
    }

    /// Calls `each` with every claimed chunk.
    pub(crate) fn pinned<E: From<crate::StoreError>>(
        &self,
        each: &mut dyn FnMut(ChunkId) -> Result<(), E>,
    ) -> Result<(), E> {
        let claimed = lock(&self.pins).in_runs();
        for (run, bits) in claimed {
            for position in crate::index::positions(&bits) {
                each(run.entry(position)?.id)?;
            }
        }
        Ok(())
    }
}

/// The sessions in flight.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    live: Mutex<HashMap<u64, Arc<Session>>>,
    next: AtomicU64,
}

impl Sessions {
    pub(crate) fn add(&self, session: Arc<Session>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.live).insert(number, session);
        number
    }

    pub(crate) fn remove(&self, number: u64) {
        lock(&self.live).remove(&number);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        lock(&self.live).values().cloned().collect()
    }
}
