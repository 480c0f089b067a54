//! Reading a whole manifest, segment by segment, from wherever its chunks are.

use super::{
    Entry, Extent, ManifestRoot, NodeKind, RelPath, SegmentError, SegmentItem, SegmentReader, SegmentRef,
    TreeError, decode_node,
};
use crate::ChunkId;

/// Somewhere chunks can be read from. The bytes returned were checked against the id.
pub trait FetchChunk {
    /// Why a chunk cannot be had.
    type Error;
    /// The bytes of a chunk.
    fn fetch(&self, id: &ChunkId) -> Result<Vec<u8>, Self::Error>;
}

impl<T: FetchChunk + ?Sized> FetchChunk for &T {
    type Error = T::Error;
    fn fetch(&self, id: &ChunkId) -> Result<Vec<u8>, Self::Error> {
        (**self).fetch(id)
    }
}

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CursorError<E> {
    /// A chunk of it cannot be had.
    #[error(transparent)]
    Fetch(E),
    /// A root or node does not decode.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A segment does not decode.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The extents of a file do not add up to its size, or segments do not join.
    #[error("manifest entry {path}: {why}")]
    Content {
        /// The entry.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// One item of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An entry begins.
    Entry(Entry),
    /// Extents of the entry before; they follow one another without gaps.
    Extents(Vec<Extent>),
}

/// Streams the items of a manifest in path order, holding one segment at a time.
///
/// It checks what a receiver must not take on trust: paths ascend over segment borders, extents stand only
/// behind files and cover them exactly.
pub struct Cursor<F> {
    fetch: F,
    root: ManifestRoot,
    node: usize,
    segments: std::vec::IntoIter<SegmentRef>,
    items: std::vec::IntoIter<SegmentItem>,
    path: Option<RelPath>,
    /// Size of the file whose extents are being read, and how much of it they have covered.
    open: Option<(u64, u64)>,
}

impl<F: FetchChunk> Cursor<F> {
    /// Opens the manifest with this root.
    pub fn open(fetch: F, root: &ChunkId) -> Result<Self, CursorError<F::Error>> {
        let bytes = fetch.fetch(root).map_err(CursorError::Fetch)?;
        let root = ManifestRoot::decode(&bytes)?;
        Ok(Self {
            fetch,
            root,
            node: 0,
            segments: Vec::new().into_iter(),
            items: Vec::new().into_iter(),
            path: None,
            open: None,
        })
    }

    /// The root.
    pub fn root(&self) -> &ManifestRoot {
        &self.root
    }

    /// The next item; `None` at the end.
    pub fn next_item(&mut self) -> Result<Option<Item>, CursorError<F::Error>> {
        loop {
            let Some(item) = self.items.next() else {
                if self.load_segment()? {
                    continue;
                }
                self.close_file()?;
                return Ok(None);
            };
            match item {
                SegmentItem::Entry(entry) => {
                    self.close_file()?;
                    if self.path.as_ref().is_some_and(|path| *path >= entry.path) {
                        return Err(SegmentError::OutOfOrder { path: entry.path.to_string() }.into());
                    }
                    self.path = Some(entry.path.clone());
                    if let NodeKind::File { size } = entry.kind {
                        self.open = Some((size, 0));
                    }
                    return Ok(Some(Item::Entry(entry)));
                }
                SegmentItem::Continued { path } => {
                    if self.open.is_none() || self.path.as_ref() != Some(&path) {
                        return Err(self.content("a segment does not continue the one before"));
                    }
                }
                SegmentItem::Extents(extents) => {
                    let len = extents.iter().try_fold(0_u64, |sum, extent| sum.checked_add(extent.len()));
                    match (&mut self.open, len) {
                        (Some((size, covered)), Some(len)) if len <= *size - *covered => *covered += len,
                        _ => return Err(self.content("extents go past the end")),
                    }
                    return Ok(Some(Item::Extents(extents)));
                }
            }
        }
    }

    /// Ids of every chunk of the manifest itself: root excluded, nodes and segments in order.
    pub fn tree_chunks(
        &self,
    ) -> impl Iterator<Item = Result<(ChunkId, Vec<SegmentRef>), CursorError<F::Error>>> + '_ {
        self.root.nodes.iter().map(|id| {
            let bytes = self.fetch.fetch(id).map_err(CursorError::Fetch)?;
            Ok((*id, decode_node(&bytes)?))
        })
    }

    fn load_segment(&mut self) -> Result<bool, CursorError<F::Error>> {
        let segment = loop {
            if let Some(segment) = self.segments.next() {
                break segment;
            }
            let Some(id) = self.root.nodes.get(self.node) else { return Ok(false) };
            self.node += 1;
            let bytes = self.fetch.fetch(id).map_err(CursorError::Fetch)?;
            self.segments = decode_node(&bytes)?.into_iter();
        };
        let bytes = self.fetch.fetch(&segment.id).map_err(CursorError::Fetch)?;
        let mut reader = SegmentReader::new(&bytes)?;
        let mut items = Vec::new();
        while let Some(item) = reader.next_item()? {
            items.push(item);
        }
        self.items = items.into_iter();
        Ok(true)
    }

    fn close_file(&mut self) -> Result<(), CursorError<F::Error>> {
        match self.open.take() {
            Some((size, covered)) if size != covered => Err(self.content("extents end before the file does")),
            _ => Ok(()),
        }
    }

    fn content(&self, why: &'static str) -> CursorError<F::Error> {
        let path = self.path.as_ref().map_or_else(|| ".".to_owned(), ToString::to_string);
        CursorError::Content { path, why }
    }
}

#[cfg(test)]
mod tests;
