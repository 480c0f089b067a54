//! Who is there: a lock for each seat, `SITE/keeper/SEAT`, held by a process for as long as it lives (`flock`).
//!
//! Whoever only looks shares the lock for a moment; who takes a seat therefore tries for a little while. A child that a
//! process starts does not inherit it: the files are closed when it becomes another program.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::KeeperError;

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(10);
/// A look lasts microseconds.
const TRIES: u32 = 5;

/// What one process of a site is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seat {
    /// The daemon.
    Daemon,
    /// The keeper.
    Keeper,
    /// The guard.
    Guard,
    /// The guard that is to follow on the one there is.
    NextGuard,
    /// Whoever renews.
    Lease,
}

impl Seat {
    const fn file(self) -> &'static str {
        match self {
            Seat::Daemon => "daemon",
            Seat::Keeper => "keeper",
            Seat::Guard => "guard",
            Seat::NextGuard => "guard-next",
            Seat::Lease => "lease",
        }
    }
}

/// The seats of a site.
#[derive(Debug, Clone)]
pub(crate) struct Locks {
    folder: PathBuf,
}

/// A seat, until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    _file: File,
}

impl Locks {
    /// Makes the folder.
    pub(crate) fn open(dir: &Path) -> Result<Self, KeeperError> {
        let folder = dir.join("keeper");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|source| KeeperError::Io { action: "make folder", path: folder.clone(), source })?;
        Ok(Self { folder })
    }

    /// Takes a seat; `None` if somebody has it.
    pub(crate) fn take(&self, seat: Seat) -> Result<Option<Taken>, KeeperError> {
        let file = self.file(seat)?;
        for tried in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Taken { _file: file })),
                Err(TryLockError::WouldBlock) if tried + 1 < TRIES => std::thread::sleep(AGAIN),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(self.error("lock", seat, source)),
            }
        }
        Ok(None)
    }

    /// Takes a seat as soon as it is empty; `None` if it is not within `patience`.
    pub(crate) async fn take_within(
        &self,
        seat: Seat,
        patience: Duration,
    ) -> Result<Option<Taken>, KeeperError> {
        let mut waited = Duration::ZERO;
        loop {
            let taken = self.take(seat)?;
            if taken.is_some() || waited >= patience {
                return Ok(taken);
            }
            tokio::time::sleep(5 * AGAIN).await;
            waited += 5 * AGAIN + AGAIN * TRIES;
        }
    }

    /// Whether somebody has a seat.
    pub(crate) fn is_taken(&self, seat: Seat) -> Result<bool, KeeperError> {
        match self.file(seat)?.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(self.error("look at the lock", seat, source)),
        }
    }

    /// Whether somebody has a seat; what was known before, where that cannot be seen now.
    pub(crate) fn sees(&self, seat: Seat, before: bool) -> bool {
        self.is_taken(seat).unwrap_or_else(|error| {
            tracing::error!("{error}");
            before
        })
    }

    fn file(&self, seat: Seat) -> Result<File, KeeperError> {
        let path = self.folder.join(seat.file());
        let made = || OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        // Read-only where it is there: on a disk that has become read-only everybody is seen as before.
        let open = || File::open(&path).or_else(|_| made());
        let opened = open().or_else(|error| match fs::create_dir(&self.folder) {
            // Somebody removed the folder: whoever still has a lock in it is not seen any more, and begins anew.
            Ok(()) => open(),
            Err(_) => Err(error),
        });
        opened.map_err(|source| self.error("open", seat, source))
    }

    fn error(&self, action: &'static str, seat: Seat, source: std::io::Error) -> KeeperError {
        KeeperError::Io { action, path: self.folder.join(seat.file()), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_has_one_owner_and_is_empty_after_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let locks = Locks::open(dir.path()).expect("a folder of locks");
        let other = locks.clone();
        assert!(!other.is_taken(Seat::Lease).expect("a look"));
        let taken = locks.take(Seat::Lease).expect("a lock").expect("an empty seat");
        assert!(other.is_taken(Seat::Lease).expect("a look"));
        assert!(other.take(Seat::Lease).expect("a lock").is_none());
        assert!(!other.is_taken(Seat::Keeper).expect("a look"));
        drop(taken);
        assert!(!other.is_taken(Seat::Lease).expect("a look"));
        assert!(other.take(Seat::Lease).expect("a lock").is_some());
    }
}
