//! Restoring a volume, or what of it is below a path, into a folder of its own.

use std::path::Path;

use backstay_types::manifest::{FetchChunk, RelPath, VolumeKind};
use backstay_types::{ChunkId, Classify};

use crate::apply::{ApplyReport, Right, TreeApply, apply};
use crate::{Progress, VolumeError};

/// What a restore did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Entries made.
    pub entries: u64,
    /// Bytes of content written.
    pub bytes: u64,
}

/// Restores a manifest into `to`, which must be empty or not exist.
///
/// With `path`, only what is there: a folder becomes `to` itself, anything else is put into `to` under its own name.
/// A device or image (`kind` is [`VolumeKind::Block`]) is restored to a file named `to`.
pub fn restore<F>(
    reader: &F,
    root: &ChunkId,
    kind: VolumeKind,
    path: Option<&RelPath>,
    to: &Path,
    progress: &Progress,
) -> Result<RestoreReport, VolumeError>
where
    F: FetchChunk + Sync,
    F::Error: Classify + Send + Sync + 'static,
{
    refuse_existing(to, kind)?;
    let scope = path.cloned().unwrap_or_default();
    let report: ApplyReport = match kind {
        VolumeKind::Block if scope.is_root() => apply(reader, None, root, kind, to, progress)?,
        VolumeKind::Block => return Err(VolumeError::NotInManifest { path: scope.to_string() }),
        VolumeKind::Directory | VolumeKind::Bundle => {
            let right = Right::open(reader, root, scope, kind)?;
            TreeApply::open(reader, reader, right, None, to, progress)?.run()?
        }
    };
    Ok(RestoreReport { entries: report.entries, bytes: report.bytes_written })
}

fn refuse_existing(to: &Path, kind: VolumeKind) -> Result<(), VolumeError> {
    let not_empty = || Err(VolumeError::NotEmpty { path: to.display().to_string() });
    match std::fs::symlink_metadata(to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(VolumeError::io("stat", to, source)),
        Ok(meta) if kind == VolumeKind::Block || !meta.is_dir() => not_empty(),
        Ok(_) => {
            let mut items =
                std::fs::read_dir(to).map_err(|source| VolumeError::io("list folder", to, source))?;
            if items.next().is_some() { not_empty() } else { Ok(()) }
        }
    }
}
