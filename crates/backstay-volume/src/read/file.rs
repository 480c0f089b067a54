//! Reading one regular file of a tree.

use std::fs::File;
use std::io;
use std::time::Duration;

use backstay_types::manifest::{NodeKind, RelPath};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::TreeReading;
use crate::VolumeError;
use crate::content::{BaseFile, ContentError, CutMode};
use crate::fs::Stat;
use crate::scan::Fresh;
use crate::state::StatRecord;

/// How long to wait before a file that changed is read again: long enough for a save to end.
const SETTLE: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];

/// A fuzzy file larger than this is not read again in the hope that it holds still.
const FUZZY_RETRY_BYTES: u64 = 64 << 20;

/// What one attempt to read a file came to.
enum Outcome {
    /// It is in the manifest.
    Written,
    /// It changed while it was read, and should be read again.
    Changed,
    /// It is no file any more: it counts as deleted.
    Gone,
}

impl TreeReading<'_> {
    /// Reads a file, which belongs to a group of hard links or not.
    pub(super) fn file(&mut self, fresh: &Fresh, links: Option<u64>) -> Result<(), VolumeError> {
        if let (Some(clones), Some(number)) = (self.clones, fresh.clone) {
            let source = clones.open(number)?;
            return self.cloned_file(fresh, &source, links);
        }
        let mut attempt = 0;
        loop {
            let opened = self.open_file(&fresh.entry.path)?;
            let outcome = match &opened {
                Some(source) => self.live_file(fresh, source, links, attempt)?,
                None => Outcome::Gone,
            };
            match outcome {
                Outcome::Written => return Ok(()),
                Outcome::Gone => {
                    self.orphaned.extend(links);
                    // An earlier attempt has left extents.
                    return self.reading.abandon_file();
                }
                Outcome::Changed => {}
            }
            if let Some(pause) = SETTLE.get(attempt) {
                std::thread::sleep(*pause);
            }
            attempt += 1;
        }
    }

    fn cloned_file(&mut self, fresh: &Fresh, source: &File, links: Option<u64>) -> Result<(), VolumeError> {
        self.reading.disturbed |= !fresh.settled;
        let mut stat = fresh.stat;
        if let NodeKind::File { size } = fresh.entry.kind {
            stat.size = size;
        }
        let clone = Stat::of_fd(source).map_err(|e| self.fail("stat clone of", &fresh.entry.path, e))?;
        stat.allocated = clone.allocated;
        let (len, sectors) = self.content(fresh, source, &stat, true)?;
        let mut entry = fresh.entry.clone();
        (entry.kind, entry.links) = (NodeKind::File { size: len }, links);
        let record = StatRecord { settled: fresh.settled, sectors, ..StatRecord::new(&fresh.stat) };
        self.finish_file(entry, &record, len)
    }

    /// Reads a file in place.
    fn live_file(
        &mut self,
        fresh: &Fresh,
        source: &File,
        links: Option<u64>,
        attempt: usize,
    ) -> Result<Outcome, VolumeError> {
        let path = &fresh.entry.path;
        let before = Stat::of_fd(source).map_err(|e| self.fail("stat", path, e))?;
        if !before.is_file() {
            return Ok(Outcome::Gone);
        }
        let xattrs = self.xattrs.of_fd(source).map_err(|e| self.fail("read attributes of", path, e))?;
        let (len, sectors) = self.content(fresh, source, &before, attempt == 0)?;
        let after = Stat::of_fd(source).map_err(|e| self.fail("stat", path, e))?;
        let settled = len == before.size && after.unchanged_since(&before);
        if !settled {
            let retry =
                attempt < SETTLE.len() && !(self.reading.allow_fuzzy && before.size > FUZZY_RETRY_BYTES);
            if retry {
                return Ok(Outcome::Changed);
            }
            if !self.reading.allow_fuzzy {
                return Err(VolumeError::Unsettled { path: self.shown(path) });
            }
            self.reading.fuzzy = true;
        }
        // Another file took the name since the scan: it is no longer the first of its group.
        let links = if before.ino == fresh.stat.ino {
            links
        } else {
            self.orphaned.extend(links);
            None
        };
        let entry = before.entry(path.clone(), NodeKind::File { size: len }, links, xattrs);
        let record = StatRecord { settled, sectors, ..StatRecord::new(&before) };
        self.finish_file(entry, &record, len)?;
        Ok(Outcome::Written)
    }

    fn content(
        &mut self,
        fresh: &Fresh,
        source: &File,
        stat: &Stat,
        with_base: bool,
    ) -> Result<(u64, Option<u64>), VolumeError> {
        let path = &fresh.entry.path;
        let mut base = match &mut self.parent {
            Some(parent) if with_base && fresh.replaces => {
                match parent.current().map(|(entry, record)| (entry.clone(), *record)) {
                    Some((entry, record)) if entry.path == *path => match entry.kind {
                        NodeKind::File { size } => Some(BaseFile::new(parent, size, record.sectors)),
                        _ => None,
                    },
                    _ => None,
                }
            }
            _ => None,
        };
        let result = self.reading.read_content(source, stat, CutMode::Content, base.as_mut());
        result.map_err(|error| match error {
            ContentError::Read(source) => VolumeError::at("read", self.stack.shown_root(), path, source),
            ContentError::State(source) => self.reading.state.fail(source),
            ContentError::Volume(error) => error,
        })
    }

    fn finish_file(
        &mut self,
        entry: backstay_types::manifest::Entry,
        record: &StatRecord,
        len: u64,
    ) -> Result<(), VolumeError> {
        if record.sectors.is_some() {
            self.reading.state.sectors.end_file(len);
        }
        self.reading.emit_file(entry, record)
    }

    /// Opens a file; `None` if it vanished, or something else took its name. Reading it leaves its access time alone where that is allowed.
    fn open_file(&mut self, path: &RelPath) -> Result<Option<File>, VolumeError> {
        let name = match self.stack.go_to_parent(path) {
            Ok(name) => name,
            Err(error) if error.is_missing() || error.is_not_a_folder() => return Ok(None),
            Err(error) => return Err(error),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(self.stack.current(), name, flags, Mode::empty());
        let mut opened = if self.no_atime { open(flags | OFlags::NOATIME) } else { open(flags) };
        if self.no_atime && matches!(opened, Err(Errno::PERM)) {
            self.no_atime = false;
            opened = open(flags);
        }
        match opened {
            Ok(fd) => Ok(Some(File::from(fd))),
            // Gone, or a link or a device took the name.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NODEV) => Ok(None),
            Err(source) => Err(self.fail("open", path, source)),
        }
    }

    fn fail(&self, action: &'static str, path: &RelPath, source: impl Into<io::Error>) -> VolumeError {
        VolumeError::at(action, self.stack.shown_root(), path, source)
    }
}
