//! The only place that reads clocks; everything else takes `now`.

use std::time::{SystemTime, UNIX_EPOCH};

use backstay_engine::lease::Mono;
use backstay_types::Time;
use rustix::time::{ClockId, clock_gettime};

/// The time now.
#[expect(clippy::disallowed_methods, reason = "this is the wrapper the rule points to")]
pub(crate) fn now() -> Time {
    // A clock before 1970 is a machine without a clock: its times are wrong, not dangerous.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The machine's own clock: never set, the same for every process since the machine started, and it goes on while the
/// machine sleeps.
pub(crate) fn mono() -> Mono {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let millis = u64::try_from(time.tv_nsec / 1_000_000).unwrap_or(0);
    Mono(seconds.saturating_mul(1000).saturating_add(millis))
}

/// Which start of the machine [`mono`] counts from; `None` if the system does not tell.
pub(crate) fn boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
