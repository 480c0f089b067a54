//! Decoded chunks kept in memory: bases of patches and chunks that several files share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use backstay_types::ChunkId;

/// Two generations of at most half the bytes each: when the young one is full it becomes the old one, and what
/// was old and not used again goes. Every chunk in it was checked against its id.
#[derive(Debug)]
pub(crate) struct ChunkCache {
    half_bytes: usize,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<ChunkId, Arc<Vec<u8>>>,
    old: HashMap<ChunkId, Arc<Vec<u8>>>,
    young_bytes: usize,
}

/// What a map entry costs beside the bytes.
const ENTRY_BYTES: usize = 128;

impl ChunkCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { half_bytes: bytes_max / 2, generations: Mutex::default() }
    }

    pub(crate) fn get(&self, id: &ChunkId) -> Option<Arc<Vec<u8>>> {
        let mut generations = self.lock();
        if let Some(bytes) = generations.young.get(id) {
            return Some(Arc::clone(bytes));
        }
        let bytes = generations.old.remove(id)?;
        generations.put(*id, Arc::clone(&bytes), self.half_bytes);
        Some(bytes)
    }

    pub(crate) fn put(&self, id: ChunkId, bytes: Arc<Vec<u8>>) {
        self.lock().put(id, bytes, self.half_bytes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        // Losing count of a few bytes in a panic elsewhere is all that could happen.
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn put(&mut self, id: ChunkId, bytes: Arc<Vec<u8>>, half_bytes: usize) {
        let cost = bytes.len() + ENTRY_BYTES;
        if cost > half_bytes {
            return;
        }
        if self.young_bytes + cost > half_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(id, bytes).is_none() {
            self.young_bytes += cost;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn it_keeps_what_is_used_and_stays_within_its_bytes() {
        let cache = ChunkCache::new(20 << 10);
        let id = |n: u8| ChunkId([n; 32]);
        for n in 0..100 {
            cache.put(id(n), Arc::new(vec![n; 1 << 10]));
            if n > 0 {
                assert_eq!(
                    *cache.get(&id(0)).unwrap_or_else(|| Arc::new(vec![0; 1 << 10])),
                    vec![0; 1 << 10]
                );
            }
            let generations = cache.generations.lock().unwrap();
            let bytes: usize = generations
                .young
                .values()
                .chain(generations.old.values())
                .map(|b| b.len() + ENTRY_BYTES)
                .sum();
            assert!(bytes <= 20 << 10, "{bytes}");
        }
        assert!(cache.get(&id(0)).is_some(), "used all the time");
        assert!(cache.get(&id(1)).is_none(), "never used");
    }
}
