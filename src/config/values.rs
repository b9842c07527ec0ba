//! What a value must look like. Every error says what would be right, and none repeats the value: it may be secret.

use std::fmt::Display;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::TenantDatabaseHost;
use super::database_url::syntax::host_and_port;
use crate::engine::sandbox::Mode;

pub fn address(value: &str) -> Result<SocketAddr, String> {
    value
        .parse()
        .map_err(|_| "must be an IP address and a port, such as 0.0.0.0:8080 or [::1]:8080".to_owned())
}

pub fn path(value: &str) -> Result<(), String> {
    match value.is_empty() || value.contains(char::is_control) {
        true => Err("must be the path of a file".to_owned()),
        false => Ok(()),
    }
}

pub fn secret(value: &str) -> Result<String, String> {
    if value.is_empty() { Err("must not be empty".to_owned()) } else { Ok(value.to_owned()) }
}

pub fn count<N: FromStr + PartialOrd + Display>(value: &str, range: RangeInclusive<N>) -> Result<N, String> {
    parse_digits(value)
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
}

pub fn switch(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "must be true or false".to_owned())
}

pub fn sandbox_mode(value: &str) -> Result<Mode, String> {
    Mode::from_name(value).ok_or_else(|| {
        let names = Mode::ALL.map(Mode::name).join(", ");
        format!("must be one of {names}")
    })
}

/// Whether there is such a user is looked at when tasks are to run.
pub fn user(value: &str) -> Result<String, String> {
    match value.is_empty() || value.contains(|c: char| c.is_control() || c == ':') {
        true => Err("must be the name or the number of a user".to_owned()),
        false => Ok(value.to_owned()),
    }
}

/// `least` and `most` are written as a user would write them, because the message repeats them.
pub fn duration(value: &str, least: &str, most: &str) -> Result<Duration, String> {
    match (parse_duration(value), parse_duration(least), parse_duration(most)) {
        (Some(value), Some(least), Some(most)) if least <= value && value <= most => Ok(value),
        _ => Err(format!("must be a duration from {least} to {most}, such as 500ms, 30s, 5m or 2h")),
    }
}

/// `500ms`, `30s`, `5m`, `2h`, `1d`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let milliseconds_per_unit = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(parse_digits::<u64>(number)?.checked_mul(milliseconds_per_unit)?))
}

/// `least` and `most` as with `duration`.
pub fn size(value: &str, least: &str, most: &str) -> Result<usize, String> {
    match (parse_size(value), parse_size(least), parse_size(most)) {
        (Some(value), Some(least), Some(most)) if (least..=most).contains(&value) => {
            usize::try_from(value).map_err(|error| error.to_string())
        }
        _ => Err(format!("must be a size from {least} to {most}, in bytes, or such as 512K, 100M or 1G")),
    }
}

/// `512K`, `100M`, `1G`, `2T`, of 1024 each; a bare number is bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let bytes_per_unit = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return None,
    };
    parse_digits::<u64>(number)?.checked_mul(bytes_per_unit)
}

/// Stricter than `parse`, which takes a `+`.
pub fn parse_digits<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The text stays as it is; here it is only looked at, so that a mistake is found before anything is done.
pub fn database_url(value: &str) -> Result<String, String> {
    super::database_url::parse(value).map(|_| value.to_owned())
}

/// One host with or without a port, or a directory. What a list of hosts or a URL would need is refused.
pub fn tenant_database_host(value: &str) -> Result<TenantDatabaseHost, String> {
    let named = |name: &str, port: Option<u16>| TenantDatabaseHost { name: name.to_owned(), port };
    let host = if value.starts_with('/') {
        let is_path = !value.contains(|c: char| c == ',' || c.is_control());
        is_path.then(|| named(value, None))
    } else {
        host_and_port(value).and_then(|(name, port)| {
            let is_name = match value.starts_with('[') {
                true => name.parse::<Ipv6Addr>().is_ok(),
                false => !name.is_empty() && name.bytes().all(is_of_host_name),
            };
            let is_without_port = port.is_empty() && !value.ends_with(':');
            let port = parse_digits::<u16>(port).filter(|port| *port != 0);
            (is_name && (is_without_port || port.is_some())).then(|| named(name, port))
        })
    };
    host.ok_or_else(|| {
        "must be one host, such as db.example, db.example:5432, [2001:db8::1]:5432, or the directory of a socket, \
         such as /run/postgresql"
            .to_owned()
    })
}

