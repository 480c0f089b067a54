//! Cuts a file, as it comes chunk by chunk, on the grid of its sectors. Sectors that a chunk which is not here has bytes
//! of are left to the other side.

use backstay_types::frame::SectorRun;
use backstay_types::frame::patch::SECTOR_BYTES;
use backstay_types::{ChunkId, limits};

use super::Asked;
use crate::VolumeError;
use crate::state::{Sectors, StateWriter};

const SECTOR: u64 = SECTOR_BYTES as u64;

/// A run ends at the next sector once it has so many chunks: a question has room for several.
const RUN_IDS: usize = 32;

/// One file.
pub(super) struct Grid<'a> {
    fingerprints: &'a Sectors,
    /// Bytes of the file so far.
    at: u64,
    /// The sector under way, as far as it has come; empty while it is part of `open`.
    partial: Vec<u8>,
    /// Chunks that the sector under way has bytes of, with their offsets.
    under: Vec<(u64, ChunkId)>,
    open: Option<Open>,
}

/// Sectors that the other side must tell.
struct Open {
    /// The offset of the first, on the grid.
    from: u64,
    skip: u32,
    ids: Vec<ChunkId>,
    /// The end of the last, on the grid: what is known begins there again. Never before the bytes that have come.
    until: u64,
}

impl<'a> Grid<'a> {
    pub(super) fn new(fingerprints: &'a Sectors) -> Self {
        let partial = Vec::with_capacity(SECTOR_BYTES);
        Self { fingerprints, at: 0, partial, under: Vec::new(), open: None }
    }

    /// A chunk; `None` for its bytes if it is not here.
    pub(super) fn data(
        &mut self,
        id: ChunkId,
        len: u32,
        bytes: Option<&[u8]>,
        state: &mut StateWriter,
        asked: &mut Asked,
    ) -> Result<(), VolumeError> {
        let (start, end) = (self.at, self.at + u64::from(len));
        match bytes {
            None => {
                self.partial.clear();
                let open = match self.open.take() {
                    Some(open) => open,
                    None => self.opened(start, id)?,
                };
                let mut ids = open.ids;
                ids.push(id);
                self.open = Some(Open { ids, until: end.next_multiple_of(SECTOR), ..open });
            }
            Some(bytes) if bytes.len() != len as usize => {
                return Err(VolumeError::Told { why: "a chunk is not as long as the manifest says" });
            }
            Some(bytes) => {
                let known_from = self.open.as_ref().map_or(start, |open| open.until.min(end));
                if let Some(open) = self.open.as_mut().filter(|_| known_from > start) {
                    open.ids.push(id);
                }
                if self.open.as_ref().is_some_and(|open| open.until <= end) {
                    self.close(known_from, state, asked)?;
                }
                let known = usize::try_from(known_from - start).ok().and_then(|from| bytes.get(from..));
                self.feed(known_from, known.unwrap_or_default(), state)?;
            }
        }
        self.at = end;
        self.note_under(start, id);
        self.split_long_run(id, state, asked)
    }

    /// A hole. A sector of zeros has the fingerprint 0, which needs no writing.
    pub(super) fn hole(
        &mut self,
        len: u64,
        state: &mut StateWriter,
        asked: &mut Asked,
    ) -> Result<(), VolumeError> {
        const ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];
        if let Some(open) = &self.open {
            if open.until > self.at {
                return Err(VolumeError::Told { why: "a hole begins inside a sector" });
            }
            self.close(self.at, state, asked)?;
        }
        self.under.clear();
        let end = self.at + len;
        if !self.partial.is_empty() {
            let fill = (SECTOR - self.at % SECTOR).min(len);
            let zeros = usize::try_from(fill).ok().and_then(|fill| ZEROS.get(..fill));
            self.feed(self.at, zeros.unwrap_or_default(), state)?;
            self.at += fill;
        }
        self.at += (end - self.at) / SECTOR * SECTOR;
        let tail = usize::try_from(end - self.at).ok().and_then(|tail| ZEROS.get(..tail));
        self.feed(self.at, tail.unwrap_or_default(), state)?;
        self.at = end;
        Ok(())
    }

    /// The file ends here.
    pub(super) fn end(mut self, state: &mut StateWriter, asked: &mut Asked) -> Result<(), VolumeError> {
        self.close(self.at, state, asked)?;
        if self.partial.is_empty() { Ok(()) } else { self.put(self.at, state) }
    }

    /// Takes known bytes, from offset `at` on.
    fn feed(&mut self, mut at: u64, mut bytes: &[u8], state: &mut StateWriter) -> Result<(), VolumeError> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(SECTOR_BYTES - self.partial.len()));
            self.partial.extend_from_slice(now);
            at += now.len() as u64;
            bytes = rest;
            if self.partial.len() == SECTOR_BYTES {
                self.put(at, state)?;
            }
        }
        Ok(())
    }

    /// The sector that ends at `end` is there.
    fn put(&mut self, end: u64, state: &mut StateWriter) -> Result<(), VolumeError> {
        let fingerprint = self.fingerprints.fingerprint(&self.partial);
        self.partial.clear();
        state.sectors.put((end - 1) / SECTOR, &[fingerprint]).map_err(|source| state.fail(source))
    }

    /// A run that begins with the sector under way, whose next bytes are those of a chunk that is not here.
    fn opened(&self, start: u64, id: ChunkId) -> Result<Open, VolumeError> {
        let from = start / SECTOR * SECTOR;
        let (first, _) = self.under.first().copied().unwrap_or((start, id));
        let skip = from.checked_sub(first).and_then(|skip| u32::try_from(skip).ok());
        let skip = skip.ok_or(VolumeError::Told { why: "a hole ends inside a sector" })?;
        Ok(Open { from, skip, ids: self.under.iter().map(|(_, id)| *id).collect(), until: from })
    }

    fn note_under(&mut self, start: u64, id: ChunkId) {
        let sector = self.at / SECTOR * SECTOR;
        if start <= sector {
            self.under.clear();
        }
        if self.at > sector {
            self.under.push((start, id));
        }
    }

    /// Ends a run of many chunks at the last border of sectors, and goes on with the next.
    fn split_long_run(
        &mut self,
        id: ChunkId,
        state: &mut StateWriter,
        asked: &mut Asked,
    ) -> Result<(), VolumeError> {
        let sector = self.at / SECTOR * SECTOR;
        let Some(until) = self.open.as_ref().map(|open| open.until) else { return Ok(()) };
        if self.open.as_ref().is_none_or(|open| open.ids.len() < RUN_IDS || open.from >= sector) {
            return Ok(());
        }
        self.close(sector, state, asked)?;
        if until > sector {
            self.open = Some(Open { until, ..self.opened(self.at, id)? });
        }
        Ok(())
    }

    /// Ends the run that is open, if one is, at offset `end` at the latest.
    fn close(&mut self, end: u64, state: &StateWriter, asked: &mut Asked) -> Result<(), VolumeError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let Open { from, skip, ids, until } = open;
        let len = u32::try_from(until.min(end) - from).ok().filter(|len| *len > 0);
        match len {
            Some(len) if ids.len() <= limits::SECTOR_IDS_MAX => {
                asked.push(state.sectors.position() + from / SECTOR, SectorRun { ids, skip, len });
                Ok(())
            }
            _ => Err(VolumeError::Told { why: "a sector has too many chunks" }),
        }
    }
}
