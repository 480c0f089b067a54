//! First pass over a tree: what changed since the parent.
//!
//! A merge-join of the walk with the parent's manifest, both in path order and streaming, writes an edit script (the
//! spool): keep the parent's entry, drop it, or take a fresh one. Totals are known at its end, before a byte of
//! content is read; the second pass (`read`) replays it.
//!
//! 1. An entry is kept unread only if type, size, mtime, ctime, inode and device are those recorded, and its ctime is
//!    older than the previous scan by [`RACY_SECS`]: a change in the same tick of the clock cannot hide
//!    (test `a_change_right_after_a_scan_is_seen`).
//! 2. Nothing is skipped silently: a mount point, an unreadable folder or an unreadable attribute ends the scan with
//!    its path (test `an_unreadable_or_foreign_entry_fails_the_scan`).
//! 3. A tree with nothing of its own in it, where the parent has something, ends the scan as well: what a file system
//!    or a desktop leaves in an empty root is no content (test `a_fresh_file_system_is_an_empty_source`). Whether a
//!    tree is too much smaller is for whoever knows the last restore point.

mod leftovers;
mod links;
mod spool;

use std::path::Path;

use backstay_types::manifest::{Entry, Mtime, NodeKind, RelPath};
use rustix::fs::FileType;
use rustix::io::Errno;

use leftovers::is_leftover;
use links::{Links, Place};
pub(crate) use spool::{Fresh, Op, SpoolReader, SpoolWriter};

use crate::error::shown;
use crate::fs::{Stat, XattrReader};
use crate::quiet::is_before;
use crate::snapshot::Cloner;
use crate::state::{Parent, ParentStream, StatRecord};
use crate::walk::{EMPTY_SUBVOLUME_INO, Found, Walker, name_of};
use crate::{Cancel, VolumeError};

/// Margin for coarse clocks: time stamps of one second, and a kernel clock that lags by a tick.
const RACY_SECS: i64 = 2;

/// Looks at one name before a source is said to hold it never still.
const LOOKS_MAX: usize = 16;

/// What a scan found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanTotals {
    /// Entries of every kind.
    pub entries: u64,
    /// Length of all files, hard-linked files once.
    pub bytes: u64,
    /// Entries that must be read.
    pub read_entries: u64,
    /// Length of the files that must be read.
    pub read_bytes: u64,
    /// Nothing of its own is in it.
    pub is_bare: bool,
    /// The live tree lies on another file system than at the last acknowledged scan.
    pub has_moved: bool,
    /// Entries of the parent that are gone.
    pub gone_entries: u64,
}

impl ScanTotals {
    /// Whether the source is as the parent shows it.
    pub fn is_unchanged(&self) -> bool {
        self.read_entries == 0 && self.gone_entries == 0
    }
}

/// What a scan of a tree gives.
pub(crate) struct TreeScan {
    pub(crate) totals: ScanTotals,
    /// Device of the root.
    pub(crate) dev: u64,
    /// The first paths that are new, gone or changed.
    pub(crate) named: Vec<String>,
}

/// Paths that are named to people.
const NAMED_MAX: usize = 3;

/// How a tree is scanned.
pub(crate) struct ScanPlan<'a> {
    pub(crate) root: &'a Path,
    pub(crate) key: &'a backstay_types::HashKey,
    pub(crate) parent: Option<&'a Parent>,
    pub(crate) allow_empty: bool,
    /// The root is a snapshot, whose device number changes each time.
    pub(crate) is_snapshot: bool,
    /// The parent is of an earlier pass of this cycle, which was begun at this mark: time stamps are compared with it.
    pub(crate) since: Option<Mtime>,
    /// Making and removing a snapshot inside the volume has changed its root.
    pub(crate) ignores_root_ctime: bool,
}

struct Scan<'a> {
    plan: &'a ScanPlan<'a>,
    parent: Option<ParentStream>,
    /// The parent's stat records can be trusted.
    cache_valid: bool,
    root_dev: u64,
    links: Links,
    xattrs: XattrReader,
    spool: SpoolWriter,
    totals: ScanTotals,
    /// Entries of the parent that are content.
    parent_content: u64,
    named: Vec<String>,
    cloner: Option<&'a mut Cloner>,
}

