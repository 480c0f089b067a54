//! Comparing a replica with a manifest, and taking chunks out of it to repair a store.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use backstay_types::manifest::{Entry, Extent, FetchChunk, NodeKind, RelPath, VolumeKind};
use backstay_types::{ChunkId, Classify, HashKey};
use rustix::fs::{FileType, Mode, OFlags};

use crate::VolumeError;
use crate::apply::{is_zero, read_at, read_exact_or_short, single_size};
use crate::fs::{FolderStack, Stat, XattrReader};
use crate::manifest_in::ManifestStream;
use crate::walk::{Found, Walker, name_of};

/// Mismatches that are named; a replica with more is simply not that restore point.
pub const MISMATCHES_MAX: usize = 1000;

/// Something in which a replica differs from its restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Where, below the replica's root.
    pub path: RelPath,
    /// In what.
    pub why: &'static str,
}

/// Compares `target` with a manifest: names, types and attributes, and with `deep` every byte of content.
/// Returns the first [`MISMATCHES_MAX`] differences.
pub fn verify_replica<F>(
    reader: &F,
    root: &ChunkId,
    kind: VolumeKind,
    target: &Path,
    deep: bool,
) -> Result<Vec<Mismatch>, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    let stream = ManifestStream::open(reader, root).map_err(VolumeError::manifest)?;
    let mut check = Check {
        reader,
        stream,
        deep,
        found: Vec::new(),
        inodes: HashMap::new(),
        xattrs: XattrReader::new(),
        buffer: Vec::new(),
    };
    if kind == VolumeKind::Block {
        let size = single_size(&check.stream)?;
        let file = File::open(target).map_err(|source| VolumeError::io("open", target, source))?;
        let there = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0));
        if there.map_err(|e| VolumeError::io("find the size of", target, e))? < size {
            check.note(&RelPath::root(), "it is shorter");
        } else if deep {
            check.content(&RelPath::root(), &file, target)?;
        }
        return Ok(check.found);
    }
    check.tree(target)?;
    Ok(check.found)
}

struct Check<'f, F> {
    reader: &'f F,
    stream: ManifestStream<&'f F>,
    deep: bool,
    found: Vec<Mismatch>,
    /// Inode of each group of hard links.
    inodes: HashMap<u64, u64>,
    xattrs: XattrReader,
    buffer: Vec<u8>,
}

