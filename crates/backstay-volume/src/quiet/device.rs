//! Writes to a block device, as the kernel counts them for the whole disk.
//!
//! 1. What is in the page cache of the device is written out before each look, so that a write through any node of it
//!    is counted by then (test `a_device_written_through_another_node_is_not_quiet`).
//! 2. A write under way is not counted until it has landed: with one, nothing is proven.
//! 3. A partition can be written through its disk, so the disk's counters are taken; a loop device can be written
//!    through its file, so the file is looked at as well.

use std::path::{Path, PathBuf};

use backstay_types::manifest::Mtime;
use rustix::fs::{Mode, OFlags, fsync};

use super::Proof;
use crate::VolumeError;
use crate::fs::{Stat, safe};

/// What was written to a disk since it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Sectors written, and discarded. Not how many requests did it: the kernel counts an empty one, a flush such as that of
    /// the look itself, as a write.
    sectors: [u64; 2],
    /// The file behind a loop device: inode, size, change.
    file: Option<(u64, u64, Mtime)>,
}

/// Fields of `/sys/dev/block/…/stat`, from 0 (Documentation/block/stat.rst).
const SECTORS: [usize; 2] = [6, 13];

/// The sectors written and discarded that `stat` of a disk or partition tells. `None` from a kernel before 4.18, which does
/// not count what is discarded.
pub(crate) fn sectors(stat: &str) -> Option<[u64; 2]> {
    let field = |index| stat.split_whitespace().nth(index)?.parse().ok();
    let [written, discarded] = SECTORS.map(field);
    Some([written?, discarded?])
}

/// Writes out what is cached of a device, and reads its counters.
pub(super) fn begin(path: &Path, stat: &Stat) -> Result<Proof, VolumeError> {
    let device = safe::open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
    fsync(&device).map_err(|e| VolumeError::io("write out", path, e))?;
    if crate::block::is_in_use(path)? {
        return Ok(Proof::Nothing("it is in use by another, who has not written out everything".to_owned()));
    }
    let node = format!("/sys/dev/block/{}:{}", stat.rdev.major, stat.rdev.minor);
    Ok(match counters(Path::new(&node)) {
        Some(counters) => Proof::Counters(counters),
        None => Proof::Nothing("the kernel does not count its writes, or one is under way".to_owned()),
    })
}

/// The counters of the disk that a device is of, or a part of.
fn counters(node: &Path) -> Option<Counters> {
    let node = std::fs::canonicalize(node).ok()?;
    let disk = if node.join("partition").exists() { node.parent()?.to_owned() } else { node };
    if read(&disk.join("queue/iostats"))?.trim() != "1" {
        return None;
    }
    let under_way: u64 = read(&disk.join("inflight"))?.split_whitespace().nth(1)?.parse().ok()?;
    if under_way > 0 {
        return None;
    }
    let sectors = sectors(&read(&disk.join("stat"))?)?;
    let backing = disk.join("loop/backing_file");
    let file = if backing.exists() { Some(look_at_file(&backing)?) } else { None };
    Some(Counters { sectors, file })
}

fn look_at_file(backing: &Path) -> Option<(u64, u64, Mtime)> {
    let path = PathBuf::from(read(backing)?.trim_end());
    let stat = Stat::from(rustix::fs::stat(&path).ok()?);
    Some((stat.ino, stat.size, stat.ctime))
}

/// A file of sysfs; one that cannot be read tells nothing.
fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}
