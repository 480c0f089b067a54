//! Conditions: their time changes only with their status.

use backstay_types::{Span, Time};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time as ApiTime};
use k8s_openapi::jiff::Timestamp;

/// Longest message; the API allows 32 KiB, `kubectl get` shows a line.
const MESSAGE_CHARS_MAX: usize = 1024;

/// A condition as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    kind: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
}

impl Told {
    /// `kind` holds, or not, for a constant reason.
    pub(super) fn new(
        kind: &'static str,
        is_true: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, is_true, reason, message: message.into() }
    }

    /// Why.
    pub(super) const fn reason(&self) -> &'static str {
        self.reason
    }
}

/// Conditions of an object's `generation`, from those that were there.
pub(super) fn conditions(
    observed: &[Condition],
    told: impl IntoIterator<Item = Told>,
    generation: Option<i64>,
    now: Time,
) -> Vec<Condition> {
    let condition = |told: Told| {
        let status = if told.is_true { "True" } else { "False" };
        let before = find(observed, told.kind).filter(|before| before.status == status);
        Condition {
            type_: told.kind.to_owned(),
            status: status.to_owned(),
            reason: told.reason.to_owned(),
            message: told.message.chars().take(MESSAGE_CHARS_MAX).collect(),
            observed_generation: generation,
            last_transition_time: before
                .map_or_else(|| api_time(now), |old| old.last_transition_time.clone()),
        }
    };
    told.into_iter().map(condition).collect()
}

/// A condition by its type.
pub(super) fn find<'c>(conditions: &'c [Condition], kind: &str) -> Option<&'c Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition is there and holds.
pub(super) fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// Whole seconds, as the API keeps them.
fn api_time(time: Time) -> ApiTime {
    ApiTime(Timestamp::from_second(time.0.div_euclid(1000)).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// A length of time to two units, so that a status that shows it does not change all the time.
pub(super) fn coarse(span: Span) -> String {
    const MINUTE: u64 = 60_000;
    let step = match span.0 {
        0..MINUTE => 10_000,
        MINUTE..3_600_000 => MINUTE,
        3_600_000..86_400_000 => 10 * MINUTE,
        _ => 3_600_000,
    };
    Span(span.0 / step * step).to_string()
}

/// A count for a schema, which has no unsigned ones.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_changes_with_its_status_alone() {
        let told = |is_true, reason| [Told::new("Ready", is_true, reason, "as it is")];
        let first = conditions(&[], told(true, "Accepted"), Some(1), Time(5_999));
        assert_eq!(first[0].last_transition_time.0.as_second(), 5);
        let same = conditions(&first, told(true, "Standby"), Some(2), Time(60_000));
        assert_eq!(same[0].last_transition_time, first[0].last_transition_time);
        assert_eq!((same[0].reason.as_str(), same[0].observed_generation), ("Standby", Some(2)));
        let other = conditions(&same, told(false, "Invalid"), Some(3), Time(61_000));
        assert_eq!(other[0].last_transition_time.0.as_second(), 61);
        assert!(!is_true(&other, "Ready") && is_true(&same, "Ready") && !is_true(&same, "Synced"));
    }

    #[test]
    fn a_coarse_span_changes_seldom() {
        for (millis, text) in [
            (0, "0s"),
            (9_999, "0s"),
            (59_000, "50s"),
            (119_000, "1m"),
            (3_599_000, "59m"),
            (3_600_000 * 5 + 19 * 60_000, "5h10m"),
            (90_000_000, "1d1h"),
        ] {
            assert_eq!(coarse(Span(millis)), text);
        }
    }
}
