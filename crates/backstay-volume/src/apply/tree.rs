//! The merge of what is there with what is to be.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use backstay_types::Classify;
use backstay_types::manifest::{Entry, FetchChunk, NodeKind, RelPath, Xattr};
use rustix::io::Errno;

use super::left::{Left, Shown, There};
use super::metadata::{self, Attributes, make_enterable};
use super::remove::remove;
use super::{ApplyReport, Right};
use crate::error::shown;
use crate::fs::{FolderStack, Stat, TimesHeld, XattrReader, safe};
use crate::mark;
use crate::{Progress, VolumeError};

/// `POSIX ACL` that a folder hands down to what is made in it.
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// An apply to a tree.
pub(crate) struct TreeApply<'a, 'f, F: FetchChunk> {
    /// Where content comes from.
    pub(super) content: &'a dyn FetchChunk<Error = F::Error>,
    /// A replica that shows the same manifest, whose files are cloned instead of being fetched.
    pub(super) donor: Option<FolderStack>,
    pub(super) right: Right<'f, F>,
    pub(super) left: Left<'f, F>,
    pub(super) stack: FolderStack,
    /// Stands where the first name of a group of hard links is.
    pub(super) link_stack: FolderStack,
    folders: Vec<OpenFolder>,
    /// First name of each group of hard links so far.
    pub(super) firsts: HashMap<u64, RelPath>,
    /// Groups whose first was made anew: their other names must be linked again.
    pub(super) replaced: HashSet<u64>,
    pub(super) xattrs: XattrReader,
    pub(super) progress: &'a Progress,
    pub(super) report: ApplyReport,
    /// Whether what stands in the way of the manifest goes.
    pub(super) removes: bool,
    /// What the file system makes of times, as far as it is known.
    pub(super) times: TimesHeld,
    /// It was seen to keep nanoseconds.
    pub(super) keeps_nanos: bool,
    /// Content of the target while it is compared.
    pub(super) buffer: Vec<u8>,
}

/// A folder of the new state whose content is being applied.
struct OpenFolder {
    entry: Entry,
    attributes: Pending,
    hands_down: bool,
}

/// What is to be done about a folder's own attributes once its content is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    Nothing,
    /// They may differ: look.
    Check,
    /// They differ, or its times were changed by what was done inside.
    Set,
}

