//! Moments of the wall clock of a zone, as instants.

use backstay_types::Time;
use croner::Cron;
use jiff::civil::{Date, DateTime, Time as CivilTime, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan as _, Zoned};

/// A time of day, to the minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeOfDay(pub(super) CivilTime);

/// A day of the week at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WeekMoment {
    pub(super) day: Weekday,
    pub(super) time: TimeOfDay,
}

/// A date of the month at a time; in a shorter month its last day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MonthDay {
    /// 1 to 31.
    pub(super) date: i8,
    pub(super) time: TimeOfDay,
}

/// The wall clock of `zone` at `time`.
pub(super) fn local(zone: &TimeZone, time: Time) -> Option<Zoned> {
    Some(Timestamp::from_millisecond(time.0).ok()?.to_zoned(zone.clone()))
}

/// The instants that `civil` names: none is skipped, two where the clock repeats it.
pub(super) fn instants(zone: &TimeZone, civil: DateTime) -> Option<(Time, Time)> {
    let time = |timestamp: Timestamp| Time(timestamp.as_millisecond());
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous.unambiguous().ok().map(|at| (time(at), time(at))),
        AmbiguousOffset::Fold { .. } => {
            Some((time(ambiguous.earlier().ok()?), time(ambiguous.later().ok()?)))
        }
        // The clock jumped over it: the first instant after the jump, as cron does it.
        AmbiguousOffset::Gap { .. } => {
            let before = ambiguous.earlier().ok()?;
            let jump = zone.following(before).next()?.timestamp();
            Some((time(jump), time(jump)))
        }
    }
}

/// The first of the instants of `dates` at `time` that is after `last`. Dates ascend.
fn first_after(
    zone: &TimeZone,
    dates: impl Iterator<Item = Date>,
    time: TimeOfDay,
    last: Time,
) -> Option<Time> {
    dates
        .filter_map(|date| instants(zone, date.to_datetime(time.0)))
        .map(|(first, _)| first)
        .find(|at| *at > last)
}

/// Where to begin looking: a moment that the clock jumped over belongs to an earlier date than the one it runs
/// on, by a whole day where one was skipped (Samoa, 2011).
fn start_date(zone: &TimeZone, last: Time) -> Option<Date> {
    local(zone, last)?.date().checked_sub(2.days()).ok()
}

impl TimeOfDay {
    /// The first moment after `last`.
    pub(super) fn next_after(self, zone: &TimeZone, last: Time) -> Option<Time> {
        // Two days back, one skipped, one repeated: six dates always hold one that is later.
        first_after(zone, start_date(zone, last)?.series(1.day()).take(6), self, last)
    }
}

impl WeekMoment {
    /// The first moment after `last`.
    pub(super) fn next_after(self, zone: &TimeZone, last: Time) -> Option<Time> {
        let dates =
            start_date(zone, last)?.series(1.day()).take(18).filter(|date| date.weekday() == self.day);
        first_after(zone, dates, self.time, last)
    }
}

impl MonthDay {
    /// The first moment after `last`.
    pub(super) fn next_after(self, zone: &TimeZone, last: Time) -> Option<Time> {
        let dates = start_date(zone, last)?.first_of_month().series(1.month()).take(4).filter_map(|first| {
            let day = self.date.min(first.days_in_month());
            first.with().day(day).build().ok()
        });
        first_after(zone, dates, self.time, last)
    }
}

