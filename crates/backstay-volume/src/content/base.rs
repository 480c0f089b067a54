//! The parent's version of a file, beside the one being read: which chunks are there already, and which can be
//! described by it.

use std::collections::VecDeque;

use backstay_types::frame::patch::SECTOR_BYTES;
use backstay_types::manifest::Extent;
use backstay_types::{ChunkId, limits};

use crate::VolumeError;
use crate::sink::PatchBase;
use crate::state::{ParentStream, read_fingerprints, sector_count};

/// What the parent knows of a chunk.
pub(crate) enum Verdict {
    /// The parent's version of the file has it hereabouts.
    Known {
        /// Whether the receiver holds it for certain.
        is_held: bool,
    },
    /// It must be offered; perhaps as a patch.
    New(Option<PatchBase>),
}

/// Fingerprints read at once: 512 of them stand for 2 MiB.
const WINDOW_SECTORS: u64 = 512;

/// Streams the parent's extents in step with the reading.
pub(crate) struct BaseFile<'a> {
    stream: &'a mut ParentStream,
    size: u64,
    /// Index of the file's first fingerprint.
    first: Option<u64>,
    /// Extents around the current place, with their offsets.
    extents: VecDeque<(u64, Extent)>,
    /// Where the next extent begins.
    covered: u64,
    ended: bool,
    window: Vec<u64>,
    window_at: u64,
}

impl<'a> BaseFile<'a> {
    /// The file at the stream's current entry.
    pub(crate) fn new(stream: &'a mut ParentStream, size: u64, first: Option<u64>) -> Self {
        let (extents, window) = (VecDeque::new(), Vec::new());
        Self { stream, size, first, extents, covered: 0, ended: false, window, window_at: 0 }
    }

    /// Looks at a chunk at offset `at`, given the fingerprints of the sectors it touches.
    pub(crate) fn compare(
        &mut self,
        at: u64,
        len: u32,
        id: &ChunkId,
        sectors: &[u64],
    ) -> Result<Verdict, VolumeError> {
        let end = at + u64::from(len);
        while self.extents.front().is_some_and(|(from, extent)| from + extent.len() <= at) {
            self.extents.pop_front();
        }
        while self.covered < end && !self.ended {
            match self.stream.next_extent()? {
                Some(extent) => {
                    if self.covered + extent.len() > at {
                        self.extents.push_back((self.covered, extent));
                    }
                    self.covered += extent.len();
                }
                None => self.ended = true,
            }
        }
        if self
            .extents
            .iter()
            .any(|(_, extent)| matches!(extent, Extent::Data { id: other, .. } if other == id))
        {
            return Ok(Verdict::Known { is_held: self.stream.parent().is_held() });
        }
        self.patch(at, len, sectors).map(Verdict::New)
    }

    fn patch(&mut self, at: u64, len: u32, sectors: &[u64]) -> Result<Option<PatchBase>, VolumeError> {
        let end = at + u64::from(len);
        let Some(first) = self.first else { return Ok(None) };
        let Some((bases, skip, covered)) = self.bases(at, end) else { return Ok(None) };
        let sector_bytes = SECTOR_BYTES as u64;
        let mut bitmap = vec![0_u8; sectors.len().div_ceil(8)];
        let mut equal = 0;
        for (bit, fingerprint) in sectors.iter().enumerate() {
            let sector = at / sector_bytes + bit as u64;
            let within = ((sector + 1) * sector_bytes).min(end) <= covered;
            if within && self.fingerprint(first, sector)? == Some(*fingerprint) {
                equal += 1;
            } else if let Some(byte) = bitmap.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
        // Under half, the patch saves little and costs the receiver a read of the base.
        if equal == 0 || equal * 2 < sectors.len() {
            return Ok(None);
        }
        let lead = u16::try_from(sector_bytes - at % sector_bytes).unwrap_or(0);
        Ok(Some(PatchBase { bases, skip, lead, bitmap }))
    }

    /// Chunks that cover the range from its start without a hole, bytes to skip, and how far they reach.
    fn bases(&self, at: u64, end: u64) -> Option<(Vec<ChunkId>, u32, u64)> {
        let mut bases = Vec::new();
        let mut covered = at;
        for (from, extent) in &self.extents {
            match extent {
                Extent::Data { id, len } if covered < end => {
                    bases.push(*id);
                    covered = from + u64::from(*len);
                }
                _ => break,
            }
        }
        let (from, _) = self.extents.front()?;
        let skip = u32::try_from(at.checked_sub(*from)?).ok()?;
        (!bases.is_empty() && bases.len() <= limits::PATCH_BASES_MAX).then_some((bases, skip, covered))
    }

    /// The parent's fingerprint of a sector; `None` past its end.
    fn fingerprint(&mut self, first: u64, sector: u64) -> Result<Option<u64>, VolumeError> {
        let count = sector_count(self.size);
        if sector >= count {
            return Ok(None);
        }
        let inside = sector >= self.window_at && sector < self.window_at + self.window.len() as u64;
        if !inside {
            let wanted = usize::try_from((count - sector).min(WINDOW_SECTORS)).unwrap_or(0);
            let file = self.stream.parent().sectors();
            self.window = read_fingerprints(file, first + sector, wanted).map_err(|source| {
                VolumeError::io("read", std::path::Path::new("sector fingerprints"), source)
            })?;
            self.window_at = sector;
        }
        let place = usize::try_from(sector - self.window_at).unwrap_or(usize::MAX);
        Ok(self.window.get(place).copied())
    }
}
