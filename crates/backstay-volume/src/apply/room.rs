//! Making room: what a restore point does not have goes, and what is longer there is cut, before anything is written.

use std::path::Path;

use backstay_types::manifest::{FetchChunk, NodeKind, RelPath, VolumeKind};
use backstay_types::{ChunkId, Classify};
use rustix::fs::{Mode, OFlags};

use super::Right;
use super::left::{Left, There};
use super::remove::remove;
use crate::VolumeError;
use crate::fs::FolderStack;

/// Removes from a tree what `to` does not have, and cuts what is longer than there.
pub(super) fn make<F>(reader: &F, to: &ChunkId, target: &Path) -> Result<(), VolumeError>
where
    F: FetchChunk + Sync,
    F::Error: Classify + Send + Sync + 'static,
{
    let mut left = Left::open(reader, None, target)?;
    let mut right = Right::open(reader, to, RelPath::root(), VolumeKind::Directory)?;
    let mut stack = FolderStack::open(target)?;
    while let (Some(path), Some(there)) = (left.path().cloned(), left.there()) {
        while right.current().is_some_and(|entry| entry.path < path) {
            right.advance()?;
        }
        let entry = right.current().filter(|entry| entry.path == path);
        let mut into = false;
        match (entry, &there) {
            (Some(entry), _) if entry.kind == NodeKind::Directory && there.is_folder() => into = true,
            (Some(entry), There::Seen(stat)) if there.fits(entry) => {
                if let NodeKind::File { size } = entry.kind
                    && stat.is_file()
                    && stat.size > size
                {
                    cut(&mut stack, &path, size)?;
                }
            }
            _ => {
                let name = stack.go_to_parent(&path)?;
                remove(&mut stack, name)?;
            }
        }
        left.advance(into)?;
    }
    Ok(())
}

fn cut(stack: &mut FolderStack, path: &RelPath, size: u64) -> Result<(), VolumeError> {
    let name = stack.go_to_parent(path)?;
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(stack.current(), name, flags, Mode::empty())
        .and_then(|file| rustix::fs::ftruncate(file, size))
        .map_err(|source| VolumeError::at("set length of", stack.shown_root(), path, source))
}
