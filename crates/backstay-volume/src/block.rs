//! Volumes that are one device or image: a manifest of one file at the root path, cut at fixed places.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use backstay_types::manifest::{Mtime, NodeKind, RelPath};
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};

use crate::VolumeError;
use crate::content::{BaseFile, ContentError, CutMode};
use crate::fs::{Stat, safe};
use crate::quiet::{QuietLook, Written, is_before};
use crate::read::Reading;
use crate::scan::ScanTotals;
use crate::state::{Parent, StatRecord};

/// How the source is seen.
pub(crate) struct View {
    /// Not a snapshot: it may change while it is read.
    pub(crate) in_place: bool,
    /// What is read is a clone of this image, of which `false` says that it changed while it was cloned.
    pub(crate) original: Option<(Stat, bool)>,
    /// The parent is of an earlier pass of this cycle, which was begun at this mark.
    pub(crate) since: Option<Mtime>,
}

/// Times an image that changes while it is read is read again.
const RETRIES: usize = 2;

/// Margin of the stat cache; see `scan`.
const RACY_SECS: i64 = 2;

/// Looks at the source.
pub(crate) fn scan(
    path: &Path,
    parent: Option<&Parent>,
    view: &View,
    allow_empty: bool,
) -> Result<ScanTotals, VolumeError> {
    let (_, stat) = open(path)?;
    if let Some(parent) = parent {
        let root = parent.manifest_root()?;
        if stat.size == 0 && root.bytes > 0 && !allow_empty {
            return Err(VolumeError::EmptySource { path: path.display().to_string(), entries: root.entries });
        }
    }
    let read = !is_unchanged(parent, &view.shown(&stat), view)?;
    let read_bytes = if read { stat.size } else { 0 };
    Ok(ScanTotals {
        entries: 1,
        bytes: stat.size,
        read_entries: u64::from(read),
        read_bytes,
        is_bare: stat.size == 0,
        has_moved: false,
        gone_entries: 0,
    })
}

/// Reads it, unless it is an image that did not change.
pub(crate) fn read(
    reading: &mut Reading<'_>,
    path: &Path,
    parent: Option<&Parent>,
    view: &View,
) -> Result<(), VolumeError> {
    let (source, before) = open(path)?;
    if let Some(parent) = parent
        && is_unchanged(Some(parent), &view.shown(&before), view)?
    {
        return reading.keep(&mut parent.stream()?);
    }
    let is_device = before.file_type == FileType::BlockDevice;
    if is_device && view.in_place && is_in_use(path)? {
        // Writes to a device leave no trace in its node: in use means it may change.
        if !reading.allow_fuzzy {
            return Err(VolumeError::Unsettled { path: path.display().to_string() });
        }
        reading.fuzzy = true;
    }
    let mut attempt = 0;
    loop {
        let (source_stat, len, sectors, after) = read_once(reading, &source, path, parent, attempt == 0)?;
        let settled = len == source_stat.size && after.unchanged_since(&source_stat);
        if !settled && attempt < RETRIES && !reading.allow_fuzzy {
            attempt += 1;
            continue;
        }
        if !settled && !reading.allow_fuzzy {
            return Err(VolumeError::Unsettled { path: path.display().to_string() });
        }
        reading.fuzzy |= !settled;
        if sectors.is_some() {
            reading.state.sectors.end_file(len);
        }
        let shown = view.shown(&source_stat);
        let held_still = view.original.is_none_or(|(_, held_still)| held_still);
        reading.disturbed |= !held_still;
        let settled = settled && !is_device && held_still;
        let record = StatRecord { settled, sectors, ..StatRecord::new(&shown) };
        let entry = shown.entry(RelPath::root(), NodeKind::File { size: len }, None, Vec::new());
        return reading.emit_file(entry, &record);
    }
}

type ReadOnce = (Stat, u64, Option<u64>, Stat);

