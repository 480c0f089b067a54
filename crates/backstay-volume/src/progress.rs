//! How far a walk, a read or an apply has come, and the request to stop it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::VolumeError;

/// Counters shared between the thread that works and those that watch it. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

/// A request to stop: the same handle as [`Progress`], where only that is needed.
pub type Cancel = Progress;

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    entries: AtomicU64,
    cancelled: AtomicBool,
    /// Tests stop the work after this many steps, to stand for a crash there; 0 is never.
    #[cfg(test)]
    steps_left: AtomicU64,
}

impl Progress {
    /// Counters at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of content read or written so far.
    pub fn bytes_done(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Entries finished so far.
    pub fn entries_done(&self) -> u64 {
        self.0.entries.load(Ordering::Relaxed)
    }

    /// Asks the work to stop; it ends with [`VolumeError::Cancelled`] soon after.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_entry(&self) {
        self.0.entries.fetch_add(1, Ordering::Relaxed);
    }

    /// A place where the work may be stopped.
    pub(crate) fn step(&self) -> Result<(), VolumeError> {
        #[cfg(test)]
        if self.0.steps_left.load(Ordering::Relaxed) > 0
            && self.0.steps_left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.cancel();
        }
        if self.is_cancelled() { Err(VolumeError::Cancelled) } else { Ok(()) }
    }

    #[cfg(test)]
    pub(crate) fn stop_after(steps: u64) -> Self {
        let progress = Self::new();
        progress.0.steps_left.store(steps, Ordering::Relaxed);
        progress
    }
}
