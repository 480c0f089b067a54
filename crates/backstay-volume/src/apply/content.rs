//! The content of one file of the target.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use backstay_types::manifest::{Extent, FetchChunk};
use backstay_types::{ChunkId, Classify};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::VolumeError;

/// Tells which extents of a file are as they were.
#[derive(Default)]
pub(super) struct Differ {
    extents: VecDeque<(u64, Extent)>,
    covered: u64,
    ended: bool,
}

impl Differ {
    /// Whether the old file, whose extents `next` gives in order, has `extent` at offset `at`. Offsets ascend.
    pub(super) fn is_same(
        &mut self,
        at: u64,
        extent: &Extent,
        mut next: impl FnMut() -> Result<Option<Extent>, VolumeError>,
    ) -> Result<bool, VolumeError> {
        let end = at + extent.len();
        while self.extents.front().is_some_and(|(from, old)| from + old.len() <= at) {
            self.extents.pop_front();
        }
        match extent {
            Extent::Data { .. } => {
                while self.covered < end && !self.ended {
                    self.pull(at, &mut next)?;
                }
                Ok(self.extents.front().is_some_and(|(from, old)| *from == at && old == extent))
            }
            // A hole may face any number of extents: hold one at a time.
            Extent::Hole { .. } => {
                let mut same = true;
                loop {
                    same &= self
                        .extents
                        .iter()
                        .all(|(from, old)| *from >= end || matches!(old, Extent::Hole { .. }));
                    self.extents.retain(|(from, old)| from + old.len() > end);
                    if self.covered >= end || self.ended {
                        return Ok(same && self.covered >= end);
                    }
                    self.pull(at, &mut next)?;
                }
            }
        }
    }

    fn pull(
        &mut self,
        at: u64,
        next: &mut impl FnMut() -> Result<Option<Extent>, VolumeError>,
    ) -> Result<(), VolumeError> {
        match next()? {
            None => self.ended = true,
            Some(old) => {
                if self.covered + old.len() > at {
                    self.extents.push_back((self.covered, old));
                }
                self.covered += old.len();
            }
        }
        Ok(())
    }
}

/// Fetches a chunk that must have the length its extent says.
pub(super) fn fetch<F>(reader: &F, id: &ChunkId, len: u32) -> Result<Vec<u8>, VolumeError>
where
    F: FetchChunk + ?Sized,
    F::Error: Classify + Send + Sync + 'static,
{
    let bytes = reader.fetch(id).map_err(VolumeError::fetch)?;
    if bytes.len() == len as usize {
        Ok(bytes)
    } else {
        Err(VolumeError::Refused { path: id.to_string(), why: "a chunk has another length than its extent" })
    }
}

/// Makes a range read as zeros, without blocks where the file system can.
pub(super) fn punch(file: &File, at: u64, len: u64) -> io::Result<()> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, mode, at, len) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::INVAL) => write_zeros(file, at, len),
        Err(error) => Err(error.into()),
    }
}

fn write_zeros(file: &File, mut at: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; PIECE_BYTES];
    let end = at + len;
    while at < end {
        let piece = usize::try_from(end - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        file.write_all_at(zeros.get(..piece).unwrap_or_default(), at)?;
        at += piece as u64;
    }
    Ok(())
}

const PIECE_BYTES: usize = 256 << 10;

/// Whether a range reads as zeros; past the end of the file it does.
pub(crate) fn is_zero(file: &File, mut at: u64, len: u64) -> io::Result<bool> {
    let end = at + len;
    let mut piece = vec![0; PIECE_BYTES];
    while at < end {
        // Holes are skipped, not read.
        match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => at = data.max(at),
            Err(Errno::NXIO) => return Ok(true),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::SPIPE) => {}
            Err(error) => return Err(error.into()),
        }
        if at >= end {
            break;
        }
        let wanted = usize::try_from(end - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let got = read_exact_or_short(file, piece.get_mut(..wanted).unwrap_or_default(), at)?;
        if piece.get(..got).unwrap_or_default().iter().any(|b| *b != 0) {
            return Ok(false);
        }
        if got < wanted {
            return Ok(true);
        }
        at += got as u64;
    }
    Ok(true)
}

/// Whether a range of the file is these bytes.
pub(crate) fn read_at(file: &File, at: u64, expected: &[u8], buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.resize(expected.len(), 0);
    Ok(read_exact_or_short(file, buffer, at)? == expected.len() && buffer == expected)
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_exact_or_short(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(buffer.get_mut(done..).unwrap_or_default(), at + done as u64) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
