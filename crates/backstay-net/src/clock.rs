//! The only place of this crate that reads a clock.

use std::time::SystemTime;

use backstay_types::Time;

/// Wall-clock time: expiry of keys and certificates, and times shown to people.
#[expect(clippy::disallowed_methods, reason = "the place where the clock is read")]
pub(crate) fn now() -> Time {
    // Before 1970 only if the clock was never set; every certificate then fails as expired, with that reason.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Time that never jumps, in the runtime's clock: backoff, rates, idleness.
pub(crate) fn steady() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
