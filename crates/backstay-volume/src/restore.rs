//! Restoring a volume, or what of it is below a path, into a folder of its own.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use backstay_types::manifest::{FetchChunk, RelPath, VolumeKind};
use backstay_types::{ChunkId, Classify};
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::apply::{ApplyReport, Right, TreeApply, clone_image, fill_image, single_size};
use crate::fs::safe;
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
///
/// `to` may lie in a folder of somebody else: it is opened once, and nothing in it is ever removed or replaced.
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
    let scope = path.cloned().unwrap_or_default();
    let report: ApplyReport = match kind {
        VolumeKind::Block if scope.is_root() => {
            let file = new_file(to)?;
            fill_image(reader, root, &file.into(), to, progress)?
        }
        VolumeKind::Block => return Err(VolumeError::NotInManifest { path: scope.to_string() }),
        VolumeKind::Directory | VolumeKind::Bundle => {
            // Before anything is made: what is not in the manifest leaves no folder.
            let right = Right::open(reader, root, scope, kind)?;
            let folder = empty_folder(to)?;
            let open = safe::path_of(&folder);
            let run = TreeApply::open(reader, reader, right, None, &open, progress)
                .and_then(|apply| apply.removing_nothing().run());
            run.map_err(|error| error.shown_as(&open, to))?
        }
    };
    Ok(RestoreReport { entries: report.entries, bytes: report.bytes_written })
}

/// Makes the folder `to`, or takes it if it is empty.
fn empty_folder(to: &Path) -> Result<OwnedFd, VolumeError> {
    let fail = |source: Errno| VolumeError::io("create", to, source);
    let not_empty = || VolumeError::NotEmpty { path: to.display().to_string() };
    let (parent, name) = safe::make_parent(to)?;
    let name = if name.is_empty() { OsStr::new(".") } else { &name };
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(source) => return Err(fail(source)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(&parent, name, flags, Mode::empty()).map_err(|source| match source {
        Errno::NOTDIR | Errno::LOOP => not_empty(),
        other => fail(other),
    })?;
    for entry in Dir::read_from(&folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if ![c".", c".."].contains(&entry.file_name()) {
            return Err(not_empty());
        }
    }
    Ok(folder)
}

/// Makes the file `to`.
fn new_file(to: &Path) -> Result<OwnedFd, VolumeError> {
    safe::create_new(to).map_err(|error| match error {
        VolumeError::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
            VolumeError::NotEmpty { path: to.display().to_string() }
        }
        other => other,
    })
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
