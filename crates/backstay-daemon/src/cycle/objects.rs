//! What the receiver holds of the objects of the last restore point, so that an unchanged one is not even offered.
//!
//! 1. A state is used only against the point it belongs to, and only while the receiver holds that point whole.
//! 2. It is adopted after the receiver's acknowledgement; a damaged or lost one costs an offer of every object.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use backstay_types::{ChunkId, RestorePointId};
use backstay_volume::{ChunkSink, PatchBase, SinkClosed};

use crate::{DaemonError, files};

/// Bytes of the hash at the end of the file.
const HASH_BYTES: usize = blake3::OUT_LEN;

/// The chunks of the last bundle: 32 bytes for each of at most 200 000 objects and for the tree above them.
pub(super) struct SentObjects {
    path: PathBuf,
    point: Option<RestorePointId>,
    ids: BTreeSet<ChunkId>,
}

impl SentObjects {
    pub(super) fn open(path: PathBuf) -> Result<Self, DaemonError> {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(DaemonError::io("read", &path, source)),
        };
        let decoded = bytes.as_deref().map(decode);
        if let Some(None) = decoded {
            tracing::warn!(path = %path.display(), "sent state is damaged; the next cycle offers every object");
        }
        let (point, ids) = decoded.flatten().unzip();
        Ok(Self { path, point, ids: ids.unwrap_or_default() })
    }

    /// The restore point the state belongs to.
    pub(super) fn parent_id(&self) -> Option<RestorePointId> {
        self.point
    }

    /// Where a bundle is written to; nothing is known unless the receiver holds `parent`.
    pub(super) fn sink<'s>(
        &self,
        parent: Option<RestorePointId>,
        sink: &'s mut dyn ChunkSink,
    ) -> KnownSink<'_, 's> {
        let known = (parent.is_some() && parent == self.point).then_some(&self.ids);
        KnownSink { known, sink, ids: BTreeSet::new() }
    }
}

/// Passes on what the receiver may lack.
pub(super) struct KnownSink<'k, 's> {
    known: Option<&'k BTreeSet<ChunkId>>,
    sink: &'s mut dyn ChunkSink,
    ids: BTreeSet<ChunkId>,
}

impl KnownSink<'_, '_> {
    /// The state to adopt once the receiver holds everything.
    pub(super) fn pending(self, state: &SentObjects) -> PendingObjects {
        PendingObjects { path: state.path.clone(), ids: self.ids }
    }
}

impl ChunkSink for KnownSink<'_, '_> {
    fn chunk(&mut self, id: ChunkId, bytes: Vec<u8>, base: Option<PatchBase>) -> Result<(), SinkClosed> {
        self.ids.insert(id);
        match self.known {
            Some(known) if known.contains(&id) => Ok(()),
            _ => self.sink.chunk(id, bytes, base),
        }
    }
}

/// The chunks of a bundle under way.
pub(super) struct PendingObjects {
    path: PathBuf,
    ids: BTreeSet<ChunkId>,
}

impl PendingObjects {
    /// The receiver holds the bundle, as part of `point`.
    pub(super) fn adopt(self, point: RestorePointId) -> Result<(), DaemonError> {
        let mut bytes = postcard::to_extend(&(point, &self.ids), Vec::new())
            .map_err(|error| DaemonError::io("encode", &self.path, io::Error::other(error)))?;
        if let Some(folder) = self.path.parent() {
            files::make_folder(folder)?;
        }
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        files::write(&self.path, &bytes)
    }
}

fn decode(bytes: &[u8]) -> Option<(RestorePointId, BTreeSet<ChunkId>)> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    (blake3::hash(body).as_bytes().as_slice() == hash).then(|| postcard::from_bytes(body).ok())?
}

#[cfg(test)]
mod tests {
    use backstay_types::Epoch;

    use super::*;

    #[derive(Default)]
    struct Chunks(Vec<ChunkId>);

    impl ChunkSink for Chunks {
        fn chunk(&mut self, id: ChunkId, _: Vec<u8>, _: Option<PatchBase>) -> Result<(), SinkClosed> {
            self.0.push(id);
            Ok(())
        }
    }

    fn offered(state: &SentObjects, parent: Option<RestorePointId>, ids: &[u8]) -> (Vec<u8>, PendingObjects) {
        let mut chunks = Chunks::default();
        let mut sink = state.sink(parent, &mut chunks);
        ids.iter().for_each(|id| sink.chunk(ChunkId([*id; 32]), vec![], None).unwrap());
        let pending = sink.pending(state);
        (chunks.0.iter().map(|id| id.0[0]).collect(), pending)
    }

    #[test]
    fn only_what_the_receiver_may_lack_is_offered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("objects");
        let point = |number| RestorePointId { epoch: Epoch(1), number };
        let state = SentObjects::open(path.clone()).unwrap();
        let (all, pending) = offered(&state, None, &[1, 2, 3]);
        assert_eq!(all, [1, 2, 3]);
        pending.adopt(point(1)).unwrap();

        let state = SentObjects::open(path.clone()).unwrap();
        assert_eq!(state.parent_id(), Some(point(1)));
        let (changed, pending) = offered(&state, Some(point(1)), &[1, 4, 3]);
        assert_eq!(changed, [4]);
        assert_eq!(offered(&state, None, &[1]).0, [1], "the receiver lost the point");
        assert_eq!(offered(&state, Some(point(2)), &[1]).0, [1], "the state is of another point");
        pending.adopt(point(2)).unwrap();
        let state = SentObjects::open(path.clone()).unwrap();
        assert_eq!(offered(&state, Some(point(2)), &[1, 2, 3, 4]).0, [2], "2 is of no point any more");

        let mut bytes = std::fs::read(&path).unwrap();
        bytes[9] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let state = SentObjects::open(path).unwrap();
        assert_eq!(offered(&state, Some(point(2)), &[1]).0, [1], "damage was believed");
    }
}
