//! A pair's bandwidth limit: a token bucket in bytes per second that can be changed while it is waited on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock;

/// What may pass at once after a pause, in seconds of the rate.
const BURST: Duration = Duration::from_millis(250);

/// The limit of one pair; shared by all of its connections.
pub(crate) struct Bucket {
    state: Mutex<State>,
    changed: Notify,
    /// Waiters pass one at a time, in the order they came.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    bytes_per_second: Option<u64>,
    /// When all that was let through will have passed at the rate.
    paid_until: Instant,
}

impl Bucket {
    /// A bucket with this limit; `None` is no limit.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            state: Mutex::new(State { bytes_per_second, paid_until: clock::steady() }),
            changed: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Changes the limit, also for those who wait.
    pub(crate) fn set(&self, bytes_per_second: Option<u64>) {
        let mut state = self.state();
        state.bytes_per_second = bytes_per_second;
        // What was let through at the old rate is not held against the new one.
        state.paid_until = clock::steady();
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until `bytes` may be sent.
    pub(crate) async fn take(&self, bytes: u64) {
        if self.state().bytes_per_second.is_none() {
            return;
        }
        let _turn = self.turn.lock().await;
        loop {
            // Registered before the state is looked at: no change is missed between the two.
            let changed = self.changed.notified();
            let Some(wait) = self.state().pay(bytes, clock::steady()) else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Two plain fields, set one after the other: nothing can be left half-done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets `bytes` through, or says how long to wait before asking again.
    fn pay(&mut self, bytes: u64, now: Instant) -> Option<Duration> {
        let rate = self.bytes_per_second?.max(1);
        let wait = self.paid_until.saturating_duration_since(now + BURST);
        if !wait.is_zero() {
            return Some(wait);
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let from = self.paid_until.max(now);
        self.paid_until = from.checked_add(cost).unwrap_or(from);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_kept_over_time_and_none_does_not_wait() {
        let bucket = Bucket::new(Some(1_000_000));
        let begin = clock::steady();
        for _ in 0..100 {
            bucket.take(100_000).await;
        }
        let took = clock::steady() - begin;
        // 10 MB at 1 MB/s, less one burst and the last piece, which passes before it is paid for.
        assert!(took >= Duration::from_millis(9500) && took <= Duration::from_millis(10_000), "{took:?}");

        bucket.set(None);
        let begin = clock::steady();
        bucket.take(u64::MAX).await;
        assert_eq!(clock::steady(), begin);
    }

    #[tokio::test(start_paused = true)]
    async fn a_raised_limit_frees_those_who_wait() {
        let bucket = Arc::new(Bucket::new(Some(1)));
        bucket.take(1_000_000).await;
        let waiting = Arc::clone(&bucket);
        let begin = clock::steady();
        let taken = tokio::join!(waiting.take(10), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            bucket.set(Some(1_000_000));
        });
        assert_eq!(taken, ((), ()));
        assert!(clock::steady() - begin <= Duration::from_secs(2));
    }
}