fn read_once(
    reading: &mut Reading<'_>,
    source: &File,
    path: &Path,
    parent: Option<&Parent>,
    with_base: bool,
) -> Result<ReadOnce, VolumeError> {
    let before = stat(source, path)?;
    let mut stream = match parent {
        Some(parent) if with_base => Some(parent.stream()?),
        _ => None,
    };
    let old = stream.as_ref().and_then(|s| s.current().map(|(entry, record)| (entry.clone(), *record)));
    let mut base = match (&mut stream, old) {
        (Some(stream), Some((entry, record))) => match entry.kind {
            NodeKind::File { size } => Some(BaseFile::new(stream, size, record.sectors)),
            _ => None,
        },
        _ => None,
    };
    let result = reading.read_content(source, &before, CutMode::Fixed, base.as_mut());
    let (len, sectors) = result.map_err(|error| match error {
        ContentError::Read(source) => VolumeError::io("read", path, source),
        ContentError::State(source) => reading.state.fail(source),
        ContentError::Volume(error) => error,
    })?;
    Ok((before, len, sectors, stat(source, path)?))
}

fn open(path: &Path) -> Result<(File, Stat), VolumeError> {
    let file = File::from(safe::open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?);
    let stat = stat(&file, path)?;
    Ok((file, stat))
}

/// The facts of the source; the size of a device is where it ends.
fn stat(file: &File, path: &Path) -> Result<Stat, VolumeError> {
    let fail = |source: rustix::io::Errno| VolumeError::io("stat", path, source);
    let mut stat = Stat::of_fd(file).map_err(fail)?;
    if stat.file_type == FileType::BlockDevice {
        stat.size = rustix::fs::seek(file, SeekFrom::End(0)).map_err(fail)?;
        stat.allocated = stat.size;
    }
    Ok(stat)
}

/// A mounted device cannot be opened exclusively.
pub(crate) fn is_in_use(path: &Path) -> Result<bool, VolumeError> {
    let flags = i32::try_from(OFlags::EXCL.bits()).unwrap_or(0);
    match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(true),
        Err(source) => Err(VolumeError::io("open", path, source)),
    }
}

impl View {
    /// The facts that are kept: a clone has an inode and times of its own, and those of its image count.
    fn shown(&self, stat: &Stat) -> Stat {
        self.original.map_or(*stat, |(original, _)| Stat { size: stat.size, ..original })
    }
}

/// Whether an image is as the parent shows it. A device never is known to be.
fn is_unchanged(parent: Option<&Parent>, stat: &Stat, view: &View) -> Result<bool, VolumeError> {
    let Some(parent) = parent else { return Ok(false) };
    if !(view.in_place || view.original.is_some()) || !stat.is_file() || !parent.is_held() {
        return Ok(false);
    }
    let stream = parent.stream()?;
    Ok(stream.current().is_some_and(|(entry, record)| {
        let is_old = match view.since {
            Some(since) => is_before(record.ctime, since),
            None => record.ctime.secs < parent.head.scan_start - RACY_SECS,
        };
        matches!(entry.kind, NodeKind::File { size } if size == stat.size)
            && record.settled
            && is_old
            && record.ino == stat.ino
            && record.ctime == stat.ctime
            && entry.mtime == stat.mtime
    }))
}

/// Looks at an image again: whether it is as the pass before has read it.
pub(crate) fn look_at_image(path: &Path, parent: &Parent, since: Mtime) -> Result<QuietLook, VolumeError> {
    let stat = rustix::fs::stat(path).map(Stat::from).map_err(|e| VolumeError::io("stat", path, e))?;
    let view = View { in_place: true, original: None, since: Some(since) };
    if is_unchanged(Some(parent), &stat, &view)? {
        return Ok(QuietLook::Quiet);
    }
    let paths = vec![path.display().to_string()];
    Ok(QuietLook::Written(Written { entries: 1, bytes: stat.size, paths }))
}
