//! Whether anybody wrote to a source: a mark that is set before it is read, and a look at it afterwards.
//!
//! 1. What was written through a mapping before the mark shows in no time stamp, so everything is written out when the
//!    mark is set: a page that is clean marks its file when it is written again (test `a_mapped_write_is_seen`). A btrfs
//!    snapshot does so too, but later than the mark, and another volume may be read by then; and where none can be taken the
//!    source is read in place (test `a_subvolume_is_written_out_at_the_mark`).
//! 2. A time stamp tells of a change only if it is older than the mark by more than the clock and the file system can
//!    resolve, and by more than a write under way may take to land (test `time_stamps_are_no_finer_than_they_look`).
//! 3. Where nothing tells (tmpfs, network and unknown file systems, a device whose writes are not counted) nothing is
//!    proven, and why is said.
//! 4. A look reads nothing but names and inodes; a device is asked for its counters.

mod device;

use std::path::{Path, PathBuf};

use backstay_types::manifest::Mtime;
use backstay_types::plan::{SnapshotKind, VolumeSpec};
use rustix::fs::{Mode, OFlags};
use rustix::time::ClockId;

use crate::VolumeError;
use crate::fs::{Stat, safe};
use device::Counters;
pub(crate) use device::sectors;

/// A moment before which everything that was written is in the files of a source.
#[derive(Debug, Clone)]
pub struct QuietMark {
    pub(crate) since: Mtime,
    pub(crate) proof: Proof,
}

/// What tells of writes to a source after a mark.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// The time stamps of its inodes.
    Times,
    /// The write counters of its disk.
    Counters(Counters),
    /// Nothing, and why.
    Nothing(String),
}

/// What a look at a source found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuietLook {
    /// Nothing was written since it was read.
    Quiet,
    /// Something was.
    Written(Written),
    /// Nothing tells, and why.
    Untold(String),
}

/// What was written to a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// Entries that are new, gone or changed.
    pub entries: u64,
    /// Length of the files among them.
    pub bytes: u64,
    /// The first of them.
    pub paths: Vec<String>,
}

/// Longest time a write that was submitted may take until it is in the file. Its time stamp is that of its submission.
const IN_FLIGHT_NANOS: i128 = 20_000_000;

/// Nanoseconds that are zero: the file system keeps whole seconds, or pairs of them.
const WHOLE_SECONDS_NANOS: i128 = 2_000_000_000;

impl QuietMark {
    /// Writes out what was written to a source, and marks the moment. It may take as long as the disk needs: never while
    /// an application is held.
    pub fn set(spec: &VolumeSpec) -> Result<Self, VolumeError> {
        let path = crate::snapshot::checked_source(spec)?;
        let stat = rustix::fs::stat(path).map(Stat::from).map_err(|e| VolumeError::io("stat", path, e))?;
        let since = coarse_now();
        let proof = match spec.snapshot.provider {
            SnapshotKind::Command => {
                Proof::Nothing("nothing tells whether it was written between the snapshots".to_owned())
            }
            _ if stat.file_type == rustix::fs::FileType::BlockDevice => device::begin(path, &stat)?,
            _ => match kind_of_times(path)? {
                Ok(()) => {
                    write_out(path)?;
                    Proof::Times
                }
                Err(why) => Proof::Nothing(why),
            },
        };
        Ok(Self { since, proof })
    }

    /// The same for a further pass. Everything is written out once before the moment that is marked, so that little is
    /// left to be written out after it: beside a writer that rests now and then, a moment has to be short.
    pub(crate) fn set_again(spec: &VolumeSpec) -> Result<Self, VolumeError> {
        write_out(crate::snapshot::checked_source(spec)?)?;
        Self::set(spec)
    }

    /// Why nothing can tell of writes, if so.
    pub fn untold(&self) -> Option<&str> {
        match &self.proof {
            Proof::Nothing(why) => Some(why),
            Proof::Times | Proof::Counters(_) => None,
        }
    }
}

