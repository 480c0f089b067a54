use backstay_types::plan::{Blackout, Daily, Monthly, Schedule, Weekly};
use backstay_types::{Class, Classify, Span, Time};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::{ScheduleError, Timetable};

const MINUTE: Span = Span::from_secs(60);

fn at(text: &str) -> Time {
    text.parse().expect(text)
}

fn every(span: &str) -> Schedule {
    Schedule { interval: Some(span.parse().expect(span)), ..Schedule::default() }
}

fn table(schedule: &Schedule) -> Timetable {
    Timetable::parse(schedule).expect("the schedule is good")
}

fn window(from: &str, to: &str, days: &[&str]) -> Blackout {
    Blackout { from: from.into(), to: to.into(), days: days.iter().map(|day| (*day).to_owned()).collect() }
}

#[test]
fn a_plan_that_never_ran_is_due() {
    let now = at("2026-11-21T11:17:42.5Z");
    assert_eq!(table(&every("15m")).next_run(None, now, 1), Some(now));
    let daily = Schedule { daily: Some(Daily { time: "03:00".into() }), ..Schedule::default() };
    assert_eq!(table(&daily).next_run(None, now, 1), Some(now));
}

#[test]
fn an_interval_counts_from_the_last_start() {
    let start = at("2026-11-21T11:17:42.5Z");
    let next = table(&every("15m")).next_run(Some(start), start, 1);
    assert_eq!(next, Some(start.plus(Span::from_secs(900))));
}

#[test]
fn a_downtime_leaves_one_run_due() {
    let mixed = Schedule {
        cron: Some("*/7 * * * *".into()),
        daily: Some(Daily { time: "03:00".into() }),
        ..every("15m")
    };
    let (table, start, back) = (table(&mixed), at("2026-11-21T11:00:00Z"), at("2026-11-24T09:30:10Z"));
    assert!(table.next_run(Some(start), back, 1).is_some_and(|next| next <= back), "due at once");
    assert!(table.next_run(Some(back), back, 1).is_some_and(|next| next > back), "and only once");
}

#[test]
fn a_missed_run_waits_for_a_window_that_is_open_now() {
    let schedule = Schedule { blackout: vec![window("08:00", "10:00", &[])], ..every("15m") };
    let next = table(&schedule).next_run(Some(at("2026-11-21T11:00:00Z")), at("2026-11-24T09:30:10Z"), 1);
    assert_eq!(next, Some(at("2026-11-24T10:00:00Z")));
    assert_eq!(
        table(&schedule).next_run(None, at("2026-11-24T09:30:10Z"), 1),
        Some(at("2026-11-24T10:00:00Z"))
    );
}

#[test]
fn a_start_in_the_future_does_not_silence_a_plan() {
    let now = at("2026-11-21T11:00:00Z");
    assert_eq!(table(&every("15m")).next_run(Some(at("2036-01-01T00:00:00Z")), now, 1), Some(now));
    let step = now.plus(Span::from_secs(2));
    assert_eq!(table(&every("15m")).next_run(Some(step), now, 1), Some(step.plus(Span::from_secs(900))));
}

#[test]
fn windows_over_midnight_and_on_days() {
    let schedule = Schedule {
        time_zone: Some("Europe/Berlin".into()),
        blackout: vec![window("22:00", "02:00", &["fri"]), window("00:00", "24:00", &["Sunday"])],
        ..every("1h")
    };
    let table = table(&schedule);
    // A Friday in winter: Berlin is UTC + 1.
    for (asked, clear) in [
        ("2026-11-20T20:59:00Z", "2026-11-20T20:59:00Z"),
        ("2026-11-20T21:00:00Z", "2026-11-21T01:00:00Z"),
        ("2026-11-21T00:59:59Z", "2026-11-21T01:00:00Z"),
        ("2026-11-21T21:30:00Z", "2026-11-21T21:30:00Z"),
        ("2026-11-21T23:00:00Z", "2026-11-22T23:00:00Z"),
    ] {
        assert_eq!(table.clear_of_blackout(at(asked)), Some(at(clear)), "{asked}");
    }
}

