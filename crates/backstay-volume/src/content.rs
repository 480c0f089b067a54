//! Turning the bytes of one file or device into extents.
//!
//! Holes come first: ranges the file system has none for (`SEEK_DATA`), and runs of at least 16 KiB of zeros on the
//! 4 KiB grid, become [`Extent::Hole`] and cost no chunk. What lies between is cut: files by FastCDC, so that an
//! insertion moves cuts only around it; devices and images at fixed places.
//!
//! Memory: one window of the largest chunk and 1 MiB, and 8 bytes for each 4 KiB of it.

mod base;
mod cutter;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use backstay_types::HashKey;
use backstay_types::frame::patch::SECTOR_BYTES;
use backstay_types::manifest::Extent;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

pub(crate) use base::{BaseFile, Verdict};
pub(crate) use cutter::{CutMode, Cutter};

use crate::extents::ExtentSpool;
use crate::state::{SectorWriter, Sectors};
use crate::{ChunkSink, Progress, VolumeError};

/// Sectors of zeros in a row that make a hole: 16 KiB, so that scattered empty pages do not cut a file to pieces.
const HOLE_SECTORS: usize = 4;

/// A sector as an offset in a file.
const SECTOR: u64 = SECTOR_BYTES as u64;

/// Where the pieces of a file go.
pub(crate) struct ContentOut<'a> {
    pub(crate) extents: &'a mut ExtentSpool,
    /// Fingerprints, for files worth them.
    pub(crate) sectors: Option<&'a mut SectorWriter>,
    pub(crate) sink: &'a mut dyn ChunkSink,
    pub(crate) progress: &'a Progress,
    /// Bytes of the chunks that the parent's file does not have.
    pub(crate) bytes_new: u64,
}

/// Why a file was not read to its end.
pub(crate) enum ContentError {
    /// Reading the source failed.
    Read(io::Error),
    /// Writing local state failed.
    State(io::Error),
    /// Anything that already has its words.
    Volume(VolumeError),
}

impl<E: Into<VolumeError>> From<E> for ContentError {
    fn from(error: E) -> Self {
        ContentError::Volume(error.into())
    }
}

/// Reads files one after the other, with one window.
pub(crate) struct ContentReader {
    key: HashKey,
    cutter: Cutter,
    fingerprints: Sectors,
    window: Window,
}

/// The part of a file that is in memory.
struct Window {
    bytes: Vec<u8>,
    /// Bytes that are filled.
    filled: usize,
    /// Offset of the first byte in the file; on the sector grid.
    base: u64,
    /// Fingerprints of the sectors that are filled whole, or to the end of the range.
    sectors: Vec<u64>,
    /// Where the next chunk begins.
    start: usize,
    /// Inside a run of zeros.
    in_hole: bool,
    /// Bytes of hole not yet written as an extent.
    hole: u64,
}

/// What stops the chunks of a window.
enum Limit {
    /// A run of zeros begins here.
    Hole(usize),
    /// The end of the range.
    End(usize),
    /// The end of what is known; more must be read to go past it.
    Open(usize),
}

impl ContentReader {
    pub(crate) fn new(key: &HashKey, cutter: Cutter) -> Self {
        let window = Window {
            bytes: vec![0; cutter.window_bytes()],
            filled: 0,
            base: 0,
            sectors: Vec::new(),
            start: 0,
            in_hole: false,
            hole: 0,
        };
        Self { key: key.clone(), cutter, fingerprints: Sectors::new(key), window }
    }

    /// Reads `size` bytes. Returns how many there were: fewer if the file became shorter meanwhile.
    pub(crate) fn read(
        &mut self,
        source: &File,
        size: u64,
        sparse: bool,
        mode: CutMode,
        mut base: Option<&mut BaseFile<'_>>,
        out: &mut ContentOut<'_>,
    ) -> Result<u64, ContentError> {
        self.window.hole = 0;
        let mut at = 0;
        while at < size {
            let range = if sparse { data_range(source, at, size)? } else { Some((at, size)) };
            let Some((from, to)) = range else {
                self.window.hole += size - at;
                at = size;
                break;
            };
            self.window.hole += from - at;
            let end = self.read_range(source, from, to, mode, base.as_deref_mut(), out)?;
            at = end;
            if end < to {
                break;
            }
        }
        self.flush_hole(out)?;
        Ok(at)
    }

