//! Restoring a volume, or what of it is below a path, into a folder of its own.

use std::path::Path;

use backstay_types::manifest::{FetchChunk, RelPath, VolumeKind};
use backstay_types::{ChunkId, Classify};

use crate::apply::{ApplyReport, Right, TreeApply, apply, clone_image, single_size};
use crate::manifest_in::ManifestStream;
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

/// Makes a second copy of a replica that shows a manifest: like [`restore`] of the whole, with the content of files and
/// images cloned from `replica`. The caller keeps the replica from being written meanwhile, and asks
/// [`clones_work`](crate::clones_work) first.
pub fn restore_cloned<F>(
    reader: &F,
    root: &ChunkId,
    kind: VolumeKind,
    replica: &Path,
    to: &Path,
    progress: &Progress,
) -> Result<RestoreReport, VolumeError>
where
    F: FetchChunk + Sync,
    F::Error: Classify + Send + Sync + 'static,
{
    refuse_existing(to, kind)?;
    match kind {
        VolumeKind::Block => {
            let stream = ManifestStream::open(reader, root).map_err(VolumeError::manifest)?;
            let expected = single_size(&stream)?;
            if clone_image(replica, to, progress)? != expected {
                let path = replica.display().to_string();
                return Err(VolumeError::Drifted { path, why: "it has another size than what was applied" });
            }
            Ok(RestoreReport { entries: 1, bytes: 0 })
        }
        VolumeKind::Directory | VolumeKind::Bundle => {
            let right = Right::open(reader, root, RelPath::root(), kind)?;
            let apply = TreeApply::open(reader, reader, right, None, to, progress)?;
            let report = apply.cloning(replica)?.run()?;
            Ok(RestoreReport { entries: report.entries, bytes: report.bytes_written })
        }
    }
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