#[test]
fn a_window_that_ends_in_a_repeated_hour_ends_in_both_passes() {
    // Berlin, 2026-10-25: 02:00 to 03:00 passes from 00:00 UTC and again from 01:00 UTC.
    let schedule = Schedule {
        time_zone: Some("Europe/Berlin".into()),
        blackout: vec![window("01:00", "02:30", &[])],
        ..every("1h")
    };
    let table = table(&schedule);
    for (asked, clear) in [
        ("2026-10-25T00:10:00Z", "2026-10-25T00:30:00Z"),
        ("2026-10-25T00:40:00Z", "2026-10-25T00:40:00Z"),
        ("2026-10-25T01:10:00Z", "2026-10-25T01:30:00Z"),
    ] {
        assert_eq!(table.clear_of_blackout(at(asked)), Some(at(clear)), "{asked}");
    }
    // A window that the clock leaves by being set back, too.
    let early = vec![window("02:01", "03:00", &[])];
    let early = self::table(&Schedule { blackout: early, time_zone: Some("Europe/Berlin".into()), ..every("1h") });
    for (asked, clear) in [
        ("2026-10-25T00:43:00Z", "2026-10-25T01:00:00Z"),
        ("2026-10-25T01:01:00Z", "2026-10-25T02:00:00Z"),
    ] {
        assert_eq!(early.clear_of_blackout(at(asked)), Some(at(clear)), "{asked}");
    }
    // In spring the end is jumped over: the window ends with the jump.
    assert_eq!(table.clear_of_blackout(at("2026-03-29T00:59:00Z")), Some(at("2026-03-29T01:00:00Z")));
}

#[test]
fn jitter_is_bounded_steady_and_differs_between_plans() {
    let schedule = Schedule {
        cron: Some("0 * * * *".into()),
        jitter: Some(Span::from_secs(600)),
        ..Schedule::default()
    };
    let (table, last) = (table(&schedule), at("2026-11-21T11:30:00Z"));
    let next = |seed| table.next_run(Some(last), last, seed).expect("there is a next");
    let runs: std::collections::BTreeSet<Time> = (0..100).map(next).collect();
    assert!(runs.len() > 90, "{} distinct of 100", runs.len());
    assert!(runs.iter().all(|run| run.since(at("2026-11-21T12:00:00Z")) <= Span::from_secs(600)));
    assert!(runs.iter().all(|run| *run >= at("2026-11-21T12:00:00Z")));
    assert_eq!(next(5), table.next_run(Some(last), last.plus(MINUTE), 5).expect("there is a next"));
}

#[test]
fn bad_schedules_say_which_field_and_what_was_expected() {
    let base = every("15m");
    let jittered = Schedule { jitter: Some("2h".parse().expect("2h")), ..base.clone() };
    let daily = |time: &str| Schedule { daily: Some(Daily { time: time.into() }), ..base.clone() };
    let cron = |cron: &str| Schedule { cron: Some(cron.into()), ..Schedule::default() };
    let black = |blackout| Schedule { blackout, ..base.clone() };
    let monthly = |date| Schedule { monthly: Some(Monthly { date, time: "01:00".into() }), ..base.clone() };
    let weekly =
        Schedule { weekly: Some(Weekly { day: "Funday".into(), time: "01:00".into() }), ..base.clone() };
    let cases = [
        (Schedule::default(), "at least one of"),
        (every("0s"), "schedule.interval: expected at least 1s, found 0s"),
        (every("999ms"), "schedule.interval"),
        (jittered, "schedule.jitter: expected at most the interval of 15m, found 2h"),
        (cron("* * * *"), "schedule.cron: expected five fields"),
        (cron("0 * * * * *"), "schedule.cron: expected five fields"),
        (cron("61 * * * *"), "schedule.cron"),
        (cron(""), "schedule.cron"),
        (cron("0 0 30 2 *"), "which never does"),
        (daily("24:00"), "schedule.daily.time: expected a time as HH:MM"),
        (daily("3"), "schedule.daily.time"),
        (daily("03:5"), "schedule.daily.time"),
        (daily("03:60"), "schedule.daily.time"),
        (daily("-3:00"), "schedule.daily.time"),
        (daily("+3:00"), "schedule.daily.time"),
        (weekly, "schedule.weekly.day: expected a day"),
        (monthly(0), "schedule.monthly.date: expected 1 to 31, found 0"),
        (monthly(32), "schedule.monthly.date"),
        (monthly(255), "schedule.monthly.date"),
        (black(vec![window("03:00", "03:00", &[])]), "schedule.blackout[0]: expected a window"),
        (black(vec![window("03:00", "04:00", &["mon", "x"])]), "schedule.blackout[0].days[1]"),
        (black(vec![window("03:00", "25:00", &[])]), "schedule.blackout[0].to"),
        (black(vec![window("00:00", "24:00", &[])]), "leave a minute of the week free"),
        (black(vec![window("00:00", "12:00", &[]), window("12:00", "00:00", &[])]), "leave a minute"),
        (black(vec![window("00:00", "01:00", &[]); 65]), "at most 64 windows, found 65"),
    ];
    for (schedule, expected) in cases {
        let error = Timetable::parse(&schedule).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error} has {expected}");
        assert_eq!(error.class(), Class::Invalid);
    }
    for good in ["0:00", "00:00", "23:59", "3:05"] {
        table(&daily(good));
    }
    table(&cron("@daily"));
    table(&cron("0 0 29 2 *"));
}

