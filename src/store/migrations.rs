//! The files in `migrations/`, embedded, run in one transaction by one server at a time. They are numbered across all
//! modules, so what one of them needs of a table that was there before is looked at here.

use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, Transaction};
use refinery::Migration;

use super::locks::{self, EARLIER_RELEASES, Stopped};
use super::row_types;
use super::schema::{self, Schema};
use crate::command_error::CommandError;
use crate::postgres_link::{describe, first_value, is_true, rows};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The names of the files there, from version 1 on. Known here, since refinery takes more than a millisecond to tell.
const NAMES: [&str; 11] = [
    "api_keys",
    "key_life",
    "auth_caches",
    "rotation",
    "declared_keys",
    "old_rows",
    "tenants_of_later_servers",
    "listing_order",
    "tenants",
    "workflows",
    "executions",
];
const NEWEST: usize = NAMES.len();

/// How long a server of an earlier release may take for its migrations before they are no longer waited for.
const EARLIER_RELEASES_LIMIT: Duration = Duration::from_secs(3);

/// Where a schema is, seen from this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As this binary needs it.
    Current,
    /// `run` would bring it from one version to the other; 0 is before the first migration.
    Behind { from: usize, to: usize },
}

/// Looks at the schema and its version and changes nothing.
///
/// # Errors
/// The database is newer than the binary, its tables or its history are another program's, the user may not do what the
/// server does or what a migration does, or the session broke.
pub fn state(client: &mut Client) -> Result<(State, Schema), CommandError> {
    let schema = schema::inspect(client)?;
    let history = history(client, &schema).map_err(|error| failure(&describe(&error)))?;
    if let Some(foreign) = history.iter().find(|entry| entry.is_foreign()) {
        return Err(failure(&format!(
            "the history {}.refinery_schema_history has V{}__{}, which is not ours (if this is another program's, \
             give the server a database or a schema of its own)",
            schema.name, foreign.version, foreign.name
        )));
    }
    let from = history.len();
    if let Some(newer) =
        history.last().filter(|entry| usize::try_from(entry.version).is_ok_and(|at| at > NEWEST))
    {
        return Err(CommandError::Runtime(format!(
            "the database is newer than this program: its schema has version {}, this program (version {}) \
             knows versions up to {NEWEST}; run the program that migrated it, or a later one",
            newer.version,
            env!("CARGO_PKG_VERSION")
        )));
    }
    if let Some((_, missing)) = history.iter().zip(1..).find(|(entry, version)| entry.version != *version) {
        return Err(failure(&format!("its history lacks V{missing}")));
    }
    if from == NEWEST {
        return Ok((State::Current, schema));
    }
    check_checksums(&history)?;
    check_owner(client, &schema)?;
    if from < 2 && schema.has_keys {
        check_hashes(client, &schema)?;
    }
    Ok((State::Behind { from, to: NEWEST }, schema))
}

/// A line of the history.
struct Entry {
    version: i32,
    name: String,
    checksum: String,
}

impl Entry {
    /// Whether no release of this program can have written it.
    fn is_foreign(&self) -> bool {
        match usize::try_from(self.version) {
            Ok(version) if version > NEWEST => false,
            Ok(version) => version.checked_sub(1).is_none_or(|index| NAMES[index] != self.name),
            Err(_) => true,
        }
    }
}

fn history(client: &mut Client, schema: &Schema) -> Result<Vec<Entry>, postgres::Error> {
    // Every start asks this, and few have anything to migrate: one query, nothing prepared.
    if !schema.has_history {
        return Ok(Vec::new());
    }
    let query = format!(
        "SELECT version, name, checksum FROM {}.refinery_schema_history ORDER BY version",
        schema.name
    );
    let rows = rows(client, &query)?;
    let entries = rows.iter().map(|row| Entry {
        version: row.get(0).and_then(|version| version.parse().ok()).unwrap_or_default(),
        name: row.get(1).unwrap_or_default().to_owned(),
        checksum: row.get(2).unwrap_or_default().to_owned(),
    });
    Ok(entries.collect())
}

/// All migrations, the first one first.
fn known() -> Vec<Migration> {
    let mut known = embedded::migrations::runner().get_migrations().clone();
    known.sort();
    known
}

fn check_checksums(history: &[Entry]) -> Result<(), CommandError> {
    match known().iter().zip(history).find(|(known, entry)| known.checksum().to_string() != entry.checksum) {
        Some((_, other)) => {
            Err(failure(&format!("its history has V{}__{}, which is not ours", other.version, other.name)))
        }
        None => Ok(()),
    }
}

/// What a migration needs beyond what the server does.
fn check_owner(client: &mut Client, schema: &Schema) -> Result<(), CommandError> {
    let schema = schema.name.replace('\'', "''");
    let query = format!(
        "SELECT string_agg(problem, '; ') FROM (
             SELECT format('user %s may not create tables in schema %s; make it the database''s owner', current_user,
                           '{schema}'::regnamespace) AS problem
             WHERE NOT has_schema_privilege('{schema}'::regnamespace, 'CREATE')
             UNION ALL
             SELECT format('user %s has to own %s to migrate', current_user, string_agg(relname, ', ' ORDER BY relname))
             FROM pg_class
             WHERE relnamespace = '{schema}'::regnamespace AND NOT pg_has_role(relowner, 'USAGE')
               AND relname IN ('api_keys', 'auth_caches', 'api_key_changes', 'refinery_schema_history',
                               'cloacina_tenants', 'cloacina_notifications', 'cloacina_packages',
                               'cloacina_package_pieces', 'cloacina_workflows', 'cloacina_hosts', 'cloacina_executions',
                               'cloacina_tasks', 'cloacina_attempts', 'cloacina_events', 'cloacina_log_pieces',
                               'cloacina_queue', 'cloacina_idempotency_keys')
             HAVING count(*) > 0
         ) AS problems"
    );
    let problems = first_value(client, &query).map_err(|error| failure(&describe(&error)))?;
    problems.map_or(Ok(()), |problems| Err(failure(&problems)))
}

