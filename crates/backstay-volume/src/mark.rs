//! What tells a replica that was left alone from one that was not.
//!
//! An apply that is over leaves a [`Mark`]: what identifies the root, and the time, by the clock of its own file system, from
//! which on every change is somebody else's. The root's change time is that time. It is set by the apply as the last thing it
//! does, nobody can set it otherwise, it is different after each apply, it lies in the file system itself, and so it
//! is unmounted, swapped, restored and rolled back with it; and it shows in no comparison of trees, as a token file or an
//! attribute would.
//!
//! 1. A root that was unmounted, swapped, made anew, rolled back or cut short stands otherwise than its mark says
//!    (tests in `marks`).
//! 2. What was changed in a tree since, by whatever means, has a change time at or after the mark's: content whose
//!    modification time was put back as well (test `an_edit_with_its_time_put_back_is_found`).
//! 3. Every doubt counts as another root, which is compared in full: a file system without the time of birth, a clock that is
//!    behind the mark, a device of which the kernel does not tell what was written.
//!
//! What is not found is a change made while the clock stood before the mark and was put forward again afterwards, by a
//! writer who also put size, mode, owner and modification time back.

mod device;
mod mount;

use std::path::Path;

use backstay_types::manifest::{Mtime, VolumeKind};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, Timespec, Timestamps, UTIME_OMIT};
use serde::{Deserialize, Serialize};

use self::device::Device;
use crate::VolumeError;
use crate::fs::{Stat, TimesHeld, safe};

/// XFS derives what it calls the id of a file system from the number of its device, which a restart may change.
const XFS_MAGIC: u64 = 0x5846_5342;

/// Looks, a millisecond apart, for the next step of a file system's clock.
const TICK_LOOKS_MAX: u32 = 12;

/// What a replica's root was when it was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// Where it was looked for.
    place: String,
    /// What was mounted there, or above it.
    mount: String,
    file_system: u64,
    inode: u64,
    /// When the inode was made, in seconds and nanoseconds; none where the file system does not tell.
    born: Option<(i64, u32)>,
    /// Length of an image or a device.
    bytes: Option<u64>,
    /// Seconds and nanoseconds: what was changed then or later, was changed by somebody else.
    changed: (i64, u32),
    #[serde(default)]
    device: Option<Device>,
    #[serde(default)]
    times: TimesHeld,
}

/// How a root stands to its mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is the same. Of a folder the content may be another; an image or a device was not written to.
    Same,
    /// Something was mounted there, and is not now.
    NotMounted {
        /// Where.
        mount: String,
    },
    /// It is not what was left.
    Other {
        /// In what.
        why: &'static str,
    },
}

impl Mark {
    /// Marks a root as it stands: what is changed in it from now on is somebody else's. A folder must be writable.
    pub fn set(root: &Path) -> Result<Mark, VolumeError> {
        match safe::open_folder(root) {
            Ok(folder) => touch(&folder).map_err(|source| VolumeError::io("touch", root, source))?,
            // An image or a device.
            Err(error) if error.is_not_a_folder() => {}
            Err(error) => return Err(error),
        }
        Mark::read(root, TimesHeld::default())
    }

