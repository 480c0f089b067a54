//! Where chunks end.

use std::borrow::Cow;

use backstay_types::{ChunkParams, limits};
use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};

use crate::VolumeError;

/// How a source is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CutMode {
    /// By content, for files.
    Content,
    /// At multiples of the block size, for devices and images.
    Fixed,
}

/// The pair's chunk parameters, checked, with the tables made from them.
#[derive(Clone)]
pub(crate) struct Cutter {
    min: usize,
    avg: usize,
    max: usize,
    block: u64,
    masks: (u64, u64),
    gear: Cow<'static, [u64]>,
    gear_shifted: Cow<'static, [u64]>,
}

impl Cutter {
    pub(crate) fn new(params: &ChunkParams) -> Result<Self, VolumeError> {
        let ChunkParams { min_bytes, avg_bytes, max_bytes, block_bytes, seed } = *params;
        // Odd sizes move cuts by a byte (fastcdc issue 52); the rest is what its tables cover and a chunk may be.
        let even = [min_bytes, avg_bytes, max_bytes, block_bytes].iter().all(|bytes| bytes % 2 == 0);
        let ordered = 64 <= min_bytes && min_bytes <= avg_bytes && avg_bytes <= max_bytes;
        let bounded = (256..=1 << 20).contains(&avg_bytes)
            && (1024..=limits::CHUNK_BYTES_MAX).contains(&(max_bytes as usize))
            && (4096..=limits::CHUNK_BYTES_MAX).contains(&(block_bytes as usize))
            && block_bytes % 4096 == 0;
        if !(even && ordered && bounded) {
            return Err(VolumeError::Unwritable {
                why: format!("chunk parameters {params:?} are out of bounds"),
            });
        }
        let masks = select_masks(avg_bytes as usize, Normalization::Level2);
        let (gear, gear_shifted) = get_gear_with_seed(seed);
        let (min, avg, max) = (min_bytes as usize, avg_bytes as usize, max_bytes as usize);
        Ok(Self { min, avg, max, block: u64::from(block_bytes), masks, gear, gear_shifted })
    }

    /// Bytes of a window that always holds a largest chunk and the zeros that may follow it.
    pub(crate) fn window_bytes(&self) -> usize {
        (self.max.max(usize::try_from(self.block).unwrap_or(self.max)) + (1 << 20)).next_multiple_of(4096)
    }

    pub(crate) fn chunk_bytes_max(&self, mode: CutMode) -> usize {
        match mode {
            CutMode::Content => self.max,
            CutMode::Fixed => usize::try_from(self.block).unwrap_or(self.max),
        }
    }

    /// Length of the chunk that begins at offset `at` with `bytes`; all of them if nothing cuts before.
    pub(crate) fn cut(&self, mode: CutMode, at: u64, bytes: &[u8]) -> usize {
        match mode {
            CutMode::Fixed => {
                let room = self.block - at % self.block;
                usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len())
            }
            CutMode::Content => {
                let (mask_s, mask_l) = self.masks;
                let (gear, shifted) = (&self.gear, &self.gear_shifted);
                let (min, avg, max) = (self.min, self.avg, self.max);
                let (_, len) =
                    cut_gear(bytes, min, avg, max, mask_s, mask_l, mask_s << 1, mask_l << 1, gear, shifted);
                // Never an empty chunk, whatever the parameters.
                len.clamp(1, bytes.len().max(1))
            }
        }
    }
}
