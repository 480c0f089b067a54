//! What a standby tells of the restore point it shows, so that its active side can send against that one.
//!
//! A standby that was active itself has kept what it wrote as a point that the other side never had. What that side lacks
//! of it are the chunks of its manifest and, of the chunks of its content, what their sectors are like: 8 bytes for 4 KiB.

use serde::{Deserialize, Serialize};

use super::patch::SECTOR_BYTES;
use super::{Check, within};
use crate::{ChunkId, Epoch, PlanName, limits};

/// See [`super::Frame::QueryTree`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryTree {
    /// The plan.
    pub plan: PlanName,
    /// The epoch of the side that asks.
    pub epoch: Epoch,
    /// Chunks of [`limits::TREE_BYTES_MAX`] together at most.
    pub ids: Vec<ChunkId>,
}

impl Check for QueryTree {
    fn check(&self) -> Result<(), &'static str> {
        within(self.ids.len(), limits::TREE_IDS_MAX, "too many chunks are asked for")
    }
}

/// See [`super::Frame::ToldTree`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldTree {
    /// Length of each chunk, in the order they were asked for.
    pub lens: Vec<u32>,
    /// The chunks one after the other, as a zstd frame.
    pub zstd: Vec<u8>,
}

impl ToldTree {
    /// Length of all chunks together.
    pub fn bytes(&self) -> usize {
        self.lens.iter().fold(0, |sum: usize, len| sum.saturating_add(*len as usize))
    }
}

impl Check for ToldTree {
    fn check(&self) -> Result<(), &'static str> {
        within(self.lens.len(), limits::TREE_IDS_MAX, "too many chunks")?;
        within(self.bytes(), limits::TREE_BYTES_MAX, "the chunks are too long")
    }
}

/// Sectors of a file, and chunks that follow one another in it and cover them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectorRun {
    /// The chunks.
    pub ids: Vec<ChunkId>,
    /// Bytes of them before the first sector.
    pub skip: u32,
    /// Bytes of the sectors: whole ones, but for the last of a file.
    pub len: u32,
}

impl SectorRun {
    /// How many sectors it has.
    pub const fn sectors(&self) -> usize {
        (self.len as usize).div_ceil(SECTOR_BYTES)
    }
}

/// See [`super::Frame::QuerySectors`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuerySectors {
    /// The plan.
    pub plan: PlanName,
    /// The epoch of the side that asks.
    pub epoch: Epoch,
    /// What to look at.
    pub runs: Vec<SectorRun>,
}

impl Check for QuerySectors {
    fn check(&self) -> Result<(), &'static str> {
        if self.runs.iter().any(|run| run.ids.is_empty() || run.len == 0) {
            return Err("a run of sectors is empty");
        }
        let sum = |of: fn(&SectorRun) -> usize| self.runs.iter().map(of).fold(0, usize::saturating_add);
        within(sum(|run| run.ids.len()), limits::SECTOR_IDS_MAX, "too many chunks are asked for")?;
        within(sum(SectorRun::sectors), limits::SECTORS_MAX, "too many sectors are asked for")
    }
}

/// See [`super::Frame::ToldSectors`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldSectors {
    /// The fingerprint of each sector, in order, little-endian.
    pub fingerprints: Vec<[u8; 8]>,
}

impl Check for ToldSectors {
    fn check(&self) -> Result<(), &'static str> {
        within(self.fingerprints.len(), limits::SECTORS_MAX, "too many sectors")
    }
}
