//! Brings the manifest of a point into the state, level by level, so that what must be asked for is asked for together.

use backstay_types::manifest::{CursorError, FetchChunk, ManifestRoot, SegmentRef, TreeError, decode_node};
use backstay_types::{ChunkId, Classify, HashKey, limits};

use super::Source;
use crate::VolumeError;
use crate::state::StateWriter;

/// A node lists [`limits::NODE_SEGMENTS_MAX`] segments of 32 bytes and a length of at most 3.
const NODE_BYTES_MAX: u32 = 144 << 10;
/// A root lists [`limits::ROOT_NODES_MAX`] nodes of 32 bytes, and some numbers.
const ROOT_BYTES_MAX: u32 = 257 << 10;

/// Chunks in memory at once: 32 segments are 2 MiB, and 32 MiB at the very worst.
const GROUP_CHUNKS: usize = 32;

/// What is asked for of one manifest. That of 3 TiB in chunks of 64 KiB has 1.7 GiB, if not one segment of it is here.
const ASKED_BYTES_MAX: u64 = 2 << 30;

/// Writes every chunk of the manifest to the state.
pub(super) fn bring<F>(
    source: &Source<'_, F>,
    root: &ChunkId,
    key: &HashKey,
    state: &mut StateWriter,
) -> Result<(), VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    let damaged = |error: TreeError| VolumeError::manifest(CursorError::<F::Error>::Tree(error));
    let mut bringer = Bringer { source, key, state, asked_bytes: 0 };
    for root in bringer.chunks(&[SegmentRef { id: *root, len: ROOT_BYTES_MAX }])? {
        let root = ManifestRoot::decode(&root).map_err(damaged)?;
        let nodes: Vec<_> = root.nodes.iter().map(|id| SegmentRef { id: *id, len: NODE_BYTES_MAX }).collect();
        for group in nodes.chunks(GROUP_CHUNKS) {
            for node in bringer.chunks(group)? {
                for segments in decode_node(&node).map_err(damaged)?.chunks(GROUP_CHUNKS) {
                    bringer.chunks(segments)?;
                }
            }
        }
    }
    Ok(())
}

struct Bringer<'a, F> {
    source: &'a Source<'a, F>,
    key: &'a HashKey,
    state: &'a mut StateWriter,
    asked_bytes: u64,
}

impl<F> Bringer<'_, F>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    /// Brings chunks in, and gives them in order.
    fn chunks(&mut self, wanted: &[SegmentRef]) -> Result<Vec<Vec<u8>>, VolumeError> {
        let mut found = Vec::with_capacity(wanted.len());
        for chunk in wanted {
            self.source.progress.step()?;
            found.push(self.source.here(&chunk.id)?);
        }
        let missing: Vec<_> =
            wanted.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(chunk, _)| *chunk).collect();
        let mut told = self.ask(&missing)?.into_iter();
        let mut chunks = Vec::with_capacity(wanted.len());
        for (chunk, found) in wanted.iter().zip(found) {
            let bytes = found.or_else(|| told.next()).unwrap_or_default();
            self.state.tree_chunk(&chunk.id, &bytes)?;
            chunks.push(bytes);
        }
        Ok(chunks)
    }

    /// Chunks of the other side: exactly these.
    fn ask(&mut self, missing: &[SegmentRef]) -> Result<Vec<Vec<u8>>, VolumeError> {
        let Some(elsewhere) = self.source.elsewhere.filter(|_| !missing.is_empty()) else {
            return Ok(Vec::new());
        };
        let told = elsewhere.tree(missing)?;
        if told.len() != missing.len() {
            return Err(VolumeError::Told { why: "chunks of the manifest are missing, or too many" });
        }
        for (chunk, bytes) in missing.iter().zip(&told) {
            if bytes.len() > limits::CHUNK_BYTES_MAX || self.key.chunk_id(bytes) != chunk.id {
                return Err(VolumeError::Told { why: "a chunk of the manifest does not match its id" });
            }
            self.asked_bytes += bytes.len() as u64;
        }
        if self.asked_bytes > ASKED_BYTES_MAX {
            return Err(VolumeError::Told { why: "the manifest differs too much from those that are here" });
        }
        Ok(told)
    }
}
