//! When a plan's cycle runs.
//!
//! A [`Timetable`] is a schedule that was checked; it answers one question, [`Timetable::next_run`].
//!
//! 1. Each moment any part names starts one run; moments that pass while no run can start (daemon down, peer away,
//!    cycle still running) make one run together, at once (test `a_downtime_leaves_one_run_due`).
//! 2. No run starts inside a blackout window (test `the_next_run_is_what_a_scan_minute_by_minute_finds`).
//! 3. Wall-clock moments keep to the wall clock of the zone: one that a clock change skips runs right after the
//!    change, one that it repeats runs once, the first time (tests in `moments`).
//!
//! Left to others: whether the plan may run at all ([`crate::cycle`]), and remembering the last start.

mod moments;
mod parse;
mod window;

use backstay_types::{Span, Time};
use croner::Cron;
use jiff::tz::TimeZone;

use crate::draw::draw_to;
use moments::{MonthDay, TimeOfDay, WeekMoment};
pub use parse::ScheduleError;
use window::Windows;

/// A last start further ahead of `now` than this was written by a clock that was wrong, and does not count.
const CLOCK_STEP_MAX: Span = Span::from_secs(60);

/// A schedule that was checked. Made by [`Timetable::parse`].
#[derive(Debug, Clone)]
pub struct Timetable {
    zone: TimeZone,
    interval: Option<Span>,
    cron: Option<Cron>,
    daily: Option<TimeOfDay>,
    weekly: Option<WeekMoment>,
    monthly: Option<MonthDay>,
    jitter: Span,
    blackout: Windows,
}

impl Timetable {
    /// When the next run starts; at or before `now` if it is due. `None` if there is none before the end of time.
    ///
    /// `last_start` is when the last run started, whoever asked for it; a plan that never ran is due at once.
    /// `seed` tells plans apart: it and the moment alone decide the jitter, so asking again gives the same answer.
    pub fn next_run(&self, last_start: Option<Time>, now: Time, seed: u64) -> Option<Time> {
        let last_start = last_start.filter(|start| *start <= now.plus(CLOCK_STEP_MAX));
        let Some(last_start) = last_start else { return self.clear_of_blackout(now) };
        let moments = [
            self.interval.map(|interval| last_start.plus(interval)),
            self.cron.as_ref().and_then(|cron| moments::next_cron(cron, &self.zone, last_start)),
            self.daily.and_then(|daily| daily.next_after(&self.zone, last_start)),
            self.weekly.and_then(|weekly| weekly.next_after(&self.zone, last_start)),
            self.monthly.and_then(|monthly| monthly.next_after(&self.zone, last_start)),
        ];
        let run = moments.into_iter().flatten().filter_map(|moment| self.run_of(moment, seed)).min()?;
        // A missed run is due, but a window that is open now holds it back too.
        if run > now {
            Some(run)
        } else {
            self.clear_of_blackout(now).map(|clear| if clear > now { clear } else { run })
        }
    }

    /// `at`, or the end of the blackout window it falls into. For runs that another clock than the schedule's
    /// asks for, such as a retry. `None` if there is no such time.
    pub fn clear_of_blackout(&self, at: Time) -> Option<Time> {
        self.blackout.clear(&self.zone, at)
    }

    /// When the run that `moment` names starts. Jitter is drawn behind the window, or all that wait for its end
    /// would start together.
    fn run_of(&self, moment: Time, seed: u64) -> Option<Time> {
        let clear = self.clear_of_blackout(moment)?;
        let drawn = draw_to(seed, moment.0.cast_unsigned(), self.jitter.0);
        self.clear_of_blackout(clear.plus(Span(drawn)))
    }
}

#[cfg(test)]
mod tests;
