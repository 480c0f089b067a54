//! The keeper: what outlives the daemon and holds an application in its place, under `automaticFailover`.
//!
//! Three processes of a site know the leases of its plans: the daemon, the keeper (`backstay keeper`), and the guard, which
//! the keeper starts in a group of its own. One of daemon and keeper has the lease and runs the machine of
//! `backstay_engine::lease`; the other two watch.
//!
//! 1. **One renews.** Whoever has the lock `SITE/keeper/lease` does, and it is the daemon's as long as it lives (lock
//!    `daemon`): the keeper lets go of it when it sees the daemon, and takes it when it does not. Locks are the
//!    kernel's, so a process that is killed has none, in that moment, and none is ever taken from one that lives.
//! 2. **The next goes on where the last was.** What binds this side is in `PLAN/lease.json` before it is acted on, and
//!    what to hold, and how, in `PLAN/keeper.json` before the lease may be taken ([`orders`]). Taking over is what a
//!    restart of the daemon is, by the same record and the same clock.
//! 3. **All hold.** Each of the three holds by itself when `lease.json` has stood still for too long, whoever has the lock:
//!    dead, stopped or stuck ([`watch`]). Holding may be repeated; it and letting go exclude each other (`host_hold`). Only
//!    who has the lock lets go, and it learns from the note `PLAN/keeper-held.json` that a watcher has held.
//! 4. **No guard, no takeover.** The record at the witness says whether two more would hold if who renews it died, and
//!    the standby takes no other. So `kill -9` of one leaves two, of two one that holds before the standby may take; and after
//!    that either somebody renews without that word, or nobody does and what ran is held.
//!
//! What is left is a death of all three within one renewal beside a living application, which is the death of a machine
//! that lets its programs live: there is none but by a hand that picks these three.
//!
//! Tests: `tests/integration/keeper.rs`; in virtual time `backstay_engine::lease`. Left to others: how a thing is held
//! (`host_hold`), and everything about roles: the keeper changes no plan. At a crash: see 1 to 4.

mod error;
mod guard;
mod locks;
mod orders;
mod renew;
mod watch;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstay_types::{Classify as _, PlanName};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::error::KeeperError;
pub use self::guard::run_guard;
pub(crate) use self::locks::{Locks, Seat, Taken};
pub(crate) use self::orders::{Note, Orders, WitnessOrders};
pub(crate) use self::watch::{Watcher, hold_host, release_host};
use crate::DaemonError;
use crate::site::layout;

/// Between two looks at who lives and what is due: a quarter of what the shortest `after` leaves for it.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A seat is empty as soon as its last owner is dead; whoever only looks has it for a moment.
const SEAT_WITHIN: Duration = Duration::from_secs(5);

/// The leases as the keeper has them.
struct Own {
    /// Last of all to go.
    _lease: Taken,
    stop: CancellationToken,
    tasks: JoinSet<PlanName>,
    running: BTreeSet<PlanName>,
}

/// Runs the keeper of a site until SIGTERM or SIGINT.
pub async fn run_keeper(dir: &Path) -> Result<(), DaemonError> {
    check_site(dir)?;
    let locks = Locks::open(dir)?;
    let seat = locks.take_within(Seat::Keeper, SEAT_WITHIN).await?;
    let _seat = seat.ok_or_else(|| KeeperError::RunsAlready { dir: dir.to_owned() })?;
    let mut guard = guard::Child::new(dir);
    let mut watcher = Watcher::new(dir, "the keeper");
    let mut own: Option<Own> = None;
    let mut stop = Stop::new(dir)?;
    tracing::info!("the keeper watches {}", dir.display());
    loop {
        // Where it cannot be seen, whoever renewed goes on to.
        let daemon_lives = locks.sees(Seat::Daemon, own.is_none());
        own = match own {
            None if !daemon_lives => Own::take(&locks).unwrap_or_else(|error| {
                tracing::error!("{error}");
                None
            }),
            Some(own) if daemon_lives => {
                tracing::info!("the daemon is here: it renews");
                own.end().await;
                None
            }
            other => other,
        };
        guard.keep();
        if let Some(own) = &mut own {
            own.look(dir, &locks).await;
        }
        watcher.look(own.is_some()).await;
        tokio::select! {
            () = stop.asked() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    tracing::info!("stopping; the guard stays for as long as there is something to hold");
    if let Some(own) = own {
        own.end().await;
    }
    Ok(())
}

fn check_site(dir: &Path) -> Result<(), DaemonError> {
    if dir.join(layout::SITE).exists() { Ok(()) } else { Err(DaemonError::NotASite { dir: dir.to_owned() }) }
}

impl Own {
    /// Takes the leases, if nobody has them.
    fn take(locks: &Locks) -> Result<Option<Self>, KeeperError> {
        let Some(lease) = locks.take(Seat::Lease)? else { return Ok(None) };
        tracing::warn!("the daemon is not here: the keeper renews");
        let own = Self {
            _lease: lease,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            running: BTreeSet::new(),
        };
        Ok(Some(own))
    }

    /// A task for each plan with orders.
    async fn look(&mut self, dir: &Path, locks: &Locks) {
        while let Some(ended) = self.tasks.try_join_next() {
            match ended {
                Ok(name) => drop(self.running.remove(&name)),
                Err(error) => {
                    // Which one is not known: all begin anew by what is on disk.
                    tracing::error!("the keeper of a plan ended: {error}");
                    self.tasks.shutdown().await;
                    self.running.clear();
                }
            }
        }
        let (plans, failures) = orders::all(dir);
        failures.iter().for_each(|error| {
            tracing::error!(class = error.class().label(), "orders not read: {error}");
        });
        for orders in plans.into_iter().filter(|orders| !orders.fenced) {
            let name = orders.plan.clone();
            if self.running.insert(name.clone()) {
                let work = renew::run(dir.to_owned(), locks.clone(), orders, self.stop.clone());
                self.tasks.spawn(async move {
                    work.await;
                    name
                });
            }
        }
    }

    /// Ends every task before the lock is let go.
    async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The signals that end a keeper or a guard.
struct Stop {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Stop {
    fn new(dir: &Path) -> Result<Self, DaemonError> {
        let on =
            |kind| signal(kind).map_err(|source: io::Error| DaemonError::io("watch signals of", dir, source));
        Ok(Self { term: on(SignalKind::terminate())?, int: on(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Where the state of a plan is.
fn plan_folder(dir: &Path, plan: &PlanName) -> PathBuf {
    dir.join(layout::PLANS).join(plan.as_str())
}
