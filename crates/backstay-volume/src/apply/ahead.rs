//! Reading the content of a manifest ahead of the one who writes it, on a thread of its own.
//!
//! Where a target is brought to a manifest in full, every chunk of its files is needed, in order. A chunk is read,
//! inflated and checked while the one before is written.
//!
//! Memory: [`GROUPS_QUEUED`] groups on their way, one being filled and one being emptied, each of at most
//! [`GROUP_BYTES`] and one chunk: under 8 MiB.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;

use backstay_types::ChunkId;
use backstay_types::manifest::{Cursor, Extent, FetchChunk, Item};

const GROUPS_QUEUED: usize = 4;
/// Small files are handed over many at a time: waking a thread costs more than reading one.
const GROUP_BYTES: usize = 256 << 10;

type Group = VecDeque<(ChunkId, Vec<u8>)>;

/// The content of a manifest, read ahead. Whatever was not, is fetched when it is asked for, and so an error is met
/// where the chunk is needed.
pub(super) struct Ahead<'f, F> {
    reader: &'f F,
    state: Mutex<State>,
}

struct State {
    group: Group,
    /// `None` once it has ended, or is not what was asked for.
    groups: Option<Receiver<Group>>,
}

impl<'f, F> Ahead<'f, F>
where
    F: FetchChunk + Sync,
    F::Error: Send,
{
    /// Starts to read the content of `root`.
    pub(super) fn start<'s>(reader: &'f F, root: ChunkId, scope: &'s Scope<'s, '_>) -> Self
    where
        'f: 's,
    {
        let (sender, groups) = sync_channel(GROUPS_QUEUED);
        scope.spawn(move || read(reader, &root, &sender));
        Self { reader, state: Mutex::new(State { group: Group::new(), groups: Some(groups) }) }
    }
}

/// Ends early with the manifest, with a chunk that cannot be had, or when nobody listens any more.
fn read<F: FetchChunk>(reader: &F, root: &ChunkId, groups: &SyncSender<Group>) {
    let Ok(mut cursor) = Cursor::open(reader, root) else { return };
    let (mut group, mut bytes) = (Group::new(), 0);
    while let Ok(Some(item)) = cursor.next_item() {
        let Item::Extents(extents) = item else { continue };
        for extent in extents {
            let Extent::Data { id, .. } = extent else { continue };
            let Ok(chunk) = reader.fetch(&id) else {
                drop(groups.send(group));
                return;
            };
            bytes += chunk.len();
            group.push_back((id, chunk));
            if bytes >= GROUP_BYTES {
                bytes = 0;
                if groups.send(std::mem::take(&mut group)).is_err() {
                    return;
                }
            }
        }
    }
    drop(groups.send(group));
}

impl<F: FetchChunk> FetchChunk for Ahead<'_, F> {
    type Error = F::Error;

    fn fetch(&self, id: &ChunkId) -> Result<Vec<u8>, F::Error> {
        match self.state.lock().unwrap_or_else(PoisonError::into_inner).take(id) {
            Some(bytes) => Ok(bytes),
            None => self.reader.fetch(id),
        }
    }
}

impl State {
    fn take(&mut self, id: &ChunkId) -> Option<Vec<u8>> {
        while self.group.is_empty() {
            match self.groups.as_ref()?.recv() {
                Ok(group) => self.group = group,
                Err(_) => self.groups = None,
            }
        }
        match self.group.pop_front() {
            Some((next, bytes)) if next == *id => Some(bytes),
            _ => {
                self.group.clear();
                self.groups = None;
                None
            }
        }
    }
}
