//! Clones: each file to be read is cloned while the tree is scanned, and read from its clone.
//!
//! A clone shares the file's blocks and is atomic, so a file that is written all the time is read as it was at one
//! moment. The clones stand in a scratch folder on the same file system: beside the volume's root where that is
//! possible, else inside it, under a name that walks leave out.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use backstay_types::manifest::NodeKind;
use backstay_types::point::Atomicity;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::VolumeError;
use crate::error::shown;
use crate::fs::{Stat, XattrReader};
use crate::scan::Fresh;
use crate::walk::{Found, Walker, name_of};

/// The clones of one cycle.
pub(crate) struct Clones {
    /// The volume's source; for an image, the clone of it.
    source: PathBuf,
    scratch: Scratch,
    cloner: Option<Cloner>,
    /// The image that was cloned, and whether it held still meanwhile.
    original: Option<(Stat, bool)>,
}

/// Makes clones while a tree is scanned.
pub(crate) struct Cloner {
    scratch: PathBuf,
    next: u64,
}

struct Scratch {
    path: PathBuf,
    /// The volume's root and its modification time, if the folder had to be made inside it.
    inside: Option<(PathBuf, Timestamps)>,
    released: bool,
}

impl Clones {
    /// Makes the scratch folder. An image is cloned at once.
    pub(super) fn create(source: &Path, name: &str) -> Result<Self, VolumeError> {
        let fail = |why: io::Error| VolumeError::Snapshot {
            action: "take",
            provider: "reflink",
            path: source.display().to_string(),
            why: match why.raw_os_error() {
                Some(95 | 25 | 18 | 22) => format!("the file system cannot clone files: {why}"),
                _ => why.to_string(),
            },
        };
        let scratch = Scratch::create(source, name).map_err(fail)?;
        if source.is_dir() {
            scratch.probe().map_err(fail)?;
            let cloner = Cloner { scratch: scratch.path.clone(), next: 0 };
            return Ok(Self { source: source.to_owned(), scratch, cloner: Some(cloner), original: None });
        }
        let image = scratch.path.join("image");
        let original = File::open(source).map_err(fail)?;
        let clone = create_new(&image).map_err(fail)?;
        let stat = || Stat::of_fd(&original).map_err(|e| fail(e.into()));
        let before = stat()?;
        rustix::fs::ioctl_ficlone(&clone, &original).map_err(|e| fail(e.into()))?;
        let held_still = stat()?.unchanged_since(&before);
        Ok(Self { source: image, scratch, cloner: None, original: Some((before, held_still)) })
    }

    /// A tree is cloned file by file, an image by one call.
    pub(super) fn atomicity(&self) -> Atomicity {
        if self.cloner.is_some() { Atomicity::File } else { Atomicity::Volume }
    }

    pub(super) fn original(&self) -> Option<(Stat, bool)> {
        self.original
    }

    pub(super) fn source(&self) -> &Path {
        &self.source
    }

    pub(super) fn cloner(&mut self) -> Option<&mut Cloner> {
        self.cloner.as_mut()
    }

    /// Opens a clone to read it.
    pub(crate) fn open(&self, number: u64) -> Result<File, VolumeError> {
        let path = self.scratch.path.join(number.to_string());
        File::open(&path).map_err(|source| VolumeError::io("open", &path, source))
    }

    pub(super) fn release(&mut self) -> Result<(), VolumeError> {
        self.scratch.remove().map_err(|why| VolumeError::Snapshot {
            action: "release",
            provider: "reflink",
            path: self.source.display().to_string(),
            why: why.to_string(),
        })
    }
}

/// Whether files can be cloned here.
pub(super) fn clones_work(source: &Path, name: &str, is_image: bool) -> bool {
    // A device node cannot be cloned, whatever the file system it is on.
    if is_image && !source.is_file() {
        return false;
    }
    let Ok(mut scratch) = Scratch::create(source, name) else { return false };
    let works = scratch.probe().is_ok();
    works && scratch.remove().is_ok()
}

impl Cloner {
    /// Clones a file that the walk found, the first of several hard links or not, and reads its attributes.
    pub(crate) fn capture(
        &mut self,
        walker: &Walker,
        found: &Found,
        xattrs: &mut XattrReader,
        links: Option<u64>,
        replaces: bool,
    ) -> Result<Fresh, VolumeError> {
        let root = walker.stack().shown_root();
        let fail = |action| move |source: io::Error| VolumeError::at(action, root, &found.path, source);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = name_of(&found.path);
        let file = rustix::fs::openat(walker.stack().current(), name, flags, Mode::empty())
            .map_err(|e| fail("open")(e.into()))?;
        let before = Stat::of_fd(&file).map_err(|e| fail("stat")(e.into()))?;
        if before.ino != found.stat.ino {
            return Err(VolumeError::Unsettled { path: shown(root, &found.path) });
        }
        let number = self.next;
        self.next += 1;
        let clone = create_new(&self.scratch.join(number.to_string())).map_err(fail("clone"))?;
        rustix::fs::ioctl_ficlone(&clone, &file).map_err(|e| fail("clone")(e.into()))?;
        let attributes = xattrs.of_fd(&file).map_err(|e| fail("read attributes of")(e.into()))?;
        let after = Stat::of_fd(&file).map_err(|e| fail("stat")(e.into()))?;
        let size = clone.metadata().map_err(fail("stat clone of"))?.len();
        let settled = after.unchanged_since(&before) && size == before.size;
        let entry = before.entry(found.path.clone(), NodeKind::File { size }, links, attributes);
        Ok(Fresh { entry, stat: before, replaces, clone: Some(number), settled })
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

impl Scratch {
    fn create(source: &Path, name: &str) -> io::Result<Self> {
        let source = fs::canonicalize(source)?;
        let stat = fs::metadata(&source)?;
        let parent = source.parent().filter(|p| fs::metadata(p).is_ok_and(|m| m.dev() == stat.dev()));
        if let Some(parent) = parent
            && let Ok(path) = make_folder(&parent.join(name))
        {
            return Ok(Self { path, inside: None, released: false });
        }
        if !stat.is_dir() {
            return Err(io::Error::other("no room for a clone beside the image"));
        }
        let mtime = Timespec { tv_sec: stat.mtime(), tv_nsec: stat.mtime_nsec() };
        let atime = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: atime, last_modification: mtime };
        let path = make_folder(&source.join(name))?;
        let scratch = Self { path, inside: Some((source, times)), released: false };
        scratch.restore_mtime()?;
        Ok(scratch)
    }

    /// Tries a clone.
    fn probe(&self) -> io::Result<()> {
        let (from, to) = (self.path.join("probe-from"), self.path.join("probe-to"));
        create_new(&from)?.write_all(&[1; 4096])?;
        rustix::fs::ioctl_ficlone(create_new(&to)?, File::open(&from)?)?;
        fs::remove_file(from)?;
        fs::remove_file(to)
    }

    /// The scratch folder is not part of the volume: making and removing it must not show in its root.
    fn restore_mtime(&self) -> io::Result<()> {
        match &self.inside {
            Some((root, times)) => Ok(rustix::fs::futimens(File::open(root)?, times)?),
            None => Ok(()),
        }
    }

    fn remove(&mut self) -> io::Result<()> {
        if self.released {
            return Ok(());
        }
        self.released = true;
        fs::remove_dir_all(&self.path)?;
        self.restore_mtime()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove clones; the next cycle does");
        }
    }
}

/// Makes a folder of ours; what a killed cycle left there is removed first.
fn make_folder(path: &Path) -> io::Result<PathBuf> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(path)?;
    Ok(path.to_owned())
}
