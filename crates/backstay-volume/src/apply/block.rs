//! Applying a device or image.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use backstay_types::manifest::{Entry, Extent, FetchChunk, NodeKind, VolumeKind};
use backstay_types::{ChunkId, Classify};
use rustix::fs::{FileType, SeekFrom};

use super::ApplyReport;
use super::content::{Differ, fetch, is_zero, punch, read_at};
use crate::manifest_in::ManifestStream;
use crate::{Progress, VolumeError};

/// Brings a device or an image file to a manifest. An image file is made, sparse, if it does not exist.
pub(super) fn apply_block<F>(
    reader: &F,
    from: Option<&ChunkId>,
    to: &ChunkId,
    target: &Path,
    progress: &Progress,
) -> Result<ApplyReport, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    let mut right = ManifestStream::open(reader, to).map_err(VolumeError::manifest)?;
    let size = single_size(&right)?;
    let (file, is_new) = open_target(target, size)?;
    // A file that was not there has nothing of `from`.
    let from = from.filter(|_| !is_new);
    let mut left =
        from.map(|from| ManifestStream::open(reader, from)).transpose().map_err(VolumeError::manifest)?;
    let compared_in_full = left.is_none();
    let mut report = ApplyReport { entries: 1, compared_in_full, ..ApplyReport::default() };
    let mut differ = Differ::default();
    let mut buffer = Vec::new();
    let mut at = 0;
    let fail = |action, e| VolumeError::io(action, target, e);
    while let Some(extent) = right.next_extent().map_err(VolumeError::manifest)? {
        progress.step()?;
        if let Some(left) = &mut left {
            if !differ.is_same(at, &extent, || left.next_extent().map_err(VolumeError::manifest))? {
                report.bytes_written += write(reader, &file, at, &extent).map_err(|e| e.on(target))?;
            }
        } else {
            let same = match extent {
                Extent::Data { id, len } => {
                    let bytes = fetch(reader, &id, len)?;
                    read_at(&file, at, &bytes, &mut buffer).map_err(|e| fail("compare", e))?
                }
                Extent::Hole { len } => is_zero(&file, at, len).map_err(|e| fail("compare", e))?,
            };
            if !same {
                report.bytes_written += write(reader, &file, at, &extent).map_err(|e| e.on(target))?;
            }
        }
        at += extent.len();
        progress.add_bytes(extent.len());
    }
    progress.add_entry();
    report.changed = u64::from(report.bytes_written > 0);
    file.sync_all().map_err(|e| fail("sync", e))?;
    Ok(report)
}

enum WriteError {
    Io(std::io::Error),
    Volume(VolumeError),
}

impl WriteError {
    fn on(self, target: &Path) -> VolumeError {
        match self {
            WriteError::Io(source) => VolumeError::io("write", target, source),
            WriteError::Volume(error) => error,
        }
    }
}

fn write<F>(reader: &F, file: &File, at: u64, extent: &Extent) -> Result<u64, WriteError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    match extent {
        Extent::Data { id, len } => {
            let bytes = fetch(reader, id, *len).map_err(WriteError::Volume)?;
            file.write_all_at(&bytes, at).map_err(WriteError::Io)?;
            Ok(u64::from(*len))
        }
        Extent::Hole { len } => punch(file, at, *len).map(|()| 0).map_err(WriteError::Io),
    }
}

/// The size of the one file that a block manifest has.
pub(crate) fn single_size<F: FetchChunk>(stream: &ManifestStream<F>) -> Result<u64, VolumeError> {
    let refused = |why| VolumeError::Refused { path: ".".to_owned(), why };
    if stream.root().kind != VolumeKind::Block || stream.root().entries != 1 {
        return Err(refused("it is not the manifest of a device"));
    }
    match stream.current() {
        Some(Entry { path, kind: NodeKind::File { size }, .. }) if path.is_root() => Ok(*size),
        _ => Err(refused("a device is one file at the root")),
    }
}

fn open_target(target: &Path, size: u64) -> Result<(File, bool), VolumeError> {
    let fail = |action, source: std::io::Error| VolumeError::io(action, target, source);
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let (file, is_new) = match options.open(target) {
        Ok(file) => (file, false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(folder) = target.parent() {
                std::fs::create_dir_all(folder).map_err(|e| fail("create folder of", e))?;
            }
            (options.create_new(true).open(target).map_err(|e| fail("create", e))?, true)
        }
        Err(error) => return Err(fail("open", error)),
    };
    let stat = rustix::fs::fstat(&file).map_err(|e| fail("stat", e.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => file.set_len(size).map_err(|e| fail("set length of", e))?,
        FileType::BlockDevice => {
            let found =
                rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|e| fail("find the size of", e.into()))?;
            if found < size {
                return Err(VolumeError::DeviceSize {
                    path: target.display().to_string(),
                    expected: size,
                    found,
                });
            }
        }
        _ => {
            let path = target.display().to_string();
            return Err(VolumeError::WrongKind { path, expected: "a block device or an image file" });
        }
    }
    Ok((file, is_new))
}
