//! What every session depends on, set in one round trip when it is made, whatever the role, the database or the server
//! has for a default; and what that round trip tells of the server. Which
//! schema to work in is found in the same round trip, by the name of the server's oldest table.

use std::time::Duration;

use postgres::Client;

use super::connect_error::ConnectError;
use super::text_query::rows;

/// Settings that any role may set, each with the value that statements and migrations rely on. One that a version of
/// PostgreSQL does not have is left out there.
///
/// `default_transaction_read_only` is not among them: a session that is read-only is not used. Nor is `role`, which says
/// as whom the server works, nor what only changes how fast an answer comes.
const PINNED: &[(&str, &str)] = &[
    // The pool and the store have limits of their own.
    ("lock_timeout", "0"),
    ("idle_session_timeout", "0"),
    // An error would end the session.
    ("exit_on_error", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // How texts are read and written.
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("timezone_abbreviations", "Default"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("array_nulls", "on"),
    ("quote_all_identifiers", "off"),
    ("xmlbinary", "base64"),
    ("xmloption", "content"),
    // Rows that a policy hides are hidden, where `off` would make an error of them.
    ("row_security", "on"),
    // What a migration makes.
    ("default_table_access_method", "heap"),
    ("check_function_bodies", "on"),
    // Each notice is a line of the log.
    ("client_min_messages", "warning"),
    ("plan_cache_mode", "auto"),
];

/// A server that is stopped between two statements of a transaction, as a virtual machine is while it is moved, must not keep
/// rows locked that others wait for.
const MOST_IDLE: Duration = Duration::from_secs(10);

/// `idle_in_transaction_session_timeout` of a session with that `statement_timeout`; where statements have no limit,
/// transactions have none either.
fn most_idle(statement_timeout: Duration) -> Duration {
    if statement_timeout.is_zero() { statement_timeout } else { statement_timeout.max(MOST_IDLE) }
}

/// Gives a session that was made without them the time-outs of one with that `statement_timeout`.
pub fn time_limits(statement_timeout: Duration) -> String {
    format!(
        "SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {}",
        statement_timeout.as_millis(),
        most_idle(statement_timeout).as_millis()
    )
}

/// The tables `trusted` and `trusted_owner` of a query that begins WITH RECURSIVE.
pub const TRUSTED_OWNERS: &str = include_str!("trusted.sql");

/// What the server said.
pub struct Pinned {
    /// As the session has it now.
    pub search_path: String,
    /// Differs between two servers, the two of a failover included.
    pub instance: String,
}

/// Where to look for the server's tables.
pub enum Path<'a> {
    /// In the first schema of the session's own path that has `api_keys`.
    Imposed,
    /// The same; where none has it, in the only schema that has this server's tables.
    Anywhere,
    /// They have been found before.
    Known(&'a str),
}

/// Pins a new session's settings.
///
/// # Errors
/// The session broke, a setting cannot be set, the server is read-only for us, or stores texts in another encoding.
pub fn pin(
    client: &mut Client,
    statement_timeout: Duration,
    path: &Path<'_>,
) -> Result<Pinned, ConnectError> {
    let rows = rows(client, &statements(statement_timeout, path))?;
    let row = rows.last().ok_or(ConnectError::ReadOnly)?;
    let text = |index| Ok::<_, postgres::Error>(row.try_get(index)?.unwrap_or_default().to_owned());
    match (text(0)?, text(1)?) {
        (is_read_only, _) if is_read_only == "t" => Err(ConnectError::ReadOnly),
        (_, encoding) if encoding != "UTF8" => Err(ConnectError::Encoding(encoding)),
        _ => Ok(Pinned { search_path: text(2)?, instance: text(3)? }),
    }
}

/// Imposed time-outs of statements and transactions count at once, so they are the first to go. The transaction is READ
/// COMMITTED, since a standby has no other, and its names are those of `pg_catalog`: a schema that is imposed may have
/// functions and operators of the same names.
fn statements(statement_timeout: Duration, path: &Path<'_>) -> String {
    let values: Vec<_> = PINNED.iter().map(|(name, value)| format!("('{name}', '{value}')")).collect();
    let path = match path {
        Path::Known(path) => format!("'{}'", path.replace('\'', "''")),
        Path::Imposed => found_path(false),
        Path::Anywhere => found_path(true),
    };
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED;
         SET statement_timeout = {};
         SELECT pg_catalog.set_config('transaction_timeout', '0', false)
             WHERE pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL;
         SELECT pg_catalog.set_config('cloacinactl.imposed', pg_catalog.current_schemas(false)::pg_catalog.text, true);
         SET search_path = pg_catalog, pg_temp;
         WITH pinned AS MATERIALIZED (
             SELECT set_config(name, value, false) AS value FROM (VALUES {},
                 ('idle_in_transaction_session_timeout', '{}'),
                 -- A revocation that a crash undoes would let a key in again; what is stronger than this stays.
                 (CASE current_setting('synchronous_commit') WHEN 'off' THEN 'synchronous_commit' END, 'on'),
                 (CASE current_setting('is_superuser') WHEN 'on' THEN 'session_replication_role' END, 'origin')
             ) AS wanted (name, value) WHERE current_setting(name, true) <> value
         )
         SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
                current_setting('server_encoding'),
                set_config('search_path', {path}, false),
                extract(epoch FROM pg_postmaster_start_time())::text,
                (SELECT count(value) FROM pinned);
         COMMIT",
        statement_timeout.as_millis(),
        values.join(", "),
        most_idle(statement_timeout).as_millis(),
    )
}

/// A path with the schema of `api_keys` alone: the first on the imposed path that has all of the server's tables, else
/// the first that has `api_keys`. A database without has it made in the first schema of a role that is trusted. Temporary
/// tables come last: they would be found first otherwise.
///
/// Tables of a role that is not trusted are taken only where there are no others, and the start refuses them. A path
/// without a schema that is there makes this null, which leaves the imposed path as it is: the start refuses that too.
///
/// An earlier server may have adopted a table in one schema and made its own in another, which comes second then.
fn found_path(anywhere: bool) -> String {
    format!(
        "(WITH RECURSIVE {trusted},
               imposed AS (SELECT current_setting('cloacinactl.imposed')::text[] AS path),
               caches AS (
                   SELECT relnamespace AS schema FROM pg_class
                   WHERE relname = 'auth_caches' AND relowner IN (SELECT role FROM trusted_owner)
               ),
               lying AS (
                   SELECT nspname::text AS name, array_position(path, nspname::text) AS place,
                          relowner IN (SELECT role FROM trusted_owner) AS is_trusted,
                          pg_has_role(relowner, 'USAGE') AS is_own,
                          relnamespace IN (SELECT schema FROM caches) AS is_whole
                   FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace, imposed
                   WHERE relname = 'api_keys' AND relkind IN ('r', 'p')
               ),
               home AS (
                   SELECT COALESCE(
                       (SELECT name FROM lying WHERE place IS NOT NULL AND is_trusted ORDER BY is_whole DESC, place LIMIT 1),
                       (SELECT min(name) FROM lying WHERE {anywhere} AND is_whole AND is_own AND is_trusted
                        HAVING count(*) = 1),
                       (SELECT name FROM lying WHERE place IS NOT NULL ORDER BY place LIMIT 1),
                       (SELECT nspname::text FROM pg_namespace
                        WHERE array_position(path, nspname::text) IS NOT NULL AND nspowner IN (SELECT role FROM trusted_owner)
                        ORDER BY array_position(path, nspname::text) LIMIT 1),
                       path[1]) AS name
                   FROM imposed
               )
          SELECT quote_ident(home.name) || COALESCE(', ' || quote_ident((
                     SELECT nspname::text FROM caches JOIN pg_namespace ON pg_namespace.oid = schema
                     WHERE array_position(path, nspname::text) IS NOT NULL
                       AND EXISTS (SELECT FROM lying WHERE lying.name = home.name AND NOT is_whole)
                     ORDER BY array_position(path, nspname::text) LIMIT 1)), '') || ', pg_temp'
          FROM home, imposed)",
        trusted = TRUSTED_OWNERS,
    )
}
