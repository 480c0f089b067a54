//! Patches: a chunk as the sectors that differ from a range of older chunks.
//!
//! ```text
//! patch = bases u8 · skip u32 · lead u16 · base ids 32 each · bitmap ceil(sectors / 8) · zstd flag u8 · sectors
//! ```
//! The base is the concatenation of the base chunks after `skip` bytes. Sectors lie on a grid of the *file*,
//! because that is where databases write pages, while chunks begin anywhere: the first sector of a chunk is its
//! first `lead` bytes, the others 4096 each, the last what is left. A set bit takes a sector from `sectors`, a
//! clear bit from the base. The id of the chunk is checked over the result, so a wrong base can cost a re-send
//! and never a wrong byte.

use crate::{ChunkId, limits};

/// Bytes of a sector.
pub const SECTOR_BYTES: usize = 4096;

/// A patch, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch<'a> {
    /// Chunks whose concatenation is the base.
    pub bases: Vec<ChunkId>,
    /// Bytes of the base before the range begins.
    pub skip: u32,
    /// Bytes of the first sector, 1 to 4096: what the chunk has of the file's grid cell it begins in.
    pub lead: u16,
    /// One bit per sector of the chunk, first in the lowest bit of the first byte.
    pub bitmap: &'a [u8],
    /// Whether `sectors` is a zstd frame.
    pub zstd: bool,
    /// The changed sectors, one after the other.
    pub sectors: &'a [u8],
}

/// Sectors of a chunk of `raw_len` bytes whose first sector has `lead` bytes.
pub const fn sector_count(raw_len: usize, lead: u16) -> usize {
    if raw_len == 0 { 0 } else { 1 + raw_len.saturating_sub(lead as usize).div_ceil(SECTOR_BYTES) }
}

impl<'a> Patch<'a> {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + 32 * self.bases.len() + self.bitmap.len() + self.sectors.len());
        out.push(u8::try_from(self.bases.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(&self.skip.to_le_bytes());
        out.extend_from_slice(&self.lead.to_le_bytes());
        self.bases.iter().for_each(|id| out.extend_from_slice(&id.0));
        out.extend_from_slice(self.bitmap);
        out.push(u8::from(self.zstd));
        out.extend_from_slice(self.sectors);
        out
    }

    /// Reads a stored form for a chunk of `raw_len` bytes; `None` if it is damaged.
    pub fn decode(bytes: &'a [u8], raw_len: usize) -> Option<Self> {
        let (&count, rest) = bytes.split_first()?;
        let count = usize::from(count);
        if count == 0 || count > limits::PATCH_BASES_MAX {
            return None;
        }
        let (skip, rest) = rest.split_first_chunk::<4>()?;
        let (lead, rest) = rest.split_first_chunk::<2>()?;
        let lead = u16::from_le_bytes(*lead);
        if lead == 0 || usize::from(lead) > SECTOR_BYTES {
            return None;
        }
        let (ids, rest) = rest.split_at_checked(32 * count)?;
        let bases =
            ids.chunks_exact(32).filter_map(|id| id.first_chunk::<32>()).map(|id| ChunkId(*id)).collect();
        let (bitmap, rest) = rest.split_at_checked(sector_count(raw_len, lead).div_ceil(8))?;
        let (&zstd, sectors) = rest.split_first()?;
        (zstd <= 1).then_some(Self {
            bases,
            skip: u32::from_le_bytes(*skip),
            lead,
            bitmap,
            zstd: zstd == 1,
            sectors,
        })
    }

    /// Rebuilds the chunk from the base range (already skipped) and the changed sectors (already decompressed);
    /// `None` if the lengths do not fit.
    pub fn apply(bitmap: &[u8], lead: u16, base: &[u8], sectors: &[u8], raw_len: usize) -> Option<Vec<u8>> {
        let mut chunk = Vec::with_capacity(raw_len);
        let mut changed = sectors;
        for sector in 0..sector_count(raw_len, lead) {
            let at = chunk.len();
            let len = if sector == 0 { usize::from(lead) } else { SECTOR_BYTES }.min(raw_len - at);
            if bitmap.get(sector / 8)? & (1 << (sector % 8)) != 0 {
                let (bytes, rest) = changed.split_at_checked(len)?;
                chunk.extend_from_slice(bytes);
                changed = rest;
            } else {
                chunk.extend_from_slice(base.get(at..at + len)?);
            }
        }
        changed.is_empty().then_some(chunk)
    }
}
