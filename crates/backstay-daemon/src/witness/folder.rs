//! Leases as files of a folder: what a witness server keeps, and, on storage that two sites share, a witness itself.
//!
//! 1. One at a time: every look and every swap holds an exclusive lock on the file `lock` (`flock`), so a swap sees what
//!    it replaces.
//! 2. A record is written beside, synced, renamed over the old one, and the folder synced, before the swap is
//!    acknowledged (test `what_was_acknowledged_is_there_after_a_restart`).
//! 3. A version is 128 random bits, so that none comes back, not even with a restored folder.
//!
//! On NFS this needs version 4, or 3 with a lock manager, without `nolock` and `local_lock`; a mount that fails silently
//! (`soft`) may lose an acknowledged swap. At a crash the lock is gone with its process, and a file is old or new.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstay_engine::lease::{LeaseRecord, Seen, Version};
use rustix::fs::{FlockOperation, flock};

use super::{LeaseId, Swapped, WitnessError};

/// Plans of all pairs that share a witness: at 400 bytes a file, below 2 MB.
const LEASES_MAX: usize = 4096;
/// What was given back stays for so long: a record that was to be made before that and comes late finds it, and is not made.
const RELEASED_FOR: Duration = Duration::from_hours(24);
/// Ours are below 400 bytes.
const FILE_BYTES_MAX: u64 = 16 << 10;
/// A look or a swap takes milliseconds.
const LOCK_WITHIN: Duration = Duration::from_secs(1);
const LOCK_AGAIN: Duration = Duration::from_millis(5);

/// A folder of leases.
#[derive(Debug, Clone)]
pub(crate) struct LeaseFolder {
    dir: PathBuf,
}

impl LeaseFolder {
    pub(crate) const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The record, if there is one.
    pub(crate) async fn read(self, id: LeaseId) -> Result<Option<Seen>, WitnessError> {
        let work = move || {
            let _lock = self.lock()?;
            self.load(&id)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| WitnessError::Worker)?
    }

    /// Replaces the record, if its version is the one named; makes it, if none is named and none is there.
    pub(crate) async fn swap(
        self,
        id: LeaseId,
        over: Option<Version>,
        record: LeaseRecord,
    ) -> Result<Swapped, WitnessError> {
        let work = move || {
            let _lock = self.lock()?;
            let there = self.load(&id)?;
            if there.as_ref().map(|seen| &seen.version) != over.as_ref() {
                return Ok(Swapped::Conflict);
            }
            if there.is_none() && self.count()? >= LEASES_MAX && !self.forget_released()? {
                return Err(WitnessError::Full { id: id.as_str().to_owned(), max: LEASES_MAX });
            }
            let version = Version(format!("{:032x}", rand::random::<u128>()));
            self.store(&id, &Seen { version: version.clone(), record })?;
            Ok(Swapped::To(version))
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| WitnessError::Worker)?
    }

    fn leases(&self) -> PathBuf {
        self.dir.join("leases")
    }

    fn file(&self, id: &LeaseId) -> PathBuf {
        self.leases().join(format!("{}.json", id.as_str()))
    }

