//! The tree above the segments: nodes that list segments, and the root that lists nodes.

use serde::{Deserialize, Serialize};

use crate::{ChunkId, HashKey, VolumeName, limits};

/// First byte of a node and of a root: the format version.
const TREE_VERSION: u8 = 1;

/// A node is cut after a segment whose id has these bits zero: on average after 1024.
const NODE_MASK: u16 = 0x3ff;

/// A segment as a node lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// Chunk with the segment.
    pub id: ChunkId,
    /// Its length in bytes.
    pub len: u32,
}

/// What a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeKind {
    /// A directory tree.
    Directory,
    /// A block device or image: one file entry at the root path.
    Block,
    /// Captured Kubernetes objects: one file entry per object.
    Bundle,
}

/// Root of a manifest. Its chunk id stands in the restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRoot {
    /// The volume; `None` for a bundle.
    pub volume: Option<VolumeName>,
    /// What it is.
    pub kind: VolumeKind,
    /// Entries of every kind.
    pub entries: u64,
    /// Length of all files together, holes included, each hard-linked file once.
    pub bytes: u64,
    /// Length of all segments together.
    pub segment_bytes: u64,
    /// Nodes, in order.
    pub nodes: Vec<ChunkId>,
}

/// Why a node or a root cannot be read or built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Another version of the format.
    #[error("manifest version: expected {TREE_VERSION}, found {found}")]
    Version {
        /// What was found.
        found: u8,
    },
    /// Not decodable.
    #[error("manifest {what} is damaged")]
    Damaged {
        /// `root` or `node`.
        what: &'static str,
    },
    /// A manifest that is too large.
    #[error("manifest has more than {max} nodes", max = limits::ROOT_NODES_MAX)]
    TooLarge,
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![TREE_VERSION]).expect("a vector grows")
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &'static str) -> Result<T, TreeError> {
    match bytes.split_first() {
        Some((&TREE_VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            _ => Err(TreeError::Damaged { what }),
        },
        Some((&found, _)) => Err(TreeError::Version { found }),
        None => Err(TreeError::Damaged { what }),
    }
}

impl ManifestRoot {
    /// The bytes of its chunk.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a root back.
    pub fn decode(bytes: &[u8]) -> Result<Self, TreeError> {
        let root: Self = decode(bytes, "root")?;
        if root.nodes.len() > limits::ROOT_NODES_MAX { Err(TreeError::TooLarge) } else { Ok(root) }
    }
}

/// Reads a node back.
pub fn decode_node(bytes: &[u8]) -> Result<Vec<SegmentRef>, TreeError> {
    let segments: Vec<SegmentRef> = decode(bytes, "node")?;
    let bad = |s: &SegmentRef| s.len as usize > limits::CHUNK_BYTES_MAX;
    let damaged =
        segments.is_empty() || segments.len() > limits::NODE_SEGMENTS_MAX || segments.iter().any(bad);
    if damaged { Err(TreeError::Damaged { what: "node" }) } else { Ok(segments) }
}

/// A chunk of the tree itself: its id and bytes, to be stored like any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeChunk {
    /// Its id.
    pub id: ChunkId,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Builds nodes and root from segments as they come.
pub struct TreeBuilder {
    key: HashKey,
    pending: Vec<SegmentRef>,
    nodes: Vec<ChunkId>,
    segment_bytes: u64,
}

impl TreeBuilder {
    /// A tree with no segments.
    pub fn new(key: HashKey) -> Self {
        Self { key, pending: Vec::new(), nodes: Vec::new(), segment_bytes: 0 }
    }

    /// Adds a segment. Returns the chunk of the segment, and that of the node it completed, if it did.
    pub fn segment(&mut self, bytes: Vec<u8>) -> Result<(TreeChunk, Option<TreeChunk>), TreeError> {
        let segment = self.chunk(bytes);
        let len = u32::try_from(segment.bytes.len()).map_err(|_| TreeError::Damaged { what: "segment" })?;
        self.segment_bytes += u64::from(len);
        self.pending.push(SegmentRef { id: segment.id, len });
        let [a, b, ..] = segment.id.0;
        let anchor = u16::from_le_bytes([a, b]) & NODE_MASK == 0;
        let node = (anchor || self.pending.len() >= limits::NODE_SEGMENTS_MAX).then(|| self.node());
        Ok((segment, node.transpose()?))
    }

    /// Ends the tree. Returns the last node, if there is one, and the root.
    pub fn finish(
        mut self,
        volume: Option<VolumeName>,
        kind: VolumeKind,
        entries: u64,
        bytes: u64,
    ) -> Result<(Option<TreeChunk>, TreeChunk), TreeError> {
        let node = if self.pending.is_empty() { None } else { Some(self.node()?) };
        let nodes = std::mem::take(&mut self.nodes);
        let root = ManifestRoot { volume, kind, entries, bytes, segment_bytes: self.segment_bytes, nodes };
        Ok((node, self.chunk(root.encode())))
    }

    fn node(&mut self) -> Result<TreeChunk, TreeError> {
        if self.nodes.len() >= limits::ROOT_NODES_MAX {
            return Err(TreeError::TooLarge);
        }
        let segments = std::mem::take(&mut self.pending);
        let node = self.chunk(encode(&segments));
        self.nodes.push(node.id);
        Ok(node)
    }

    fn chunk(&self, bytes: Vec<u8>) -> TreeChunk {
        TreeChunk { id: self.key.chunk_id(&bytes), bytes }
    }
}
