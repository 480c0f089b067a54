//! What differs between two manifests, streamed side by side in path order.
//!
//! Content is compared by chunk, so both must be of one pair. Memory: a segment of each.

use std::cmp::Ordering;

use backstay_types::ChunkId;
use backstay_types::manifest::{Cursor, CursorError, Entry, Extent, FetchChunk, Item, NodeKind, RelPath};
use serde::Serialize;

use crate::StoreError;

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ChangeKind {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// In both.
    Modified {
        /// Bytes, link target, device number or the kind of entry.
        content: bool,
        /// Mode, owner, time or attributes.
        metadata: bool,
    },
}

/// One entry that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: RelPath,
    /// How.
    pub kind: ChangeKind,
    /// For an added or removed file its length; for a modified one the length of what is not where it was.
    pub bytes: u64,
}

/// Streams what differs from manifest `root_a` to `root_b`; `None` stands for an empty one.
///
/// Numbers of hard-link groups are not compared: they may change though nothing did. A hard link that names
/// another entry since is therefore not seen; that entry's own change is.
pub fn diff<F: FetchChunk<Error = StoreError>>(
    reader_a: F,
    root_a: Option<&ChunkId>,
    reader_b: F,
    root_b: Option<&ChunkId>,
    sink: &mut dyn FnMut(Change),
) -> Result<(), StoreError> {
    if root_a == root_b {
        return Ok(());
    }
    let mut a = Side::open(reader_a, root_a)?;
    let mut b = Side::open(reader_b, root_b)?;
    loop {
        let order = match (&a.entry, &b.entry) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.path.cmp(&new.path),
        };
        match order {
            Ordering::Less => a.report(ChangeKind::Removed, sink)?,
            Ordering::Greater => b.report(ChangeKind::Added, sink)?,
            Ordering::Equal => both(&mut a, &mut b, sink)?,
        }
    }
}

fn both<F: FetchChunk<Error = StoreError>>(
    a: &mut Side<F>,
    b: &mut Side<F>,
    sink: &mut dyn FnMut(Change),
) -> Result<(), StoreError> {
    let (Some(old), Some(new)) = (a.entry.take(), b.entry.take()) else {
        return Err(StoreError::Broken { what: "two manifests were compared past their end" });
    };
    let metadata = old.mode != new.mode
        || (old.uid, old.gid) != (new.uid, new.gid)
        || old.mtime != new.mtime
        || old.xattrs != new.xattrs;
    let (content, bytes) = match (&old.kind, &new.kind) {
        (NodeKind::File { size: before }, NodeKind::File { size: after }) => {
            let bytes = moved_bytes(a, b)?;
            (bytes > 0 || before != after, bytes)
        }
        (NodeKind::HardLink { .. }, NodeKind::HardLink { .. }) => (false, 0),
        (before, after) => (before != after, if before == after { 0 } else { size(&new) }),
    };
    a.next_entry()?;
    b.next_entry()?;
    if content || metadata {
        sink(Change { path: new.path, kind: ChangeKind::Modified { content, metadata }, bytes });
    }
    Ok(())
}

/// Bytes of the second file's extents that are not at the same place in the first.
fn moved_bytes<F: FetchChunk<Error = StoreError>>(
    a: &mut Side<F>,
    b: &mut Side<F>,
) -> Result<u64, StoreError> {
    let mut bytes = 0;
    let (mut old, mut new) = (a.next_extent()?, b.next_extent()?);
    while let Some((at, extent)) = new {
        // Extents of the first that begin before this one cannot be equal to it.
        while old.is_some_and(|(old_at, _)| old_at < at) {
            old = a.next_extent()?;
        }
        if old != new {
            bytes += extent.len();
        }
        new = b.next_extent()?;
    }
    Ok(bytes)
}

fn size(entry: &Entry) -> u64 {
    match entry.kind {
        NodeKind::File { size } => size,
        _ => 0,
    }
}

/// One manifest, entry by entry and, inside a file, extent by extent.
struct Side<F> {
    cursor: Option<Cursor<F>>,
    root: ChunkId,
    /// The entry the side stands at.
    entry: Option<Entry>,
    extents: std::vec::IntoIter<Extent>,
    /// Where in the file the next extent begins.
    at: u64,
    /// The entry after it, if it was met while looking for extents.
    ahead: Option<Entry>,
}

impl<F: FetchChunk<Error = StoreError>> Side<F> {
    fn open(reader: F, root: Option<&ChunkId>) -> Result<Self, StoreError> {
        let cursor = root.map(|root| Cursor::open(reader, root).map_err(|e| flatten(root, e))).transpose()?;
        let root = root.copied().unwrap_or(ChunkId([0; 32]));
        let mut side =
            Self { cursor, root, entry: None, extents: Vec::new().into_iter(), at: 0, ahead: None };
        side.next_entry()?;
        Ok(side)
    }

    fn report(&mut self, kind: ChangeKind, sink: &mut dyn FnMut(Change)) -> Result<(), StoreError> {
        if let Some(entry) = self.entry.take() {
            let bytes = size(&entry);
            sink(Change { path: entry.path, kind, bytes });
        }
        self.next_entry()
    }

    fn next_item(&mut self) -> Result<Option<Item>, StoreError> {
        let root = self.root;
        self.cursor.as_mut().map_or(Ok(None), |cursor| cursor.next_item().map_err(|e| flatten(&root, e)))
    }

    /// Goes to the next entry, past what is left of this one's extents.
    fn next_entry(&mut self) -> Result<(), StoreError> {
        while self.next_extent()?.is_some() {}
        self.at = 0;
        self.entry = self.ahead.take();
        if self.entry.is_none()
            && let Some(Item::Entry(entry)) = self.next_item()?
        {
            self.entry = Some(entry);
        }
        Ok(())
    }

    /// The next extent of the current entry, and where it begins.
    fn next_extent(&mut self) -> Result<Option<(u64, Extent)>, StoreError> {
        loop {
            if let Some(extent) = self.extents.next() {
                let at = self.at;
                self.at += extent.len();
                return Ok(Some((at, extent)));
            }
            if self.ahead.is_some() {
                return Ok(None);
            }
            match self.next_item()? {
                Some(Item::Extents(extents)) => self.extents = extents.into_iter(),
                Some(Item::Entry(entry)) => self.ahead = Some(entry),
                None => return Ok(None),
            }
        }
    }
}

fn flatten(root: &ChunkId, error: CursorError<StoreError>) -> StoreError {
    match error {
        CursorError::Fetch(error) => error,
        other => StoreError::Manifest { root: *root, why: other.to_string() },
    }
}
