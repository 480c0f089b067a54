//! What is at the target already: by looking, and of what was left alone since the last apply, by its manifest.
//!
//! Every entry is looked at, with one `stat`. One that is as the manifest applied last says, and whose inode was not changed
//! since that apply, is known, content and attributes; anything else was seen, and is compared.
//!
//! Memory: one segment of the manifest, the walk's listings, and the first [`NAMED_MAX`] names of what was changed.

use std::cmp::Ordering;

use backstay_types::manifest::{Entry, Extent, FetchChunk, NodeKind, RelPath};
use backstay_types::{ChunkId, Classify};
use rustix::fs::FileType;

use crate::VolumeError;
use crate::fs::Stat;
use crate::manifest_in::ManifestStream;
use crate::mark::{Change, Mark};
use crate::walk::{Found, Walker, name_of};

const OTHER_TIME: &str = "its modification time differs";

/// Changed entries that are named; the others are counted.
const NAMED_MAX: usize = 10;

/// What a target shows, if it was left alone: the manifest applied last, and the mark that apply left.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// The manifest.
    pub root: &'a ChunkId,
    /// The mark.
    pub mark: &'a Mark,
}

/// What somebody else changed in a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Entries changed, added or missing.
    pub count: u64,
    /// Entries changed in the last moment of the last apply, by it or right after, and folders whose time was changed.
    pub unsure: u64,
    /// The first of them, and what is seen of it.
    pub first: Vec<(RelPath, &'static str)>,
}

impl Touched {
    fn add(&mut self, path: &RelPath, why: &'static str) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push((path.clone(), why));
        }
    }
}

/// Streams what is at the target, in path order.
pub(crate) struct Left<'f, F> {
    walker: Walker,
    current: Option<Found>,
    last: Option<Last<'f, F>>,
    /// Whether the current entry is as the manifest applied last says.
    is_known: bool,
    pub(crate) touched: Touched,
}

/// What was applied last, as far as the walk.
struct Last<'f, F> {
    stream: ManifestStream<&'f F>,
    mark: Mark,
    /// The entry the stream stands at was met on the walk.
    is_over: bool,
}

/// What is there at a path.
pub(crate) enum There {
    /// As the manifest says.
    Known(Entry),
    /// As was seen.
    Seen(Stat),
}

