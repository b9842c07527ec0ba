//! Which parameters of libpq are taken, and what is said of others.

use crate::suggestion::distance;

/// The parameters that are taken, as a message lists them.
const TAKEN: &str = "host, hostaddr, port, dbname, user, password, passfile, sslmode, sslrootcert, sslcert, sslkey, \
                     sslnegotiation, channel_binding, connect_timeout, target_session_attrs, load_balance_hosts, \
                     application_name, options, keepalives, keepalives_idle, keepalives_interval, \
                     keepalives_count, tcp_user_timeout";

/// Parameters of libpq that are not taken: names that are safe to repeat.
const NOT_TAKEN: &str = "authtype client_encoding fallback_application_name gssdelegation gssencmode gsslib krbsrvname \
                         max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer \
                         oauth_scope replication require_auth requirepeer requiressl scram_client_key \
                         scram_server_key service servicefile ssl ssl_max_protocol_version \
                         ssl_min_protocol_version sslcertmode sslcompression sslcrl sslcrldir sslkeylogfile \
                         sslpassword sslsni tty";

/// Whether a parameter is taken, under libpq's name or under the driver's.
pub fn is_taken(name: &str) -> bool {
    name == "keepalives_retries" || TAKEN.split(", ").any(|taken| taken == name)
}

/// Whether a parameter is taken; `number` counts from 1.
///
/// # Errors
/// Which are. An unknown name may be the end of a password, so it is repeated only when it is nearly one that is known:
/// but for the case of its letters, one is too many, too few, wrong, or swapped with the next.
pub fn check(name: &str, number: usize) -> Result<(), String> {
    if is_taken(name) {
        return Ok(());
    }
    if NOT_TAKEN.split(' ').any(|known| known == name) {
        return Err(format!("has the parameter {name}, which is not taken; these are: {TAKEN}"));
    }
    let is_near = |known: &&str| {
        name.len().abs_diff(known.len()) <= 1 && distance(&name.to_ascii_lowercase(), known) <= 1
    };
    Err(match TAKEN.split(", ").find(is_near) {
        Some(known) => {
            format!("has an unknown parameter {name}; did you mean {known}? These are taken: {TAKEN}")
        }
        None => format!("has an unknown parameter, the one at place {number}; these are taken: {TAKEN}"),
    })
}
