//! What a path is mounted on.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};

/// The mount point that a path is at or below. Of a path that does not exist, that of the part that does.
pub(super) fn of(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|path| path.canonicalize().ok());
    let there = there.unwrap_or_else(|| PathBuf::from("/"));
    let mount = there.ancestors().find(|path| is_mount(path)).map(Path::to_owned);
    mount.unwrap_or_else(|| PathBuf::from("/"))
}

fn is_mount(path: &Path) -> bool {
    let Ok(stat) = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS) else {
        return false;
    };
    if stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    }
    // A kernel before 5.8 does not say; a subvolume then counts as a mount.
    let above = path.parent().and_then(|above| rustix::fs::stat(above).ok());
    let own = rustix::fs::stat(path).ok();
    above.map(|stat| stat.st_dev) != own.map(|stat| stat.st_dev)
}