    /// The lock; it is let go with the file.
    fn lock(&self) -> Result<File, WitnessError> {
        let leases = self.leases();
        // A folder that is not mounted must not be made where it would be mounted: only the one inside it is.
        match fs::DirBuilder::new().mode(0o700).create(&leases) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("make folder", &leases, error));
            }
            _ => {}
        }
        let path = self.dir.join("lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(|source| io_error("open", &path, source))?;
        let mut waited = Duration::ZERO;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) if waited >= LOCK_WITHIN => {
                    return Err(WitnessError::Locked { path, held: waited });
                }
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {
                    std::thread::sleep(LOCK_AGAIN);
                    waited += LOCK_AGAIN;
                }
                Err(error) => return Err(io_error("lock", &path, error.into())),
            }
        }
    }

    fn load(&self, id: &LeaseId) -> Result<Option<Seen>, WitnessError> {
        let path = self.file(id);
        let damaged = |why: String| WitnessError::Damaged { id: id.as_str().to_owned(), why };
        match fs::metadata(&path) {
            Ok(found) if found.len() > FILE_BYTES_MAX => {
                return Err(damaged(format!(
                    "expected at most {FILE_BYTES_MAX} bytes, found {}",
                    found.len()
                )));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error("look at", &path, source)),
        }
        let bytes = fs::read(&path).map_err(|source| io_error("read", &path, source))?;
        serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(error.to_string()))
    }

    fn store(&self, id: &LeaseId, seen: &Seen) -> Result<(), WitnessError> {
        let path = self.file(id);
        let bytes = serde_json::to_vec(seen)
            .map_err(|error| WitnessError::Damaged { id: id.as_str().to_owned(), why: error.to_string() })?;
        let replace = || -> io::Result<()> {
            let beside = path.with_extension("tmp");
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(self.leases())?.sync_all()
        };
        replace().map_err(|source| io_error("write", &path, source))
    }

    fn count(&self) -> Result<usize, WitnessError> {
        self.files().map(|files| files.len())
    }

    fn files(&self) -> Result<Vec<PathBuf>, WitnessError> {
        let leases = self.leases();
        let list = || -> io::Result<_> { fs::read_dir(&leases)?.map(|entry| Ok(entry?.path())).collect() };
        list().map_err(|source| io_error("list", &leases, source))
    }

    /// Makes room by removing a record that was given back long ago, if there is one. What is renewed is young, and is not
    /// read: others wait for the lock meanwhile.
    fn forget_released(&self) -> Result<bool, WitnessError> {
        let is_old = |path: &PathBuf| -> io::Result<bool> {
            let found = fs::metadata(path)?;
            // A time that is yet to come is young: a clock was set back.
            let is_aged = found.modified()?.elapsed().is_ok_and(|age| age >= RELEASED_FOR);
            Ok(is_aged && found.is_file() && found.len() <= FILE_BYTES_MAX)
        };
        let is_released = |path: &PathBuf| -> io::Result<bool> {
            Ok(serde_json::from_slice::<Seen>(&fs::read(path)?).is_ok_and(|seen| seen.record.released))
        };
        // What cannot be looked at makes no room; a question about it says why.
        let mut old = self.files()?.into_iter().filter(|path| is_old(path).unwrap_or(false));
        match old.find(|path| is_released(path).unwrap_or(false)) {
            Some(path) => {
                fs::remove_file(&path).map_err(|source| io_error("remove", &path, source))?;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> WitnessError {
    WitnessError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    fn id() -> LeaseId {
        LeaseId::parse("00ff-shop").expect("an id")
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_a_restart() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = || LeaseFolder::new(home.path().to_owned());
        assert_eq!(folder().read(id()).await.expect("read"), None);
        let Swapped::To(first) = folder().swap(id(), None, record(1)).await.expect("made") else {
            panic!("nothing was there")
        };
        assert_eq!(folder().swap(id(), None, record(1)).await.expect("asked"), Swapped::Conflict);
        let second = folder().swap(id(), Some(first.clone()), record(2)).await.expect("swapped");
        assert_eq!(folder().swap(id(), Some(first), record(3)).await.expect("asked"), Swapped::Conflict);
        let seen = folder().read(id()).await.expect("read").expect("there");
        assert_eq!((Swapped::To(seen.version), seen.record), (second, record(2)));
        let other = LeaseId::parse("00ff-other").expect("an id");
        assert_eq!(folder().read(other).await.expect("read"), None);
    }

    /// Of many that swap over one version at a time exactly one does.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn one_of_many_swaps_happens() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = LeaseFolder::new(home.path().to_owned());
        let mut over = None;
        for round in 0..20 {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..8 {
                tasks.spawn(folder.clone().swap(id(), over.clone(), record(round)));
            }
            let outcomes = tasks.join_all().await;
            let mut won: Vec<_> = outcomes
                .into_iter()
                .filter_map(|outcome| match outcome.expect("asked") {
                    Swapped::To(version) => Some(version),
                    Swapped::Conflict => None,
                })
                .collect();
            assert_eq!(won.len(), 1, "round {round}");
            over = won.pop();
        }
    }

    /// A folder that is full makes room by what was given back a day ago, and by nothing else.
    #[tokio::test]
    async fn what_was_given_back_makes_room() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = LeaseFolder::new(home.path().to_owned());
        let named = |name: &str| LeaseId::parse(name).expect("an id");
        folder.clone().swap(id(), None, record(1)).await.expect("made");
        let released = serde_json::to_vec(&Seen {
            version: Version("1".to_owned()),
            record: LeaseRecord { released: true, ..record(1) },
        })
        .expect("JSON");
        for number in 1..LEASES_MAX {
            fs::write(folder.file(&named(&format!("00-{number}"))), &released).expect("written");
        }
        let swap = |name: &str| folder.clone().swap(named(name), None, record(1));
        assert!(matches!(swap("00ff-new").await, Err(WitnessError::Full { .. })), "all of them are young");
        let old = std::time::SystemTime::UNIX_EPOCH;
        for name in ["00ff-shop", "00-7"] {
            let file = File::open(folder.file(&named(name))).expect("there");
            file.set_modified(old).expect("aged");
        }
        assert!(matches!(swap("00ff-new").await, Ok(Swapped::To(_))));
        assert_eq!(folder.clone().read(named("00-7")).await.expect("read"), None);
        assert_eq!(folder.clone().read(id()).await.expect("read").map(|seen| seen.record), Some(record(1)));
    }

    #[tokio::test]
    async fn a_damaged_or_missing_place_is_told() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = LeaseFolder::new(home.path().join("not-mounted"));
        assert!(matches!(folder.read(id()).await, Err(WitnessError::Io { .. })));
        assert!(!home.path().join("not-mounted").exists());
        let folder = LeaseFolder::new(home.path().to_owned());
        folder.clone().swap(id(), None, record(1)).await.expect("made");
        fs::write(home.path().join("leases/00ff-shop.json"), b"{").expect("damaged");
        assert!(matches!(folder.clone().read(id()).await, Err(WitnessError::Damaged { .. })));
        let swap = folder.swap(id(), None, record(2)).await;
        assert!(matches!(swap, Err(WitnessError::Damaged { .. })), "what cannot be read is not replaced");
    }

    #[test]
    fn ids_stay_in_their_folder() {
        for bad in ["", "..", "a/b", "A", "a.json", &"a".repeat(97)] {
            assert_eq!(LeaseId::parse(bad), None, "{bad}");
        }
    }
}
