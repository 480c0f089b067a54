//! Sector fingerprints: 8 bytes for each 4 KiB of a file, 0.2 % of the volume, on disk and sparse.
//!
//! A fingerprint is the first 64 bits of a keyed BLAKE3; 0 stands for a sector of zeros, so that holes cost no
//! disk here either.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use backstay_types::HashKey;
use backstay_types::frame::patch::SECTOR_BYTES;

use super::first_u64;

static ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];

/// Makes fingerprints.
#[derive(Clone)]
pub(crate) struct Sectors([u8; 32]);

impl Sectors {
    pub(crate) fn new(key: &HashKey) -> Self {
        Self(blake3::derive_key("backstay 2026 sector fingerprint", &key.0))
    }

    /// The fingerprint of a sector, or of what a file has of its last one.
    pub(crate) fn fingerprint(&self, sector: &[u8]) -> u64 {
        if ZEROS.get(..sector.len()) == Some(sector) {
            return 0;
        }
        first_u64(blake3::keyed_hash(&self.0, sector).as_bytes()).max(1)
    }
}

/// Sectors of a file of this size.
pub(crate) const fn sector_count(size: u64) -> u64 {
    size.div_ceil(SECTOR_BYTES as u64)
}

/// Writes the fingerprints of one volume, file after file.
pub(crate) struct SectorWriter {
    file: File,
    /// Where the next file begins.
    end: u64,
    /// Index of the first fingerprint in `buffer`.
    at: u64,
    buffer: Vec<u8>,
    /// Index after the last fingerprint in the file.
    flushed: u64,
}

/// Fingerprints are written in pieces of 64 KiB, which stand for 32 MiB of content.
const WRITE_BYTES: usize = 64 << 10;

impl SectorWriter {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::create_new(path)?,
            end: 0,
            at: 0,
            buffer: Vec::with_capacity(WRITE_BYTES),
            flushed: 0,
        })
    }

    /// Index of the first fingerprint of the next file.
    pub(crate) fn position(&self) -> u64 {
        self.end
    }

    /// Writes fingerprints of the current file from sector `sector`. What is never written is 0.
    pub(crate) fn put(&mut self, sector: u64, fingerprints: &[u64]) -> io::Result<()> {
        self.put_at(self.end + sector, fingerprints)
    }

    /// Writes fingerprints from index `first` of the whole file on, such as those of a file before the current one.
    pub(crate) fn put_at(&mut self, first: u64, fingerprints: &[u64]) -> io::Result<()> {
        for (at, fingerprint) in (first..).zip(fingerprints) {
            if *fingerprint != 0 {
                let next = self.at + (self.buffer.len() / 8) as u64;
                if at != next || self.buffer.len() >= WRITE_BYTES {
                    self.flush()?;
                    self.at = at;
                }
                self.buffer.extend_from_slice(&fingerprint.to_le_bytes());
            }
        }
        Ok(())
    }

    /// Ends the current file, of this size.
    pub(crate) fn end_file(&mut self, size: u64) {
        self.end += sector_count(size);
    }

    /// Gives up what was written of the current file, to write it again.
    pub(crate) fn restart_file(&mut self) -> io::Result<()> {
        let kept = usize::try_from(self.end.saturating_sub(self.at) * 8).unwrap_or(usize::MAX);
        self.buffer.truncate(kept);
        if self.buffer.is_empty() {
            self.at = self.end;
        }
        if self.flushed > self.end {
            self.file.set_len(self.end * 8)?;
            self.flushed = self.end;
        }
        Ok(())
    }

    /// Takes over the fingerprints of a file from the parent.
    pub(crate) fn copy(&mut self, parent: &File, first: u64, size: u64) -> io::Result<()> {
        let count = sector_count(size);
        let mut done = 0;
        let mut bytes = vec![0; usize::try_from(count * 8).unwrap_or(WRITE_BYTES).min(WRITE_BYTES)];
        while done < count {
            let part = (count - done).min((WRITE_BYTES / 8) as u64);
            let len = usize::try_from(part * 8).unwrap_or(WRITE_BYTES);
            let piece = bytes.get_mut(..len).unwrap_or_default();
            read_sparse(parent, piece, (first + done) * 8)?;
            let values: Vec<u64> = to_values(piece).collect();
            self.put(done, &values)?;
            done += part;
        }
        self.end_file(size);
        Ok(())
    }

    /// Writes out what is buffered and sets the length, so that trailing zeros are there to be read.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.file.set_len(self.end * 8)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_all_at(&self.buffer, self.at * 8)?;
            self.at += (self.buffer.len() / 8) as u64;
            self.flushed = self.flushed.max(self.at);
            self.buffer.clear();
        }
        Ok(())
    }
}

/// Reads fingerprints from `first` on.
pub(crate) fn read_fingerprints(file: &File, first: u64, count: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    read_sparse(file, &mut bytes, first * 8)?;
    Ok(to_values(&bytes).collect())
}

fn to_values(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).filter_map(|part| part.first_chunk::<8>()).map(|part| u64::from_le_bytes(*part))
}

/// Fills `bytes`, with zeros past the end of the file.
fn read_sparse(file: &File, bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match file.read_at(rest, at)? {
            0 => {
                rest.fill(0);
                break;
            }
            len => {
                at += len as u64;
                rest = rest.get_mut(len..).unwrap_or_default();
            }
        }
    }
    Ok(())
}
