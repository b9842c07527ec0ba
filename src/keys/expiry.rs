//! Moments and durations as users write them: RFC 3339, and `90d`, `12h`, `30m`, `45s`.

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, UtcOffset};

use crate::config::parse_duration;

/// RFC 3339 in UTC with `+00:00`, in whole seconds as everywhere in our answers.
pub fn format_rfc3339(timestamp: OffsetDateTime) -> String {
    // Every moment that we store can be written; one that an older server stored may not.
    match format_digits(timestamp) {
        Some(digits) => digits.map(char::from).iter().collect(),
        None => timestamp.to_offset(UtcOffset::UTC).to_string(),
    }
}

/// The same as ASCII; `None` outside of the years that RFC 3339 can write. A listing has thousands of them.
pub fn format_digits(timestamp: OffsetDateTime) -> Option<[u8; 25]> {
    let timestamp = timestamp.to_offset(UtcOffset::UTC);
    let year = u32::try_from(timestamp.year()).ok()?;
    let mut text = *b"0000-00-00T00:00:00+00:00";
    let mut put = |at: usize, count: usize, mut number: u32| {
        for digit in text[at..at + count].iter_mut().rev() {
            *digit += (number % 10) as u8;
            number /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, u8::from(timestamp.month()).into());
    put(8, 2, timestamp.day().into());
    put(11, 2, timestamp.hour().into());
    put(14, 2, timestamp.minute().into());
    put(17, 2, timestamp.second().into());
    Some(text)
}

/// A moment in RFC 3339, in whole seconds.
///
/// # Errors
/// What would be right.
pub fn parse_rfc3339(text: &str) -> Result<OffsetDateTime, &'static str> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|timestamp| timestamp.checked_to_offset(UtcOffset::UTC))
        .and_then(|timestamp| timestamp.replace_nanosecond(0).ok())
        .ok_or("expected a date and time as in RFC 3339, such as 2027-01-31T12:00:00Z")
}

/// A number and a unit: `d`, `h`, `m` or `s`.
///
/// # Errors
/// What would be right.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    // Milliseconds and bare numbers are for settings alone.
    let has_unit = text.ends_with(['d', 'h', 'm', 's']) && !text.ends_with("ms");
    let parsed = has_unit.then(|| parse_duration(text)).flatten();
    parsed
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or("expected a number of days, hours, minutes or seconds, such as 90d, 12h, 30m or 45s")
}

/// The moment that is so long after `now`, in whole seconds.
///
/// # Errors
/// It lies beyond the last year that can be written.
pub fn after(now: OffsetDateTime, duration: Duration) -> Result<OffsetDateTime, &'static str> {
    now.checked_add(duration)
        .and_then(|timestamp| timestamp.replace_nanosecond(0).ok())
        .ok_or("lies beyond the year 9999")
}

/// When a new key ends that was asked to end then, where it may live for `longest` from `now` on; zero is no limit. A
/// key that was to live for ever ends when it has to.
///
/// # Errors
/// It was asked to live for longer.
pub fn bounded(
    asked: Option<OffsetDateTime>,
    longest: std::time::Duration,
    now: OffsetDateTime,
) -> Result<Option<OffsetDateTime>, String> {
    if longest.is_zero() {
        return Ok(asked);
    }
    let latest = after(now, Duration::try_from(longest).unwrap_or(Duration::MAX))?;
    match asked {
        Some(end) if end > latest => {
            Err(format!("must not be later than {}: keys live no longer here", format_rfc3339(latest)))
        }
        Some(end) => Ok(Some(end)),
        None => Ok(Some(latest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("90d", Some(7_776_000)), ("12h", Some(43_200)), ("30m", Some(1_800)), ("45s", Some(45))]
        {
            assert_eq!(duration(text).ok().map(Duration::whole_seconds), seconds, "{text}");
        }
        for bad in [
            "",
            "d",
            "5",
            "-5d",
            "+5d",
            "1.5h",
            "5w",
            "5 d",
            "5D",
            "99999999999999999999d",
            "9223372036854775807d",
            "é",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments() {
        let noon = parse_rfc3339("2027-01-31T14:30:00.75+02:30").unwrap();
        assert_eq!(format_rfc3339(noon), "2027-01-31T12:00:00+00:00");
        let late = time::macros::datetime!(9999-12-31 23:59:59.9 UTC);
        assert_eq!(format_rfc3339(late), "9999-12-31T23:59:59+00:00");
        assert_eq!(
            format_rfc3339(time::macros::datetime!(0012-02-03 04:05:06 +01:00)),
            "0012-02-03T03:05:06+00:00"
        );
        assert_eq!(format_digits(time::macros::datetime!(-0044-03-15 12:00 UTC)), None);
        for bad in ["", "2027-01-31", "2027-02-31T12:00:00Z", "tomorrow", "2027-01-31T12:00:00"] {
            assert!(parse_rfc3339(bad).is_err(), "{bad}");
        }
        assert!(after(noon, Duration::days(4_000_000)).is_err());
        assert_eq!(format_rfc3339(after(noon, Duration::days(1)).unwrap()), "2027-02-01T12:00:00+00:00");
    }
}
