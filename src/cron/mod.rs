//! Cron lines, and the names of time zones. What a line means is a matter of the calendar alone; which zone's clock it is
//! read on comes to it from outside.

mod field;
pub mod zone;

use std::fmt;

use time::{Date, PrimitiveDateTime, Time};

use field::{DAY, HOUR, MINUTE, MONTH, SECOND, Set, WEEKDAY};

use crate::terminal::start_of;

/// When a cron line fires, in a local time that every day of has 24 hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    seconds: Set,
    minutes: Set,
    hours: Set,
    months: Set,
    days: Days,
}

/// The days of a month that match. As in cron(8): where days and weekdays are both restricted, either will do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Days {
    /// `None` where every day of the month matches.
    of_month: Option<DaysOfMonth>,
    /// `None` where every weekday matches.
    of_week: Option<Weekdays>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct DaysOfMonth {
    days: Set,
    /// `L`.
    has_last: bool,
}

/// 0 is Sunday.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Weekdays {
    every: Set,
    /// `5L`.
    last: Set,
    /// `5#2`: those that come for the first time in their month, the second, up to the fifth.
    nth: [Set; 5],
}

/// Why a text is no cron line, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronError(String);

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Behind an error that no single field is to blame for.
const FORM: &str = "a cron line has five fields, minute hour day month weekday, or six with seconds first, such as \
                    \"0 3 * * *\" for 03:00 each day";

impl Cron {
    /// # Errors
    /// It is not five or six fields, or one of them holds what it can't.
    pub fn parse(line: &str) -> Result<Cron, CronError> {
        let fields: Vec<&str> = match line.trim() {
            nickname if nickname.starts_with('@') => of_nickname(nickname)?,
            line => line,
        }
        .split_ascii_whitespace()
        .collect();
        let (second, rest) = match fields.as_slice() {
            [minute, rest @ ..] if rest.len() == 4 => ("0", [*minute, rest[0], rest[1], rest[2], rest[3]]),
            [second, rest @ ..] if rest.len() == 5 => {
                (*second, [rest[0], rest[1], rest[2], rest[3], rest[4]])
            }
            fields => {
                let count = match fields.len() {
                    1 => "1 field".to_owned(),
                    count => format!("{count} fields"),
                };
                return Err(CronError(format!("`{}` has {count}; {FORM}", start_of(line))));
            }
        };
        let [minute, hour, day, month, weekday] = rest;
        Ok(Cron {
            seconds: SECOND.set(second)?,
            minutes: MINUTE.set(minute)?,
            hours: HOUR.set(hour)?,
            months: MONTH.set(month)?,
            days: Days { of_month: DAY.days_of_month(day)?, of_week: WEEKDAY.weekdays(weekday)? },
        })
    }

    /// The first local time after this one at which it fires; `None` where it never does.
    pub fn next_local_time(&self, after: PrimitiveDateTime) -> Option<PrimitiveDateTime> {
        // The calendar repeats itself, weekdays too, after 400 years.
        const CYCLE_DAYS: usize = 146_097;
        let mut date = after.date();
        for _ in 0..=CYCLE_DAYS {
            if self.fires_on(date) {
                let earliest = (date == after.date()).then(|| after.time());
                if let Some(time) = self.first_time(earliest) {
                    return Some(PrimitiveDateTime::new(date, time));
                }
            }
            date = date.next_day()?;
        }
        None
    }

    fn fires_on(&self, date: Date) -> bool {
        let of_month = |days: &DaysOfMonth| days.contains(date);
        let of_week = |weekdays: &Weekdays| weekdays.contains(date);
        let is_day = match (&self.days.of_month, &self.days.of_week) {
            (None, None) => true,
            (Some(days), None) => of_month(days),
            (None, Some(weekdays)) => of_week(weekdays),
            (Some(days), Some(weekdays)) => of_month(days) || of_week(weekdays),
        };
        is_day && self.months.contains(date.month() as u8)
    }

    /// The first time of a day, or the first after one.
    fn first_time(&self, after: Option<Time>) -> Option<Time> {
        let (hour, minute, second) = after.map_or((0, 0, 0), Time::as_hms);
        let is_late = |h, m, s| after.is_none() || (h, m, s) > (hour, minute, second);
        for h in self.hours.from(hour) {
            for m in self.minutes.from(if h == hour { minute } else { 0 }) {
                let from = if (h, m) == (hour, minute) { second } else { 0 };
                if let Some(s) = self.seconds.from(from).find(|s| is_late(h, m, *s)) {
                    return Time::from_hms(h, m, s).ok();
                }
            }
        }
        None
    }
}

impl DaysOfMonth {
    fn contains(&self, date: Date) -> bool {
        let is_last = date.day() == time::util::days_in_month(date.month(), date.year());
        self.days.contains(date.day()) || self.has_last && is_last
    }
}

impl Weekdays {
    fn contains(&self, date: Date) -> bool {
        let weekday = date.weekday().number_days_from_sunday();
        let is_in_last_week = date.day() + 7 > time::util::days_in_month(date.month(), date.year());
        let nth = self.nth[usize::from((date.day() - 1) / 7)];
        self.every.contains(weekday)
            || nth.contains(weekday)
            || is_in_last_week && self.last.contains(weekday)
    }
}

fn of_nickname(nickname: &str) -> Result<&'static str, CronError> {
    match nickname.to_ascii_lowercase().as_str() {
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        "@monthly" => Ok("0 0 1 * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@hourly" => Ok("0 * * * *"),
        _ => Err(CronError(format!(
            "`{}` is none of @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually",
            start_of(nickname)
        ))),
    }
}

#[cfg(test)]
mod tests;