    fn read_range(
        &mut self,
        source: &File,
        from: u64,
        to: u64,
        mode: CutMode,
        mut base: Option<&mut BaseFile<'_>>,
        out: &mut ContentOut<'_>,
    ) -> Result<u64, ContentError> {
        self.window.open(from);
        let mut to = to;
        loop {
            out.progress.step()?;
            if !self.window.fill(source, to).map_err(ContentError::Read)? {
                to = self.window.base + self.window.filled as u64;
            }
            let last = self.window.base + self.window.filled as u64 == to;
            self.classify(last, out)?;
            self.cut_window(last, mode, base.as_deref_mut(), out)?;
            if last && self.window.start == self.window.filled {
                return Ok(to);
            }
            self.window.compact();
        }
    }

    /// Fingerprints what is newly filled.
    fn classify(&mut self, last: bool, out: &mut ContentOut<'_>) -> Result<(), ContentError> {
        let window = &mut self.window;
        let first = window.sectors.len();
        let filled = window.bytes.get(first * SECTOR_BYTES..window.filled).unwrap_or_default();
        for sector in filled.chunks(SECTOR_BYTES) {
            if sector.len() == SECTOR_BYTES || last {
                window.sectors.push(self.fingerprints.fingerprint(sector));
            }
        }
        if let Some(writer) = &mut out.sectors {
            let new = window.sectors.get(first..).unwrap_or_default();
            writer.put(window.base / SECTOR + first as u64, new).map_err(ContentError::State)?;
        }
        Ok(())
    }

    fn cut_window(
        &mut self,
        last: bool,
        mode: CutMode,
        mut base: Option<&mut BaseFile<'_>>,
        out: &mut ContentOut<'_>,
    ) -> Result<(), ContentError> {
        loop {
            if self.window.in_hole && !self.window.skip_zeros() {
                return Ok(());
            }
            let limit = self.window.limit(last);
            let (Limit::Hole(end) | Limit::End(end) | Limit::Open(end)) = limit;
            let is_open = matches!(limit, Limit::Open(_));
            while self.window.start < end {
                let at = self.window.base + self.window.start as u64;
                let available = end - self.window.start;
                if is_open && available < self.cutter.chunk_bytes_max(mode) {
                    return Ok(());
                }
                let bytes = self.window.bytes.get(self.window.start..end).unwrap_or_default();
                let len = self.cutter.cut(mode, at, bytes);
                self.emit(len, base.as_deref_mut(), out)?;
            }
            match limit {
                Limit::Hole(_) => self.window.in_hole = true,
                Limit::End(_) | Limit::Open(_) => return Ok(()),
            }
        }
    }

    fn emit(
        &mut self,
        len: usize,
        base: Option<&mut BaseFile<'_>>,
        out: &mut ContentOut<'_>,
    ) -> Result<(), ContentError> {
        self.flush_hole(out)?;
        let window = &mut self.window;
        let at = window.base + window.start as u64;
        let bytes = window.bytes.get(window.start..window.start + len).unwrap_or_default();
        let id = self.key.chunk_id(bytes);
        let short = u32::try_from(len).unwrap_or(u32::MAX);
        let first = window.start / SECTOR_BYTES;
        let sectors =
            window.sectors.get(first..(window.start + len).div_ceil(SECTOR_BYTES)).unwrap_or_default();
        let verdict = match base {
            Some(base) => base.compare(at, short, &id, sectors)?,
            None => Verdict::New(None),
        };
        match verdict {
            Verdict::Known { is_held: true } => {}
            Verdict::Known { is_held: false } => out.sink.chunk(id, bytes.to_vec(), None)?,
            Verdict::New(patch) => {
                out.sink.chunk(id, bytes.to_vec(), patch)?;
                out.bytes_new += u64::from(short);
            }
        }
        out.extents.push(Extent::Data { id, len: short }).map_err(ContentError::State)?;
        out.progress.add_bytes(u64::from(short));
        window.start += len;
        Ok(())
    }

