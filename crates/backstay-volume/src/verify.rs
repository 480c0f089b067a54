//! Comparing a replica with a manifest, and taking chunks out of it to repair a store.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use backstay_types::manifest::{Entry, Extent, FetchChunk, NodeKind, RelPath, VolumeKind};
use backstay_types::{ChunkId, Classify, HashKey};
use rustix::fs::{FileType, Mode, OFlags};

use crate::apply::{Left, Shown, Touched, is_zero, read_at, read_exact_or_short, single_size};
use crate::fs::{FolderStack, Stat, TimesHeld, XattrReader, safe};
use crate::manifest_in::ManifestStream;
use crate::mark::Change;
use crate::walk::{Found, Walker, name_of};
use crate::{Mark, Standing, VolumeError};

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

/// How a replica is compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look<'a> {
    /// What the last apply left: which times its file system can hold, and when it was over.
    pub mark: Option<&'a Mark>,
    /// Its application runs: what was changed, added or removed since the mark is none of our business.
    pub lives: bool,
}

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// It was made: the first [`MISMATCHES_MAX`] differences.
    Made(Vec<Mismatch>),
    /// The replica lives, and nothing of it is known to be the restore point's still.
    NotMade {
        /// Why, such as `it was changed`.
        why: String,
    },
}

/// Compares `target` with a manifest: names, types, attributes and every byte of content.
pub fn verify_replica<F>(
    reader: &F,
    root: &ChunkId,
    kind: VolumeKind,
    target: &Path,
    look: Look<'_>,
) -> Result<Comparison, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    let Look { mark, lives } = look;
    if lives && let Some(why) = not_left(mark, target, kind)? {
        return Ok(Comparison::NotMade { why });
    }
    match safe::open(target, OFlags::PATH, Mode::empty()) {
        Ok(_) => {}
        Err(error) if error.is_missing() => {
            return Ok(Comparison::Made(vec![Mismatch { path: RelPath::root(), why: "it is missing" }]));
        }
        Err(error) => return Err(error),
    }
    let stream = ManifestStream::open(reader, root).map_err(VolumeError::manifest)?;
    let mut check = Check {
        reader,
        stream,
        times: mark.map(Mark::times).unwrap_or_default(),
        lives: mark.filter(|_| lives),
        found: Vec::new(),
        inodes: HashMap::new(),
        xattrs: XattrReader::new(),
        buffer: Vec::new(),
    };
    if kind != VolumeKind::Block {
        check.tree(target)?;
        return Ok(Comparison::Made(check.found));
    }
    check.block(target)?;
    // It may have been written to while it was read.
    if lives
        && !check.found.is_empty()
        && let Some(why) = not_left(mark, target, kind)?
    {
        return Ok(Comparison::NotMade { why });
    }
    Ok(Comparison::Made(check.found))
}

/// Why a replica that lives is not known to be the one that was left; `None` if it is. Of an image one write changes all that
/// is known of it.
fn not_left(mark: Option<&Mark>, target: &Path, kind: VolumeKind) -> Result<Option<String>, VolumeError> {
    let Some(mark) = mark else { return Ok(Some("it is not known how it was left".to_owned())) };
    Ok(match mark.standing(target, kind)? {
        Standing::Same => None,
        Standing::NotMounted { mount } => Some(format!("{mount} is not mounted")),
        Standing::Other { why } => Some(why.to_owned()),
    })
}

