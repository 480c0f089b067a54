//! What a verification says.

use std::fmt;

use backstay_types::{ChunkId, PackId, PairId, PlanName, RestorePointId};
use serde::{Deserialize, Serialize};

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyProgress {
    /// Packs checked.
    pub packs_done: u64,
    /// Packs to check.
    pub packs_total: u64,
    /// Bytes of the packs checked.
    pub bytes_done: u64,
    /// Bytes of the packs to check.
    pub bytes_total: u64,
    /// Restore points checked; after the packs.
    pub points_done: u64,
}

/// A chunk that cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedChunk {
    /// Its pair, if its pack's header says so.
    pub pair: Option<PairId>,
    /// The chunk.
    pub id: ChunkId,
    /// The pack it is in.
    pub pack: PackId,
    /// What is wrong.
    pub why: String,
}

/// A pack that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedPack {
    /// The pack.
    pub pack: PackId,
    /// Its file, below the store's folder.
    pub file: String,
    /// What is wrong.
    pub why: String,
}

/// A restore point that does not rebuild whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedPoint {
    /// Its plan.
    pub plan: PlanName,
    /// Which.
    pub id: RestorePointId,
    /// The first thing wrong with it.
    pub why: String,
}

/// Another file of the store that was damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedFile {
    /// The file, below the store's folder.
    pub file: String,
    /// What was wrong.
    pub why: String,
    /// Whether it was made anew from what is elsewhere.
    pub mended: bool,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// Packs checked.
    pub packs_checked: u64,
    /// Chunks re-hashed.
    pub chunks_checked: u64,
    /// Bytes of the packs.
    pub bytes_checked: u64,
    /// Restore points walked.
    pub points_checked: u64,
    /// Chunks that cannot be read back: the first 10 000.
    pub damaged_chunks: Vec<DamagedChunk>,
    /// How many there are.
    pub damaged_chunks_total: u64,
    /// Packs that are not what was written.
    pub damaged_packs: Vec<DamagedPack>,
    /// Restore points that do not rebuild whole.
    pub damaged_points: Vec<DamagedPoint>,
    /// Other files that were damaged.
    pub damaged_files: Vec<DamagedFile>,
}

impl VerifyReport {
    /// Whether nothing is wrong that is still wrong now: a file that was mended does not count, nor does a pack
    /// whose needed chunks are all sound (garbage collection rewrites it).
    pub fn is_clean(&self) -> bool {
        self.damaged_chunks_total == 0
            && self.damaged_points.is_empty()
            && self.damaged_files.iter().all(|file| file.mended)
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "checked {} packs, {} chunks, {} bytes, {} restore points",
            self.packs_checked, self.chunks_checked, self.bytes_checked, self.points_checked
        )?;
        for DamagedPack { file, why, .. } in &self.damaged_packs {
            write!(f, "\ndamaged pack {file}: {why}")?;
        }
        for DamagedChunk { id, pack, why, .. } in &self.damaged_chunks {
            write!(f, "\ndamaged chunk {id} in pack {pack}: {why}")?;
        }
        for DamagedPoint { plan, id, why } in &self.damaged_points {
            write!(f, "\ndamaged restore point {plan} {id}: {why}")?;
        }
        for DamagedFile { file, why, mended } in &self.damaged_files {
            write!(f, "\ndamaged file {file}: {why}{}", if *mended { " (mended)" } else { "" })?;
        }
        Ok(())
    }
}