    fn flush_hole(&mut self, out: &mut ContentOut<'_>) -> Result<(), ContentError> {
        let len = std::mem::take(&mut self.window.hole);
        if len > 0 {
            out.extents.push(Extent::Hole { len }).map_err(ContentError::State)?;
            out.progress.add_bytes(len);
        }
        Ok(())
    }
}

impl Window {
    fn open(&mut self, base: u64) {
        self.base = base;
        self.filled = 0;
        self.start = 0;
        self.in_hole = false;
        self.sectors.clear();
    }

    /// Fills the window from the file, up to offset `to`. `false` if the file ends before it.
    fn fill(&mut self, source: &File, to: u64) -> io::Result<bool> {
        let room = usize::try_from(to - self.base).unwrap_or(usize::MAX).min(self.bytes.len());
        while self.filled < room {
            let piece = self.bytes.get_mut(self.filled..room).unwrap_or_default();
            match rustix::io::pread(source, piece, self.base + self.filled as u64) {
                Ok(0) => return Ok(false),
                Ok(len) => self.filled += len,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Moves past known zeros. `false` if the run may go on past what is known.
    fn skip_zeros(&mut self) -> bool {
        while self.start < self.filled
            && let Some(sector) = self.sectors.get(self.start / SECTOR_BYTES)
        {
            if *sector != 0 {
                self.in_hole = false;
                return true;
            }
            let end = ((self.start / SECTOR_BYTES + 1) * SECTOR_BYTES).min(self.filled);
            self.hole += (end - self.start) as u64;
            self.start = end;
        }
        false
    }

    /// How far chunks may reach.
    fn limit(&self, last: bool) -> Limit {
        let mut run = 0;
        let first = self.start.div_ceil(SECTOR_BYTES);
        for (at, sector) in self.sectors.iter().enumerate().skip(first) {
            run = if *sector == 0 { run + 1 } else { 0 };
            if run == HOLE_SECTORS {
                return Limit::Hole((at + 1 - HOLE_SECTORS) * SECTOR_BYTES);
            }
        }
        if last { Limit::End(self.filled) } else { Limit::Open((self.sectors.len() - run) * SECTOR_BYTES) }
    }

    /// Drops the sectors before the next chunk.
    fn compact(&mut self) {
        let sectors = self.start / SECTOR_BYTES;
        let bytes = sectors * SECTOR_BYTES;
        self.bytes.copy_within(bytes..self.filled, 0);
        self.sectors.drain(..sectors.min(self.sectors.len()));
        self.filled -= bytes;
        self.start -= bytes;
        self.base += bytes as u64;
    }
}

/// The next range with data at or after `at`, widened to the sector grid; `None` if the rest is a hole.
fn data_range(source: &File, at: u64, size: u64) -> Result<Option<(u64, u64)>, ContentError> {
    let fd = source.as_fd();
    let from = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
        Ok(from) => from / SECTOR * SECTOR,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that cannot tell: all is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(error) => return Err(ContentError::Read(error.into())),
    };
    let from = from.max(at);
    if from >= size {
        return Ok(None);
    }
    let mut data = from;
    loop {
        let to = match rustix::fs::seek(fd, SeekFrom::Hole(data)) {
            Ok(to) => to.div_ceil(SECTOR) * SECTOR,
            Err(Errno::NXIO) => size,
            Err(error) => return Err(ContentError::Read(error.into())),
        };
        // Blocks smaller than a sector: the hole may end inside the sector that was rounded up.
        if to >= size {
            return Ok(Some((from, size)));
        }
        match rustix::fs::seek(fd, SeekFrom::Data(to)) {
            // From the data on: with blocks smaller than a sector, `to` itself may be in the hole.
            Ok(next) if next / SECTOR * SECTOR <= to => data = next,
            _ => return Ok(Some((from, to))),
        }
    }
}