struct Check<'f, F> {
    reader: &'f F,
    stream: ManifestStream<&'f F>,
    times: TimesHeld,
    /// Of a replica that lives: what was changed since is its application's.
    lives: Option<&'f Mark>,
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
    fn block(&mut self, target: &Path) -> Result<(), VolumeError> {
        let size = single_size(&self.stream)?;
        let file = File::from(safe::open(target, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?);
        let there = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
            .map_err(|e| VolumeError::io("find the size of", target, e))?;
        let is_image = Stat::of_fd(&file).map_err(|e| VolumeError::io("stat", target, e))?.is_file();
        match there.cmp(&size) {
            Ordering::Less => self.note(&RelPath::root(), "it is shorter"),
            // A device may be larger than what it holds.
            Ordering::Greater if is_image => self.note(&RelPath::root(), "it is longer"),
            _ => self.content(&RelPath::root(), &file, target)?,
        }
        Ok(())
    }

    fn tree(&mut self, target: &Path) -> Result<(), VolumeError> {
        let mut walker = Walker::open_replica(target)?;
        let stat = Stat::of_fd(walker.stack().current()).map_err(|e| VolumeError::io("stat", target, e))?;
        let mut seen = Some(Found { path: RelPath::root(), stat });
        while self.found.len() < MISMATCHES_MAX {
            let entry = self.stream.current().cloned();
            let order = match (&seen, &entry) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(found), Some(entry)) => found.path.cmp(&entry.path),
            };
            match (order, &seen, &entry) {
                (Ordering::Less, Some(found), _) => {
                    if self.lives.is_none() {
                        self.note(&found.path, "it is not in the restore point");
                    }
                    seen = walker.next_found()?;
                    continue;
                }
                (Ordering::Greater, _, Some(entry)) => self.note_missing(&entry.path),
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
        if self.lives.is_some_and(|mark| mark.is_changed(stat) != Change::No) {
            return Ok(());
        }
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
        if stat.mtime != self.times.held(entry.mtime) {
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
                } else {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    let fd = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(fail("open"))?;
                    let file = File::from(fd);
                    let before = self.found.len();
                    self.content(path, &file, stack.shown_root())?;
                    // It may have been written to while it was read.
                    let now = Stat::of_fd(&file).map_err(fail("stat"))?;
                    if self.lives.is_some_and(|mark| mark.is_changed(&now) != Change::No) {
                        self.found.truncate(before);
                    }
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

    /// Its application may have removed it, if it lives.
    fn note_missing(&mut self, path: &RelPath) {
        if self.lives.is_none() {
            self.note(path, "it is missing");
        }
    }

    fn note(&mut self, path: &RelPath, why: &'static str) {
        self.found.push(Mismatch { path: path.clone(), why });
    }
}

/// What somebody else changed in a replica since the apply that left `shown.mark`, by looking at every entry and at no content.
/// A target that is not the one that was left is `None`.
pub fn inspect<F>(
    reader: &F,
    shown: Shown<'_>,
    kind: VolumeKind,
    target: &Path,
) -> Result<Option<Touched>, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    if shown.mark.standing(target, kind)? != Standing::Same {
        return Ok(None);
    }
    if kind == VolumeKind::Block {
        return Ok(Some(Touched::default()));
    }
    let mut left = Left::open(reader, Some(shown), target)?;
    while left.path().is_some() {
        left.advance(true)?;
    }
    Ok(Some(left.touched))
}

/// Compares one in `one_in` chunks of content, chosen by `seed`: the first that differs. What the store lost is left out.
pub fn sample<F>(
    reader: &F,
    root: &ChunkId,
    target: &Path,
    one_in: u32,
    seed: u32,
) -> Result<Option<Mismatch>, VolumeError>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    // Ids are keyed hashes: any bits of one are as good as random.
    let is_taken = |id: &ChunkId| {
        let [a, b, c, d, ..] = id.0;
        (u32::from_le_bytes([a, b, c, d]) ^ seed).is_multiple_of(one_in.max(1))
    };
    let mut stream = ManifestStream::open(reader, root).map_err(VolumeError::manifest)?;
    let is_block = stream.root().kind == VolumeKind::Block;
    let mut stack = if is_block { None } else { Some(FolderStack::open(target)?) };
    let mut buffer = Vec::new();
    while let Some(entry) = stream.current().cloned() {
        let (mut at, mut file) = (0, None);
        while let Some(extent) = stream.next_extent().map_err(VolumeError::manifest)? {
            if let Extent::Data { id, .. } = extent
                && is_taken(&id)
                && let Ok(bytes) = reader.fetch(&id)
            {
                let file = file.get_or_insert_with(|| open_replica_file(stack.as_mut(), target, &entry.path));
                let same = match file {
                    Some(file) => read_at(file, at, &bytes, &mut buffer)
                        .map_err(|e| VolumeError::at("read", target, &entry.path, e))?,
                    None => false,
                };
                if !same {
                    return Ok(Some(Mismatch { path: entry.path, why: "its content differs" }));
                }
            }
            at += extent.len();
        }
        stream.advance().map_err(VolumeError::manifest)?;
    }
    Ok(None)
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
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Some(stack) = stack else { return safe::open(target, flags, Mode::empty()).ok().map(File::from) };
    let name = stack.go_to_parent(path).ok()?;
    rustix::fs::openat(stack.current(), name, flags, Mode::empty()).ok().map(File::from)
}
