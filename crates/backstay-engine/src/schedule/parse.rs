//! From what an operator wrote to a checked [`Timetable`], with an error that says what to write instead.

use backstay_types::plan::{Blackout, Schedule};
use backstay_types::{Class, Classify, Span};
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::{Time as CivilTime, Weekday};
use jiff::tz::TimeZone;

use super::Timetable;
use super::moments::{MonthDay, TimeOfDay, WeekMoment};
use super::window::{WINDOWS_MAX, Window, Windows, day_bit};

/// The shortest interval and the step of every clock here.
const INTERVAL_MIN: Span = Span::from_secs(1);

/// A schedule that cannot be used. Every text names the field and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// No part of it names a moment.
    #[error("schedule: expected at least one of interval, cron, daily, weekly and monthly")]
    Empty,
    /// An interval that would never rest.
    #[error("schedule.interval: expected at least {min}, found {found}", min = INTERVAL_MIN)]
    Interval {
        /// What was given.
        found: Span,
    },
    /// Runs would overtake each other.
    #[error("schedule.jitter: expected at most the interval of {interval}, found {found}")]
    Jitter {
        /// What was given.
        found: Span,
        /// The interval.
        interval: Span,
    },
    /// Not a cron expression.
    #[error("schedule.cron: expected five fields (minute hour day month weekday), found {found:?}: {why}")]
    Cron {
        /// What was given.
        found: String,
        /// What the parser says.
        why: String,
    },
    /// A cron expression like 30 February.
    #[error("schedule.cron: expected a moment that comes, found {found:?}, which never does")]
    CronNever {
        /// What was given.
        found: String,
    },
    /// Not a time zone.
    #[error("schedule.timeZone: expected an IANA name such as Europe/Berlin, found {found:?}")]
    TimeZone {
        /// What was given.
        found: String,
        /// The name that is spelled most like it.
        nearest: Option<String>,
    },
    /// Not a time of day.
    #[error("schedule.{field}: expected a time as HH:MM from 00:00 to 23:59, found {found:?}")]
    TimeOfDay {
        /// Which field.
        field: String,
        /// What was given.
        found: String,
    },
    /// Not a day of the week.
    #[error("schedule.{field}: expected a day, Monday to Sunday or Mon to Sun, found {found:?}")]
    Day {
        /// Which field.
        field: String,
        /// What was given.
        found: String,
    },
    /// Not a date of a month.
    #[error("schedule.monthly.date: expected 1 to 31, found {found}")]
    Date {
        /// What was given.
        found: u8,
    },
    /// A window with no length.
    #[error("schedule.blackout[{index}]: expected a window that ends after it begins, found {from} to {to}")]
    Window {
        /// Which window, from 0.
        index: usize,
        /// Its begin.
        from: String,
        /// Its end.
        to: String,
    },
    /// Too many windows.
    #[error("schedule.blackout: expected at most {max} windows, found {found}", max = WINDOWS_MAX)]
    WindowCount {
        /// How many.
        found: usize,
    },
    /// No run could ever start.
    #[error("schedule.blackout: expected windows that leave a minute of the week free, found none")]
    NeverFree,
}

impl Classify for ScheduleError {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            ScheduleError::Empty => "add for instance `interval: 15m`, or leave `schedule` out".to_owned(),
            ScheduleError::TimeZone { nearest: Some(nearest), .. } => format!("did you mean {nearest}?"),
            ScheduleError::TimeZone { nearest: None, .. } => "without timeZone, times are in UTC".to_owned(),
            ScheduleError::Cron { .. } => "for instance `*/15 * * * *`: every quarter of an hour".to_owned(),
            ScheduleError::Window { .. } => {
                "for a whole day write `from: \"00:00\"`, `to: \"24:00\"`".to_owned()
            }
            ScheduleError::NeverFree => "set `suspend: true` to stop a plan's cycles".to_owned(),
            ScheduleError::TimeOfDay { .. } => {
                "quote it, as in \"03:30\": YAML may read it as a number".to_owned()
            }
            _ => return None,
        };
        Some(hint)
    }
}

impl Timetable {
    /// Checks a schedule.
    pub fn parse(schedule: &Schedule) -> Result<Self, ScheduleError> {
        let zone = schedule.time_zone.as_deref().map_or(Ok(TimeZone::UTC), parse_zone)?;
        let interval = match schedule.interval {
            Some(found) if found < INTERVAL_MIN => return Err(ScheduleError::Interval { found }),
            interval => interval,
        };
        let cron = schedule.cron.as_deref().map(parse_cron).transpose()?;
        let daily = schedule.daily.as_ref().map(|daily| parse_time("daily.time", &daily.time)).transpose()?;
        let weekly = schedule.weekly.as_ref().map(|weekly| {
            let day = parse_day("weekly.day", &weekly.day)?;
            Ok(WeekMoment { day, time: parse_time("weekly.time", &weekly.time)? })
        });
        let monthly = schedule.monthly.as_ref().map(|monthly| match i8::try_from(monthly.date) {
            Ok(date @ 1..=31) => Ok(MonthDay { date, time: parse_time("monthly.time", &monthly.time)? }),
            _ => Err(ScheduleError::Date { found: monthly.date }),
        });
        let (weekly, monthly) = (weekly.transpose()?, monthly.transpose()?);
        let is_empty =
            interval.is_none() && cron.is_none() && daily.is_none() && weekly.is_none() && monthly.is_none();
        if is_empty {
            return Err(ScheduleError::Empty);
        }
        let jitter = schedule.jitter.unwrap_or_default();
        if let Some(interval) = interval.filter(|interval| jitter > *interval) {
            return Err(ScheduleError::Jitter { found: jitter, interval });
        }
        let blackout = parse_windows(&schedule.blackout)?;
        Ok(Self { zone, interval, cron, daily, weekly, monthly, jitter, blackout })
    }
}