/// Whether an inode with this time stamp, looked at after the mark, was last written before it.
pub(crate) fn is_before(ctime: Mtime, since: Mtime) -> bool {
    let nanos = |time: Mtime| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let mut resolution = 1;
    while i128::from(ctime.nanos) % (resolution * 10) == 0 && resolution < WHOLE_SECONDS_NANOS {
        resolution *= 10;
    }
    nanos(ctime) + resolution.min(WHOLE_SECONDS_NANOS) + IN_FLIGHT_NANOS < nanos(since)
}

/// The clock that file systems stamp with.
fn coarse_now() -> Mtime {
    let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
    Mtime { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

/// Whether a file system stamps an inode when a clean page of it is written through a mapping, and sees every writer.
fn kind_of_times(path: &Path) -> Result<Result<(), String>, VolumeError> {
    let fs = rustix::fs::statfs(path).map_err(|e| VolumeError::io("look at the file system of", path, e))?;
    let magic = u32::try_from(fs.f_type).unwrap_or(0);
    Ok(match magic {
        EXT | XFS | BTRFS | F2FS | BCACHEFS | OVERLAY | JFS | VFAT | EXFAT => Ok(()),
        TMPFS | RAMFS => Err("tmpfs does not tell of writes through a mapping".to_owned()),
        NFS | SMB | CIFS | SMB2 | FUSE | CEPH | P9 => {
            Err("a network file system does not tell of the writes of other nodes".to_owned())
        }
        other => Err(format!("it is not known whether its file system ({other:#x}) tells of writes")),
    })
}

const EXT: u32 = 0xef53;
const XFS: u32 = 0x5846_5342;
const BTRFS: u32 = 0x9123_683e;
const F2FS: u32 = 0xf2f5_2010;
const BCACHEFS: u32 = 0xca45_1a4e;
const OVERLAY: u32 = 0x794c_7630;
const JFS: u32 = 0x3153_464a;
const VFAT: u32 = 0x4d44;
const EXFAT: u32 = 0x2011_bab0;
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;
const NFS: u32 = 0x6969;
const SMB: u32 = 0x517b;
const CIFS: u32 = 0xff53_4d42;
const SMB2: u32 = 0xfe53_4d42;
const FUSE: u32 = 0x6573_5546;
const CEPH: u32 = 0x00c3_6400;
const P9: u32 = 0x0102_1997;

/// `syncfs`, of the file system of a folder or file.
fn write_out(path: &Path) -> Result<(), VolumeError> {
    let fd = safe::open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
    rustix::fs::syncfs(&fd).map_err(|e| VolumeError::io("write out", path, e))
}

/// Looks at a device: whether its counters are those of the mark.
pub(crate) fn look_at_device(path: PathBuf, counters: &Counters) -> Result<QuietLook, VolumeError> {
    let stat = rustix::fs::stat(&path).map(Stat::from).map_err(|e| VolumeError::io("stat", &path, e))?;
    Ok(match device::begin(&path, &stat)? {
        Proof::Counters(now) if now == *counters => QuietLook::Quiet,
        Proof::Counters(_) => {
            QuietLook::Written(Written { entries: 1, bytes: 0, paths: vec![path.display().to_string()] })
        }
        Proof::Nothing(why) => QuietLook::Untold(why),
        Proof::Times => QuietLook::Untold("it is a device no more".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stamps_are_no_finer_than_they_look() {
        let at = |secs, nanos| Mtime { secs, nanos };
        let mark = at(1000, 500_000_001);
        assert!(is_before(at(1000, 400_000_003), mark), "a nanosecond is told from the next");
        assert!(!is_before(at(1000, 500_000_001), mark) && !is_before(at(1000, 600_000_001), mark));
        assert!(!is_before(at(1000, 490_000_003), mark), "what was submitted then may have landed after");
        assert!(!is_before(at(1000, 400_000_000), mark), "tenths of a second");
        assert!(
            !is_before(at(1000, 0), mark) && !is_before(at(999, 0), mark),
            "whole seconds, or pairs of them"
        );
        assert!(is_before(at(998, 0), mark) && is_before(at(-5, 1), mark));
    }
}
