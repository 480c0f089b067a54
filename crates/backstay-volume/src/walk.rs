//! Walking a tree in manifest order, one listing per level in memory.

use std::path::Path;

use backstay_types::manifest::RelPath;
use rustix::io::Errno;

use crate::VolumeError;
use crate::fs::{FolderStack, Listing, Stat, proc_path};

/// Beginning of the names of snapshots that Backstay takes, and of its folders of clones. What else is called so is
/// content.
pub(crate) const SCRATCH_PREFIX: &str = ".backstay-snapshot-";
/// Attribute of a folder of clones, which tells it from a folder of that name.
pub(crate) const SCRATCH_MARK: &str = "user.backstay.scratch";
/// `BTRFS_FIRST_FREE_OBJECTID`: the root of a subvolume.
const SUBVOLUME_INO: u64 = 256;
/// `BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`: how a snapshot shows a subvolume that was inside its source.
pub(crate) const EMPTY_SUBVOLUME_INO: u64 = 2;

/// What a walk found.
pub(crate) struct Found {
    pub(crate) path: RelPath,
    pub(crate) stat: Stat,
}

/// Walks a tree depth first, each folder sorted. The caller decides which folders to go into.
pub(crate) struct Walker {
    stack: FolderStack,
    listings: Vec<Listing>,
    buffer: Vec<u8>,
    /// Leave out what belongs to snapshots.
    skips_scratch: bool,
}

impl Walker {
    /// Opens the root of a source and lists it.
    pub(crate) fn open_source(root: &Path) -> Result<Self, VolumeError> {
        Self::open(root, true)
    }

    /// Opens the root of a replica and lists it: nothing is left out.
    pub(crate) fn open_replica(root: &Path) -> Result<Self, VolumeError> {
        Self::open(root, false)
    }

    fn open(root: &Path, skips_scratch: bool) -> Result<Self, VolumeError> {
        let stack = FolderStack::open(root)?;
        let mut walker = Self { stack, listings: Vec::new(), buffer: Vec::new(), skips_scratch };
        walker.list()?;
        Ok(walker)
    }

    /// The folder that the entry found last is in.
    pub(crate) fn stack(&self) -> &FolderStack {
        &self.stack
    }

    /// The next entry; `None` when the root is done. What vanished since its folder was listed is left out.
    pub(crate) fn next_found(&mut self) -> Result<Option<Found>, VolumeError> {
        while let Some(listing) = self.listings.last_mut() {
            let Some(name) = listing.next_name() else {
                self.listings.pop();
                self.stack.leave()?;
                continue;
            };
            let path = self.stack.path().join(name)?;
            match Stat::of_name(self.stack.current(), name) {
                Ok(stat) if self.skips_scratch && is_scratch(&self.stack, name, &stat) => {}
                Ok(stat) => return Ok(Some(Found { path, stat })),
                Err(Errno::NOENT) => {}
                Err(source) => return Err(VolumeError::at("stat", self.stack.shown_root(), &path, source)),
            }
        }
        Ok(None)
    }

    /// Goes into the folder found last, and looks at it again: what is listed is of the folder that is described.
    /// `None` if the name vanished, or became something else than a folder, since its parent was listed.
    pub(crate) fn descend(&mut self, name: &[u8]) -> Result<Option<Stat>, VolumeError> {
        match self.stack.enter(name) {
            Ok(()) => {}
            Err(error) if error.is_missing() || error.is_not_a_folder() => return Ok(None),
            Err(error) => return Err(error),
        }
        match self.list() {
            // A folder that was removed can still be stood in, but not be listed.
            Err(error) if error.is_missing() => {
                self.stack.leave()?;
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(()) => {
                let (root, path) = (self.stack.shown_root(), self.stack.path());
                let stat = Stat::of_fd(self.stack.current());
                stat.map(Some).map_err(|source| VolumeError::at("stat", root, path, source))
            }
        }
    }

    /// Looks at a name of the current folder again; `None` if it is gone.
    pub(crate) fn look_again(&self, found: &Found) -> Result<Option<Found>, VolumeError> {
        let path = found.path.clone();
        match Stat::of_name(self.stack.current(), name_of(&path)) {
            Ok(stat) => Ok(Some(Found { path, stat })),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => Err(VolumeError::at("stat", self.stack.shown_root(), &path, source)),
        }
    }

    fn list(&mut self) -> Result<(), VolumeError> {
        let listing = Listing::read(self.stack.current(), &mut self.buffer).map_err(|source| {
            VolumeError::at("list folder", self.stack.shown_root(), self.stack.path(), source)
        })?;
        self.listings.push(listing);
        Ok(())
    }
}

/// Whether an entry is a snapshot or a folder of clones of ours, of this volume or of one whose root is in here.
fn is_scratch(stack: &FolderStack, name: &[u8], stat: &Stat) -> bool {
    if !name.starts_with(SCRATCH_PREFIX.as_bytes()) || !stat.is_folder() {
        return false;
    }
    let is_subvolume = || {
        let around = Stat::of_fd(stack.current()).ok();
        stat.ino == SUBVOLUME_INO && around.is_some_and(|around| around.dev != stat.dev)
    };
    // Nobody else can make one of these look like it.
    let is_private = stat.uid == rustix::process::geteuid().as_raw() && stat.mode & 0o7777 == 0o700;
    let is_marked = || {
        let path = proc_path(stack.current(), name);
        rustix::fs::lgetxattr(path.as_slice(), SCRATCH_MARK, &mut [0; 8]).is_ok()
    };
    stat.ino == EMPTY_SUBVOLUME_INO || is_subvolume() || (is_private && is_marked())
}

/// The last component of a path; empty for the root.
pub(crate) fn name_of(path: &RelPath) -> &[u8] {
    path.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default()
}
