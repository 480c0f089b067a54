//! The parent of a cycle: its manifest and stat cache, read side by side.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use backstay_types::manifest::{Cursor, CursorError, Entry, Extent, ManifestRoot};
use backstay_types::{ChunkId, ChunkParams, HashKey};

use super::stats::RECORD_BYTES;
use super::tree_log::TreeFile;
use super::{Head, SentState, StatRecord, pair_mark};
use crate::VolumeError;
use crate::manifest_in::ManifestStream;

/// State that was checked from end to end and can be read.
#[derive(Clone)]
pub(crate) struct Parent {
    state: SentState,
    pub(crate) head: Head,
    tree: TreeFile,
    sectors: Arc<File>,
    /// Whether the receiver holds it whole.
    is_held: bool,
}

impl Parent {
    /// The same, as one that the receiver does not hold whole.
    pub(crate) fn guessed(self) -> Self {
        Self { is_held: false, ..self }
    }

    /// Whether the receiver holds it whole: then what equals it needs no offer.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held
    }

    /// Opens the state, if it is there, whole, and of this key and these parameters.
    pub(crate) fn open(state: &SentState, key: &HashKey, params: &ChunkParams) -> Option<Self> {
        let head = *state.head()?;
        if head.pair_mark != pair_mark(key, params) {
            return None;
        }
        match Self::check(state, head) {
            Ok(Some(parent)) => Some(parent),
            Ok(None) => {
                tracing::warn!(path = %state.dir().display(), "sent state is damaged; everything is read again");
                None
            }
            Err(error) => {
                tracing::warn!(path = %state.dir().display(), %error, "sent state cannot be read; everything is read again");
                None
            }
        }
    }

    fn check(state: &SentState, head: Head) -> io::Result<Option<Self>> {
        let folder = state.folder(head.folder);
        let Some(tree) = TreeFile::open(&folder.join("tree"), head.tree_bytes)? else { return Ok(None) };
        if !tree.contains(&head.root)
            || stats_crc(&folder.join("stats"), head.entries)? != Some(head.stats_crc)
        {
            return Ok(None);
        }
        let sectors = Arc::new(File::open(folder.join("sectors"))?);
        Ok(Some(Self { state: state.clone(), head, tree, sectors, is_held: true }))
    }

    /// Starts at its first entry.
    pub(crate) fn stream(&self) -> Result<ParentStream, VolumeError> {
        let path = self.state.folder(self.head.folder).join("stats");
        let stats = File::open(&path).map_err(|source| VolumeError::io("open", &path, source))?;
        let manifest =
            ManifestStream::open(self.tree.clone(), &self.head.root).map_err(|e| self.damaged(&e))?;
        let stats = BufReader::with_capacity(64 << 10, stats);
        let record = StatRecord::decode(&[0; RECORD_BYTES]);
        let mut stream = ParentStream { parent: self.clone(), manifest, stats, record };
        stream.read_record()?;
        Ok(stream)
    }

    /// Its root.
    pub(crate) fn manifest_root(&self) -> Result<ManifestRoot, VolumeError> {
        let cursor = Cursor::open(self.tree.clone(), &self.head.root).map_err(|e| self.damaged(&e))?;
        Ok(cursor.root().clone())
    }

    /// Whether its manifest has this chunk, which the receiver therefore holds.
    pub(crate) fn has_tree_chunk(&self, id: &ChunkId) -> bool {
        self.is_held && self.tree.contains(id)
    }

    pub(crate) fn sectors(&self) -> &Arc<File> {
        &self.sectors
    }

    /// State that passed its checks and is damaged now: drop it and fail the cycle; the next reads everything.
    fn damaged(&self, why: &CursorError<io::Error>) -> VolumeError {
        self.unreadable(why.to_string())
    }

    fn unreadable(&self, why: String) -> VolumeError {
        if let Err(error) = self.state.forget() {
            tracing::warn!(%error, "cannot drop damaged sent state");
        }
        VolumeError::State { path: self.state.dir().display().to_string(), why }
    }
}

fn stats_crc(path: &Path, entries: u64) -> io::Result<Option<u32>> {
    let file = File::open(path)?;
    if Some(file.metadata()?.len()) != entries.checked_mul(RECORD_BYTES as u64) {
        return Ok(None);
    }
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut crc = 0;
    let mut piece = vec![0; 64 << 10];
    loop {
        let len = reader.read(&mut piece)?;
        if len == 0 {
            return Ok(Some(crc));
        }
        crc = crc32c::crc32c_append(crc, piece.get(..len).unwrap_or_default());
    }
}

/// Streams the parent's entries with their stat records, in path order.
pub(crate) struct ParentStream {
    parent: Parent,
    manifest: ManifestStream<TreeFile>,
    stats: BufReader<File>,
    record: StatRecord,
}

impl ParentStream {
    /// The entry it stands at.
    pub(crate) fn current(&self) -> Option<(&Entry, &StatRecord)> {
        self.manifest.current().map(|entry| (entry, &self.record))
    }

    pub(crate) fn parent(&self) -> &Parent {
        &self.parent
    }

    /// Goes to the next entry, past extents that were not taken.
    pub(crate) fn advance(&mut self) -> Result<(), VolumeError> {
        self.manifest.advance().map_err(|e| self.parent.damaged(&e))?;
        self.read_record()
    }

    /// The next extent of the current entry.
    pub(crate) fn next_extent(&mut self) -> Result<Option<Extent>, VolumeError> {
        self.manifest.next_extent().map_err(|e| self.parent.damaged(&e))
    }

    fn read_record(&mut self) -> Result<(), VolumeError> {
        if self.manifest.current().is_some() {
            let mut bytes = [0; RECORD_BYTES];
            self.stats.read_exact(&mut bytes).map_err(|e| self.parent.unreadable(e.to_string()))?;
            self.record = StatRecord::decode(&bytes);
        }
        Ok(())
    }
}
