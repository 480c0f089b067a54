//! A file that takes up room, `SITE/reserve`: given up when the disk is full, so that what decides who runs a plan can
//! still be written down.
//!
//! 1. State files alone draw on it ([`crate::files`]): chunks stop earlier, at the reserve of the store.
//! 2. It is made again once there is plenty of room.
//!
//! After a crash it is there whole, or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::files;
use crate::site::{Site, layout};

/// Two hundred plans of 4 KiB that take a step each, ten times over.
const RESERVE_BYTES: u64 = 8 << 20;
/// It is made where this much is free.
const ROOM_BYTES: u64 = 8 * RESERVE_BYTES;
/// Between two looks whether it is there.
const LOOK_EVERY: Duration = Duration::from_secs(30);

impl Site {
    /// Runs until the daemon stops.
    pub(crate) async fn run_reserve(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            let dir = self.dir.clone();
            let kept = self.blocking("keeping a reserve", move || {
                keep(&dir).map_err(|source| crate::DaemonError::io("reserve room in", &dir, source))
            });
            if let Err(error) = kept.await {
                tracing::warn!("a full disk could stop a promotion: {error}");
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// Makes the reserve if it is not there and there is room for it.
fn keep(dir: &Path) -> io::Result<()> {
    let path = dir.join(layout::RESERVE);
    let disk = rustix::fs::statvfs(dir)?;
    if path.try_exists()? || disk.f_bavail.saturating_mul(disk.f_frsize) < ROOM_BYTES {
        return Ok(());
    }
    let temporary = path.with_added_extension("tmp");
    let made = fill(&temporary).and_then(|()| fs::rename(&temporary, &path));
    if made.is_err() {
        // What failed is told; what is left of it is in the way of the next.
        files::remove(&temporary).map_err(io::Error::other)?;
    }
    made?;
    files::sync_parent(&path)
}

/// Bytes that a file system that compresses cannot make less of.
fn fill(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut block = vec![0; 1 << 20];
    for _ in 0..RESERVE_BYTES >> 20 {
        noise.fill(&mut block);
        file.write_all(&block)?;
    }
    file.sync_all()
}

/// Gives up the reserve of the site that a state file belongs to, if that one could not be written for want of room.
pub(crate) fn give_up(file: &Path, error: &io::Error) -> bool {
    if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return false;
    }
    let Some(site) = file.ancestors().find(|folder| folder.join(layout::SITE).exists()) else { return false };
    match fs::remove_file(site.join(layout::RESERVE)) {
        Ok(()) => {
            tracing::error!("the disk of {site:?} is full: its reserve is given up to write {file:?}");
            true
        }
        // Somebody else has just given it up.
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => {
            tracing::error!("the reserve of {site:?} is not given up: {error}");
            false
        }
    }
}
