//! Second pass over a tree: replays the scan's edit script, reads what must be read, and writes the manifest and
//! the new sent state.
//!
//! 1. A file's content and attributes are of one moment: it is looked at before and after it is read, and read again
//!    if the two differ; if it will not hold still the cycle fails with its name, unless the plan allows fuzzy
//!    points (test `a_file_that_keeps_changing_is_refused_or_fuzzy`).
//! 2. A file that vanished since the scan counts as deleted; if it was the first of several hard links, the next
//!    takes its place (test `vanished_files_count_as_deleted`).
//!
//! A crash leaves nothing but an unadopted state folder, which the next cycle removes.

mod file;
mod volume;

use std::collections::HashSet;
use std::fs::File;
use std::io;

use backstay_types::manifest::{Entry, NodeKind, RelPath};
use rustix::fs::FileType;

pub(crate) use volume::{Finish, finish_volume};
pub use volume::{VolumeRead, VolumeStats};

use crate::content::{BaseFile, ContentError, ContentOut, ContentReader, CutMode, Cutter};
use crate::error::shown;
use crate::extents::ExtentSpool;
use crate::fs::{FolderStack, Stat, XattrReader};
use crate::manifest_out::{ManifestOut, TreeOut};
use crate::scan::{Fresh, Op, SpoolReader};
use crate::snapshot::Clones;
use crate::state::{Parent, ParentStream, StatRecord, StateWriter};
use crate::{ChunkSink, Progress, VolumeContext, VolumeError};

/// Everything a second pass works on.
pub(crate) struct Reading<'a> {
    pub(crate) manifest: ManifestOut,
    pub(crate) state: StateWriter,
    pub(crate) sink: &'a mut dyn ChunkSink,
    pub(crate) progress: &'a Progress,
    pub(crate) content: ContentReader,
    pub(crate) extents: ExtentSpool,
    pub(crate) allow_fuzzy: bool,
    pub(crate) fuzzy: bool,
    /// A source was written while it was cloned.
    pub(crate) disturbed: bool,
    /// Bytes of chunks that are new against the parent, of all files so far.
    pub(crate) bytes_changed: u64,
    /// The same of the file read last: one that changed while it was read is read again, and counts once.
    bytes_new: u64,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(
        ctx: &VolumeContext,
        parent: Option<Parent>,
        state: StateWriter,
        sink: &'a mut dyn ChunkSink,
        progress: &'a Progress,
    ) -> Result<Self, VolumeError> {
        Ok(Self {
            manifest: ManifestOut::new(ctx.key.clone(), parent),
            extents: ExtentSpool::new(state.scratch_path("extents")),
            content: ContentReader::new(&ctx.key, Cutter::new(&ctx.params)?),
            state,
            sink,
            progress,
            allow_fuzzy: ctx.allow_fuzzy,
            fuzzy: false,
            disturbed: false,
            bytes_changed: 0,
            bytes_new: 0,
        })
    }

    /// Writes an entry without content.
    pub(crate) fn emit(&mut self, entry: Entry, record: &StatRecord) -> Result<(), VolumeError> {
        self.state.stat(record)?;
        self.progress.add_entry();
        let mut out = TreeOut { sink: &mut *self.sink, state: Some(&mut self.state) };
        self.manifest.entry(entry, &mut out)
    }

    /// Writes a file with the extents read last.
    pub(crate) fn emit_file(&mut self, entry: Entry, record: &StatRecord) -> Result<(), VolumeError> {
        self.bytes_changed += std::mem::take(&mut self.bytes_new);
        self.emit(entry, record)?;
        let Self { manifest, state, sink, extents, .. } = self;
        extents.drain(|group| {
            let mut out = TreeOut { sink: &mut **sink, state: Some(&mut *state) };
            manifest.extents(group, &mut out)
        })
    }

    /// Forgets what was read of a file that is not written: the next one begins with nothing.
    pub(crate) fn abandon_file(&mut self) -> Result<(), VolumeError> {
        self.extents.clear();
        self.bytes_new = 0;
        self.state.sectors.restart_file().map_err(|source| self.state.fail(source))
    }

    /// Writes the parent's current entry as it is.
    pub(crate) fn keep(&mut self, parent: &mut ParentStream) -> Result<(), VolumeError> {
        let Some((entry, record)) = parent.current().map(|(entry, record)| (entry.clone(), *record)) else {
            return Err(VolumeError::Refused {
                path: String::new(),
                why: "the scan kept an entry that is not there",
            });
        };
        let mut record = record;
        if let (NodeKind::File { size }, Some(first)) = (&entry.kind, record.sectors) {
            record.sectors = Some(self.state.keep_sectors(parent.parent(), first, *size)?);
        }
        self.emit(entry, &record)?;
        while let Some(extent) = parent.next_extent()? {
            // Extents come in groups of the manifest's records; single ones are gathered again by the spool.
            self.extents.push(extent).map_err(|source| self.state.fail(source))?;
        }
        let Self { manifest, state, sink, extents, .. } = self;
        extents.drain(|group| {
            let mut out = TreeOut { sink: &mut **sink, state: Some(&mut *state) };
            manifest.extents(group, &mut out)
        })
    }

    /// Reads `stat.size` bytes into extents and chunks. Returns how many there were, and where the fingerprints are.
    pub(crate) fn read_content(
        &mut self,
        source: &File,
        stat: &Stat,
        mode: CutMode,
        base: Option<&mut BaseFile<'_>>,
    ) -> Result<(u64, Option<u64>), ContentError> {
        self.extents.clear();
        self.bytes_new = 0;
        self.state.sectors.restart_file().map_err(ContentError::State)?;
        let first = self.state.sectors.position();
        // One sector cannot be patched by half.
        let with_sectors = stat.size > backstay_types::frame::patch::SECTOR_BYTES as u64;
        let mut out = ContentOut {
            extents: &mut self.extents,
            sectors: with_sectors.then_some(&mut self.state.sectors),
            sink: &mut *self.sink,
            progress: self.progress,
            bytes_new: 0,
        };
        let len = self.content.read(source, stat.size, stat.allocated < stat.size, mode, base, &mut out)?;
        self.bytes_new = out.bytes_new;
        Ok((len, with_sectors.then_some(first)))
    }
}

