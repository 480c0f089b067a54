//! Applying a device or image.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use backstay_types::manifest::{Entry, Extent, FetchChunk, NodeKind, VolumeKind};
use backstay_types::{ChunkId, Classify};
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};

use super::ApplyReport;
use super::content::{Differ, fetch, is_zero, punch, read_at};
use crate::fs::safe;
use crate::manifest_in::ManifestStream;
use crate::{Progress, VolumeError};

/// Brings a device or an image file to a manifest. An image file is made, sparse, if it does not exist. The place may lie
/// in a folder of somebody else, whose links are refused (test `a_replica_behind_a_tenants_link_is_refused`).
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
    let right = ManifestStream::open(reader, to).map_err(VolumeError::manifest)?;
    let size = single_size(&right)?;
    let found = match safe::open(target, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()) {
        Err(error) if error.is_missing() => None,
        opened => Some(opened?),
    };
    // A file that was not there has nothing of `from`.
    let from = from.filter(|_| found.is_some());
    let file = found.map_or_else(|| safe::create_new(target), Ok)?;
    bring(reader, from, right, size, &file.into(), target, progress)
}

/// Fills an image that was just made, and is open.
pub(crate) fn fill_image<F>(
    reader: &F,
    to: &ChunkId,
    file: &File,
    shown: &Path,
    progress: &Progress,
) -> Result<ApplyReport, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    let right = ManifestStream::open(reader, to).map_err(VolumeError::manifest)?;
    let size = single_size(&right)?;
    bring(reader, None, right, size, file, shown, progress)
}

/// Brings what is open, which messages call `target`, to a manifest.
fn bring<F>(
    reader: &F,
    from: Option<&ChunkId>,
    mut right: ManifestStream<&F>,
    size: u64,
    file: &File,
    target: &Path,
    progress: &Progress,
) -> Result<ApplyReport, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    let mut is_changed = make_length(file, size, target)?;
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
        let same = match (&mut left, extent) {
            (Some(left), _) => {
                differ.is_same(at, &extent, || left.next_extent().map_err(VolumeError::manifest))?
            }
            (None, Extent::Data { id, len }) => {
                let bytes = fetch(reader, &id, len)?;
                read_at(file, at, &bytes, &mut buffer).map_err(|e| fail("compare", e))?
            }
            (None, Extent::Hole { len }) => is_zero(file, at, len).map_err(|e| fail("compare", e))?,
        };
        if !same {
            report.bytes_written += write(reader, file, at, &extent).map_err(|e| e.on(target))?;
            is_changed = true;
        }
        at += extent.len();
        progress.add_bytes(extent.len());
    }
    progress.add_entry();
    report.changed = u64::from(is_changed);
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

/// Gives an image the length it must have; of a device, sees that it is long enough. Whether that changed anything.
fn make_length(file: &File, size: u64, target: &Path) -> Result<bool, VolumeError> {
    let fail = |action, source: std::io::Error| VolumeError::io(action, target, source);
    let stat = rustix::fs::fstat(file).map_err(|e| fail("stat", e.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let is_other = u64::try_from(stat.st_size) != Ok(size);
            if is_other {
                file.set_len(size).map_err(|e| fail("set length of", e))?;
            }
            Ok(is_other)
        }
        FileType::BlockDevice => {
            let found =
                rustix::fs::seek(file, SeekFrom::End(0)).map_err(|e| fail("find the size of", e.into()))?;
            if found < size {
                return Err(VolumeError::DeviceSize {
                    path: target.display().to_string(),
                    expected: size,
                    found,
                });
            }
            Ok(false)
        }
        _ => {
            let path = target.display().to_string();
            Err(VolumeError::WrongKind { path, expected: "a block device or an image file" })
        }
    }
}