impl There {
    pub(crate) fn is_folder(&self) -> bool {
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

impl<'f, F> Left<'f, F>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    /// Looks at a target.
    pub(crate) fn open(
        reader: &'f F,
        shown: Option<Shown<'_>>,
        target: &std::path::Path,
    ) -> Result<Self, VolumeError> {
        let walker = Walker::open_replica(target)?;
        let stat = Stat::of_fd(walker.stack().current()).map_err(|e| VolumeError::io("stat", target, e))?;
        let last = match shown {
            None => None,
            Some(shown) => {
                let stream = ManifestStream::open(reader, shown.root).map_err(VolumeError::manifest)?;
                Some(Last { stream, mark: shown.mark.clone(), is_over: false })
            }
        };
        let current = Some(Found { path: RelPath::root(), stat });
        let mut left = Self { walker, current, last, is_known: false, touched: Touched::default() };
        left.compare()?;
        Ok(left)
    }

    /// Whether nothing is known of the target but what is seen.
    pub(super) fn is_compared_in_full(&self) -> bool {
        self.last.is_none()
    }

    /// Path of what it stands at.
    pub(crate) fn path(&self) -> Option<&RelPath> {
        self.current.as_ref().map(|found| &found.path)
    }

    /// What it stands at.
    pub(crate) fn there(&self) -> Option<There> {
        let found = self.current.as_ref()?;
        let known = self.last.as_ref().filter(|_| self.is_known);
        match known.and_then(|last| last.stream.current()) {
            Some(entry) => Some(There::Known(entry.clone())),
            None => Some(There::Seen(found.stat)),
        }
    }

    /// Goes on; into the folder it stands at, or past it.
    pub(crate) fn advance(&mut self, into_folder: bool) -> Result<(), VolumeError> {
        let Some(found) = &self.current else { return Ok(()) };
        if let Some(last) = &mut self.last
            && last.stream.current().is_some_and(|entry| entry.path == found.path)
        {
            last.is_over = true;
        }
        if into_folder && found.stat.is_folder() {
            if !found.path.is_root() {
                self.walker.descend(name_of(&found.path))?;
            }
        } else if let Some(last) = &mut self.last {
            // What is not walked is not missed.
            while last.stream.current().is_some_and(|entry| entry.path.starts_with(&found.path)) {
                last.stream.advance().map_err(VolumeError::manifest)?;
            }
            last.is_over = false;
        }
        self.current = self.walker.next_found()?;
        self.compare()
    }

    /// Holds what it stands at against the manifest applied last.
    fn compare(&mut self) -> Result<(), VolumeError> {
        self.is_known = false;
        let Some(last) = &mut self.last else { return Ok(()) };
        let found = self.current.as_ref();
        // The entry it stood at before is over.
        while let Some(entry) = last.stream.current() {
            match found.map(|found| entry.path.cmp(&found.path)) {
                Some(Ordering::Greater) => break,
                Some(Ordering::Equal) => {
                    let Some(found) = found else { break };
                    let (differs, changed) =
                        (difference(entry, &found.stat, &last.mark), last.mark.is_changed(&found.stat));
                    match differs {
                        // The time of a folder tells that something in it was changed, which is told itself.
                        Some(OTHER_TIME) if found.stat.is_folder() => self.touched.unsure += 1,
                        None if changed == Change::Yes && found.stat.is_folder() => self.touched.unsure += 1,
                        Some(why) => self.touched.add(&found.path, why),
                        None if changed == Change::Yes => self.touched.add(&found.path, "it was changed"),
                        None => {
                            self.is_known = changed == Change::No;
                            self.touched.unsure += u64::from(changed == Change::Perhaps);
                        }
                    }
                    return Ok(());
                }
                Some(Ordering::Less) | None => {
                    if !last.is_over {
                        self.touched.add(&entry.path, "it is missing");
                    }
                    last.is_over = false;
                    last.stream.advance().map_err(VolumeError::manifest)?;
                }
            }
        }
        if let Some(found) = found {
            self.touched.add(&found.path, "it was added");
        }
        Ok(())
    }

    /// Extents of the file it stands at; none where they are not known.
    pub(super) fn next_extent(&mut self) -> Result<Option<Extent>, VolumeError> {
        match &mut self.last {
            Some(last) if self.is_known => last.stream.next_extent().map_err(VolumeError::manifest),
            _ => Ok(None),
        }
    }
}

/// In what an entry differs from what `stat` says of it.
fn difference(entry: &Entry, stat: &Stat, mark: &Mark) -> Option<&'static str> {
    let same_type = match &entry.kind {
        NodeKind::Directory => stat.is_folder(),
        NodeKind::File { .. } => stat.is_file(),
        NodeKind::HardLink { .. } => return stat.is_folder().then_some("it is something else"),
        NodeKind::Symlink { .. } => stat.file_type == FileType::Symlink,
        NodeKind::Fifo => stat.file_type == FileType::Fifo,
        NodeKind::Socket => stat.file_type == FileType::Socket,
        NodeKind::CharDevice(device) => stat.file_type == FileType::CharacterDevice && stat.rdev == *device,
        NodeKind::BlockDevice(device) => stat.file_type == FileType::BlockDevice && stat.rdev == *device,
    };
    let is_link = matches!(entry.kind, NodeKind::Symlink { .. });
    if !same_type {
        Some("it is something else")
    } else if matches!(entry.kind, NodeKind::File { size } if size != stat.size) {
        Some("its size differs")
    } else if !is_link && stat.mode != entry.mode {
        Some("its mode differs")
    } else if (stat.uid, stat.gid) != (entry.uid, entry.gid) {
        Some("its owner differs")
    } else if stat.mtime != mark.times().held(entry.mtime) {
        Some(OTHER_TIME)
    } else {
        None
    }
}
