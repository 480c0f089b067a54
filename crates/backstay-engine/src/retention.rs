//! Which restore points stay, which may go, and why.
//!
//! 1. The newest point always stays, and so does one that is applied or in use, whatever the rules say (test
//!    `the_newest_and_the_protected_always_stay`).
//! 2. Running it twice changes nothing: what one run keeps, the next keeps (test `expiring_again_expires_nothing`).
//!
//! Periods are of UTC and of the snapshot's time; weeks are those of ISO 8601. Order is that of ids, which a clock
//! that was set back cannot disturb.

use std::collections::BTreeSet;
use std::fmt;

use backstay_types::plan::Retention;
use backstay_types::{RestorePointId, Time};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A rule that keeps a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// It is the newest.
    Newest,
    /// It is applied, in use by a transfer or a restore, or being promoted.
    InUse,
    /// It was written by a side that was not active any more, not long ago.
    Diverged,
    /// Among the newest so many.
    Last,
    /// The newest of its hour.
    Hourly,
    /// The newest of its day.
    Daily,
    /// The newest of its week.
    Weekly,
    /// The newest of its month.
    Monthly,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Rule::Newest => "newest",
            Rule::InUse => "in use",
            Rule::Diverged => "diverged",
            Rule::Last => "last",
            Rule::Hourly => "hourly",
            Rule::Daily => "daily",
            Rule::Weekly => "weekly",
            Rule::Monthly => "monthly",
        })
    }
}

/// What the rules say about one restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The point.
    pub id: RestorePointId,
    /// Every rule that keeps it; none if it has expired.
    pub rules: Vec<Rule>,
}

impl Verdict {
    /// Whether nothing keeps it.
    pub fn is_expired(&self) -> bool {
        self.rules.is_empty()
    }
}

/// A verdict on every point, newest first. `points` are ids with their snapshot times, in any order, each once.
pub fn verdicts(
    points: &[(RestorePointId, Time)],
    retention: &Retention,
    protected: &[(RestorePointId, Rule)],
) -> Vec<Verdict> {
    let mut points = points.to_vec();
    points.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
    let mut periods = [
        Periods::new(Rule::Hourly, retention.hourly),
        Periods::new(Rule::Daily, retention.daily),
        Periods::new(Rule::Weekly, retention.weekly),
        Periods::new(Rule::Monthly, retention.monthly),
    ];
    let verdict = |(rank, (id, time)): (usize, (RestorePointId, Time))| {
        let fixed = [
            (Rule::Newest, rank == 0),
            (Rule::Last, u32::try_from(rank).is_ok_and(|rank| rank < retention.last)),
        ];
        let fixed = fixed.into_iter().filter_map(|(rule, keeps)| keeps.then_some(rule));
        let protected = protected.iter().filter(|(protected, _)| *protected == id).map(|(_, rule)| *rule);
        let rules = fixed
            .chain(protected)
            .chain(periods.iter_mut().filter_map(|periods| periods.keep(time)))
            .collect();
        Verdict { id, rules }
    };
    points.into_iter().enumerate().map(verdict).collect()
}

/// The points that nothing keeps, oldest first, so that a run that is cut short leaves no gap in the middle.
pub fn expired(
    points: &[(RestorePointId, Time)],
    retention: &Retention,
    protected: &[(RestorePointId, Rule)],
) -> Vec<RestorePointId> {
    let verdicts = verdicts(points, retention, protected);
    verdicts.into_iter().rev().filter(Verdict::is_expired).map(|verdict| verdict.id).collect()
}

/// The periods of one length that have a point so far.
struct Periods {
    rule: Rule,
    left: u32,
    seen: BTreeSet<(i16, i16)>,
}

impl Periods {
    fn new(rule: Rule, left: u32) -> Self {
        Self { rule, left, seen: BTreeSet::new() }
    }

    /// The rule, if it keeps a point of this time. To be asked newest first.
    fn keep(&mut self, time: Time) -> Option<Rule> {
        if self.left == 0 || !self.seen.insert(period(self.rule, time)) {
            return None;
        }
        self.left -= 1;
        Some(self.rule)
    }
}

/// A number of the period that holds `time`: year, and hour, day, week or month of it.
fn period(rule: Rule, time: Time) -> (i16, i16) {
    // A time past the year 9999 shares the last period.
    let timestamp = Timestamp::from_millisecond(time.0).unwrap_or(Timestamp::MAX);
    let civil = timestamp.to_zoned(TimeZone::UTC).datetime();
    match rule {
        Rule::Hourly => (civil.year(), civil.day_of_year() * 24 + i16::from(civil.hour())),
        Rule::Weekly => {
            let week = civil.iso_week_date();
            (week.year(), i16::from(week.week()))
        }
        Rule::Monthly => (civil.year(), i16::from(civil.month())),
        Rule::Daily | Rule::Newest | Rule::InUse | Rule::Diverged | Rule::Last => {
            (civil.year(), civil.day_of_year())
        }
    }
}

#[cfg(test)]
mod tests {
    use backstay_types::Epoch;
    use proptest::prelude::*;

    use super::*;

    const NONE: Retention = Retention { last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0 };

    fn id(number: u64) -> RestorePointId {
        RestorePointId { epoch: Epoch::FIRST, number }
    }

    fn points(times: &[&str]) -> Vec<(RestorePointId, Time)> {
        times.iter().zip(1..).map(|(time, number)| (id(number), time.parse().expect(time))).collect()
    }