impl<F> Check<'_, F>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    fn tree(&mut self, target: &Path) -> Result<(), VolumeError> {
        let mut walker = Walker::open_replica(target)?;
        let stat = Stat::of_fd(walker.stack().current()).map_err(|e| VolumeError::io("stat", target, e))?;
        let mut seen = Some(Found { path: RelPath::root(), stat });
        while self.found.len() < MISMATCHES_MAX {
            let entry = self.stream.current().cloned();
            let order = match (&seen, &entry) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(found), Some(entry)) => found.path.cmp(&entry.path),
            };
            match (order, &seen, &entry) {
                (std::cmp::Ordering::Less, Some(found), _) => {
                    self.note(&found.path, "it is not in the restore point");
                    seen = walker.next_found()?;
                    continue;
                }
                (std::cmp::Ordering::Greater, _, Some(entry)) => self.note(&entry.path, "it is missing"),
                (_, Some(found), Some(entry)) => {
                    if found.stat.is_folder() && !found.path.is_root() {
                        walker.descend(name_of(&found.path))?;
                    }
                    self.entry(&walker, entry, &found.stat)?;
                    seen = walker.next_found()?;
                }
                _ => {}
            }
            self.stream.advance().map_err(VolumeError::manifest)?;
        }
        Ok(())
    }

    fn entry(&mut self, walker: &Walker, entry: &Entry, stat: &Stat) -> Result<(), VolumeError> {
        let (stack, path) = (walker.stack(), &entry.path);
        let (folder, name) = (stack.current(), name_of(path));
        let fail = |action| move |e: rustix::io::Errno| VolumeError::at(action, stack.shown_root(), path, e);
        let same_type = match &entry.kind {
            NodeKind::Directory => stat.is_folder(),
            NodeKind::File { .. } => stat.is_file(),
            // What it is was seen at the first, whose inode it must have.
            NodeKind::HardLink { .. } => !stat.is_folder(),
            NodeKind::Symlink { .. } => stat.file_type == FileType::Symlink,
            NodeKind::Fifo => stat.file_type == FileType::Fifo,
            NodeKind::Socket => stat.file_type == FileType::Socket,
            NodeKind::CharDevice(device) => {
                stat.file_type == FileType::CharacterDevice && stat.rdev == *device
            }
            NodeKind::BlockDevice(device) => stat.file_type == FileType::BlockDevice && stat.rdev == *device,
        };
        if !same_type {
            self.note(path, "it is something else");
            return Ok(());
        }
        if let NodeKind::HardLink { group } = entry.kind {
            if self.inodes.get(&group) != Some(&stat.ino) {
                self.note(path, "it is not a hard link to what it should be");
            }
            return Ok(());
        }
        if let Some(group) = entry.links {
            self.inodes.insert(group, stat.ino);
        } else if stat.nlink > 1 && !stat.is_folder() {
            self.note(path, "it has further names");
        }
        let is_link = matches!(entry.kind, NodeKind::Symlink { .. });
        if stat.mode != entry.mode && !is_link {
            self.note(path, "its mode differs");
        }
        if (stat.uid, stat.gid) != (entry.uid, entry.gid) {
            self.note(path, "its owner differs");
        }
        if stat.mtime != entry.mtime {
            self.note(path, "its modification time differs");
        }
        let xattrs = match entry.kind {
            NodeKind::Directory => self.xattrs.of_fd(folder),
            _ => self.xattrs.of_name(folder, name),
        };
        if xattrs.map_err(fail("read attributes of"))? != entry.xattrs {
            self.note(path, "its attributes differ");
        }
        match &entry.kind {
            NodeKind::Symlink { target } => {
                let there = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(fail("read link"))?;
                if there.as_bytes() != target.as_slice() {
                    self.note(path, "it points elsewhere");
                }
            }
            NodeKind::File { size } => {
                if stat.size != *size {
                    self.note(path, "its size differs");
                } else if self.deep {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    let fd = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(fail("open"))?;
                    self.content(path, &File::from(fd), stack.shown_root())?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn content(&mut self, path: &RelPath, file: &File, shown_root: &Path) -> Result<(), VolumeError> {
        let mut at = 0;
        while let Some(extent) = self.stream.next_extent().map_err(VolumeError::manifest)? {
            let same = match extent {
                Extent::Data { id, .. } => {
                    let bytes = self.reader.fetch(&id).map_err(VolumeError::fetch)?;
                    read_at(file, at, &bytes, &mut self.buffer)
                }
                Extent::Hole { len } => is_zero(file, at, len),
            };
            if !same.map_err(|e| VolumeError::at("read", shown_root, path, e))? {
                self.note(path, "its content differs");
                return Ok(());
            }
            at += extent.len();
        }
        Ok(())
    }

    fn note(&mut self, path: &RelPath, why: &'static str) {
        self.found.push(Mismatch { path: path.clone(), why });
    }
}

/// Looks in a replica for chunks that a store lost. Every one that is still there, unchanged, is handed to `take`.
/// Returns how many were found.
///
/// `reader` must still have the manifest itself. The id is checked, so a replica that moved on yields nothing wrong.
pub fn salvage<F>(
    reader: &F,
    root: &ChunkId,
    target: &Path,
    key: &HashKey,
    wanted: &HashSet<ChunkId>,
    mut take: impl FnMut(ChunkId, Vec<u8>) -> Result<(), VolumeError>,
) -> Result<usize, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    let mut stream = ManifestStream::open(reader, root).map_err(VolumeError::manifest)?;
    let is_block = stream.root().kind == VolumeKind::Block;
    let mut stack = if is_block { None } else { Some(FolderStack::open(target)?) };
    let mut done: HashSet<ChunkId> = HashSet::new();
    while let Some(entry) = stream.current().cloned() {
        let mut at = 0;
        while let Some(extent) = stream.next_extent().map_err(VolumeError::manifest)? {
            if let Extent::Data { id, len } = extent
                && wanted.contains(&id)
                && !done.contains(&id)
                && let Some(file) = open_replica_file(stack.as_mut(), target, &entry.path)
            {
                let mut bytes = vec![0; len as usize];
                let read = read_exact_or_short(&file, &mut bytes, at)
                    .map_err(|e| VolumeError::at("read", target, &entry.path, e))?;
                if read == bytes.len() && key.chunk_id(&bytes) == id {
                    take(id, bytes)?;
                    done.insert(id);
                }
            }
            at += extent.len();
        }
        stream.advance().map_err(VolumeError::manifest)?;
    }
    Ok(done.len())
}

/// A file of the replica, if it is there: what is not cannot help.
fn open_replica_file(stack: Option<&mut FolderStack>, target: &Path, path: &RelPath) -> Option<File> {
    let Some(stack) = stack else { return File::open(target).ok() };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let name = stack.go_to_parent(path).ok()?;
    rustix::fs::openat(stack.current(), name, flags, Mode::empty()).ok().map(File::from)
}
