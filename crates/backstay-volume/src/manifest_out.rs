//! Writing a manifest: entries into segments, segments into the tree, every chunk of it to the sink and, for
//! the next cycle, into the sent state.

use backstay_types::manifest::{Entry, Extent, NodeKind, SegmentWriter, TreeBuilder, TreeChunk, VolumeKind};
use backstay_types::{ChunkId, HashKey, VolumeName};

use crate::state::{Parent, StateWriter};
use crate::{ChunkSink, VolumeError};

/// Writes one manifest.
pub(crate) struct ManifestOut {
    segments: SegmentWriter,
    tree: TreeBuilder,
    entries: u64,
    bytes: u64,
    /// Its chunks are held by the receiver and are not offered again.
    parent: Option<Parent>,
}

/// A manifest that was written.
pub(crate) struct Written {
    pub(crate) root: ChunkId,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// Where the chunks of the manifest go.
pub(crate) struct TreeOut<'a> {
    pub(crate) sink: &'a mut dyn ChunkSink,
    pub(crate) state: Option<&'a mut StateWriter>,
}

impl ManifestOut {
    pub(crate) fn new(key: HashKey, parent: Option<Parent>) -> Self {
        Self { segments: SegmentWriter::new(), tree: TreeBuilder::new(key), entries: 0, bytes: 0, parent }
    }

    /// Adds an entry; the extents of a file follow.
    pub(crate) fn entry(&mut self, entry: Entry, out: &mut TreeOut<'_>) -> Result<(), VolumeError> {
        self.entries += 1;
        if let NodeKind::File { size } = entry.kind {
            self.bytes += size;
        }
        match self.segments.entry(entry)? {
            Some(segment) => self.segment(segment, out),
            None => Ok(()),
        }
    }

    /// Adds extents of the file added last.
    pub(crate) fn extents(&mut self, extents: &[Extent], out: &mut TreeOut<'_>) -> Result<(), VolumeError> {
        self.segments.extents(extents).into_iter().try_for_each(|segment| self.segment(segment, out))
    }

    /// Ends the manifest.
    pub(crate) fn finish(
        mut self,
        volume: Option<VolumeName>,
        kind: VolumeKind,
        out: &mut TreeOut<'_>,
    ) -> Result<Written, VolumeError> {
        if let Some(segment) = std::mem::take(&mut self.segments).finish() {
            self.segment(segment, out)?;
        }
        let Self { tree, entries, bytes, parent, .. } = self;
        let (node, root) = tree.finish(volume, kind, entries, bytes)?;
        let id = root.id;
        node.into_iter().chain([root]).try_for_each(|chunk| put(parent.as_ref(), chunk, out))?;
        Ok(Written { root: id, entries, bytes })
    }

    fn segment(&mut self, bytes: Vec<u8>, out: &mut TreeOut<'_>) -> Result<(), VolumeError> {
        let (segment, node) = self.tree.segment(bytes)?;
        [Some(segment), node]
            .into_iter()
            .flatten()
            .try_for_each(|chunk| put(self.parent.as_ref(), chunk, out))
    }
}

fn put(parent: Option<&Parent>, chunk: TreeChunk, out: &mut TreeOut<'_>) -> Result<(), VolumeError> {
    if let Some(state) = &mut out.state {
        state.tree_chunk(&chunk.id, &chunk.bytes)?;
    }
    if !parent.is_some_and(|parent| parent.has_tree_chunk(&chunk.id)) {
        out.sink.chunk(chunk.id, chunk.bytes, None)?;
    }
    Ok(())
}
