//! The pair's hashing key and chunk parameters.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ChunkId;

/// Key of every BLAKE3 digest of a pair. Keyed ids keep a leaked store from confirming who holds which file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashKey(pub [u8; 32]);

impl HashKey {
    /// The id of a chunk with these bytes.
    pub fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.0, bytes).as_bytes())
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(…)")
    }
}

/// How a pair cuts data into chunks. Agreed at pairing, written in every manifest, immutable.
///
/// Files: FastCDC (2020), normalisation level 2, with the gear table xored with `seed`. Block devices and
/// images: fixed pieces of `block_bytes`, aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunkParams {
    /// Smallest chunk of a file, in bytes; even.
    pub min_bytes: u32,
    /// Average chunk of a file, in bytes; even.
    pub avg_bytes: u32,
    /// Largest chunk of a file, in bytes; even.
    pub max_bytes: u32,
    /// Chunk of a block device or image, in bytes.
    pub block_bytes: u32,
    /// Seed of the gear table.
    pub seed: u64,
}

impl ChunkParams {
    /// 16 / 64 / 256 KiB for files, 64 KiB for blocks.
    pub const fn with_seed(seed: u64) -> Self {
        Self { min_bytes: 16 << 10, avg_bytes: 64 << 10, max_bytes: 256 << 10, block_bytes: 64 << 10, seed }
    }
}