/// The first moment of `cron` after `last`.
pub(super) fn next_cron(cron: &Cron, zone: &TimeZone, last: Time) -> Option<Time> {
    // The only failures are the end of time; an expression that names no moment was refused when it was parsed.
    let next = cron.find_next_occurrence(&local(zone, last)?, false).ok()?;
    Some(Time(next.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        text.parse().expect(text)
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).expect(name)
    }

    fn time(hour: i8, minute: i8) -> TimeOfDay {
        TimeOfDay(CivilTime::constant(hour, minute, 0, 0))
    }

    fn cron(text: &str) -> Cron {
        text.parse().expect(text)
    }

    #[test]
    fn a_skipped_moment_runs_right_after_the_change() {
        // Berlin, 2026-03-29: 02:00 CET becomes 03:00 CEST at 01:00 UTC.
        let berlin = zone("Europe/Berlin");
        let last = at("2026-03-28T12:00:00Z");
        assert_eq!(time(2, 30).next_after(&berlin, last), Some(at("2026-03-29T01:00:00Z")));
        assert_eq!(next_cron(&cron("30 2 * * *"), &berlin, last), Some(at("2026-03-29T01:00:00Z")));
        assert_eq!(
            time(2, 30).next_after(&berlin, at("2026-03-29T01:00:00Z")),
            Some(at("2026-03-30T00:30:00Z")),
            "once only"
        );
    }

    #[test]
    fn a_repeated_moment_runs_once() {
        // Berlin, 2026-10-25: 03:00 CEST becomes 02:00 CET at 01:00 UTC; 02:30 is at 00:30 and 01:30 UTC.
        let berlin = zone("Europe/Berlin");
        let first = at("2026-10-25T00:30:00Z");
        for next in [time(2, 30).next_after(&berlin, first), next_cron(&cron("30 2 * * *"), &berlin, first)] {
            assert_eq!(next, Some(at("2026-10-26T01:30:00Z")));
        }
        assert_eq!(time(2, 30).next_after(&berlin, at("2026-10-24T12:00:00Z")), Some(first));
    }

    #[test]
    fn a_cron_of_every_half_hour_goes_on_through_both_changes() {
        let berlin = zone("Europe/Berlin");
        for day in ["2026-03-29", "2026-10-25"] {
            let mut last = at(&format!("{day}T00:00:00Z"));
            for _ in 0..8 {
                let next = next_cron(&cron("*/30 * * * *"), &berlin, last).expect("there is a next");
                assert_eq!(next.since(last), backstay_types::Span::from_secs(1800), "after {last}");
                last = next;
            }
        }
    }

    #[test]
    fn a_skipped_day_and_a_half_hour_change_are_survived() {
        // Samoa skipped 2011-12-30; Lord Howe changes by half an hour.
        let apia = zone("Pacific/Apia");
        let next = time(12, 0).next_after(&apia, at("2011-12-29T23:00:00Z")).expect("there is a next");
        assert_eq!(next, at("2011-12-30T10:00:00Z"), "the moment of the skipped day, right after the jump");
        assert_eq!(time(12, 0).next_after(&apia, next), Some(at("2011-12-30T22:00:00Z")));
        let howe = zone("Australia/Lord_Howe");
        let skipped = time(2, 15).next_after(&howe, at("2026-10-03T12:00:00Z"));
        assert_eq!(skipped, Some(at("2026-10-03T15:30:00Z")));
    }

    #[test]
    fn a_month_without_the_date_runs_on_its_last_day() {
        let monthly = MonthDay { date: 31, time: time(4, 0) };
        let mut last = at("2028-01-31T04:00:00Z");
        let mut dates = Vec::new();
        for _ in 0..3 {
            last = monthly.next_after(&TimeZone::UTC, last).expect("there is a next");
            dates.push(last.to_string());
        }
        assert_eq!(dates, ["2028-02-29T04:00:00Z", "2028-03-31T04:00:00Z", "2028-04-30T04:00:00Z"]);
    }

    #[test]
    fn a_week_runs_from_its_moment_to_the_next() {
        let weekly = WeekMoment { day: Weekday::Sunday, time: time(3, 0) };
        let new_york = zone("America/New_York");
        let mut last = at("2026-02-28T12:00:00Z");
        let mut runs = Vec::new();
        for _ in 0..3 {
            last = weekly.next_after(&new_york, last).expect("there is a next");
            runs.push(last.to_string());
        }
        assert_eq!(runs, ["2026-03-01T08:00:00Z", "2026-03-08T07:00:00Z", "2026-03-15T07:00:00Z"]);
    }
}
