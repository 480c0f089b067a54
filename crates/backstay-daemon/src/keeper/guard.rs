//! The guard: a process that only watches, started by the keeper, which survives it and the daemon.
//!
//! It asks no witness and renews nothing: it holds when nobody else has done so in time. One that is started follows on
//! the one there is, so that with a new keeper comes a new guard; it ends when no keeper is there and nothing is left to
//! hold.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use backstay_engine::lease::Mono;
use backstay_types::Span;

use super::{KeeperError, LOOK_EVERY, Locks, Seat, Stop, Watcher, check_site};
use crate::{DaemonError, clock};

/// The one that there is looks at whether another is to follow as often as at everything else.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(10);
/// Between two starts of a guard that ends at once.
const AGAIN: Span = Span(1_000);

/// Runs a guard of a site.
pub async fn run_guard(dir: &Path) -> Result<(), DaemonError> {
    check_site(dir)?;
    let locks = Locks::open(dir)?;
    let next = locks.take_within(Seat::NextGuard, FOLLOWS_WITHIN).await?;
    let seat = locks.take_within(Seat::Guard, FOLLOWS_WITHIN).await?;
    let _seat = seat.ok_or_else(|| KeeperError::RunsAlready { dir: dir.to_owned() })?;
    drop(next);
    let mut watcher = Watcher::new(dir, "the guard");
    let mut stop = Stop::new(dir)?;
    loop {
        watcher.look(false).await;
        // A look that failed ends nothing: a guard that is not there holds nothing.
        if locks.sees(Seat::NextGuard, false) || watcher.is_idle() && !locks.sees(Seat::Keeper, true) {
            return Ok(());
        }
        tokio::select! {
            () = stop.asked() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The guard, as its keeper sees it: it is not ended with the keeper.
pub(super) struct Child {
    dir: PathBuf,
    process: Option<process::Child>,
    next: Mono,
}

impl Child {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), process: None, next: clock::mono() }
    }

    /// Starts it, if it is not there.
    pub(super) fn keep(&mut self) {
        let now = clock::mono();
        if let Some(process) = &mut self.process {
            match process.try_wait() {
                Ok(None) => return,
                Ok(Some(status)) => tracing::warn!("the guard ended with {status}: another one is started"),
                Err(error) => tracing::warn!("the guard cannot be waited for: {error}"),
            }
            self.process = None;
        }
        if now < self.next {
            return;
        }
        self.next = now.plus(AGAIN);
        // The very program that runs, also after an upgrade has replaced its file.
        let mut command = Command::new("/proc/self/exe");
        command.arg("keeper-guard").arg("--site").arg(&self.dir);
        // A group of its own: what a terminal sends to the keeper is not meant for it.
        command.process_group(0).stdin(Stdio::null());
        match command.spawn() {
            Ok(process) => self.process = Some(process),
            Err(error) => tracing::error!("the guard cannot be started: {error}"),
        }
    }
}
