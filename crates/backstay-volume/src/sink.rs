//! Where the chunks of a volume go, and what of the parent they can be described by.

use backstay_types::ChunkId;

/// Whoever took the chunks takes no more: the transfer failed or was stopped. The cause is known there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the transfer ended")]
pub struct SinkClosed;

/// A range of the parent's version of the same file that equals a chunk in most sectors.
///
/// The fields are those of [`backstay_types::frame::patch::Patch`]: the sender adds the sectors whose bit is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchBase {
    /// Chunks of the parent whose concatenation covers every sector that is not set.
    pub bases: Vec<ChunkId>,
    /// Bytes of that concatenation before the chunk's range begins.
    pub skip: u32,
    /// Bytes of the chunk's first sector, 1 to 4096.
    pub lead: u16,
    /// One bit per sector of the chunk; set where it differs from the parent.
    pub bitmap: Vec<u8>,
}

/// Takes the chunks of a volume: of its content, and of its manifest.
pub trait ChunkSink {
    /// Takes one chunk. Blocks while there is no room. The same id may come more than once, also when the
    /// attempt it belonged to was given up: a chunk that no manifest names is garbage, not damage.
    fn chunk(&mut self, id: ChunkId, bytes: Vec<u8>, base: Option<PatchBase>) -> Result<(), SinkClosed>;
}

impl From<SinkClosed> for crate::VolumeError {
    fn from(_: SinkClosed) -> Self {
        crate::VolumeError::SinkClosed
    }
}
