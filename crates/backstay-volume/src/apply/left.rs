//! What is at the target already: by the manifest applied last, or by looking.

use backstay_types::manifest::{Entry, Extent, FetchChunk, NodeKind, RelPath};
use backstay_types::{ChunkId, Classify};
use rustix::fs::FileType;

use crate::VolumeError;
use crate::fs::Stat;
use crate::manifest_in::ManifestStream;
use crate::walk::{Found, Walker, name_of};

/// Streams what is at the target, in path order.
pub(super) enum Left<'f, F> {
    /// The manifest applied last.
    Manifest(Box<ManifestStream<&'f F>>),
    /// The target itself.
    Disk { walker: Box<Walker>, current: Option<Found> },
}

/// What is there at a path.
pub(super) enum There {
    /// As the manifest says.
    Known(Entry),
    /// As was seen.
    Seen(Stat),
}

impl There {
    pub(super) fn is_folder(&self) -> bool {
        match self {
            There::Known(entry) => entry.kind == NodeKind::Directory,
            There::Seen(stat) => stat.is_folder(),
        }
    }

    /// Whether it is of the type that `entry` needs, so that it need not be made anew.
    pub(super) fn fits(&self, entry: &Entry) -> bool {
        match self {
            There::Known(old) => {
                let same_kind = match (&old.kind, &entry.kind) {
                    (NodeKind::File { .. }, NodeKind::File { .. }) => true,
                    (a, b) => a == b,
                };
                same_kind && old.links == entry.links
            }
            There::Seen(stat) => match &entry.kind {
                NodeKind::Directory => stat.is_folder(),
                NodeKind::HardLink { .. } => !stat.is_folder(),
                // What has further names is made anew: who shares it is not known.
                _ if stat.nlink > 1 => false,
                NodeKind::File { .. } => stat.is_file(),
                // The target of a link is not compared here.
                NodeKind::Symlink { .. } => stat.file_type == FileType::Symlink,
                NodeKind::Fifo => stat.file_type == FileType::Fifo,
                NodeKind::Socket => stat.file_type == FileType::Socket,
                NodeKind::CharDevice(device) => {
                    stat.file_type == FileType::CharacterDevice && stat.rdev == *device
                }
                NodeKind::BlockDevice(device) => {
                    stat.file_type == FileType::BlockDevice && stat.rdev == *device
                }
            },
        }
    }
}

impl<F> Left<'_, F>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    pub(super) fn is_disk(&self) -> bool {
        matches!(self, Left::Disk { .. })
    }

    /// Path of what it stands at.
    pub(super) fn path(&self) -> Option<&RelPath> {
        match self {
            Left::Manifest(stream) => stream.current().map(|entry| &entry.path),
            Left::Disk { current, .. } => current.as_ref().map(|found| &found.path),
        }
    }

    /// What it stands at.
    pub(super) fn there(&self) -> Option<There> {
        match self {
            Left::Manifest(stream) => stream.current().cloned().map(There::Known),
            Left::Disk { current, .. } => current.as_ref().map(|found| There::Seen(found.stat)),
        }
    }

    /// Goes on; into the folder it stands at, or past it.
    pub(super) fn advance(&mut self, into_folder: bool) -> Result<(), VolumeError> {
        match self {
            Left::Manifest(stream) => {
                let past = stream.current().filter(|_| !into_folder).map(|entry| entry.path.clone());
                stream.advance().map_err(VolumeError::manifest)?;
                let Some(past) = past else { return Ok(()) };
                while stream.current().is_some_and(|entry| entry.path.starts_with(&past)) {
                    stream.advance().map_err(VolumeError::manifest)?;
                }
                Ok(())
            }
            Left::Disk { walker, current } => {
                if let Some(found) = current
                    && into_folder
                    && found.stat.is_folder()
                    && !found.path.is_root()
                {
                    walker.descend(name_of(&found.path))?;
                }
                *current = walker.next_found()?;
                Ok(())
            }
        }
    }

    /// Extents of the file it stands at; none where they are not known.
    pub(super) fn next_extent(&mut self) -> Result<Option<Extent>, VolumeError> {
        match self {
            Left::Manifest(stream) => stream.next_extent().map_err(VolumeError::manifest),
            Left::Disk { .. } => Ok(None),
        }
    }
}

/// Opens the manifest applied last.
pub(super) fn known<'f, F>(reader: &'f F, from: &ChunkId) -> Result<Left<'f, F>, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    let stream = ManifestStream::open(reader, from).map_err(VolumeError::manifest)?;
    Ok(Left::Manifest(Box::new(stream)))
}
