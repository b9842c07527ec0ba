//! Database URLs without what is secret in them. What is not plainly harmless is hidden.

/// The database URL as it may stand in a listing or a log line: no password, one line, and `***` for every piece that
/// is not plainly something else. Takes both forms, `postgresql://…` and libpq's `host=… password=…`.
pub fn mask_url(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) if is_plain(scheme, "") => format!("{scheme}://{}", mask_rest(rest)),
        _ => mask_keywords(url).unwrap_or_else(|| HIDDEN.to_owned()),
    }
}

const HIDDEN: &str = "***";

/// Options whose values are no secrets, in either form.
const HARMLESS: &[&str] = &[
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "passfile",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// What comes after `postgresql://`. A password may hold characters that it should not: its end is the last `@`.
fn mask_rest(rest: &str) -> String {
    let (credentials, place) = match rest.rsplit_once('@') {
        // A `?` in the password, or an `@` in an option? Nobody can tell.
        Some((before, _)) if before.contains('?') => return HIDDEN.to_owned(),
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, rest),
    };
    let mut masked = String::new();
    if let Some(credentials) = credentials {
        let (user, password) = match credentials.split_once(':') {
            Some((user, _)) => (user, ":***"),
            None => (credentials, ""),
        };
        masked += if is_plain(user, "") { user } else { HIDDEN };
        masked += password;
        masked += "@";
    }
    let (place, options) = match place.split_once('?') {
        Some((place, options)) => (place, Some(options)),
        None => (place, None),
    };
    let (hosts, database) = match place.split_once('/') {
        Some((hosts, database)) => (hosts, Some(database)),
        None => (place, None),
    };
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

/// libpq's other form. `None` when it is not that, or not whole.
fn mask_keywords(text: &str) -> Option<String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('\'') {
            Some(quoted) => {
                let end = end_of_value(quoted, |c| c == '\'')?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => after.split_at(end_of_value(after, char::is_whitespace).unwrap_or(after.len())),
        };
        pairs.push(mask_pair(key.trim_end(), value));
        rest = after.trim_start();
    }
    if pairs.is_empty() { None } else { Some(pairs.join(" ")) }
}

/// Where the first character is that ends a value and has no backslash before it.
fn end_of_value(text: &str, ends: impl Fn(char) -> bool) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if !escaped && ends(c) {
            return Some(at);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

fn mask_pair(key: &str, value: &str) -> String {
    match HARMLESS.contains(&key) {
        true if is_plain(value, "%/:,") => format!("{key}={value}"),
        true => format!("{key}={HIDDEN}"),
        false if key == "password" => format!("{key}={HIDDEN}"),
        // A key that nobody knows may be the end of a password with a space in it.
        false => format!("{HIDDEN}={HIDDEN}"),
    }
}

/// `name`, `name:port`, `[::1]:port`, or nothing at all.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, rest)) => (name, rest.strip_prefix(':').unwrap_or(rest)),
        None => text.split_once(':').unwrap_or((text, "")),
    };
    is_plain(name, "%:") && port.bytes().all(|byte| byte.is_ascii_digit())
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