fn parse_zone(found: &str) -> Result<TimeZone, ScheduleError> {
    TimeZone::get(found).map_err(|_| {
        let nearest = jiff::tz::db()
            .available()
            .map(|name| name.as_str().to_owned())
            .map(|name| (distance(&name, found), name))
            // Two names in three letters are unlike each other, whatever the distance.
            .filter(|(distance, name)| *distance <= name.len() / 3)
            .min();
        ScheduleError::TimeZone { found: found.to_owned(), nearest: nearest.map(|(_, name)| name) }
    })
}

/// Edits between a zone's name, or its city alone, and what was written.
fn distance(name: &str, found: &str) -> usize {
    let (lower, found) = (name.to_ascii_lowercase(), found.to_ascii_lowercase().replace(' ', "_"));
    let city = lower.rsplit('/').next().unwrap_or(&lower);
    strsim::damerau_levenshtein(&lower, &found).min(1 + strsim::damerau_levenshtein(city, &found))
}

fn parse_cron(found: &str) -> Result<Cron, ScheduleError> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let cron = parser
        .parse(found)
        .map_err(|error| ScheduleError::Cron { found: found.to_owned(), why: why_no_cron(error) })?;
    let start = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    match cron.find_next_occurrence(&start, true) {
        Ok(_) => Ok(cron),
        Err(_) => Err(ScheduleError::CronNever { found: found.to_owned() }),
    }
}

/// The parser's words, without its own name for the kind of mistake.
fn why_no_cron(error: CronError) -> String {
    match error {
        CronError::ComponentError(why)
        | CronError::InvalidPattern(why)
        | CronError::IllegalCharacters(why) => why,
        CronError::EmptyPattern => "it is empty".to_owned(),
        other => other.to_string(),
    }
}

fn parse_clock(text: &str) -> Option<CivilTime> {
    let (hour, minute) = text.split_once(':')?;
    let number = |part: &str| {
        let digits = !part.is_empty() && part.len() <= 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits { part.parse::<i8>().ok() } else { None }
    };
    if minute.len() != 2 {
        return None;
    }
    CivilTime::new(number(hour)?, number(minute)?, 0, 0).ok()
}

fn parse_time(field: &str, found: &str) -> Result<TimeOfDay, ScheduleError> {
    parse_clock(found)
        .map(TimeOfDay)
        .ok_or_else(|| ScheduleError::TimeOfDay { field: field.to_owned(), found: found.to_owned() })
}

fn parse_day(field: &str, found: &str) -> Result<Weekday, ScheduleError> {
    const DAYS: [(&str, Weekday); 7] = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let text = found.to_ascii_lowercase();
    DAYS.into_iter()
        .find(|(name, _)| *name == text || name.get(..3) == Some(&text))
        .map(|(_, day)| day)
        .ok_or_else(|| ScheduleError::Day { field: field.to_owned(), found: found.to_owned() })
}

fn parse_windows(blackout: &[Blackout]) -> Result<Windows, ScheduleError> {
    if blackout.len() > WINDOWS_MAX {
        return Err(ScheduleError::WindowCount { found: blackout.len() });
    }
    let windows = blackout.iter().enumerate().map(|(index, window)| parse_window(index, window));
    let windows = Windows(windows.collect::<Result<_, _>>()?);
    if windows.cover_everything() { Err(ScheduleError::NeverFree) } else { Ok(windows) }
}

fn parse_window(index: usize, window: &Blackout) -> Result<Window, ScheduleError> {
    let TimeOfDay(from) = parse_time(&format!("blackout[{index}].from"), &window.from)?;
    let to = match window.to.as_str() {
        "24:00" => None,
        text => Some(parse_time(&format!("blackout[{index}].to"), text)?.0),
    };
    if to == Some(from) {
        return Err(ScheduleError::Window { index, from: window.from.clone(), to: window.to.clone() });
    }
    let mut days = 0;
    for (at, day) in window.days.iter().enumerate() {
        days |= day_bit(parse_day(&format!("blackout[{index}].days[{at}]"), day)?);
    }
    Ok(Window { from, to, days: if days == 0 { 0x7f } else { days } })
}