/// Scans a tree into a spool.
pub(crate) fn scan_tree<'a>(
    plan: &'a ScanPlan<'a>,
    spool: SpoolWriter,
    cloner: Option<&'a mut Cloner>,
    cancel: &Cancel,
) -> Result<TreeScan, VolumeError> {
    let mut walker = Walker::open_source(plan.root)?;
    let root = Stat::of_fd(walker.stack().current()).map_err(|e| VolumeError::io("stat", plan.root, e))?;
    let same_device = |head_dev: u64| head_dev == root.dev || head_dev == 0 || plan.is_snapshot;
    let has_moved = plan.parent.is_some_and(|parent| !same_device(parent.head.dev));
    let mut scan = Scan {
        parent: plan.parent.map(Parent::stream).transpose()?,
        cache_valid: plan.parent.is_some_and(|parent| parent.is_held() && same_device(parent.head.dev)),
        root_dev: root.dev,
        links: Links::new(plan.key.clone()),
        xattrs: XattrReader::new(),
        spool,
        totals: ScanTotals { is_bare: true, has_moved, ..ScanTotals::default() },
        parent_content: 0,
        named: Vec::new(),
        cloner,
        plan,
    };
    scan.entry(&walker, &Found { path: RelPath::root(), stat: root })?;
    while let Some(found) = walker.next_found()? {
        cancel.step()?;
        scan.visit(&mut walker, found)?;
    }
    scan.finish_parent()?;
    if let Some(parent) = plan.parent
        && scan.totals.is_bare
        && scan.parent_content > 0
        && !plan.allow_empty
    {
        let path = plan.root.display().to_string();
        return Err(VolumeError::EmptySource { path, entries: parent.head.entries });
    }
    let Scan { spool, totals, named, .. } = scan;
    spool.finish()?;
    Ok(TreeScan { totals, dev: root.dev, named })
}

