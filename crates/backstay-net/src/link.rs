//! All live connections of one pair, and the loop that sees to it that there is one.
//!
//! Both sides dial when there is none, so there may be two for a while. Requests go over the one made last; made at
//! the same time from both ends, both sides take the one dialed by the site with the lower id. A connection that is
//! not taken is closed by the side that dialed it once it was idle for a while: never under anybody's hands.

use std::sync::Arc;
use std::time::Duration;

use backstay_types::{PairId, SiteId, Time};
use tokio::sync::{Notify, watch};

use crate::bucket::Bucket;
use crate::clock;
use crate::close::code;
use crate::connection::Connection;
use crate::dial::Tried;

/// Two connections from opposite ends within this time were made "at the same time".
const SIMULTANEOUS: Duration = Duration::from_secs(5);
/// How long a connection that is not taken is kept for late requests of the other side.
const LINGER: Duration = Duration::from_secs(30);
/// Connections of one pair at a time: each may hold 96 MiB of what its peer sent.
const CONNECTIONS_MAX: usize = 4;

/// One pair's connections.
pub(crate) struct Link {
    pub(crate) pair: PairId,
    /// Whether our site id is the lower one.
    lower: bool,
    state: watch::Sender<LinkState>,
    kick: Notify,
    bucket: Arc<Bucket>,
}

/// What is seen of a link.
#[derive(Default)]
pub(crate) struct LinkState {
    /// In the order they were made.
    live: Vec<Connection>,
    pub(crate) removed: bool,
    /// A new connection is wanted although there is one.
    wanted: bool,
    /// Attempts begun, or made by the peer, so far.
    pub(crate) attempts: u64,
    /// How the last attempt failed, and which it was.
    pub(crate) failure: Option<(u64, Vec<Tried>)>,
    pub(crate) last_seen: Option<Time>,
}

impl LinkState {
    /// The connection that requests go over.
    pub(crate) fn current(&self, lower: bool) -> Option<&Connection> {
        let mut live = self.live.iter().rev().filter(|connection| connection.is_live());
        let newest = live.next()?;
        let twin = live.find(|other| {
            let (one, two) = (newest.about(), other.about());
            let apart = one.since.saturating_duration_since(two.since);
            one.dialed != two.dialed
                && apart < SIMULTANEOUS
                && (one.ours, one.theirs) == (two.ours, two.theirs)
        });
        Some(twin.filter(|twin| twin.about().dialed == lower).unwrap_or(newest))
    }

    /// Whether there is no connection, or one more is wanted.
    pub(crate) fn needs_connection(&self) -> bool {
        self.wanted || self.live().next().is_none()
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Connection> {
        self.live.iter().filter(|connection| connection.is_live())
    }
}

impl Link {
    pub(crate) fn new(pair: PairId, ours: SiteId, theirs: SiteId) -> Self {
        Self {
            pair,
            lower: ours < theirs,
            state: watch::Sender::new(LinkState::default()),
            kick: Notify::new(),
            bucket: Arc::new(Bucket::new(None)),
        }
    }

    pub(crate) fn bucket(&self) -> Arc<Bucket> {
        Arc::clone(&self.bucket)
    }

    pub(crate) fn is_lower(&self) -> bool {
        self.lower
    }

    /// Sees every change of the link.
    pub(crate) fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// The connection that requests go over.
    pub(crate) fn current(&self) -> Option<Connection> {
        self.state.borrow().current(self.lower).cloned()
    }

    /// Every live connection.
    pub(crate) fn live(&self) -> Vec<Connection> {
        self.state.borrow().live().cloned().collect()
    }

    /// Has the next attempt begin now.
    pub(crate) fn kick(&self) {
        self.kick.notify_one();
    }

    pub(crate) async fn kicked(&self) {
        self.kick.notified().await;
    }

    /// Wants one more connection although there is one.
    pub(crate) fn want(&self) {
        self.state.send_modify(|state| state.wanted = true);
        self.kick();
    }

    /// Waits until a connection is to be made; false if the pair was removed.
    pub(crate) async fn until_needed(&self) -> bool {
        let mut watch = self.watch();
        let needed = |state: &LinkState| state.removed || state.needs_connection();
        // The sender lives in `self`, so waiting cannot fail.
        watch.wait_for(needed).await.is_ok_and(|state| !state.removed)
    }

    /// Notes that an attempt begins; its number.
    pub(crate) fn attempt(&self) -> u64 {
        let mut number = 0;
        self.state.send_modify(|state| {
            state.wanted = false;
            state.attempts += 1;
            number = state.attempts;
        });
        number
    }

    /// Notes how an attempt failed. True if it failed in another way than the one before.
    pub(crate) fn failed(&self, attempt: u64, tried: Vec<Tried>) -> bool {
        let mut news = true;
        self.state.send_modify(|state| {
            news =
                state.failure.as_ref().is_none_or(|(_, before)| Tried::list(before) != Tried::list(&tried));
            state.failure = Some((attempt, tried));
        });
        news
    }

    /// Adds a connection; it is closed at once if the pair was removed meanwhile.
    pub(crate) fn add(&self, connection: &Connection) {
        self.state.send_modify(|state| {
            if state.removed {
                connection.close(code::REMOVED, "the pair was removed");
                return;
            }
            state.live.push(connection.clone());
            state.failure = None;
            state.last_seen = Some(clock::now());
            while state.live.len() > CONNECTIONS_MAX {
                state.live.remove(0).close(code::SUPERSEDED, "too many connections");
            }
        });
    }

    /// Takes out a connection that ended.
    pub(crate) fn drop_connection(&self, connection: &Connection) {
        self.state.send_modify(|state| {
            state.live.retain(|other| !other.is(connection));
            state.last_seen = Some(clock::now());
        });
    }

    /// Cuts the peer off: every connection is closed, and none is made any more.
    pub(crate) fn remove(&self) {
        self.state.send_modify(|state| {
            state.removed = true;
            for connection in state.live.drain(..) {
                connection.close(code::REMOVED, "the pair was removed");
            }
        });
        self.kick();
    }

    /// Whether a connection we dialed has outlived its use.
    pub(crate) fn is_superfluous(&self, connection: &Connection) -> bool {
        let kept = self.current().is_none_or(|current| current.is(connection));
        !kept && connection.about().dialed && connection.is_idle() && connection.age() >= LINGER
    }
}

/// Delays between attempts: doubling from half a second to 30 s, each cut by up to half at random, so that two
/// sites, or the peers of a restarted one, do not keep in step.
#[derive(Default)]
pub(crate) struct Backoff {
    failures: u32,
}

const DELAY_MIN: Duration = Duration::from_millis(500);
const DELAY_MAX: Duration = Duration::from_secs(30);

impl Backoff {
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    pub(crate) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// How long to wait now; `fraction` is random, from 0 to 1.
    pub(crate) fn delay(&self, fraction: f64) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else { return Duration::ZERO };
        let whole = DELAY_MIN.saturating_mul(2u32.saturating_pow(doublings)).min(DELAY_MAX);
        whole.mul_f64(1.0 - fraction.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_jitter_takes_at_most_half() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.delay(0.5), Duration::ZERO);
        for millis in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            backoff.failed();
            assert_eq!(backoff.delay(0.0), Duration::from_millis(millis));
            assert_eq!(backoff.delay(1.0), Duration::from_millis(millis / 2));
        }
        backoff.failures = u32::MAX;
        assert_eq!(backoff.delay(0.0), DELAY_MAX);
        backoff.reset();
        assert_eq!(backoff.delay(0.0), Duration::ZERO);
    }
}
