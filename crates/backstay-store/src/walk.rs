//! Going through a manifest chunk by chunk, with the choice not to look inside.
//!
//! The structure is checked on the way as far as it is seen: paths ascend, extents stand behind files and cover
//! them exactly, segments join. Where a segment was not looked into, the check begins anew behind it.
//! Memory: one segment.

use std::sync::Arc;

use backstay_types::ChunkId;
use backstay_types::manifest::{
    Entry, Extent, ManifestRoot, NodeKind, RelPath, SegmentItem, SegmentReader, SegmentRef, decode_node,
};

use crate::StoreError;

/// What a chunk is in its manifest.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part<'a> {
    Root,
    Node,
    Segment {
        len: u32,
    },
    /// Content of the file at this path.
    Data {
        len: u32,
        path: &'a RelPath,
    },
}

/// Somebody who goes through a manifest.
pub(crate) trait Visitor {
    /// A chunk the manifest refers to. Returns whether to look inside; for content that means nothing.
    fn chunk(&mut self, id: &ChunkId, part: Part<'_>) -> Result<bool, StoreError>;
    /// The bytes of a chunk to look into.
    fn fetch(&mut self, id: &ChunkId) -> Result<Arc<Vec<u8>>, StoreError>;
}

/// Goes through the manifest with this root, front to back. Returns the root if it was looked into.
pub(crate) fn walk(root_id: &ChunkId, visitor: &mut dyn Visitor) -> Result<Option<ManifestRoot>, StoreError> {
    if !visitor.chunk(root_id, Part::Root)? {
        return Ok(None);
    }
    let bad = |why: String| StoreError::Manifest { root: *root_id, why };
    let root = ManifestRoot::decode(&visitor.fetch(root_id)?).map_err(|e| bad(e.to_string()))?;
    let mut structure = Structure::Begin;
    for node in &root.nodes {
        if !visitor.chunk(node, Part::Node)? {
            structure = Structure::Unseen;
            continue;
        }
        let segments = decode_node(&visitor.fetch(node)?).map_err(|e| bad(e.to_string()))?;
        for SegmentRef { id, len } in segments {
            if visitor.chunk(&id, Part::Segment { len })? {
                let bytes = visitor.fetch(&id)?;
                structure = walk_segment(&bytes, structure, visitor).map_err(|error| match error {
                    SegmentFault::Damaged(why) => bad(why),
                    SegmentFault::Store(error) => error,
                })?;
            } else {
                structure = Structure::Unseen;
            }
        }
    }
    structure.end().map_err(bad)?;
    Ok(Some(root))
}

/// What went wrong inside a segment.
enum SegmentFault {
    Damaged(String),
    Store(StoreError),
}

impl From<StoreError> for SegmentFault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What is known of the entry before the next record.
enum Structure {
    /// Nothing was there.
    Begin,
    /// It was not looked at.
    Unseen,
    /// The last entry.
    Seen { path: RelPath, content: Content },
}

/// What extents may follow an entry.
enum Content {
    /// None: it is no file.
    None,
    /// A file's, of which so much has been covered.
    File { size: u64, covered: u64 },
    /// A file's that began in a segment not looked into.
    Unseen,
}

fn walk_segment(
    bytes: &[u8],
    mut structure: Structure,
    visitor: &mut dyn Visitor,
) -> Result<Structure, SegmentFault> {
    let mut reader = SegmentReader::new(bytes).map_err(|e| SegmentFault::Damaged(e.to_string()))?;
    while let Some(item) = reader.next_item().map_err(|e| SegmentFault::Damaged(e.to_string()))? {
        match item {
            SegmentItem::Entry(entry) => structure = structure.entry(entry).map_err(SegmentFault::Damaged)?,
            SegmentItem::Continued { path } => {
                structure = structure.continued(path).map_err(SegmentFault::Damaged)?;
            }
            SegmentItem::Extents(extents) => {
                structure = structure.extents(&extents).map_err(SegmentFault::Damaged)?;
                let Structure::Seen { path, .. } = &structure else { continue };
                for extent in extents {
                    if let Extent::Data { id, len } = extent {
                        visitor.chunk(&id, Part::Data { len, path })?;
                    }
                }
            }
        }
    }
    Ok(structure)
}

impl Structure {
    fn entry(self, entry: Entry) -> Result<Self, String> {
        if let Self::Seen { path, .. } = &self
            && *path >= entry.path
        {
            return Err(format!("entry {} is out of order", entry.path));
        }
        self.end()?;
        let content = match entry.kind {
            NodeKind::File { size } => Content::File { size, covered: 0 },
            _ => Content::None,
        };
        Ok(Self::Seen { path: entry.path, content })
    }

    fn continued(self, path: RelPath) -> Result<Self, String> {
        match self {
            Self::Unseen => Ok(Self::Seen { path, content: Content::Unseen }),
            Self::Seen { path: open, content: content @ (Content::File { .. } | Content::Unseen) }
                if open == path =>
            {
                Ok(Self::Seen { path, content })
            }
            _ => Err(format!("entry {path} does not continue the segment before")),
        }
    }

    fn extents(self, extents: &[Extent]) -> Result<Self, String> {
        let Self::Seen { path, content } = self else { return Err("extents without an entry".to_owned()) };
        let len = extents.iter().try_fold(0_u64, |sum, extent| sum.checked_add(extent.len()));
        let past = || format!("entry {path} has extents past its end");
        let len = len.ok_or_else(past)?;
        let content = match content {
            Content::None => return Err(past()),
            Content::File { size, covered } => {
                let covered = covered.checked_add(len).filter(|covered| *covered <= size);
                Content::File { size, covered: covered.ok_or_else(past)? }
            }
            Content::Unseen => Content::Unseen,
        };
        Ok(Self::Seen { path, content })
    }

    fn end(&self) -> Result<(), String> {
        match self {
            Self::Seen { path, content: Content::File { size, covered } } if covered != size => {
                Err(format!("entry {path} has extents for {covered} of {size} bytes"))
            }
            _ => Ok(()),
        }
    }
}
