//! How long to wait after a failure: exponential, with equal jitter, capped, forgotten on success.
//!
//! Equal jitter (half of the step is certain, half is drawn) keeps a floor under the wait, which full jitter does
//! not, and still spreads the plans of a site that failed together. A restart of the daemon forgets the waits:
//! trying once more at start is what an operator expects.

use backstay_types::{Span, Time};

use crate::draw::draw_to;

/// How waits grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// The first wait, before jitter.
    pub first: Span,
    /// No wait is longer.
    pub cap: Span,
}

impl BackoffPolicy {
    /// For cycles: 5 s, doubling up to 5 min, so that a peer that returns is noticed well within a usual interval.
    pub const CYCLE: Self = Self { first: Span::from_secs(5), cap: Span::from_secs(300) };

    /// The wait before attempt number `failures` (from 1), whole.
    fn step(self, failures: u32) -> Span {
        // From 2^63 on the cap decides anyway.
        let doublings = failures.saturating_sub(1).min(63);
        Span(self.first.0.saturating_mul(1 << doublings).min(self.cap.0))
    }
}

/// The failures in a row of one thing that is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    policy: BackoffPolicy,
    seed: u64,
    failures: u32,
    retry_at: Option<Time>,
}

impl Backoff {
    /// Nothing failed yet.
    pub const fn new(policy: BackoffPolicy, seed: u64) -> Self {
        Self { policy, seed, failures: 0, retry_at: None }
    }

    /// Counts a failure. Returns when to try again.
    pub fn failed(&mut self, now: Time) -> Time {
        self.failures = self.failures.saturating_add(1);
        let step = self.policy.step(self.failures).0;
        let certain = step / 2;
        let drawn = draw_to(self.seed, u64::from(self.failures), step - certain);
        let retry_at = now.plus(Span(certain + drawn));
        self.retry_at = Some(retry_at);
        retry_at
    }

    /// Forgets the failures.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.retry_at = None;
    }

    /// When to try again; `None` if the last attempt did not fail.
    pub const fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }

    /// Failures since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Time = Time(1_800_000_000_000);

    #[test]
    fn waits_double_up_to_the_cap() {
        let policy = BackoffPolicy { first: Span(1000), cap: Span(60_000) };
        let steps: Vec<u64> = (0..9).map(|failures| policy.step(failures).0).collect();
        assert_eq!(steps, [1000, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(policy.step(u32::MAX), Span(60_000));
    }

    #[test]
    fn success_starts_over() {
        let mut backoff = Backoff::new(BackoffPolicy::CYCLE, 7);
        let first = backoff.failed(NOW);
        backoff.failed(first);
        assert_eq!(backoff.failures(), 2);
        backoff.succeeded();
        assert_eq!((backoff.failures(), backoff.retry_at()), (0, None));
        assert_eq!(backoff.failed(NOW), first, "the same wait as the first time");
    }

    proptest! {
        #[test]
        fn a_wait_is_between_half_and_whole_of_its_step(seed: u64, failures in 1_u32..200) {
            let mut backoff = Backoff::new(BackoffPolicy::CYCLE, seed);
            for _ in 1..failures {
                backoff.failed(NOW);
            }
            let wait = backoff.failed(NOW).since(NOW);
            let step = BackoffPolicy::CYCLE.step(failures);
            prop_assert!(wait.0 >= step.0 / 2 && wait <= step, "{wait} of {step}");
        }
    }

    #[test]
    fn two_seeds_do_not_retry_together() {
        let waits: std::collections::BTreeSet<Time> =
            (0..50).map(|seed| Backoff::new(BackoffPolicy::CYCLE, seed).failed(NOW)).collect();
        assert!(waits.len() > 40, "{} distinct waits of 50", waits.len());
    }
}