    /// The mark of a root that was touched last by an apply.
    pub(crate) fn read(root: &Path, times: TimesHeld) -> Result<Mark, VolumeError> {
        let fail = |source| VolumeError::io("stat", root, source);
        // Only as a folder is what mounts itself on demand mounted.
        let open = match safe::open(root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.is_not_a_folder() => safe::open(root, OFlags::PATH, Mode::empty())?,
            opened => opened?,
        };
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = rustix::fs::statx(&open, "", AtFlags::EMPTY_PATH, wanted).map_err(fail)?;
        let disk = rustix::fs::fstatfs(&open).map_err(fail)?;
        let is_xfs = u64::try_from(disk.f_type).is_ok_and(|kind| kind == XFS_MAGIC);
        let file_system = if is_xfs { 0 } else { rustix::fs::fstatvfs(&open).map_err(fail)?.f_fsid };
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
        let bytes = match kind {
            FileType::RegularFile => Some(stat.stx_size),
            FileType::BlockDevice => Some(device::size(&open, root)?),
            _ => None,
        };
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Mark {
            place: root.to_string_lossy().into_owned(),
            mount: mount::of(root).to_string_lossy().into_owned(),
            file_system,
            inode: stat.stx_ino,
            born: has_birth.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
            bytes,
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            device: (kind == FileType::BlockDevice)
                .then(|| Device::of(stat.stx_rdev_major, stat.stx_rdev_minor)),
            times,
        })
    }

    /// How what is at `place` now stands to this mark.
    pub fn standing(&self, place: &Path, kind: VolumeKind) -> Result<Standing, VolumeError> {
        let now = match Mark::read(place, self.times) {
            Ok(now) if self.is_root_of(&now) => return Ok(self.same_root(&now, kind)),
            Ok(now) => Some(now),
            Err(error) if error.is_missing() || error.is_not_a_folder() => None,
            Err(error) => return Err(error),
        };
        if self.place == place.to_string_lossy() {
            let (was, is) = (Path::new(&self.mount), mount::of(place));
            if was != is && was.starts_with(&is) {
                return Ok(Standing::NotMounted { mount: self.mount.clone() });
            }
        }
        let why = if now.is_some() { "it is another one" } else { "it is not there" };
        Ok(Standing::Other { why })
    }

    /// Whether both are of one inode.
    fn is_root_of(&self, now: &Mark) -> bool {
        (self.file_system, self.inode, self.born) == (now.file_system, now.inode, now.born)
    }

    fn same_root(&self, now: &Mark, kind: VolumeKind) -> Standing {
        let other = |why| Standing::Other { why };
        if self.bytes != now.bytes {
            return other("it has another length");
        }
        if let Some(device) = &self.device {
            return match now.device.as_ref().map(|now| device.untouched(now)) {
                Some(Ok(())) => Standing::Same,
                Some(Err(why)) => other(why),
                None => other("it is not a device any more"),
            };
        }
        match kind {
            VolumeKind::Block if now.changed != self.changed => other("it was changed"),
            _ if now.changed < self.changed => other("it was put back to an earlier state"),
            _ if clock() < self.changed => other("the clock is behind the last apply"),
            _ => Standing::Same,
        }
    }

    /// Whether an inode was changed since.
    pub(crate) fn is_changed(&self, stat: &Stat) -> Change {
        let changed = (stat.ctime.secs, stat.ctime.nanos);
        match changed.cmp(&self.changed) {
            // Clocks of file systems tick in milliseconds: what was written last may have the mark's own time, and so
            // may what somebody else wrote right after it.
            std::cmp::Ordering::Equal if stat.ino == self.inode => Change::No,
            std::cmp::Ordering::Equal => Change::Perhaps,
            std::cmp::Ordering::Less => Change::No,
            std::cmp::Ordering::Greater => Change::Yes,
        }
    }

    /// Times as its file system holds them.
    pub fn times(&self) -> TimesHeld {
        self.times
    }
}

/// What a change time says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    No,
    Perhaps,
    Yes,
}

/// Sets the change time of a root to the present; after an apply that wrote, to a time later than that of all it wrote.
///
/// File systems of today stamp in steps of 1 to 10 ms. One that counts seconds is not waited for: what was written in the
/// last of them is compared once more by the next apply.
pub(crate) fn leave(root: impl std::os::fd::AsFd, wrote: bool) -> rustix::io::Result<()> {
    touch(root.as_fd())?;
    let written = Stat::of_fd(root.as_fd())?.ctime;
    let mut left = if wrote { TICK_LOOKS_MAX } else { 0 };
    while left > 0 && Stat::of_fd(root.as_fd())?.ctime <= written {
        std::thread::sleep(std::time::Duration::from_millis(1));
        touch(root.as_fd())?;
        left -= 1;
    }
    Ok(())
}

/// Sets the change time of a folder to the present, and nothing else.
fn touch(folder: impl std::os::fd::AsFd) -> rustix::io::Result<()> {
    let Mtime { secs, nanos } = Stat::of_fd(folder.as_fd())?.mtime;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: secs, tv_nsec: i64::from(nanos) },
    };
    rustix::fs::futimens(folder, &times)
}

/// The clock that file systems stamp changes with.
fn clock() -> (i64, u32) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    (now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
}
