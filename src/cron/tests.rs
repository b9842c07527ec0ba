//! Cron lines and the times at which they fire.

use time::macros::datetime;

use super::*;

/// The first times of a line in the year 2026, whose first day is a Thursday.
fn times(line: &str, count: usize) -> Vec<String> {
    let cron = Cron::parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    let mut at = datetime!(2025-12-31 23:59:59);
    let mut next = || cron.next_local_time(at).inspect(|next| at = *next).map(|next| next.to_string());
    std::iter::from_fn(&mut next).take(count).map(|time| time.trim_end_matches(".0").to_owned()).collect()
}

#[test]
fn lines_fire_at_their_times() {
    for (line, expected) in [
        ("* * * * *", "2026-01-01 0:00:00, 2026-01-01 0:01:00, 2026-01-01 0:02:00"),
        ("*/20 * * * * *", "2026-01-01 0:00:00, 2026-01-01 0:00:20, 2026-01-01 0:00:40"),
        ("0 3 * * *", "2026-01-01 3:00:00, 2026-01-02 3:00:00, 2026-01-03 3:00:00"),
        ("15,45 22-23 * * *", "2026-01-01 22:15:00, 2026-01-01 22:45:00, 2026-01-01 23:15:00"),
        ("10/25 5 * * *", "2026-01-01 5:10:00, 2026-01-01 5:35:00, 2026-01-02 5:10:00"),
        ("0 0 * * fri-sun", "2026-01-02 0:00:00, 2026-01-03 0:00:00, 2026-01-04 0:00:00"),
        ("0 0 ? * 7", "2026-01-04 0:00:00, 2026-01-11 0:00:00, 2026-01-18 0:00:00"),
        ("0 0 L * *", "2026-01-31 0:00:00, 2026-02-28 0:00:00, 2026-03-31 0:00:00"),
        ("0 0 * * FRIL", "2026-01-30 0:00:00, 2026-02-27 0:00:00, 2026-03-27 0:00:00"),
        ("0 0 * * 5#L", "2026-01-30 0:00:00, 2026-02-27 0:00:00, 2026-03-27 0:00:00"),
        ("0 0 * * tue#1,mon#5", "2026-01-06 0:00:00, 2026-02-03 0:00:00, 2026-03-03 0:00:00"),
        ("0 0 13 * 5", "2026-01-02 0:00:00, 2026-01-09 0:00:00, 2026-01-13 0:00:00"),
        ("0 0 29 feb *", "2028-02-29 0:00:00, 2032-02-29 0:00:00, 2036-02-29 0:00:00"),
        ("0 0 1 JAN,jul ?", "2026-01-01 0:00:00, 2026-07-01 0:00:00, 2027-01-01 0:00:00"),
        ("@weekly", "2026-01-04 0:00:00, 2026-01-11 0:00:00, 2026-01-18 0:00:00"),
        ("  @Hourly ", "2026-01-01 0:00:00, 2026-01-01 1:00:00, 2026-01-01 2:00:00"),
    ] {
        assert_eq!(times(line, 3).join(", "), expected, "{line}");
    }
}

#[test]
fn some_lines_never_fire() {
    for line in ["0 0 31 2 *", "0 0 30 feb *", "0 0 31 4,6,9,11 *", "0 0 31 2/2 * ".trim_end()] {
        let fires = Cron::parse(line).unwrap().next_local_time(datetime!(2000-01-01 0:00));
        assert_eq!(fires.is_some(), line.contains('/'), "{line} {fires:?}");
    }
    // A leap year whose February has five Mondays.
    assert_eq!(times("0 0 * 2 1#5", 1), ["2044-02-29 0:00:00"]);
}

#[test]
fn wrong_lines_say_what_would_be_right() {
    for (line, part) in [
        ("", "has 0 fields"),
        ("daily", "`daily` has 1 field; a cron line has five fields"),
        ("0 0 12 * * ? 2026", "has 7 fields"),
        ("60 * * * *", "`60` in the field of the minute: it holds 0 to 59"),
        ("0 24 * * *", "`24` in the field of the hour: it holds 0 to 23"),
        ("0 0 0 * *", "`0` in the field of the day: it holds 1 to 31"),
        ("0 0 * 13 *", "field of the month: it holds 1 to 12 or jan to dec"),
        ("0 0 * * 8", "field of the weekday: it holds 0 to 7 or sun to sat"),
        ("0 0 * * monday", "`monday` in the field of the weekday"),
        ("*/0 * * * *", "`*/0` in the field of the minute: behind / stands"),
        ("*/60 * * * *", "from 1 to 59"),
        ("0 22-2 * * *", "`22-2` in the field of the hour: a range counts upwards; write 22-23,0-2"),
        ("0 0 * * fri-mon", "write 5-6,0-1"),
        ("0 0 15W * *", "(W) are not supported"),
        ("0 0 * * 5#6", "a number from 1 to 5, or L"),
        ("0 0 * * L", "`L` in the field of the weekday"),
        ("1,,2 * * * *", "an empty element in the field of the minute"),
        ("? * * * *", "`?` in the field of the minute"),
        ("-1 * * * *", "`-1` in the field of the minute"),
        ("+1 * * * *", "`+1` in the field of the minute"),
        ("1-2-3 * * * *", "`1-2-3` in the field of the minute"),
        ("1/2/3 * * * *", "`1/2/3` in the field of the minute"),
        ("@reboot", "`@reboot` is none of @hourly"),
        ("Mon..Fri *-*-* 03:00:00", "has 3 fields"),
        ("\u{1b} * * * *", r"`\u{1b}` in"),
    ] {
        let error = Cron::parse(line).expect_err(line).to_string();
        assert!(error.contains(part), "{line}: {error}");
    }
}
