//! Blackout windows: times of the wall clock at which no run starts.

use backstay_types::{Span, Time};
use jiff::civil::{Date, DateTime, Time as CivilTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::moments::{instants, local};

/// Windows of one plan, so that finding a free moment is bounded.
pub(super) const WINDOWS_MAX: usize = 64;

/// Windows passed on the way to a free moment: two weeks of every window on every day. A week has a free minute
/// (checked when parsed), and one clock change can swallow it, but not that of the week after.
const STEPS_MAX: usize = 14 * WINDOWS_MAX;

/// One window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: CivilTime,
    /// `None`: midnight at the end of the day.
    pub(super) to: Option<CivilTime>,
    /// Days it begins on, one bit each, Monday lowest.
    pub(super) days: u8,
}

/// All windows of a plan.
#[derive(Debug, Clone, Default)]
pub(super) struct Windows(pub(super) Vec<Window>);

/// The next moment at which the clock of the zone is set.
fn next_change(zone: &TimeZone, at: Time) -> Option<Time> {
    let change = zone.following(Timestamp::from_millisecond(at.0).ok()?).next()?;
    Some(Time(change.timestamp().as_millisecond()))
}

/// The bit of a day.
pub(super) fn day_bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

impl Window {
    /// Whether it ends on the day after the one it begins on.
    fn is_over_midnight(&self) -> bool {
        self.to.is_none_or(|to| to <= self.from)
    }

    fn begins_on(&self, date: Date) -> bool {
        self.days & day_bit(date.weekday()) != 0
    }

    /// If the wall clock is in the window: where the window ends.
    fn end_around(&self, clock: DateTime) -> Option<DateTime> {
        let (today, time) = (clock.date(), clock.time());
        let to = self.to.unwrap_or(CivilTime::midnight());
        if self.begins_on(today) && time >= self.from && (self.is_over_midnight() || time < to) {
            let end = if self.is_over_midnight() { today.tomorrow().ok()? } else { today };
            return Some(end.to_datetime(to));
        }
        let from_yesterday =
            self.is_over_midnight() && time < to && today.yesterday().is_ok_and(|date| self.begins_on(date));
        from_yesterday.then(|| today.to_datetime(to))
    }
}

impl Windows {
    /// `at` if it is in no window, else the first later moment that is in none; `None` if none was found.
    pub(super) fn clear(&self, zone: &TimeZone, at: Time) -> Option<Time> {
        let mut at = at;
        if self.0.is_empty() {
            return Some(at);
        }
        for _ in 0..STEPS_MAX {
            let clock = local(zone, at)?.datetime();
            let Some(end) = self.0.iter().filter_map(|window| window.end_around(clock)).min() else {
                return Some(at);
            };
            let (first, second) = instants(zone, end)?;
            // The clock shows a repeated time twice: the end is the one that is still to come. A jump over the end
            // can leave both behind; the next second is looked at then, which makes headway all the same.
            let end = [first, second].into_iter().find(|end| *end > at).unwrap_or(at.plus(Span::from_secs(1)));
            // A clock that is set back on the way may show a time before the window again.
            at = next_change(zone, at).map_or(end, |change| end.min(change));
        }
        None
    }

    /// Whether no minute of a week is free.
    pub(super) fn cover_everything(&self) -> bool {
        // Any week without a clock change does: this one begins on a Monday, in the middle of a month.
        let monday = DateTime::constant(2024, 1, 15, 0, 0, 0, 0);
        let mut minutes = monday.series(1.minute()).take(7 * 24 * 60);
        minutes.all(|clock| self.0.iter().any(|window| window.end_around(clock).is_some()))
    }
}
