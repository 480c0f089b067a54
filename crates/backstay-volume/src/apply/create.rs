//! Making and changing single entries of a tree.

use std::fs::File;
use std::os::unix::fs::FileExt;

use backstay_types::Classify;
use backstay_types::manifest::{Device, Entry, Extent, FetchChunk, NodeKind, RelPath};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, makedev};
use rustix::io::Errno;

use super::clone::clone_content;
use super::content::{Differ, fetch, is_zero, punch, read_at};
use super::left::There;
use super::metadata::{self, Attributes, chmod_name};
use super::tree::{TreeApply, same_attributes};
use crate::VolumeError;
use crate::fs::{FolderStack, Stat};

/// What a folder or file has until its own mode is set.
const PRIVATE_FOLDER: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

const NEW: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const OLD: OFlags = OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

impl<F> TreeApply<'_, '_, F>
where
    F: FetchChunk,
    F::Error: Classify + Send + Sync + 'static,
{
    /// Makes a folder, or takes one that an earlier run made.
    pub(super) fn make_folder(&mut self, path: &RelPath) -> Result<(), VolumeError> {
        let name = self.name(path)?;
        match rustix::fs::mkdirat(self.stack.current(), name, PRIVATE_FOLDER) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(self.fail("create folder", path, error)),
        }
        let stat = Stat::of_name(self.stack.current(), name).map_err(|e| self.fail("stat", path, e))?;
        if stat.is_folder() && self.removes {
            return metadata::make_enterable(self.stack.current(), name)
                .map_err(|e| self.fail("change mode of", path, e));
        }
        self.clear_away(name)?;
        rustix::fs::mkdirat(self.stack.current(), name, PRIVATE_FOLDER)
            .map_err(|e| self.fail("create folder", path, e))
    }

    /// Makes a file with its content.
    pub(super) fn make_file(&mut self, entry: &Entry) -> Result<(), VolumeError> {
        let path = &entry.path;
        let name = self.name(path)?;
        let create = |stack: &FolderStack| rustix::fs::openat(stack.current(), name, NEW, PRIVATE_FILE);
        let mut opened = create(&self.stack);
        if matches!(opened, Err(Errno::EXIST)) {
            self.clear_away(name)?;
            opened = create(&self.stack);
        }
        let file = File::from(opened.map_err(|e| self.fail("create", path, e))?);
        match self.donor.take() {
            Some(mut donor) => {
                clone_content(&mut donor, entry, &file)?;
                self.donor = Some(donor);
                self.progress.step()?;
            }
            None => self.write_content(path, &file)?,
        }
        let how = self.inherits();
        metadata::set_fd(&file, entry, how, &mut self.xattrs)
            .map_err(|e| self.fail("set attributes of", path, e))?;
        if self.may_not_hold(entry) {
            self.see_time(entry, Stat::of_fd(&file))?;
        }
        Ok(())
    }

    /// Writes the extents of the current entry to a new file.
    fn write_content(&mut self, path: &RelPath, file: &File) -> Result<(), VolumeError> {
        let mut at = 0;
        let mut ends_in_hole = false;
        while let Some(extent) = self.right.next_extent()? {
            ends_in_hole = matches!(extent, Extent::Hole { .. });
            if let Extent::Data { id, len } = extent {
                self.progress.step()?;
                let bytes = fetch(self.content, &id, len)?;
                file.write_all_at(&bytes, at).map_err(|e| self.fail("write", path, e))?;
                self.report.bytes_written += u64::from(len);
            }
            at += extent.len();
            self.progress.add_bytes(extent.len());
        }
        if ends_in_hole {
            rustix::fs::ftruncate(file, at).map_err(|e| self.fail("set length of", path, e))?;
        }
        Ok(())
    }

    /// Changes what differs of a file that is there.
    pub(super) fn update_file(&mut self, entry: &Entry, there: &There) -> Result<(), VolumeError> {
        let NodeKind::File { size } = entry.kind else { return Ok(()) };
        let mut file = None;
        let written = match there {
            There::Known(old) => {
                let before = if let NodeKind::File { size } = old.kind { size } else { 0 };
                self.update_known(entry, size, before, &mut file)?
            }
            There::Seen(stat) => self.update_seen(entry, size, stat.size, &mut file)?,
        };
        let same = match there {
            _ if written => false,
            There::Known(old) => same_attributes(old, entry),
            There::Seen(stat) => {
                let found = || file.as_ref().map_or_else(|| Ok(Vec::new()), |file| self.xattrs.of_fd(file));
                metadata::is_same(stat, entry, &self.times, found)
                    .map_err(|e| self.fail("read attributes of", &entry.path, e))?
            }
        };
        if same {
            return Ok(());
        }
        match &file {
            None => self.set_name(entry),
            Some(file) => {
                self.report.changed += 1;
                let result = metadata::set_fd(file, entry, Attributes::Compare, &mut self.xattrs);
                result.map_err(|e| self.fail("set attributes of", &entry.path, e))?;
                if self.may_not_hold(entry) {
                    self.see_time(entry, Stat::of_fd(file))?;
                }
                Ok(())
            }
        }
    }

    /// Writes the extents that the old manifest does not have. Returns whether the file was written to.
    fn update_known(
        &mut self,
        entry: &Entry,
        size: u64,
        before: u64,
        file: &mut Option<File>,
    ) -> Result<bool, VolumeError> {
        let path = &entry.path;
        let mut differ = Differ::default();
        let mut at = 0;
        while let Some(extent) = self.right.next_extent()? {
            let left = &mut self.left;
            if !differ.is_same(at, &extent, || left.next_extent())? {
                self.progress.step()?;
                let file = self.opened(entry, file)?;
                let result = match extent {
                    Extent::Data { id, len } => file.write_all_at(&fetch(self.content, &id, len)?, at),
                    Extent::Hole { len } => punch(file, at, len),
                };
                result.map_err(|e| VolumeError::at("write", self.stack.shown_root(), path, e))?;
                self.report.bytes_written +=
                    if matches!(extent, Extent::Data { .. }) { extent.len() } else { 0 };
            }
            at += extent.len();
            self.progress.add_bytes(extent.len());
        }
        if size != before {
            self.progress.step()?;
            let file = self.opened(entry, file)?;
            rustix::fs::ftruncate(file, size).map_err(|e| self.fail("set length of", path, e))?;
        }
        Ok(file.is_some())
    }

    /// Compares the content with the file itself and writes what differs. Returns whether it was written to.
    fn update_seen(
        &mut self,
        entry: &Entry,
        size: u64,
        before: u64,
        slot: &mut Option<File>,
    ) -> Result<bool, VolumeError> {
        let path = &entry.path;
        // What nobody may write to can still be as it should be.
        let file = self.open_old(entry, READ)?;
        let file = slot.insert(file).try_clone().map_err(|e| self.fail("open", path, e))?;
        let mut writer = None;
        let mut written = size != before;
        if written {
            let writer = self.opened(entry, &mut writer)?;
            rustix::fs::ftruncate(writer, size).map_err(|e| self.fail("set length of", path, e))?;
        }
        let mut at = 0;
        while let Some(extent) = self.right.next_extent()? {
            self.progress.step()?;
            let fail = |e| VolumeError::at("compare", self.stack.shown_root(), path, e);
            match extent {
                Extent::Data { id, len } => {
                    let bytes = fetch(self.content, &id, len)?;
                    if !read_at(&file, at, &bytes, &mut self.buffer).map_err(fail)? {
                        let writer = self.opened(entry, &mut writer)?;
                        writer.write_all_at(&bytes, at).map_err(|e| self.fail("write", path, e))?;
                        self.report.bytes_written += u64::from(len);
                        written = true;
                    }
                }
                Extent::Hole { len } => {
                    if !is_zero(&file, at, len).map_err(fail)? {
                        let writer = self.opened(entry, &mut writer)?;
                        punch(writer, at, len).map_err(|e| self.fail("write", path, e))?;
                        written = true;
                    }
                }
            }
            at += extent.len();
            self.progress.add_bytes(extent.len());
        }
        Ok(written)
    }

    /// The file of an entry, opened when it is first needed.
    fn opened<'s>(&mut self, entry: &Entry, slot: &'s mut Option<File>) -> Result<&'s File, VolumeError> {
        if slot.is_none() {
            *slot = Some(self.open_old(entry, OLD)?);
        }
        slot.as_ref().ok_or_else(|| self.drifted(&entry.path, "it cannot be opened"))
    }

    fn open_old(&mut self, entry: &Entry, flags: OFlags) -> Result<File, VolumeError> {
        let path = &entry.path;
        let name = self.name(path)?;
        let mut opened = rustix::fs::openat(self.stack.current(), name, flags, Mode::empty());
        if matches!(opened, Err(Errno::ACCESS)) {
            chmod_name(self.stack.current(), name, PRIVATE_FILE)
                .map_err(|e| self.fail("change mode of", path, e))?;
            opened = rustix::fs::openat(self.stack.current(), name, flags, Mode::empty());
        }
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
                return Err(self.drifted(path, "it is not the file that was applied"));
            }
            Err(error) => return Err(self.fail("open", path, error)),
        };
        let stat = Stat::of_fd(&fd).map_err(|e| self.fail("stat", path, e))?;
        if !stat.is_file() || (stat.nlink > 1 && entry.links.is_none()) {
            return Err(self.drifted(path, "it shares its content with another name"));
        }
        Ok(File::from(fd))
    }

    /// Makes a further name of what is there; a symbolic link is linked itself and not followed.
    pub(super) fn make_link(&mut self, entry: &Entry, group: u64) -> Result<(), VolumeError> {
        let path = &entry.path;
        let Some(first) = self.firsts.get(&group).cloned() else {
            return Err(VolumeError::Refused {
                path: path.to_string(),
                why: "a hard link names a group that has no first",
            });
        };
        let name = self.name(path)?;
        let first_name = self.link_stack.go_to_parent(&first)?;
        for _ in 0..2 {
            let (from, to) = (self.link_stack.current(), self.stack.current());
            match rustix::fs::linkat(from, first_name, to, name, AtFlags::empty()) {
                Ok(()) => {
                    self.report.changed += 1;
                    return Ok(());
                }
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) if !self.left.is_compared_in_full() => {
                    return Err(self.drifted(&first, "it is not there to be linked"));
                }
                Err(error) => return Err(self.fail("link", path, error)),
            }
            let inode = |folder, name: &[u8]| Stat::of_name(folder, name).map(|stat| (stat.dev, stat.ino));
            let there = inode(to, name).map_err(|e| self.fail("stat", path, e))?;
            if inode(from, first_name).map_err(|e| self.fail("stat", &first, e))? == there {
                return Ok(());
            }
            self.clear_away(name)?;
        }
        Err(self.fail("link", path, Errno::EXIST))
    }

    /// Makes a link, pipe, socket or device.
    pub(super) fn make_special(&mut self, entry: &Entry) -> Result<(), VolumeError> {
        let path = &entry.path;
        let name = self.name(path)?;
        let mut made = make_node(self.stack.current(), name, &entry.kind);
        if matches!(made, Err(Errno::EXIST)) {
            self.clear_away(name)?;
            made = make_node(self.stack.current(), name, &entry.kind);
        }
        made.map_err(|e| self.fail("create", path, e))?;
        self.set_name(entry)
    }

    /// Compares a link, pipe, socket or device with the one seen, and changes what differs.
    pub(super) fn update_special(&mut self, entry: &Entry, stat: &Stat) -> Result<(), VolumeError> {
        let path = &entry.path;
        let name = self.name(path)?;
        if let NodeKind::Symlink { target } = &entry.kind {
            let found = rustix::fs::readlinkat(self.stack.current(), name, Vec::new())
                .map_err(|e| self.fail("read link", path, e))?;
            if found.as_bytes() != target.as_slice() {
                self.clear_away(name)?;
                self.touch_folder();
                return self.make_special(entry);
            }
        }
        let found = || self.xattrs.of_name(self.stack.current(), name);
        let same = metadata::is_same(stat, entry, &self.times, found)
            .map_err(|e| self.fail("read attributes of", path, e))?;
        if same { Ok(()) } else { self.set_name(entry) }
    }

    /// Sets the attributes of an entry by its name.
    pub(super) fn set_name(&mut self, entry: &Entry) -> Result<(), VolumeError> {
        self.report.changed += 1;
        let name = self.name(&entry.path)?;
        match metadata::set_name(self.stack.current(), name, entry, &mut self.xattrs) {
            Ok(()) if self.may_not_hold(entry) => {
                self.see_time(entry, Stat::of_name(self.stack.current(), name))
            }
            Ok(()) => Ok(()),
            Err(Errno::NOENT) if !self.left.is_compared_in_full() => {
                Err(self.drifted(&entry.path, "it is not there"))
            }
            Err(error) => Err(self.fail("set attributes of", &entry.path, error)),
        }
    }
}

fn make_node(folder: impl std::os::fd::AsFd, name: &[u8], kind: &NodeKind) -> rustix::io::Result<()> {
    let node = |file_type, device: Device| {
        rustix::fs::mknodat(
            folder.as_fd(),
            name,
            file_type,
            PRIVATE_FILE,
            makedev(device.major, device.minor),
        )
    };
    let none = Device { major: 0, minor: 0 };
    match kind {
        NodeKind::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), folder.as_fd(), name),
        NodeKind::Fifo => node(FileType::Fifo, none),
        NodeKind::Socket => node(FileType::Socket, none),
        NodeKind::CharDevice(device) => node(FileType::CharacterDevice, *device),
        NodeKind::BlockDevice(device) => node(FileType::BlockDevice, *device),
        NodeKind::Directory | NodeKind::File { .. } | NodeKind::HardLink { .. } => Err(Errno::INVAL),
    }
}
