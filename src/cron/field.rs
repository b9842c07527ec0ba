//! One field of a cron line: lists, ranges, steps and names, and what only days and weekdays can hold.

use super::{CronError, DaysOfMonth, Weekdays};
use crate::terminal::start_of;

/// Numbers from 0 to 63.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set(u64);

/// What a field is called and may hold.
pub struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    /// The first one means `first_name`, each further one the next number.
    names: &'static [&'static str],
    first_name: u8,
}

const NUMBERS: Field = Field { name: "", least: 0, most: 59, names: &[], first_name: 0 };

pub const SECOND: Field = Field { name: "second", ..NUMBERS };
pub const MINUTE: Field = Field { name: "minute", ..NUMBERS };
pub const HOUR: Field = Field { name: "hour", most: 23, ..NUMBERS };
pub const DAY: Field = Field { name: "day", least: 1, most: 31, ..NUMBERS };
pub const MONTH: Field = Field {
    name: "month",
    least: 1,
    most: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    first_name: 1,
};
/// 7 is Sunday too, as the end of a range or alone.
pub const WEEKDAY: Field = Field {
    name: "weekday",
    most: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    first_name: 0,
    ..NUMBERS
};

impl Set {
    pub fn contains(self, number: u8) -> bool {
        self.0 >> number & 1 == 1
    }

    /// Its numbers from this one on, in order.
    pub fn from(self, least: u8) -> impl Iterator<Item = u8> {
        (least..64).filter(move |number| self.contains(*number))
    }

    fn insert(&mut self, number: u8) {
        self.0 |= 1 << number;
    }
}

impl Field {
    /// # Errors
    /// What in the field is wrong.
    pub fn set(&self, text: &str) -> Result<Set, CronError> {
        let mut set = Set::default();
        for part in text.split(',') {
            self.add(part, &mut set)?;
        }
        Ok(set)
    }

    /// The field of days; `None` where it restricts nothing.
    ///
    /// # Errors
    /// As `set`.
    pub fn days_of_month(&self, text: &str) -> Result<Option<DaysOfMonth>, CronError> {
        if is_any(text) {
            return Ok(None);
        }
        let mut days = DaysOfMonth::default();
        for part in text.split(',') {
            match part {
                "L" | "l" => days.has_last = true,
                part if part.ends_with(['W', 'w']) => {
                    return Err(self.wrong(part, "days nearest to a weekday (W) are not supported"));
                }
                part => self.add(part, &mut days.days)?,
            }
        }
        Ok(Some(days))
    }

    /// The field of weekdays; `None` where it restricts nothing.
    ///
    /// # Errors
    /// As `set`.
    pub fn weekdays(&self, text: &str) -> Result<Option<Weekdays>, CronError> {
        if is_any(text) {
            return Ok(None);
        }
        let mut weekdays = Weekdays::default();
        let mut every = Set::default();
        for part in text.split(',') {
            let last = part.strip_suffix(['L', 'l']).map(|day| day.strip_suffix('#').unwrap_or(day));
            if let Some(day) = last {
                weekdays.last.insert(self.number(day, part)? % 7);
            } else if let Some((day, nth)) = part.split_once('#') {
                let nth = match nth.as_bytes() {
                    [digit @ b'1'..=b'5'] => usize::from(digit - b'1'),
                    _ => {
                        return Err(
                            self.wrong(part, "behind # stands a number from 1 to 5, or L for the last")
                        );
                    }
                };
                weekdays.nth[nth].insert(self.number(day, part)? % 7);
            } else {
                self.add(part, &mut every)?;
            }
        }
        every.from(0).for_each(|day| weekdays.every.insert(day % 7));
        Ok(Some(weekdays))
    }

    fn add(&self, part: &str, set: &mut Set) -> Result<(), CronError> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step, part)?)),
            None => (part, None),
        };
        let (first, last) = if range == "*" {
            // As a range the weekdays have each day once.
            (self.least, self.most - u8::from(self.most == 7))
        } else if let Some((first, last)) = range.split_once('-') {
            let (first, mut last) = (self.number(first, part)?, self.number(last, part)?);
            if self.most == 7 && last == 0 {
                last = 7;
            }
            if first > last {
                let line = format!(
                    "a range counts upwards; write {first}-{},{}-{last} to go past its end",
                    self.most - u8::from(self.most == 7),
                    self.least
                );
                return Err(self.wrong(part, &line));
            }
            (first, last)
        } else {
            let first = self.number(range, part)?;
            (first, if step.is_some() { self.most } else { first })
        };
        (first..=last).step_by(step.unwrap_or(1)).for_each(|number| set.insert(number));
        Ok(())
    }

    fn step(&self, text: &str, part: &str) -> Result<usize, CronError> {
        let step = digits(text).filter(|step| (1..=self.most).contains(step));
        let right = || format!("behind / stands how far a step goes, from 1 to {}", self.most);
        step.map(usize::from).ok_or_else(|| self.wrong(part, &right()))
    }

    fn number(&self, text: &str, part: &str) -> Result<u8, CronError> {
        let names = || (self.first_name..).zip(self.names);
        let named = names().find(|(_, name)| text.eq_ignore_ascii_case(name)).map(|(number, _)| number);
        named.or_else(|| digits(text).filter(|number| (self.least..=self.most).contains(number))).ok_or_else(
            || {
                let names = match (self.names.first(), self.names.last()) {
                    (Some(first), Some(last)) => format!(" or {first} to {last}"),
                    _ => String::new(),
                };
                self.wrong(part, &format!("it holds {} to {}{names}", self.least, self.most))
            },
        )
    }

    fn wrong(&self, part: &str, right: &str) -> CronError {
        let part = match part {
            "" => "an empty element".to_owned(),
            part => format!("`{}`", start_of(part)),
        };
        CronError(format!("{part} in the field of the {}: {right}", self.name))
    }
}

fn is_any(text: &str) -> bool {
    matches!(text, "*" | "?")
}

/// One or two digits.
fn digits(text: &str) -> Option<u8> {
    let is_number = matches!(text.len(), 1 | 2) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}
