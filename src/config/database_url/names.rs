//! Which parameters of libpq are taken, and what is said of others.

/// The parameters that are taken.
const PARAMETERS: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslnegotiation",
    "channel_binding",
    "connect_timeout",
    "target_session_attrs",
    "load_balance_hosts",
    "application_name",
    "options",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

/// What the database driver calls it.
const OTHER_NAME_OF_COUNT: &str = "keepalives_retries";

/// Parameters of libpq that are not taken: names that are safe to repeat.
const NOT_TAKEN: &[&str] = &[
    "authtype",
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "ssl",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslpassword",
    "sslsni",
    "tty",
];

/// Whether a parameter is taken; `number` counts from 1.
///
/// # Errors
/// Which are. A name that nobody knows may be the end of a password, so it is repeated only when it is nearly one that
/// is known.
pub fn check(name: &str, number: usize) -> Result<(), String> {
    if PARAMETERS.contains(&name) || name == OTHER_NAME_OF_COUNT {
        return Ok(());
    }
    let taken = PARAMETERS.join(", ");
    if NOT_TAKEN.contains(&name) {
        return Err(format!("has the parameter {name}, which is not taken; these are: {taken}"));
    }
    Err(match PARAMETERS.iter().find(|known| is_nearly(name, known)) {
        Some(known) => {
            format!("has an unknown parameter {name}; did you mean {known}? These are taken: {taken}")
        }
        None => format!("has an unknown parameter, the one at place {number}; these are taken: {taken}"),
    })
}

/// Whether one is made of the other by one letter too many, too few, wrong, or swapped with the next, or by the case
/// of letters.
fn is_nearly(name: &str, known: &str) -> bool {
    let (a, b) = (name.to_ascii_lowercase(), known.to_owned());
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let same_ahead = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same_ahead..], &b[same_ahead..]);
    let same_behind = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    match (&a[..a.len() - same_behind], &b[..b.len() - same_behind]) {
        ([], [] | [_]) | ([_], [] | [_]) => true,
        ([a, b], [c, d]) => (a, b) == (d, c),
        _ => false,
    }
}