#[test]
fn an_unknown_zone_names_the_nearest() {
    for (found, near) in [
        ("Europe/Berlim", Some("Europe/Berlin")),
        ("europe/berln", Some("Europe/Berlin")),
        ("Berlin", Some("Europe/Berlin")),
        ("New York", Some("America/New_York")),
        ("qqqqqqqqqqqqqqq", None),
    ] {
        let schedule = Schedule { time_zone: Some(found.into()), ..every("15m") };
        match Timetable::parse(&schedule) {
            Err(ScheduleError::TimeZone { nearest, .. }) => assert_eq!(nearest.as_deref(), near, "{found}"),
            other => panic!("{found}: {other:?}"),
        }
    }
}

/// What the fields say, decided minute by minute on the wall clock, with nothing shared with the code under test.
struct Scan {
    zone: TimeZone,
    minutes: Vec<(u32, u32)>,
    weekly: Option<(i8, u32)>,
    monthly: Option<(i8, u32)>,
    windows: Vec<(u32, u32, Vec<i8>)>,
}

impl Scan {
    fn civil(&self, at: Time) -> DateTime {
        jiff::Timestamp::from_millisecond(at.0).expect("in range").to_zoned(self.zone.clone()).datetime()
    }

    fn minute_of_day(civil: DateTime) -> u32 {
        u32::from(civil.hour().unsigned_abs()) * 60 + u32::from(civil.minute().unsigned_abs())
    }

    /// Whether any part names this wall-clock minute.
    fn names(&self, civil: DateTime) -> bool {
        let minute = Self::minute_of_day(civil);
        let last = civil.date().days_in_month();
        self.minutes.iter().any(|(first, step)| minute >= *first && (minute - first).is_multiple_of(*step))
            || self.weekly == Some((civil.weekday().to_monday_zero_offset(), minute))
            || self.monthly.is_some_and(|(date, of_day)| date.min(last) == civil.day() && of_day == minute)
    }

    fn blacked_out(&self, civil: DateTime) -> bool {
        let minute = Self::minute_of_day(civil);
        let today = civil.weekday().to_monday_zero_offset();
        let yesterday = (today + 6) % 7;
        let on = |days: &[i8], day| days.is_empty() || days.contains(&day);
        self.windows.iter().any(|(from, to, days)| {
            if from < to {
                on(days, today) && minute >= *from && minute < *to
            } else {
                (on(days, today) && minute >= *from) || (on(days, yesterday) && minute < *to)
            }
        })
    }

    /// First minute after `last` at which a named moment is behind and no window is open.
    fn next(&self, last: Time) -> Time {
        let mut at = Time((last.0.div_euclid(60_000) + 1) * 60_000);
        let mut pending = false;
        // Named minutes of the last fold count once: a first pass is remembered by its wall clock.
        loop {
            let civil = self.civil(at);
            let before = self.civil(at.minus(MINUTE));
            // A jump names everything that it skipped.
            let mut clock = before.saturating_add(jiff::Span::new().minutes(1));
            while clock < civil {
                pending |= self.names(clock);
                clock = clock.saturating_add(jiff::Span::new().minutes(1));
            }
            let repeated = self.civil(at.minus(Span::from_secs(3600))) == civil;
            pending |= self.names(civil) && !repeated;
            if pending && !self.blacked_out(civil) {
                return at;
            }
            at = at.plus(MINUTE);
        }
    }
}

