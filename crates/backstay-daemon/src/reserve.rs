//! A file that takes up room, `SITE/reserve`: given up when the disk is full, so that a daemon starts, and what decides who
//! runs a plan can still be written down, with the manifests of a folder.
//!
//! 1. It is given up before something that must not wait for room ([`make_room`]), or when a state file finds none
//!    ([`give_up`]).
//! 2. It is made again once there is room.
//!
//! Left to others: whatever else writes to that file system may take what was given up. The store stops 16 MiB before the
//! end; replicas do not. After a crash it is there whole, or what was made of it is removed at the next look.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::files;
use crate::site::{Site, layout};

/// Two hundred plans of 4 KiB that take a step each, ten times over; or the originals of 4 000 objects that are held.
const RESERVE_BYTES: u64 = 8 << 20;
/// It is made where this much is free, of which the store leaves half.
const ROOM_BYTES: u64 = 32 << 20;
/// With less than this, what must not wait for room does not begin before the reserve is given up.
const LOW_BYTES: u64 = 4 << 20;
/// Between two looks whether it is there.
const LOOK_EVERY: Duration = Duration::from_secs(30);

impl Site {
    /// Runs until the daemon stops.
    pub(crate) async fn run_reserve(self: Arc<Self>) {
        let mut told = None;
        while !self.stop.is_cancelled() {
            let dir = self.dir.clone();
            let kept = self.blocking("keeping a reserve", move || {
                keep(&dir).map_err(|source| crate::DaemonError::io("reserve room in", &dir, source))
            });
            let failure = kept.await.err().map(|error| error.to_string());
            if let Some(failure) = failure.as_ref().filter(|failure| told.as_ref() != Some(*failure)) {
                tracing::warn!("a full disk could stop a promotion: {failure}");
            }
            told = failure;
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
    if path.try_exists()? {
        return Ok(());
    }
    let temporary = path.with_added_extension("tmp");
    // Of a daemon that was killed while it made one.
    files::remove(&temporary).map_err(io::Error::other)?;
    if free_bytes(dir)? < ROOM_BYTES {
        return Ok(());
    }
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

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Gives up the reserve of a site whose disk is all but full: before what must not stop half-way for want of room.
pub(crate) fn make_room(site: &Path) {
    match free_bytes(site) {
        Ok(free) if free < LOW_BYTES => drop(remove(site)),
        Ok(_) => {}
        Err(error) => tracing::warn!("the free space of {site:?} is not known: {error}"),
    }
}

/// Gives up the reserve of the site that a state file belongs to, if that one could not be written for want of room.
pub(crate) fn give_up(file: &Path, error: &io::Error) -> bool {
    if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return false;
    }
    let Some(site) = file.ancestors().find(|folder| folder.join(layout::SITE).exists()) else { return false };
    remove(site)
}

/// Whether there may be room now.
fn remove(site: &Path) -> bool {
    match fs::remove_file(site.join(layout::RESERVE)) {
        Ok(()) => {
            tracing::error!("the disk of {site:?} is full: its reserve is given up; make room");
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