impl Scan<'_> {
    /// Takes in what a name is now. One that vanishes, or becomes something else, while it is looked at is looked at
    /// again: a source that is written is no error.
    fn visit(&mut self, walker: &mut Walker, found: Found) -> Result<(), VolumeError> {
        let mut now = Some(found);
        for _ in 0..LOOKS_MAX {
            let Some(found) = now else { return Ok(()) };
            if self.look(walker, &found)? {
                return Ok(());
            }
            self.links.forget(&found.stat);
            now = walker.look_again(&found)?;
        }
        match now {
            Some(found) => Err(VolumeError::Unsettled { path: shown(self.plan.root, &found.path) }),
            None => Ok(()),
        }
    }

    /// `false` if the name is not what was found any more.
    fn look(&mut self, walker: &mut Walker, found: &Found) -> Result<bool, VolumeError> {
        let foreign = found.stat.dev != self.root_dev
            // btrfs shows a nested subvolume inside a snapshot as an empty folder with this inode.
            || (self.plan.is_snapshot && found.stat.is_folder() && found.stat.ino == EMPTY_SUBVOLUME_INO);
        if foreign {
            return Err(VolumeError::MountPoint { path: shown(self.plan.root, &found.path) });
        }
        if found.stat.is_folder() {
            let Some(stat) = walker.descend(name_of(&found.path))? else { return Ok(false) };
            if stat.dev != found.stat.dev {
                return Err(VolumeError::MountPoint { path: shown(self.plan.root, &found.path) });
            }
            return self.entry(walker, &Found { path: found.path.clone(), stat }).map(|()| true);
        }
        match self.entry(walker, found) {
            Err(error) if error.is_replaced() => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Compares one entry with the parent. A folder is entered already.
    fn entry(&mut self, walker: &Walker, found: &Found) -> Result<(), VolumeError> {
        self.skip_parent_before(&found.path)?;
        let (kind, links) = self.kind(walker, found)?;
        let old =
            self.parent.as_ref().and_then(ParentStream::current).filter(|(old, _)| old.path == found.path);
        let replaces = old.is_some();
        let keep = old.is_some_and(|(entry, record)| {
            entry.links == links && self.is_unchanged(entry, record, &found.stat, &kind)
        });
        if keep {
            self.spool.keep()?;
        } else {
            let fresh = self.fresh(walker, found, kind.clone(), links, replaces)?;
            self.totals.read_entries += 1;
            self.totals.read_bytes += content_bytes(&fresh.entry.kind);
            if self.named.len() < NAMED_MAX {
                self.named.push(fresh.entry.path.to_string());
            }
            self.spool.fresh(&fresh)?;
        }
        self.totals.entries += 1;
        self.totals.bytes += content_bytes(&kind);
        self.totals.is_bare &= is_leftover(&found.path);
        if replaces { self.advance_parent() } else { Ok(()) }
    }

    fn advance_parent(&mut self) -> Result<(), VolumeError> {
        let Some(parent) = &mut self.parent else { return Ok(()) };
        self.parent_content +=
            u64::from(parent.current().is_some_and(|(entry, _)| !is_leftover(&entry.path)));
        parent.advance()
    }

    fn parent_path(&self) -> Option<&RelPath> {
        self.parent.as_ref().and_then(ParentStream::current).map(|(entry, _)| &entry.path)
    }

    fn note_gone(&mut self, path: String) {
        self.totals.gone_entries += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(path);
        }
    }

    fn skip_parent_before(&mut self, path: &RelPath) -> Result<(), VolumeError> {
        while let Some(gone) = self.parent_path().filter(|gone| *gone < path) {
            let gone = gone.to_string();
            self.note_gone(gone);
            self.spool.skip()?;
            self.advance_parent()?;
        }
        Ok(())
    }

    fn finish_parent(&mut self) -> Result<(), VolumeError> {
        while let Some(gone) = self.parent_path() {
            let gone = gone.to_string();
            self.note_gone(gone);
            self.spool.skip()?;
            self.advance_parent()?;
        }
        Ok(())
    }

    /// The kind and the group of an entry as the manifest will have them. The target of a link is left empty until
    /// it is needed.
    fn kind(&mut self, walker: &Walker, found: &Found) -> Result<(NodeKind, Option<u64>), VolumeError> {
        let stat = &found.stat;
        let kind = match stat.file_type {
            FileType::Directory => return Ok((NodeKind::Directory, None)),
            FileType::RegularFile => NodeKind::File { size: stat.size },
            FileType::Symlink => NodeKind::Symlink { target: Vec::new() },
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::CharacterDevice => NodeKind::CharDevice(stat.rdev),
            FileType::BlockDevice => NodeKind::BlockDevice(stat.rdev),
            FileType::Unknown => {
                let path = shown(walker.stack().shown_root(), &found.path);
                return Err(VolumeError::WrongKind {
                    path,
                    expected: "a kind of file that can be replicated",
                });
            }
        };
        Ok(match self.links.place(stat, &found.path) {
            Place::Alone => (kind, None),
            Place::First { group } => (kind, Some(group)),
            Place::Further { group } => (NodeKind::HardLink { group }, None),
        })
    }

    fn is_unchanged(&self, old: &Entry, record: &StatRecord, stat: &Stat, kind: &NodeKind) -> bool {
        let same_kind = match (&old.kind, kind) {
            (NodeKind::Symlink { .. }, NodeKind::Symlink { .. }) => true,
            (a, b) => a == b,
        };
        let Some(parent) = self.plan.parent else { return false };
        let is_old = match self.plan.since {
            Some(since) => is_before(record.ctime, since),
            None => record.ctime.secs < parent.head.scan_start - RACY_SECS,
        };
        let same_ctime = is_old && record.ctime == stat.ctime;
        // Names in the root are compared one by one.
        let is_our_root = self.plan.ignores_root_ctime
            && old.path.is_root()
            && (old.mode, old.uid, old.gid) == (stat.mode, stat.uid, stat.gid);
        self.cache_valid
            && same_kind
            && record.settled
            && (same_ctime || is_our_root)
            && record.ino == stat.ino
            && old.mtime == stat.mtime
    }

    fn fresh(
        &mut self,
        walker: &Walker,
        found: &Found,
        kind: NodeKind,
        links: Option<u64>,
        replaces: bool,
    ) -> Result<Fresh, VolumeError> {
        let Found { path, stat } = found;
        let folder = walker.stack().current();
        let name = name_of(path);
        let root = self.plan.root;
        let fail = |action| move |source: Errno| VolumeError::at(action, root, path, source);
        let (kind, xattrs) = match kind {
            NodeKind::Directory => {
                let xattrs = self.xattrs.of_fd(folder).map_err(fail("read attributes of"))?;
                (NodeKind::Directory, xattrs)
            }
            // Attributes of files are read with their content; those of further links are those of the first.
            NodeKind::File { .. } => match &mut self.cloner {
                Some(cloner) => return cloner.capture(walker, found, &mut self.xattrs, links, replaces),
                None => (kind, Vec::new()),
            },
            NodeKind::HardLink { .. } => (kind, Vec::new()),
            NodeKind::Symlink { .. } => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(fail("read link"))?;
                let xattrs = self.xattrs.of_name(folder, name).map_err(fail("read attributes of"))?;
                (NodeKind::Symlink { target: target.into_bytes() }, xattrs)
            }
            other => (other, self.xattrs.of_name(folder, name).map_err(fail("read attributes of"))?),
        };
        Ok(Fresh {
            entry: stat.entry(path.clone(), kind, links, xattrs),
            stat: *stat,
            replaces,
            clone: None,
            settled: true,
        })
    }
}

/// Bytes of content an entry stands for.
pub(crate) fn content_bytes(kind: &NodeKind) -> u64 {
    match kind {
        NodeKind::File { size } => *size,
        _ => 0,
    }
}