impl<'a, 'f, F> TreeApply<'a, 'f, F>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    pub(crate) fn open(
        reader: &'f F,
        content: &'a dyn FetchChunk<Error = F::Error>,
        right: Right<'f, F>,
        shown: Option<Shown<'_>>,
        target: &Path,
        progress: &'a Progress,
    ) -> Result<Self, VolumeError> {
        let stack = FolderStack::at(safe::open_or_make_folder(target)?, target);
        let left = Left::open(reader, shown, target)?;
        let report = ApplyReport { compared_in_full: left.is_compared_in_full(), ..ApplyReport::default() };
        Ok(Self {
            content,
            donor: None,
            right,
            left,
            stack,
            link_stack: FolderStack::open(target)?,
            folders: Vec::new(),
            firsts: HashMap::new(),
            replaced: HashSet::new(),
            xattrs: XattrReader::new(),
            progress,
            report,
            removes: true,
            times: shown.map(|shown| shown.mark.times()).unwrap_or_default(),
            keeps_nanos: false,
            buffer: Vec::new(),
        })
    }

    /// Takes the content of files from a replica that shows the manifest, by cloning.
    pub(crate) fn cloning(mut self, donor: &Path) -> Result<Self, VolumeError> {
        self.donor = Some(FolderStack::open(donor)?);
        Ok(self)
    }

    /// Ends with an error where anything stands in the way, and leaves it.
    pub(crate) fn removing_nothing(mut self) -> Self {
        self.removes = false;
        self
    }

    pub(crate) fn run(mut self) -> Result<ApplyReport, VolumeError> {
        if self.right.current().is_none_or(|entry| !entry.path.is_root() || entry.kind != NodeKind::Directory)
        {
            return Err(VolumeError::Refused { path: ".".to_owned(), why: "the root is not a folder" });
        }
        while let Some(order) = self.order() {
            self.progress.step()?;
            match order {
                Ordering::Less => self.left_only()?,
                Ordering::Greater => self.right_only()?,
                Ordering::Equal => self.both()?,
            }
        }
        while let Some(folder) = self.folders.pop() {
            self.close_folder(&folder)?;
        }
        self.stack.go_to_folder(&RelPath::root())?;
        let wrote = self.report.changed > 0;
        mark::leave(self.stack.current(), wrote).map_err(|e| self.fail("touch", &RelPath::root(), e))?;
        rustix::fs::syncfs(self.stack.current()).map_err(|e| self.fail("sync", &RelPath::root(), e))?;
        self.report.touched = std::mem::take(&mut self.left.touched);
        self.report.times = self.times;
        Ok(self.report)
    }

    /// Which side comes next; `None` at the end of both.
    fn order(&self) -> Option<Ordering> {
        match (self.left.path(), self.right.current()) {
            (None, None) => None,
            (Some(_), None) => Some(Ordering::Less),
            (None, Some(_)) => Some(Ordering::Greater),
            (Some(left), Some(right)) => Some(left.cmp(&right.path)),
        }
    }

    fn left_only(&mut self) -> Result<(), VolumeError> {
        let Some(path) = self.left.path().cloned() else { return Ok(()) };
        self.close_folders_before(&path)?;
        self.touch_folder();
        let name = self.name(&path)?;
        self.clear_away(name)?;
        self.report.changed += 1;
        self.left.advance(false)
    }

    fn right_only(&mut self) -> Result<(), VolumeError> {
        let Some(entry) = self.right.current().cloned() else { return Ok(()) };
        self.enter_parent(&entry)?;
        self.make(&entry, None)?;
        self.done()
    }

    fn both(&mut self) -> Result<(), VolumeError> {
        let (Some(entry), Some(there)) = (self.right.current().cloned(), self.left.there()) else {
            return Ok(());
        };
        self.enter_parent(&entry)?;
        let into = entry.kind == NodeKind::Directory && there.is_folder();
        if there.fits(&entry) {
            self.update(&entry, &there)?;
        } else {
            let name = self.name(&entry.path)?;
            self.clear_away(name)?;
            self.make(&entry, Some(&there))?;
        }
        self.left.advance(into)?;
        self.done()
    }

    fn done(&mut self) -> Result<(), VolumeError> {
        self.progress.add_entry();
        self.report.entries += 1;
        self.right.advance()
    }

    /// Makes what is not there.
    fn make(&mut self, entry: &Entry, there: Option<&There>) -> Result<(), VolumeError> {
        self.report.changed += 1;
        self.touch_folder();
        self.replaced.extend(entry.links);
        match entry.kind {
            NodeKind::Directory => {
                self.make_folder(&entry.path)?;
                self.open_folder(entry, there, Pending::Set)
            }
            NodeKind::File { .. } => self.make_file(entry),
            NodeKind::HardLink { group } => self.make_link(entry, group),
            _ => self.make_special(entry),
        }
    }

    /// Brings what is there to what it should be.
    fn update(&mut self, entry: &Entry, there: &There) -> Result<(), VolumeError> {
        match (&entry.kind, there) {
            (NodeKind::Directory, There::Known(old)) => {
                let pending = if same_attributes(old, entry) { Pending::Nothing } else { Pending::Set };
                self.enter_folder(entry, there, pending)
            }
            (NodeKind::Directory, There::Seen(_)) => self.enter_folder(entry, there, Pending::Check),
            (NodeKind::File { .. }, _) => self.update_file(entry, there),
            (NodeKind::HardLink { group }, There::Known(_))
                if self.firsts.contains_key(group) && !self.replaced.contains(group) =>
            {
                Ok(())
            }
            (NodeKind::HardLink { group }, _) => {
                self.touch_folder();
                self.make_link(entry, *group)
            }
            (_, There::Known(old)) => {
                if same_attributes(old, entry) {
                    Ok(())
                } else {
                    self.set_name(entry)
                }
            }
            (_, There::Seen(stat)) => self.update_special(entry, stat),
        }
    }

    fn enter_folder(
        &mut self,
        entry: &Entry,
        there: &There,
        mut pending: Pending,
    ) -> Result<(), VolumeError> {
        if !entry.path.is_root() {
            let name = self.name(&entry.path)?;
            match make_enterable(self.stack.current(), name) {
                Ok(()) if entry.mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root() => {
                    pending = Pending::Set;
                }
                Ok(()) => {}
                Err(Errno::NOENT) => return Err(self.drifted(&entry.path, "a folder is missing")),
                Err(error) => return Err(self.fail("change mode of", &entry.path, error)),
            }
        }
        self.report.changed += u64::from(pending == Pending::Set);
        self.open_folder(entry, Some(there), pending)
    }

    fn open_folder(
        &mut self,
        entry: &Entry,
        there: Option<&There>,
        attributes: Pending,
    ) -> Result<(), VolumeError> {
        let has_default = |xattrs: &[Xattr]| xattrs.iter().any(|xattr| xattr.name == DEFAULT_ACL);
        let before = match there {
            Some(There::Known(old)) => has_default(&old.xattrs),
            Some(There::Seen(stat)) if stat.is_folder() => {
                self.stack.go_to_folder(&entry.path)?;
                let found = self.xattrs.of_fd(self.stack.current());
                has_default(&found.map_err(|e| self.fail("read attributes of", &entry.path, e))?)
            }
            _ => false,
        };
        // A folder that is made gets the default ACL of the one it is in.
        let above = self.folders.last().is_some_and(|folder| folder.hands_down);
        let hands_down = before || above || has_default(&entry.xattrs);
        self.folders.push(OpenFolder { entry: entry.clone(), attributes, hands_down });
        Ok(())
    }

    /// Whether what is made in the current folder may get attributes from it. After a stop in an earlier run it may
    /// have its new ones already, so both the old and the new count.
    pub(super) fn inherits(&self) -> Attributes {
        if self.folders.last().is_some_and(|folder| folder.hands_down) {
            Attributes::Compare
        } else {
            Attributes::Add
        }
    }

    /// Something is about to be made or removed in the current folder, which changes its times.
    pub(super) fn touch_folder(&mut self) {
        if let Some(folder) = self.folders.last_mut() {
            folder.attributes = Pending::Set;
        }
    }

    /// Checks what no honest manifest has, notes the first of a group, and goes to the folder of an entry.
    fn enter_parent(&mut self, entry: &Entry) -> Result<(), VolumeError> {
        let refused = |why| Err(VolumeError::Refused { path: entry.path.to_string(), why });
        self.close_folders_before(&entry.path)?;
        let parent = entry.path.split().map(|(parent, _)| parent);
        if parent.as_ref() != self.folders.last().map(|folder| &folder.entry.path) {
            return refused("it is not in a folder of the manifest");
        }
        if entry.uid == u32::MAX || entry.gid == u32::MAX {
            return refused("its owner is not a user");
        }
        if let Some(group) = entry.links
            && self.firsts.insert(group, entry.path.clone()).is_some()
        {
            return refused("its group of hard links has a first already");
        }
        match &entry.kind {
            NodeKind::Symlink { target } if target.is_empty() || target.contains(&0) => {
                refused("its target is not a path")
            }
            NodeKind::File { size } if i64::try_from(*size).is_err() => refused("its size is not a size"),
            _ => Ok(()),
        }
    }

    /// Ends the folders that `path` is not in.
    fn close_folders_before(&mut self, path: &RelPath) -> Result<(), VolumeError> {
        while let Some(folder) = self.folders.pop_if(|folder| !path.starts_with(&folder.entry.path)) {
            self.close_folder(&folder)?;
        }
        Ok(())
    }

    fn close_folder(&mut self, folder: &OpenFolder) -> Result<(), VolumeError> {
        if folder.attributes == Pending::Nothing {
            return Ok(());
        }
        let path = &folder.entry.path;
        self.stack.go_to_folder(path)?;
        if folder.attributes == Pending::Check {
            let stat = Stat::of_fd(self.stack.current()).map_err(|e| self.fail("stat", path, e))?;
            let found = || self.xattrs.of_fd(self.stack.current());
            let same = metadata::is_same(&stat, &folder.entry, &self.times, found);
            if same.map_err(|e| self.fail("read attributes of", path, e))? {
                return Ok(());
            }
            self.report.changed += 1;
        }
        let fd = self.stack.current();
        let result = metadata::set_fd(fd, &folder.entry, Attributes::Compare, &mut self.xattrs);
        result.map_err(|e| self.fail("set attributes of", path, e))?;
        if self.may_not_hold(&folder.entry) {
            self.see_time(&folder.entry, Stat::of_fd(self.stack.current()))?;
        }
        Ok(())
    }

    /// Goes to the folder of a path and returns its name there.
    pub(super) fn name<'p>(&mut self, path: &'p RelPath) -> Result<&'p [u8], VolumeError> {
        match self.stack.go_to_parent(path) {
            Err(error) if error.is_missing() || error.is_not_a_folder() => {
                if self.left.is_compared_in_full() {
                    Err(error)
                } else {
                    Err(self.drifted(path, "its folder is not there"))
                }
            }
            other => other,
        }
    }

    /// Removes what bears a name in the current folder.
    pub(super) fn clear_away(&mut self, name: &[u8]) -> Result<(), VolumeError> {
        if self.removes {
            return remove(&mut self.stack, name);
        }
        let path = self.stack.path().join(name)?;
        Err(VolumeError::NotEmpty { path: shown(self.stack.shown_root(), &path) })
    }

    /// Looks what became of a time that was set, where that may be another one.
    pub(super) fn see_time(
        &mut self,
        entry: &Entry,
        stat: rustix::io::Result<Stat>,
    ) -> Result<(), VolumeError> {
        let stat = stat.map_err(|e| self.fail("stat", &entry.path, e))?;
        if !self.times.learn(entry.mtime, stat.mtime) {
            self.keeps_nanos |= !entry.mtime.nanos.is_multiple_of(100);
        } else if self.report.not_held.is_none() {
            self.report.not_held = Some(shown(self.stack.shown_root(), &entry.path));
        }
        Ok(())
    }

    /// Whether the file system may make another time of this one.
    pub(super) fn may_not_hold(&self, entry: &Entry) -> bool {
        let is_common = (0..=i64::from(i32::MAX)).contains(&entry.mtime.secs);
        !is_common || (!self.keeps_nanos && entry.mtime.nanos != 0)
    }

    pub(super) fn drifted(&self, path: &RelPath, why: &'static str) -> VolumeError {
        VolumeError::Drifted { path: shown(self.stack.shown_root(), path), why }
    }

    pub(super) fn fail(
        &self,
        action: &'static str,
        path: &RelPath,
        source: impl Into<std::io::Error>,
    ) -> VolumeError {
        VolumeError::at(action, self.stack.shown_root(), path, source)
    }
}

/// Whether two entries agree in all but path and content.
pub(super) fn same_attributes(a: &Entry, b: &Entry) -> bool {
    a.mode == b.mode && a.uid == b.uid && a.gid == b.gid && a.mtime == b.mtime && a.xattrs == b.xattrs
}
