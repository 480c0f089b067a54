//! Sent state of a restore point that this side received: what it needs to send in its turn.
//!
//! Made from the store alone, so that it shows the point whatever became of the replica since. The stat cache is empty:
//! the next cycle reads everything once, and ships what differs.

use std::cell::RefCell;

use backstay_types::frame::patch::SECTOR_BYTES;
use backstay_types::manifest::{Extent, FetchChunk, NodeKind};
use backstay_types::{ChunkId, Classify};

use super::{Seal, SectorWriter, Sectors, SentState, StatRecord, StateWriter, pair_mark};
use crate::manifest_in::ManifestStream;
use crate::{PendingState, Progress, VolumeContext, VolumeError};

/// Writes the sent state of the volume with manifest `root`, to be adopted for its restore point.
pub fn sent_of_point<F>(
    reader: &F,
    root: &ChunkId,
    ctx: &VolumeContext,
    sent: &SentState,
    progress: &Progress,
) -> Result<PendingState, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    let mut state = StateWriter::create(sent)?;
    let tree = Kept { reader, chunks: RefCell::default() };
    let mut stream = ManifestStream::open(&tree, root).map_err(VolumeError::manifest)?;
    let fingerprints = Sectors::new(&ctx.key);
    while let Some(entry) = stream.current() {
        progress.step()?;
        let mut record =
            StatRecord { settled: false, ..StatRecord::decode(&[0; super::stats::RECORD_BYTES]) };
        record.sectors = None;
        if let NodeKind::File { size } = entry.kind
            && size > SECTOR_BYTES as u64
        {
            record.sectors = Some(state.sectors.position());
            let mut file =
                Grid { at: 0, partial: Vec::with_capacity(SECTOR_BYTES), fingerprints: &fingerprints };
            while let Some(extent) = stream.next_extent().map_err(VolumeError::manifest)? {
                progress.step()?;
                let fed = match extent {
                    Extent::Hole { len } => file.hole(len, &mut state.sectors),
                    Extent::Data { id, .. } => {
                        let bytes = reader.fetch(&id).map_err(VolumeError::fetch)?;
                        progress.add_bytes(bytes.len() as u64);
                        file.data(&bytes, &mut state.sectors)
                    }
                };
                fed.map_err(|source| state.fail(source))?;
            }
            file.end(&mut state.sectors).map_err(|source| state.fail(source))?;
            state.sectors.end_file(size);
        }
        state.stat(&record)?;
        stream.advance().map_err(VolumeError::manifest)?;
        tree.drain(&mut state)?;
    }
    tree.drain(&mut state)?;
    state.finish(Seal { root: *root, scan_start: 0, dev: 0, pair_mark: pair_mark(&ctx.key, &ctx.params) })
}

/// Passes chunks of the manifest on, and keeps them until they are written: those of one step at most.
struct Kept<'a, F> {
    reader: &'a F,
    chunks: RefCell<Vec<(ChunkId, Vec<u8>)>>,
}

impl<F: FetchChunk> Kept<'_, F> {
    fn drain(&self, state: &mut StateWriter) -> Result<(), VolumeError> {
        self.chunks.borrow_mut().drain(..).try_for_each(|(id, bytes)| state.tree_chunk(&id, &bytes))
    }
}

impl<F: FetchChunk> FetchChunk for &Kept<'_, F> {
    type Error = F::Error;

    fn fetch(&self, id: &ChunkId) -> Result<Vec<u8>, Self::Error> {
        let bytes = self.reader.fetch(id)?;
        self.chunks.borrow_mut().push((*id, bytes.clone()));
        Ok(bytes)
    }
}

/// Cuts a file, as it comes chunk by chunk, on the grid of its sectors.
struct Grid<'a> {
    /// The sector that is being filled.
    at: u64,
    partial: Vec<u8>,
    fingerprints: &'a Sectors,
}

impl Grid<'_> {
    fn data(&mut self, mut bytes: &[u8], out: &mut SectorWriter) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(SECTOR_BYTES - self.partial.len()));
            self.partial.extend_from_slice(now);
            bytes = rest;
            if self.partial.len() == SECTOR_BYTES {
                self.end(out)?;
            }
        }
        Ok(())
    }

    /// A sector of zeros has the fingerprint 0, which needs no writing.
    fn hole(&mut self, mut len: u64, out: &mut SectorWriter) -> std::io::Result<()> {
        const ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];
        if !self.partial.is_empty() {
            let fill = usize::try_from(len).unwrap_or(usize::MAX).min(SECTOR_BYTES - self.partial.len());
            self.data(ZEROS.get(..fill).unwrap_or_default(), out)?;
            len -= fill as u64;
        }
        self.at += len / SECTOR_BYTES as u64;
        let tail = usize::try_from(len % SECTOR_BYTES as u64).unwrap_or(0);
        self.data(ZEROS.get(..tail).unwrap_or_default(), out)
    }

    /// The sector that is being filled is whole, or the file's last.
    fn end(&mut self, out: &mut SectorWriter) -> std::io::Result<()> {
        if !self.partial.is_empty() {
            out.put(self.at, &[self.fingerprints.fingerprint(&self.partial)])?;
            self.at += 1;
            self.partial.clear();
        }
        Ok(())
    }
}
