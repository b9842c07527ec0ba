//! Database URLs without what is secret in them. What is not plainly harmless is hidden.

use super::database_url::{names, syntax};

/// The database URL as it may stand in a listing or a log line: no password, one line, and `***` for every piece that
/// is not plainly something else. Takes both forms, `postgresql://…` and libpq's `host=… password=…`.
pub fn mask_url(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) if is_plain(scheme, "") => format!("{scheme}://{}", mask_rest(rest)),
        _ => mask_keywords(url),
    }
}

const HIDDEN: &str = "***";

/// What comes after `postgresql://`. A password may hold characters that it should not: its end is the last `@`.
fn mask_rest(rest: &str) -> String {
    let (credentials, place) =
        rest.rsplit_once('@').map_or((None, rest), |(before, place)| (Some(before), place));
    // A `?` in the password, or an `@` in an option? That cannot be told.
    if credentials.is_some_and(|credentials| credentials.contains('?')) {
        return HIDDEN.to_owned();
    }
    let mut masked = String::new();
    if let Some(credentials) = credentials {
        let (user, password) =
            credentials.split_once(':').map_or((credentials, ""), |(user, _)| (user, ":***"));
        let user = if is_plain(user, "") { user } else { HIDDEN };
        masked.extend([user, password, "@"]);
    }
    let (place, options) =
        place.split_once('?').map_or((place, None), |(place, options)| (place, Some(options)));
    let (hosts, database) = place.split_once('/').map_or((place, None), |(hosts, name)| (hosts, Some(name)));
    // Where a port is no number, this may be a user and a password whose `@` is missing.
    if !hosts.split(',').all(is_host) {
        return masked + HIDDEN;
    }
    masked += hosts;
    if let Some(database) = database {
        masked += "/";
        masked += if is_plain(database, "%") { database } else { HIDDEN };
    }
    if let Some(options) = options {
        masked += "?";
        let pairs = options.split('&').map(|pair| match pair.split_once('=') {
            Some((key, value)) => mask_pair(key, value),
            None => HIDDEN.to_owned(),
        });
        masked += &pairs.collect::<Vec<_>>().join("&");
    }
    masked
}

/// libpq's other form.
fn mask_keywords(text: &str) -> String {
    match syntax::of_keywords(text) {
        Ok(pairs) if !pairs.is_empty() => {
            let pairs = pairs.iter().map(|(key, value)| mask_pair(key, &String::from_utf8_lossy(value)));
            pairs.collect::<Vec<_>>().join(" ")
        }
        // It is not that, or not whole.
        _ => HIDDEN.to_owned(),
    }
}

/// The value stays where the parameter's values are no secrets, in either form.
fn mask_pair(key: &str, value: &str) -> String {
    match key {
        "password" => format!("{key}={HIDDEN}"),
        // An unknown key may be the end of a password with a space in it. Options may set what only the user knows.
        _ if !names::is_taken(key) || key == "options" => format!("{HIDDEN}={HIDDEN}"),
        _ if is_plain(value, "%/:,") => format!("{key}={value}"),
        _ => format!("{key}={HIDDEN}"),
    }
}

/// `name`, `name:port`, `[::1]:port`, or nothing at all.
fn is_host(text: &str) -> bool {
    let is_harmless =
        |(name, port): (&str, &str)| is_plain(name, "%:") && port.bytes().all(|byte| byte.is_ascii_digit());
    syntax::host_and_port(text).is_some_and(is_harmless)
}

fn is_plain(text: &str, more: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c) || more.contains(c))
}

#[cfg(test)]
mod tests {
    use super::mask_url;

    #[test]
    fn passwords_are_hidden() {
        for (url, masked) in [
            ("postgresql://u:pw@h:5432/d", "postgresql://u:***@h:5432/d"),
            ("postgres://u:@h", "postgres://u:***@h"),
            ("postgresql://u@h/d", "postgresql://u@h/d"),
            ("postgresql://h/d?sslmode=disable", "postgresql://h/d?sslmode=disable"),
            ("postgresql://u:pw@[::1]:5432,b:1/d", "postgresql://u:***@[::1]:5432,b:1/d"),
            ("postgresql://u:p@w:/x@h/d", "postgresql://u:***@h/d"),
            ("postgresql://u%3Apw@h/d", "postgresql://***@h/d"),
            ("postgresql://u:pw", "postgresql://***"),
            ("postgresql://u:p?w@h/d", "postgresql://***"),
            ("postgresql://h/d?password=p@w", "postgresql://***"),
            ("postgresql://h/d?user=u&password=pw&x", "postgresql://h/d?user=u&password=***&***"),
            (
                "postgresql://h/d?password=pw&sslrootcert=/a/b.crt",
                "postgresql://h/d?password=***&sslrootcert=/a/b.crt",
            ),
            ("postgresql://h/d?sslpassword=pw", "postgresql://h/d?***=***"),
            ("postgresql:///d?host=/run/pg&passfile=/p", "postgresql:///d?host=/run/pg&passfile=/p"),
            ("postgresql://h/d?Pass%77ord=pw", "postgresql://h/d?***=***"),
            ("host=h user=u password=pw dbname=d", "host=h user=u password=*** dbname=d"),
            ("host = h password = 'p w\\' x' port=1", "host=h password=*** port=1"),
            ("password=p\\ w host=h", "password=*** host=h"),
            ("host=h password='pw", "***"),
            ("password=my secret=1", "password=*** ***=***"),
            ("pw", "***"),
            ("", "***"),
            ("postgresql://", "postgresql://"),
            ("postgresql://u:pw@h/d\nINFO forged", "postgresql://u:***@h/***"),
        ] {
            assert_eq!(mask_url(url), masked, "{url}");
        }
    }

    #[test]
    fn odd_input_neither_panics_nor_shows_a_password() {
        let pieces = [
            "secret",
            "postgresql://",
            ":",
            "é",
            "@",
            "/",
            "?",
            "&",
            "=",
            "'",
            "\\",
            " ",
            "[",
            "]",
            "%",
            "password",
        ];
        let mut state = 1_u64;
        for _ in 0..50_000 {
            let mut odd = String::new();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                odd += pieces[(state >> 33) as usize % pieces.len()];
            }
            mask_url(&odd);
            let url = format!("postgresql://u:{odd}@h/d");
            assert!(!mask_url(&url).contains("secret"), "{url}");
        }
    }
}
