//! Waiting for conditions.

use std::time::{Duration, Instant};

/// Between two looks at a condition, and the longest that a look which takes a while itself waits for the next: the
/// machine is rather for what is waited for.
const POLL: Duration = Duration::from_millis(25);
const POLL_MAX: Duration = Duration::from_millis(400);

/// Waits until `condition` holds; panics with `what` after `deadline`.
pub fn eventually(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    eventually_some(what, deadline, || condition().then_some(()));
}

/// Waits until `probe` gives a value; panics with `what` after `deadline`.
pub fn eventually_some<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        let look = Instant::now();
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for: {what}");
        std::thread::sleep((2 * look.elapsed()).clamp(POLL, POLL_MAX));
    }
}

/// Seconds from one RFC 3339 time to another.
pub fn seconds_between(from: &str, to: &str) -> f64 {
    let parse =
        |text: &str| -> jiff::Timestamp { text.parse().unwrap_or_else(|e| panic!("time {text:?}: {e}")) };
    parse(to).duration_since(parse(from)).as_secs_f64()
}
