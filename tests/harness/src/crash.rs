//! `kill -9` at a chosen durable step of an unchanged daemon.
//!
//! What is on disk after a kill changes with each `fsync` that the daemon waited for, so those are the moments to die
//! at. A preloaded library counts them and kills: the first run dies after the first, the next after the second, until
//! one lives.

use std::path::{Path, PathBuf};

/// The library, built by `build.rs`.
const LIBRARY: &str = env!("BACKSTAY_CRASH_AT_SYNC");

/// Kills a daemon after so many syncs, when told to.
#[derive(Debug)]
pub struct Crasher {
    trigger: PathBuf,
}

impl Crasher {
    /// One that waits below `dir`.
    pub fn new(dir: &Path) -> Crasher {
        Crasher { trigger: dir.join("crash-at") }
    }

    /// Environment of the daemon that is to die.
    pub fn env(&self) -> Vec<(String, String)> {
        let trigger = self.trigger.to_str().unwrap().to_owned();
        vec![("LD_PRELOAD".to_owned(), LIBRARY.to_owned()), ("BACKSTAY_CRASH_AT".to_owned(), trigger)]
    }

    /// The daemon dies after so many syncs from now on; one that starts, after so many from its start.
    pub fn arm(&self, syncs: u32) {
        let new = self.trigger.with_extension("new");
        std::fs::write(&new, syncs.to_string()).unwrap();
        std::fs::rename(new, &self.trigger).unwrap();
    }

    /// Whether somebody died since it was armed.
    pub fn has_killed(&self) -> bool {
        !self.trigger.exists()
    }

    /// Nobody dies any more; whether somebody did.
    pub fn disarm(&self) -> bool {
        std::fs::remove_file(&self.trigger).is_err()
    }
}