fn clock(minute: u32) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

type Days = Vec<i8>;

fn windows() -> impl Strategy<Value = Vec<(u32, u32, Days)>> {
    let days = proptest::collection::vec(0_i8..7, 0..3);
    let window =
        (0_u32..1440, 1_u32..600, days).prop_map(|(from, len, days)| (from, (from + len) % 1440, days));
    proptest::collection::vec(window, 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_next_run_is_what_a_scan_minute_by_minute_finds(
        // Days around both changes of a zone, and some others.
        (zone, change) in prop_oneof![
            Just(("Europe/Berlin", "2026-03-29T01:00:00Z")),
            Just(("Europe/Berlin", "2026-10-25T01:00:00Z")),
            Just(("America/New_York", "2026-11-01T06:00:00Z")),
            Just(("America/New_York", "2026-03-08T07:00:00Z")),
            Just(("America/Santiago", "2026-09-06T04:00:00Z")),
            Just(("Asia/Kathmandu", "2026-05-30T00:00:00Z")),
        ],
        offset in -3_i64 * 86_400_000..2 * 86_400_000,
        daily in proptest::option::of(0_u32..1440),
        weekly in proptest::option::of((0_i8..7, 0_u32..1440)),
        monthly in proptest::option::of((1_i8..32, 0_u32..1440)),
        // A fixed moment by cron; wildcards name every pass of a repeated hour and are tested in `moments`.
        cron in proptest::option::of(0_u32..1440),
        windows in windows(),
    ) {
        prop_assume!(daily.is_some() || weekly.is_some() || monthly.is_some() || cron.is_some());
        const NAMES: [&str; 7] = ["Mon", "tue", "Wednesday", "thu", "FRI", "Saturday", "sun"];
        let schedule = Schedule {
            time_zone: Some(zone.to_owned()),
            cron: cron.map(|minute| format!("{} {} * * *", minute % 60, minute / 60)),
            daily: daily.map(|minute| Daily { time: clock(minute) }),
            weekly: weekly.map(|(day, minute)| Weekly {
                day: NAMES[usize::from(day.unsigned_abs())].to_owned(),
                time: clock(minute),
            }),
            monthly: monthly.map(|(date, minute)| Monthly { date: date.unsigned_abs(), time: clock(minute) }),
            blackout: windows.iter().map(|(from, to, days)| {
                let days: Vec<&str> = days.iter().map(|day| NAMES[usize::from(day.unsigned_abs())]).collect();
                window(&clock(*from), &clock(*to), &days)
            }).collect(),
            ..Schedule::default()
        };
        let scan = Scan {
            zone: TimeZone::get(zone).expect(zone),
            // Once a day each.
            minutes: daily.into_iter().chain(cron).map(|minute| (minute, 1440)).collect(),
            weekly,
            monthly,
            windows,
        };
        let last = Time(at(change).0 + offset);
        let next = table(&schedule).next_run(Some(last), last, 0);
        prop_assert_eq!(next, Some(scan.next(last)), "{:?} after {}", schedule, last);
    }

    #[test]
    fn a_daemon_that_sleeps_until_the_next_run_never_stands_still(
        start in 1_700_000_000_000_i64..1_900_000_000_000,
        seed: u64,
        windows in windows(),
        jitter in 0_u64..=47 * 60_000,
    ) {
        let schedule = Schedule {
            time_zone: Some("Europe/Berlin".into()),
            jitter: Some(Span(jitter)),
            cron: Some("17 */3 * * *".into()),
            blackout: windows.iter().map(|(from, to, _)| window(&clock(*from), &clock(*to), &[])).collect(),
            ..every("47m")
        };
        let Ok(table) = Timetable::parse(&schedule) else { return Ok(()) };
        let mut last = Time(start);
        for _ in 0..50 {
            let next = table.next_run(Some(last), last, seed).expect("there is a next");
            prop_assert!(next > last);
            prop_assert_eq!(table.next_run(Some(last), next, seed), Some(next), "due when it comes");
            prop_assert_eq!(table.clear_of_blackout(next), Some(next), "outside every window");
            last = next;
        }
    }
}
