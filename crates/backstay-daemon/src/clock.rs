//! The only place that reads the wall clock; everything else takes `now`.

use std::time::{SystemTime, UNIX_EPOCH};

use backstay_types::Time;

/// The time now.
#[expect(clippy::disallowed_methods, reason = "this is the wrapper the rule points to")]
pub(crate) fn now() -> Time {
    // A clock before 1970 is a machine without a clock: its times are wrong, not dangerous.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
