//! Whether a replica can be brought to a restore point: everything it lacks must be readable.

use std::collections::HashSet;

use backstay_types::ChunkId;
use backstay_types::manifest::{Cursor, Entry, Extent, FetchChunk, Item, RelPath};

/// Reads every chunk that `to` has and the replica, which shows `shown`, does not have at the same file.
///
/// If the replica shows `to` already nothing is read: its own files are the copy that counts.
pub(super) fn readable<F>(reader: &F, shown: Option<&ChunkId>, to: &ChunkId) -> Result<(), String>
where
    F: FetchChunk,
    F::Error: std::fmt::Display,
{
    if shown == Some(to) {
        return Ok(());
    }
    let mut target = open(reader, to)?;
    let mut old = match shown {
        Some(shown) => Some(Files::new(open(reader, shown)?)),
        None => None,
    };
    let mut here = HashSet::new();
    while let Some(item) = target.next_item().map_err(|error| error.to_string())? {
        match item {
            Item::Entry(entry) => {
                here = match &mut old {
                    Some(old) => old.chunks_of(&entry.path)?,
                    None => HashSet::new(),
                };
            }
            Item::Extents(extents) => {
                for extent in extents {
                    if let Extent::Data { id, .. } = extent
                        && !here.contains(&id)
                    {
                        reader.fetch(&id).map_err(|error| error.to_string())?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn open<'a, F>(reader: &'a F, root: &ChunkId) -> Result<Cursor<&'a F>, String>
where
    F: FetchChunk,
    F::Error: std::fmt::Display,
{
    Cursor::open(reader, root).map_err(|error| error.to_string())
}

/// The files of a manifest, looked up in ascending order of their paths. Holds the chunk ids of one file.
struct Files<'a, F> {
    cursor: Cursor<&'a F>,
    /// The entry that was read and lies ahead.
    ahead: Option<Entry>,
}

impl<'a, F> Files<'a, F>
where
    F: FetchChunk,
    F::Error: std::fmt::Display,
{
    fn new(cursor: Cursor<&'a F>) -> Self {
        Self { cursor, ahead: None }
    }

    /// Chunks of the file at `path`; none if it has none. Paths must ascend from call to call.
    fn chunks_of(&mut self, path: &RelPath) -> Result<HashSet<ChunkId>, String> {
        let mut chunks = HashSet::new();
        let mut inside = match &self.ahead {
            Some(ahead) if ahead.path > *path => return Ok(chunks),
            Some(ahead) => ahead.path == *path,
            None => false,
        };
        while let Some(item) = self.cursor.next_item().map_err(|error| error.to_string())? {
            match item {
                Item::Entry(entry) => {
                    let past = entry.path > *path;
                    inside = entry.path == *path;
                    self.ahead = Some(entry);
                    if past {
                        break;
                    }
                }
                Item::Extents(extents) if inside => {
                    chunks.extend(extents.iter().filter_map(|extent| match extent {
                        Extent::Data { id, .. } => Some(*id),
                        Extent::Hole { .. } => None,
                    }))
                }
                Item::Extents(_) => {}
            }
        }
        Ok(chunks)
    }
}