/// An adopted table may have no unique index on the hashes yet; the second migration makes one.
fn check_hashes(client: &mut Client, schema: &Schema) -> Result<(), CommandError> {
    let table = format!("{}.api_keys", schema.name);
    let query = format!("SELECT EXISTS (SELECT FROM {table} GROUP BY key_hash HAVING count(key_hash) > 1)");
    match is_true(client, &query).map_err(|error| failure(&describe(&error)))? {
        true => Err(failure(&format!("the table {table} has a key_hash twice, and each has to be unique"))),
        false => Ok(()),
    }
}

/// Brings the schema up to what this binary needs, unless another server does so first. `and_then` works in the same
/// transaction and commits it: what it cannot do leaves the database unchanged.
///
/// # Errors
/// As `state`; a statement failed, or another session kept a lock for longer than `limit`; nothing has changed then.
pub fn run(
    client: &mut Client,
    limit: Duration,
    mut and_then: impl FnMut(Transaction<'_>) -> Result<(), Stopped>,
) -> Result<(), CommandError> {
    let (State::Behind { .. }, schema) = state(client)? else {
        row_types::close(client);
        return Ok(());
    };
    let known = known();
    let failed = |error: postgres::Error| Stopped::by(NOTHING_CHANGED, &error);
    // With enough left for what comes after it.
    let earlier_until = Instant::now() + EARLIER_RELEASES_LIMIT.min(limit / 2);
    let applied = locks::with_locks(client, NOTHING_CHANGED, limit, |mut transaction| {
        // Earlier releases take this lock alone. Any role can take it and keep it, so it is waited for and not needed: a
        // server that does the work of another at the same moment fails, and its transaction leaves nothing.
        let attempt = format!("SELECT pg_try_advisory_xact_lock({EARLIER_RELEASES})");
        if !is_true(&mut transaction, &attempt).map_err(failed)? {
            if Instant::now() < earlier_until {
                return Err(Stopped::Locked);
            }
            log::warn!("another session keeps the advisory lock {EARLIER_RELEASES}: migrating without it");
        }
        let unapplied = match lock(&mut transaction, &schema, &known) {
            Err(error) if is_made_elsewhere(&error) => return Err(Stopped::Locked),
            outcome => outcome.map_err(failed)?,
        };
        migrate(&mut transaction, unapplied).map_err(failed)?;
        // Where another server has migrated, it has done the rest too.
        if unapplied.is_empty() {
            transaction.commit().map_err(failed)?
        } else {
            and_then(transaction)?
        }
        Ok(unapplied)
    })?;
    row_types::close(client);
    for migration in applied {
        log::info!("migrated the database: {migration}");
    }
    // Where another server did it, that one may be a later release.
    if applied.is_empty() { state(client).map(drop) } else { Ok(()) }
}

/// Keeps other servers from migrating until the transaction ends. The result is which migrations are still to be
/// applied, now that no other server can apply one.
fn lock<'a>(
    transaction: &mut Transaction<'_>,
    schema: &Schema,
    known: &'a [Migration],
) -> Result<&'a [Migration], postgres::Error> {
    // Only a role that may migrate can take the lock of the table.
    transaction.batch_execute(&format!(
        "SET LOCAL search_path = {};
         CREATE TABLE IF NOT EXISTS refinery_schema_history (
             version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), checksum varchar(255));
         LOCK TABLE refinery_schema_history IN SHARE ROW EXCLUSIVE MODE",
        schema.name
    ))?;
    let row = transaction.query_one("SELECT count(*) FROM refinery_schema_history", &[])?;
    let from = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(usize::MAX);
    Ok(known.get(from..).unwrap_or_default())
}

/// Whether another session has made a table of that name at the same moment, which IF NOT EXISTS does not see.
fn is_made_elsewhere(error: &postgres::Error) -> bool {
    [SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_OBJECT]
        .iter()
        .any(|code| error.code() == Some(code))
}

fn migrate(transaction: &mut Transaction<'_>, unapplied: &[Migration]) -> Result<(), postgres::Error> {
    for migration in unapplied {
        transaction.batch_execute(migration.sql().unwrap_or_default())?;
        transaction.execute(
            "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
             VALUES ($1, $2, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), $3)",
            &[&migration.version(), &migration.name(), &migration.checksum().to_string()],
        )?;
    }
    Ok(())
}

const NOTHING_CHANGED: &str = "cannot migrate the database; nothing was changed";

fn failure(cause: &str) -> CommandError {
    CommandError::Runtime(format!("{NOTHING_CHANGED}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_files() {
        let known = known();
        let names: Vec<_> = known.iter().map(|migration| (migration.version(), migration.name())).collect();
        assert_eq!(names, (1..).zip(NAMES).collect::<Vec<_>>());
    }
}
