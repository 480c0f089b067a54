//! Sent state of a restore point that this side has not sent: what it needs to send against it.
//!
//! Made from the store alone where the store holds the point, so that it shows the point whatever became of the replica
//! since. Of a point that another side holds and this one in part, the rest is asked for there. The stat cache is empty:
//! the next cycle reads everything once, and ships what differs.
//!
//! At a crash, or when the other side does not tell: what was written is dropped, and nothing of it counts.

mod grid;
mod tree;

use backstay_types::frame::SectorRun;
use backstay_types::frame::patch::SECTOR_BYTES;
use backstay_types::manifest::{CursorError, Extent, FetchChunk, NodeKind};
use backstay_types::{ChunkId, Class, Classify};

use grid::Grid;

use super::sectors::sector_count;
use super::{Elsewhere, Seal, Sectors, SentState, StatRecord, StateWriter, pair_mark};
use crate::manifest_in::ManifestStream;
use crate::{PendingState, Progress, VolumeContext, VolumeError};

/// Sectors of one volume: an exbibyte. What claims more is no manifest of ours.
const VOLUME_SECTORS_MAX: u64 = 1 << 48;

/// Chunks that are asked about together, 128 MiB of content: 70 KiB of ids, and 256 KiB of fingerprints.
const ASKED_IDS: usize = 2048;

/// Writes the sent state of the volume with manifest `root`, to be adopted for its restore point.
///
/// What `reader` lacks is asked for `elsewhere`; without that side it is an error.
pub fn sent_of_point<F>(
    reader: &F,
    elsewhere: Option<&dyn Elsewhere>,
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
    let source = Source { reader, elsewhere, progress };
    tree::bring(&source, root, &ctx.key, &mut state)?;
    let mut stream = ManifestStream::open(state.tree_so_far()?, root).map_err(damaged)?;
    let fingerprints = Sectors::new(&ctx.key);
    let mut asked = Asked::default();
    while let Some(entry) = stream.current() {
        progress.step()?;
        let mut record =
            StatRecord { settled: false, ..StatRecord::decode(&[0; super::stats::RECORD_BYTES]) };
        record.sectors = None;
        if let NodeKind::File { size } = entry.kind
            && size > SECTOR_BYTES as u64
        {
            if state.sectors.position() + sector_count(size) > VOLUME_SECTORS_MAX {
                return Err(VolumeError::Told { why: "a file is larger than any volume" });
            }
            record.sectors = Some(state.sectors.position());
            let mut file = Grid::new(&fingerprints);
            while let Some(extent) = stream.next_extent().map_err(damaged)? {
                progress.step()?;
                match extent {
                    Extent::Hole { len } => file.hole(len, &mut state, &mut asked)?,
                    Extent::Data { id, len } => {
                        let bytes = source.here(&id)?;
                        progress.add_bytes(u64::from(len));
                        file.data(id, len, bytes.as_deref(), &mut state, &mut asked)?;
                    }
                }
                if asked.ids >= ASKED_IDS {
                    asked.answer(&source, &mut state)?;
                }
            }
            file.end(&mut state, &mut asked)?;
            state.sectors.end_file(size);
        }
        state.stat(&record)?;
        stream.advance().map_err(damaged)?;
    }
    asked.answer(&source, &mut state)?;
    state.finish(Seal { root: *root, scan_start: 0, dev: 0, pair_mark: pair_mark(&ctx.key, &ctx.params) })
}

/// A manifest that was brought in whole, and is none.
fn damaged(error: CursorError<std::io::Error>) -> VolumeError {
    VolumeError::Manifest { class: Class::Corrupt, hint: None, source: error.to_string().into() }
}

/// Where the chunks of a point are.
struct Source<'a, F> {
    reader: &'a F,
    elsewhere: Option<&'a dyn Elsewhere>,
    progress: &'a Progress,
}

impl<F> Source<'_, F>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    /// A chunk; `None` if it is not here, or damaged, and another side may have it.
    fn here(&self, id: &ChunkId) -> Result<Option<Vec<u8>>, VolumeError> {
        match self.reader.fetch(id) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if self.elsewhere.is_some() && error.class() == Class::Corrupt => Ok(None),
            Err(error) => Err(VolumeError::fetch(error)),
        }
    }
}

/// Sectors that the other side is asked about, with the places of their fingerprints.
#[derive(Default)]
struct Asked {
    places: Vec<u64>,
    runs: Vec<SectorRun>,
    ids: usize,
}

impl Asked {
    fn push(&mut self, place: u64, run: SectorRun) {
        self.ids += run.ids.len();
        self.places.push(place);
        self.runs.push(run);
    }

    /// Asks, and writes down what is told.
    fn answer<F>(&mut self, source: &Source<'_, F>, state: &mut StateWriter) -> Result<(), VolumeError> {
        let Self { places, runs, .. } = std::mem::take(self);
        let Some(elsewhere) = source.elsewhere.filter(|_| !runs.is_empty()) else { return Ok(()) };
        source.progress.step()?;
        let told = elsewhere.sectors(&runs)?;
        let mut rest = told.as_slice();
        for (place, run) in places.iter().zip(&runs) {
            let Some((now, later)) = rest.split_at_checked(run.sectors()) else { break };
            state.sectors.put_at(*place, now).map_err(|source| state.fail(source))?;
            rest = later;
        }
        if rest.is_empty() && told.len() == runs.iter().map(SectorRun::sectors).sum::<usize>() {
            Ok(())
        } else {
            Err(VolumeError::Told { why: "sectors are missing, or too many" })
        }
    }
}
