//! What the micro-benches share: content of known compressibility, and a key and names for it.
//!
//! The comparison with rsync, restic and borg is `benches/peers.sh`; these benches tell which part of it moved.

use backstay_types::{ChunkParams, HashKey, PairId};

/// Key of every bench.
pub const KEY: HashKey = HashKey([7; 32]);
/// Chunk parameters of every bench.
pub const PARAMS: ChunkParams = ChunkParams::with_seed(42);
/// Pair of every bench.
pub const PAIR: PairId = PairId([3; 16]);

/// Bytes that no compression shortens: xorshift64, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