fn is_of_host_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_tenants() {
        for (right, name, port) in [
            ("db.example", "db.example", None),
            ("db_1.example:6432", "db_1.example", Some(6432)),
            ("10.0.0.7", "10.0.0.7", None),
            ("[::1]", "::1", None),
            ("[2001:db8::1]:5433", "2001:db8::1", Some(5433)),
            ("/run/postgresql", "/run/postgresql", None),
            ("/a b/\u{e9}:1", "/a b/\u{e9}:1", None),
        ] {
            let host = tenant_database_host(right).expect(right);
            assert_eq!((&*host.name, host.port), (name, port), "{right}");
        }
        for wrong in [
            "",
            ":5432",
            "h:",
            "h:0",
            "h:65536",
            "h:+1",
            "h:x",
            "h:1:2",
            "::1",
            "[::1",
            "[::1]:",
            "[::1]x",
            "[h]:1",
            "a,b",
            "/a,/b",
            "/a\n",
            "a b",
            "u@h",
            "h/d",
            "postgresql://h/d",
            "caf\u{e9}",
        ] {
            assert!(tenant_database_host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("100M"), Some(100 << 20));
        assert_eq!(parse_size("1K"), Some(1024));
        assert_eq!(parse_size("2T"), Some(2 << 40));
        assert_eq!(parse_size("77"), Some(77));
        for wrong in ["", "M", "1m", "1MB", "1 M", "-1", "+1", "1.5G", "99999999999999999G"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
        assert!(size("1024", "1K", "1G").is_ok() && size("1024M", "1K", "1G").is_ok());
        assert!(size("1023", "1K", "1G").is_err() && size("1025M", "1K", "1G").is_err());
    }

    #[test]
    fn durations() {
        let ms = |text: &str| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("30s"), Some(30_000));
        assert_eq!(ms("5m"), Some(300_000));
        assert_eq!(ms("2h"), Some(7_200_000));
        assert_eq!(ms("7"), Some(7_000));
        for wrong in ["", "s", "-1s", "+1", "1.5s", "1 s", "1w", "1S", "99999999999999999h", "٣s"] {
            assert_eq!(ms(wrong), None, "{wrong}");
        }
        assert!(duration("1ms", "1ms", "1h").is_ok() && duration("60m", "1ms", "1h").is_ok());
        assert!(duration("0", "1ms", "1h").is_err() && duration("61m", "1ms", "1h").is_err());
    }

    #[test]
    fn counts() {
        assert_eq!(count::<u32>("0", 0..=9), Ok(0));
        for wrong in ["", "-1", "+1", "1.0", "10", "0x1", " 1", "99999999999999999999999"] {
            assert!(count::<usize>(wrong, 1..=9).is_err(), "{wrong}");
        }
    }

    #[test]
    fn database_urls() {
        for right in [
            "postgresql://u:p@h:5432/d",
            "postgres://h",
            "host=h user=u password='a b'",
            "postgresql://u@%2Frun%2Fpostgresql/d",
            "postgresql:///d?host=/run/postgresql",
            "postgresql://u:p%40%2F@[::1]:5432/d?sslmode=disable",
        ] {
            assert_eq!(database_url(right).as_deref(), Ok(right));
        }
    }

    #[test]
    fn no_piece_of_a_wrong_database_url_is_repeated() {
        for wrong in [
            "",
            "topsecret",
            "mysql://u:topsecret@h/d",
            "postgresql://u:topsecret",
            "postgresql://u:a@topsecret@h/d",
            "postgresql://u:a/topsecret@h:x/d",
            "postgresql://u:a?topsecret=1",
            "postgresql://u:p@h/d?topsecret",
            "postgresql://h/d?topsecret=x",
            "host=h password=a topsecret=x",
            "host=h password='topsecret",
            "host=h port=topsecret",
        ] {
            let message = database_url(wrong).expect_err(wrong);
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
