//! Extents of a file whose size is not known yet.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use backstay_types::ChunkId;
use backstay_types::manifest::Extent;

use crate::VolumeError;

/// Extents of one file, held until its size is known: in memory up to 16 Ki of them (640 KB), else in a file of
/// 40 bytes each, so that a file of any size costs disk and not memory.
pub(crate) struct ExtentSpool {
    path: PathBuf,
    memory: Vec<Extent>,
    file: Option<BufWriter<File>>,
    spilled: u64,
}

/// Extents held in memory.
const MEMORY_EXTENTS: usize = 16 << 10;
const EXTENT_BYTES: usize = 40;

impl ExtentSpool {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, memory: Vec::new(), file: None, spilled: 0 }
    }

    pub(crate) fn push(&mut self, extent: Extent) -> io::Result<()> {
        if self.memory.len() >= MEMORY_EXTENTS {
            self.spill()?;
        }
        self.memory.push(extent);
        Ok(())
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.memory.clear();
        self.file = None;
        self.spilled = 0;
    }

    /// Hands out everything in order, in groups, and is empty again.
    pub(crate) fn drain(
        &mut self,
        mut take: impl FnMut(&[Extent]) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        if self.file.is_some() {
            let path = self.path.clone();
            let fail = |source| VolumeError::io("read", &path, source);
            self.spill().map_err(fail)?;
            if let Some(mut file) = self.file.take() {
                file.flush().map_err(fail)?;
            }
            let mut reader = io::BufReader::with_capacity(1 << 20, File::open(&path).map_err(fail)?);
            let mut group = Vec::with_capacity(MEMORY_EXTENTS);
            for _ in 0..std::mem::take(&mut self.spilled) {
                let mut bytes = [0; EXTENT_BYTES];
                io::Read::read_exact(&mut reader, &mut bytes).map_err(fail)?;
                group.push(decode_extent(&bytes));
                if group.len() >= MEMORY_EXTENTS {
                    take(&group)?;
                    group.clear();
                }
            }
            return if group.is_empty() { Ok(()) } else { take(&group) };
        }
        let group = std::mem::take(&mut self.memory);
        if group.is_empty() { Ok(()) } else { take(&group) }
    }

    fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(BufWriter::with_capacity(1 << 20, File::create(&self.path)?)),
        };
        for extent in self.memory.drain(..) {
            file.write_all(&encode_extent(&extent))?;
            self.spilled += 1;
        }
        Ok(())
    }
}

fn encode_extent(extent: &Extent) -> [u8; EXTENT_BYTES] {
    let mut bytes = [0; EXTENT_BYTES];
    if let Some((id, len)) = bytes.split_first_chunk_mut::<32>() {
        if let Extent::Data { id: chunk, .. } = extent {
            *id = chunk.0;
        }
        // The top bit tells data from holes; no file reaches 2^63 bytes.
        let tag = if matches!(extent, Extent::Data { .. }) { 1 << 63 } else { 0 };
        len.copy_from_slice(&(extent.len() | tag).to_le_bytes());
    }
    bytes
}

fn decode_extent(bytes: &[u8; EXTENT_BYTES]) -> Extent {
    let (id, len) = bytes.split_first_chunk::<32>().unwrap_or((&[0; 32], &[]));
    let len = len.first_chunk::<8>().map_or(0, |len| u64::from_le_bytes(*len));
    match u32::try_from(len & !(1 << 63)) {
        Ok(short) if len >> 63 == 1 => Extent::Data { id: ChunkId(*id), len: short },
        _ => Extent::Hole { len: len & !(1 << 63) },
    }
}
