//! Reading chunks of one pair.

use std::sync::Arc;

use backstay_types::manifest::FetchChunk;
use backstay_types::{ChunkId, PairId};

use crate::StoreError;
use crate::inner::Inner;

/// Reads the chunks of a pair; every chunk is checked against its id before it is given out.
#[derive(Clone)]
pub struct ChunkReader {
    inner: Arc<Inner>,
    pair: PairId,
}

impl ChunkReader {
    pub(crate) fn new(inner: Arc<Inner>, pair: PairId) -> Self {
        Self { inner, pair }
    }

    /// The bytes of a chunk, shared with the cache of the store.
    pub fn shared(&self, id: &ChunkId) -> Result<Arc<Vec<u8>>, StoreError> {
        self.inner.disk.check()?;
        let key = self.inner.key(self.pair)?;
        self.inner.load(&key, id, &self.inner.cache)
    }
}

impl FetchChunk for ChunkReader {
    type Error = StoreError;

    fn fetch(&self, id: &ChunkId) -> Result<Vec<u8>, StoreError> {
        self.shared(id).map(|bytes| Vec::clone(&bytes))
    }
}
