//! Reading a manifest entry by entry, with the extents of each file as they are asked for.

use std::collections::VecDeque;

use backstay_types::ChunkId;
use backstay_types::manifest::{Cursor, CursorError, Entry, Extent, FetchChunk, Item, ManifestRoot};

/// Streams entries in path order, holding one segment at a time.
pub(crate) struct ManifestStream<F> {
    cursor: Cursor<F>,
    current: Option<Entry>,
    /// Extents of the current entry that were read from the manifest and not yet taken.
    extents: VecDeque<Extent>,
    /// The entry after the current one, if it was already met.
    following: Option<Option<Entry>>,
}

impl<F: FetchChunk> ManifestStream<F> {
    /// Stands at the first entry.
    pub(crate) fn open(fetch: F, root: &ChunkId) -> Result<Self, CursorError<F::Error>> {
        let cursor = Cursor::open(fetch, root)?;
        let mut stream = Self { cursor, current: None, extents: VecDeque::new(), following: None };
        stream.advance()?;
        Ok(stream)
    }

    pub(crate) fn root(&self) -> &ManifestRoot {
        self.cursor.root()
    }

    /// The entry it stands at; `None` at the end.
    pub(crate) fn current(&self) -> Option<&Entry> {
        self.current.as_ref()
    }

    /// Goes to the next entry, past extents that were not taken.
    pub(crate) fn advance(&mut self) -> Result<(), CursorError<F::Error>> {
        self.extents.clear();
        self.current = loop {
            if let Some(next) = self.following.take() {
                break next;
            }
            self.pull()?;
            self.extents.clear();
        };
        Ok(())
    }

    /// The next extent of the current entry.
    pub(crate) fn next_extent(&mut self) -> Result<Option<Extent>, CursorError<F::Error>> {
        while self.extents.is_empty() && self.following.is_none() {
            self.pull()?;
        }
        Ok(self.extents.pop_front())
    }

    fn pull(&mut self) -> Result<(), CursorError<F::Error>> {
        match self.cursor.next_item()? {
            None => self.following = Some(None),
            Some(Item::Entry(entry)) => self.following = Some(Some(entry)),
            Some(Item::Extents(extents)) => self.extents.extend(extents),
        }
        Ok(())
    }
}
