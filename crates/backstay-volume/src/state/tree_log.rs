//! Chunks of one manifest in one file: `id 32 · length u32 · crc32c u32 · bytes`, one after the other.
//!
//! The index is in memory: 56 bytes for each 64 KiB of manifest, 1 MB for a million files of a thousand bytes of
//! manifest each.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use backstay_types::manifest::FetchChunk;
use backstay_types::{ChunkId, limits};

/// Writes a log.
pub(crate) struct TreeWriter {
    file: BufWriter<File>,
    bytes: u64,
}

impl TreeWriter {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(1 << 20, File::create_new(path)?), bytes: 0 })
    }

    pub(crate) fn append(&mut self, id: &ChunkId, chunk: &[u8]) -> io::Result<()> {
        let len = u32::try_from(chunk.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.file.write_all(&id.0)?;
        self.file.write_all(&len.to_le_bytes())?;
        self.file.write_all(&crc(id, chunk).to_le_bytes())?;
        self.file.write_all(chunk)?;
        self.bytes += HEADER_BYTES as u64 + u64::from(len);
        Ok(())
    }

    /// Writes out what is buffered, so that the log can be read; returns its length.
    pub(crate) fn flush(&mut self) -> io::Result<u64> {
        self.file.flush()?;
        Ok(self.bytes)
    }

    /// Makes the log durable; returns its length.
    pub(crate) fn finish(self) -> io::Result<u64> {
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
        Ok(self.bytes)
    }
}

const HEADER_BYTES: usize = 40;

/// Reads a log that was checked from end to end.
#[derive(Clone)]
pub(crate) struct TreeFile(Arc<Tree>);

struct Tree {
    file: File,
    index: HashMap<ChunkId, (u64, u32)>,
}

impl TreeFile {
    /// Opens a log of this length and checks every record; `None` if anything is wrong with it.
    pub(crate) fn open(path: &Path, expected_bytes: u64) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        if file.metadata()?.len() != expected_bytes {
            return Ok(None);
        }
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let mut index = HashMap::new();
        let mut at = 0;
        let mut chunk = Vec::new();
        while at < expected_bytes {
            let mut header = [0; HEADER_BYTES];
            if reader.read_exact(&mut header).is_err() {
                return Ok(None);
            }
            let Some((id, len, expected)) = split(&header) else { return Ok(None) };
            if len as usize > limits::CHUNK_BYTES_MAX {
                return Ok(None);
            }
            chunk.resize(len as usize, 0);
            if reader.read_exact(&mut chunk).is_err() || crc(&id, &chunk) != expected {
                return Ok(None);
            }
            index.insert(id, (at + HEADER_BYTES as u64, len));
            at += HEADER_BYTES as u64 + u64::from(len);
        }
        Ok(Some(Self(Arc::new(Tree { file, index }))))
    }

    /// Whether the manifest has this chunk.
    pub(crate) fn contains(&self, id: &ChunkId) -> bool {
        self.0.index.contains_key(id)
    }
}

/// Over the id as well: a chunk under a wrong id is as bad as none.
fn crc(id: &ChunkId, chunk: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&id.0), chunk)
}

fn split(header: &[u8; HEADER_BYTES]) -> Option<(ChunkId, u32, u32)> {
    let (id, rest) = header.split_first_chunk::<32>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let crc = rest.first_chunk::<4>()?;
    Some((ChunkId(*id), u32::from_le_bytes(*len), u32::from_le_bytes(*crc)))
}

impl FetchChunk for TreeFile {
    type Error = io::Error;

    fn fetch(&self, id: &ChunkId) -> io::Result<Vec<u8>> {
        let (at, len) = self.0.index.get(id).copied().ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; len as usize];
        self.0.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}
