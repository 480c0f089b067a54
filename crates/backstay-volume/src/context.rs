//! What reading a volume needs to know beside its spec.

use backstay_types::{ChunkParams, HashKey, PlanName};

/// The plan and pair a volume is read for.
#[derive(Debug, Clone)]
pub struct VolumeContext {
    /// The plan; names snapshots.
    pub plan: PlanName,
    /// Key of the pair's chunk ids.
    pub key: HashKey,
    /// How the pair cuts chunks.
    pub params: ChunkParams,
    /// Accept files that change while they are read.
    pub allow_fuzzy: bool,
    /// Accept a volume that has nothing of its own in it although its last restore point had.
    pub allow_empty: bool,
}