/// Reads a tree.
pub(crate) struct TreeReading<'a> {
    pub(crate) reading: Reading<'a>,
    stack: FolderStack,
    parent: Option<ParentStream>,
    clones: Option<&'a Clones>,
    xattrs: XattrReader,
    /// Groups of hard-linked files whose first name vanished.
    orphaned: HashSet<u64>,
    no_atime: bool,
}

impl<'a> TreeReading<'a> {
    pub(crate) fn new(
        reading: Reading<'a>,
        stack: FolderStack,
        parent: Option<&Parent>,
        clones: Option<&'a Clones>,
    ) -> Result<Self, VolumeError> {
        Ok(Self {
            reading,
            stack,
            parent: parent.map(Parent::stream).transpose()?,
            clones,
            xattrs: XattrReader::new(),
            orphaned: HashSet::new(),
            no_atime: true,
        })
    }

    /// Replays the script.
    pub(crate) fn run(&mut self, spool: &mut SpoolReader) -> Result<(), VolumeError> {
        while let Some(op) = spool.next_op()? {
            self.reading.progress.step()?;
            match op {
                Op::Keep => self.keep()?,
                Op::Skip => self.advance_parent()?,
                Op::Fresh(fresh) => {
                    let replaces = fresh.replaces;
                    self.fresh(*fresh)?;
                    if replaces {
                        self.advance_parent()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn advance_parent(&mut self) -> Result<(), VolumeError> {
        self.parent.as_mut().map_or(Ok(()), ParentStream::advance)
    }

    fn keep(&mut self) -> Result<(), VolumeError> {
        let Some(parent) = &mut self.parent else { return Ok(()) };
        let orphan = match parent.current() {
            Some((entry, record)) => match entry.kind {
                NodeKind::HardLink { group } if self.orphaned.contains(&group) => {
                    Some((entry.clone(), record.ino))
                }
                _ => None,
            },
            None => None,
        };
        match orphan {
            None => self.reading.keep(parent)?,
            Some((entry, ino)) => {
                if let Some(now) = self.stat(&entry.path)? {
                    // As the scan saw it: only files are orphaned.
                    let stat = Stat { ino, file_type: FileType::RegularFile, ..now };
                    self.fresh(Fresh { entry, stat, replaces: false, clone: None, settled: true })?;
                }
            }
        }
        self.advance_parent()
    }

    fn fresh(&mut self, fresh: Fresh) -> Result<(), VolumeError> {
        match fresh.entry.kind {
            NodeKind::File { .. } => self.file(&fresh, fresh.entry.links),
            NodeKind::HardLink { group } => self.further_link(fresh, group),
            _ => self.reading.emit(fresh.entry, &StatRecord::new(&fresh.stat)),
        }
    }

    fn further_link(&mut self, fresh: Fresh, group: u64) -> Result<(), VolumeError> {
        // Content of files alone is read now; of anything else, and of clones, the scan's view stands.
        if self.clones.is_some() || !fresh.stat.is_file() {
            return self.reading.emit(fresh.entry, &StatRecord::new(&fresh.stat));
        }
        match self.stat(&fresh.entry.path)? {
            None => Ok(()),
            // The name is another file now.
            Some(stat) if stat.ino != fresh.stat.ino => self.file(&fresh, None),
            Some(_) if self.orphaned.remove(&group) => self.file(&fresh, Some(group)),
            Some(_) => self.reading.emit(fresh.entry, &StatRecord::new(&fresh.stat)),
        }
    }

    /// Looks at a name again; `None` if it vanished.
    fn stat(&mut self, path: &RelPath) -> Result<Option<Stat>, VolumeError> {
        let looked = match self.stack.go_to_parent(path) {
            Ok(name) => Stat::of_name(self.stack.current(), name).map_err(io::Error::from),
            Err(error) if error.is_missing() || error.is_not_a_folder() => return Ok(None),
            Err(error) => return Err(error),
        };
        match looked {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(VolumeError::at("stat", self.stack.shown_root(), path, source)),
        }
    }

    fn shown(&self, path: &RelPath) -> String {
        shown(self.stack.shown_root(), path)
    }
}
