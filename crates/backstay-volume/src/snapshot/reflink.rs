//! Clones: each file to be read is cloned while the tree is scanned, and read from its clone.
//!
//! A clone shares the file's blocks and is atomic, so a file that is written all the time is read as it was at one
//! moment. The clones stand in a scratch folder on the same file system: beside the volume's root where that is
//! possible, else inside it. It carries a mark by which walks leave it out.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use backstay_types::manifest::NodeKind;
use backstay_types::point::Atomicity;
use rustix::fs::{Mode, OFlags};

use super::duty::DutyFile;
use super::scratch::{Scratch, create_new};
use super::source::Target;
use crate::VolumeError;
use crate::error::shown;
use crate::fs::{Stat, XattrReader, safe};
use crate::scan::Fresh;
use crate::walk::{Found, Walker, name_of};

/// The clones of one cycle.
pub(crate) struct Clones {
    /// The volume's root; for an image, the clone of it.
    root: PathBuf,
    /// The volume's source, for messages.
    source: PathBuf,
    scratch: Scratch,
    cloner: Option<Cloner>,
    /// The image that was cloned, and whether it held still meanwhile.
    original: Option<(Stat, bool)>,
}

/// Makes clones while a tree is scanned.
pub(crate) struct Cloner {
    folder: OwnedFd,
    next: u64,
}

/// Name of the clone of an image.
const IMAGE: &str = "image";

impl Clones {
    /// Makes the scratch folder. An image is cloned at once.
    pub(super) fn create(
        source: &Path,
        name: &str,
        target: Target,
        duty: DutyFile,
    ) -> Result<Self, VolumeError> {
        let fail = |why: io::Error| VolumeError::Snapshot {
            action: "take",
            provider: "reflink",
            path: source.display().to_string(),
            why: match why.raw_os_error() {
                Some(95 | 25 | 18 | 22) => format!("the file system cannot clone files: {why}"),
                _ => why.to_string(),
            },
        };
        let original = safe::open(source, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        if target == Target::Block && !Stat::of_fd(&original).is_ok_and(|stat| stat.is_file()) {
            return Err(fail(io::Error::other("a device node cannot be cloned, only an image file")));
        }
        let scratch = Scratch::create(source, &original, name, duty)?;
        let source = source.to_owned();
        if target == Target::Tree {
            probe(&scratch).map_err(fail)?;
            let cloner = Cloner { folder: scratch.folder().map_err(fail)?, next: 0 };
            return Ok(Self { root: source.clone(), source, scratch, cloner: Some(cloner), original: None });
        }
        let clone = scratch.create_new(IMAGE).map_err(fail)?;
        let stat = || Stat::of_fd(&original).map_err(|e| fail(e.into()));
        let before = stat()?;
        rustix::fs::ioctl_ficlone(&clone, &original).map_err(|e| fail(e.into()))?;
        let held_still = stat()?.unchanged_since(&before);
        let root = scratch.path().join(IMAGE);
        Ok(Self { root, source, scratch, cloner: None, original: Some((before, held_still)) })
    }

    /// A tree is cloned file by file, an image by one call.
    pub(super) fn atomicity(&self) -> Atomicity {
        if self.cloner.is_some() { Atomicity::File } else { Atomicity::Volume }
    }

    pub(super) fn original(&self) -> Option<(Stat, bool)> {
        self.original
    }

    /// The root to walk, or the clone of the image.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn cloner(&mut self) -> Option<&mut Cloner> {
        self.cloner.as_mut()
    }

    /// Opens a clone to read it.
    pub(crate) fn open(&self, number: u64) -> Result<File, VolumeError> {
        self.scratch
            .open(&number.to_string())
            .map_err(|source| VolumeError::io("open the clone of a file of", &self.source, source))
    }

    pub(super) fn release(&mut self) -> Result<(), VolumeError> {
        self.scratch.release().map_err(|why| VolumeError::Snapshot {
            action: "release",
            provider: "reflink",
            path: self.source.display().to_string(),
            why: why.to_string(),
        })
    }
}

/// Whether files of a volume can be cloned, tried with files that have no name: nothing in the volume shows it.
pub(super) fn can_clone(source: &Path, target: Target) -> Result<bool, VolumeError> {
    let folder = match target {
        Target::Tree => safe::open_folder(source)?,
        Target::Block => {
            let image = safe::open(source, OFlags::PATH, Mode::empty())?;
            if !Stat::of_fd(&image).is_ok_and(|stat| stat.is_file()) {
                return Ok(false);
            }
            let place = std::fs::read_link(safe::path_of(&image))
                .map_err(|error| VolumeError::io("find the place of", source, error))?;
            safe::open_folder(place.parent().unwrap_or(Path::new("/")))?
        }
    };
    let unnamed = || -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&folder, ".", flags, Mode::RUSR | Mode::WUSR)?.into())
    };
    let tried = || {
        let from = unnamed()?;
        (&from).write_all(&[1; 4096])?;
        rustix::fs::ioctl_ficlone(unnamed()?, &from)?;
        io::Result::Ok(())
    };
    Ok(tried().is_ok())
}

/// Tries a clone.
fn probe(scratch: &Scratch) -> io::Result<()> {
    const PROBES: [&str; 2] = ["probe-from", "probe-to"];
    let [from, to] = PROBES;
    scratch.create_new(from)?.write_all(&[1; 4096])?;
    rustix::fs::ioctl_ficlone(scratch.create_new(to)?, scratch.open(from)?)?;
    PROBES.into_iter().try_for_each(|name| scratch.remove_file(name))
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
        let clone = create_new(&self.folder, &number.to_string()).map_err(fail("clone"))?;
        rustix::fs::ioctl_ficlone(&clone, &file).map_err(|e| fail("clone")(e.into()))?;
        let attributes = xattrs.of_fd(&file).map_err(|e| fail("read attributes of")(e.into()))?;
        let after = Stat::of_fd(&file).map_err(|e| fail("stat")(e.into()))?;
        let size = clone.metadata().map_err(fail("stat clone of"))?.len();
        let settled = after.unchanged_since(&before) && size == before.size;
        let entry = before.entry(found.path.clone(), NodeKind::File { size }, links, attributes);
        Ok(Fresh { entry, stat: before, replaces, clone: Some(number), settled })
    }
}