    fn kept(points: &[(RestorePointId, Time)], retention: Retention) -> Vec<u64> {
        let mut kept: Vec<u64> = verdicts(points, &retention, &[])
            .iter()
            .filter(|v| !v.is_expired())
            .map(|v| v.id.number)
            .collect();
        kept.sort_unstable();
        kept
    }

    #[test]
    fn rules_keep_the_newest_of_each_period() {
        let points = points(&[
            "2026-10-31T23:10:00Z", // 1
            "2026-10-31T23:50:00Z", // 2: newest of October, of its day and hour
            "2026-11-01T00:05:00Z", // 3: Sunday, ends ISO week 44
            "2026-11-02T00:05:00Z", // 4: Monday, week 45
            "2026-11-02T00:55:00Z", // 5
            "2026-11-02T01:05:00Z", // 6
        ]);
        assert_eq!(kept(&points, NONE), [6]);
        assert_eq!(kept(&points, Retention { last: 2, ..NONE }), [5, 6]);
        assert_eq!(kept(&points, Retention { hourly: 3, ..NONE }), [3, 5, 6]);
        assert_eq!(kept(&points, Retention { daily: 3, ..NONE }), [2, 3, 6]);
        assert_eq!(kept(&points, Retention { weekly: 9, ..NONE }), [3, 6]);
        assert_eq!(kept(&points, Retention { monthly: 9, ..NONE }), [2, 6]);
        assert_eq!(
            expired(&points, &Retention { monthly: 9, ..NONE }, &[(id(4), Rule::InUse)]),
            [id(1), id(3), id(5)]
        );
    }

    #[test]
    fn a_verdict_names_every_rule() {
        let points = points(&["2026-11-02T00:05:00Z", "2026-11-02T00:55:00Z"]);
        let all = Retention { last: 1, hourly: 1, daily: 1, weekly: 1, monthly: 1 };
        let verdicts = verdicts(&points, &all, &[(id(1), Rule::InUse)]);
        assert_eq!(verdicts[0].id, id(2));
        let names: Vec<String> = verdicts[0].rules.iter().map(ToString::to_string).collect();
        assert_eq!(names.join(", "), "newest, last, hourly, daily, weekly, monthly");
        assert_eq!(verdicts[1].rules, [Rule::InUse]);
        assert_eq!(super::verdicts(&[], &all, &[]), []);
    }

    #[test]
    fn a_promotion_outranks_a_higher_number_of_an_older_epoch() {
        let now = Time(1_800_000_000_000);
        let diverged = RestorePointId { epoch: Epoch(1), number: 60 };
        let promoted = RestorePointId { epoch: Epoch(2), number: 43 };
        assert_eq!(expired(&[(diverged, now), (promoted, now)], &NONE, &[]), [diverged]);
    }

    fn any_points() -> impl Strategy<Value = Vec<(RestorePointId, Time)>> {
        // Minutes between points, sometimes backwards, over years.
        proptest::collection::vec(-100_i64..20_000, 0..120).prop_map(|gaps| {
            let mut time = 1_700_000_000_000;
            let step = |(gap, number): (i64, u64)| {
                time += gap * 60_000;
                (id(number), Time(time))
            };
            gaps.into_iter().zip(1..).map(step).collect()
        })
    }

    fn any_retention() -> impl Strategy<Value = Retention> {
        (0_u32..12, 0_u32..12, 0_u32..12, 0_u32..12, 0_u32..12).prop_map(
            |(last, hourly, daily, weekly, monthly)| Retention { last, hourly, daily, weekly, monthly },
        )
    }

    proptest! {
        #[test]
        fn the_newest_and_the_protected_always_stay(points in any_points(), retention in any_retention(), pick: usize) {
            let protected: Vec<_> = points.get(pick % points.len().max(1)).map(|(id, _)| (*id, Rule::InUse)).into_iter().collect();
            let gone = expired(&points, &retention, &protected);
            prop_assert!(gone.iter().all(|id| !protected.iter().any(|(protected, _)| protected == id)));
            prop_assert!(points.iter().map(|(id, _)| *id).max().is_none_or(|newest| !gone.contains(&newest)));
            let last = points.len().saturating_sub(retention.last as usize);
            prop_assert!(points[last..].iter().all(|(id, _)| !gone.contains(id)), "the last so many stay");
        }

        #[test]
        fn expiring_again_expires_nothing(mut points in any_points(), retention in any_retention()) {
            let gone = expired(&points, &retention, &[]);
            points.retain(|(id, _)| !gone.contains(id));
            prop_assert_eq!(expired(&points, &retention, &[]), []);
        }

        #[test]
        fn each_day_of_the_last_so_many_keeps_its_newest(points in any_points(), daily in 1_u32..20) {
            let kept: BTreeSet<u64> = kept(&points, Retention { daily, ..NONE }).into_iter().collect();
            // The days that have a point, by their newest point, newest first: decided with a plain scan.
            let day = |time: &Time| time.0.div_euclid(86_400_000);
            let mut days = Vec::new();
            let mut expected = BTreeSet::new();
            for (id, time) in points.iter().rev() {
                if !days.contains(&day(time)) && days.len() < daily as usize {
                    days.push(day(time));
                    expected.insert(id.number);
                }
            }
            prop_assert_eq!(kept, expected);
        }
    }
}
