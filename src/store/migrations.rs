//! The files in `migrations/`, embedded, run in one transaction by one server at a time.

use std::cmp::Ordering;

use postgres::Client;

use crate::failure::Failure;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The version of the newest file there. Known here, since refinery takes more than a millisecond to tell.
const NEWEST: i32 = 6;

/// Session lock of whoever migrates or bootstraps, in the database's own space of advisory locks: "cloacina" in ASCII.
const LOCK: i64 = 0x636c_6f61_6369_6e61;

/// Holds the lock until `unlock`, or until the session ends: others wait, for as long as it takes.
///
/// # Errors
/// The session broke.
pub fn lock(client: &mut Client) -> Result<(), postgres::Error> {
    client.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})"))
}

/// Lets the next one in.
///
/// # Errors
/// The session broke, which lets the next one in as well.
pub fn unlock(client: &mut Client) -> Result<(), postgres::Error> {
    client.batch_execute(&format!("SELECT pg_advisory_unlock({LOCK})"))
}

/// Where a schema is, seen from this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As this binary needs it.
    Current,
    /// `run` would bring it from one version to the other; 0 is before the first migration.
    Behind { from: i32, to: i32 },
}

/// Looks at the schema's version and changes nothing.
///
/// # Errors
/// The database is newer than the binary, its history is another one, or it does not say.
pub fn state(client: &mut Client) -> Result<State, Failure> {
    let from = version(client).map_err(|error| failure(&super::describe(&error)))?;
    match from.cmp(&NEWEST) {
        Ordering::Less => {
            let known = embedded::migrations::runner();
            let applied = match from {
                0 => Vec::new(),
                _ => known.get_applied_migrations(client).map_err(|error| failure(&cause_of(&error)))?,
            };
            match applied.iter().find(|migration| !known.get_migrations().contains(migration)) {
                Some(foreign) => Err(failure(&format!("its history has {foreign}, which is not ours"))),
                None => Ok(State::Behind { from, to: NEWEST }),
            }
        }
        Ordering::Equal => Ok(State::Current),
        Ordering::Greater => Err(Failure::Runtime(format!(
            "the database is newer than this program: its schema has version {from}, this program (version {}) \
             knows versions up to {NEWEST}; run the program that migrated it, or a later one",
            env!("CARGO_PKG_VERSION")
        ))),
    }
}

/// The version of the schema; 0 before the first migration.
fn version(client: &mut Client) -> Result<i32, postgres::Error> {
    // Every start asks this, and few have anything to migrate: a query each, nothing prepared.
    if !super::is_true(client, "SELECT to_regclass('refinery_schema_history') IS NOT NULL")? {
        return Ok(0);
    }
    let version = super::first_value(client, "SELECT max(version) FROM refinery_schema_history")?;
    Ok(version.and_then(|version| version.parse().ok()).unwrap_or(0))
}

/// Brings the schema up to what this binary needs.
///
/// # Errors
/// A statement failed; nothing has changed then.
pub fn run(client: &mut Client) -> Result<(), Failure> {
    let runner = embedded::migrations::runner().set_grouped(true);
    let report = runner.run(client).map_err(|error| failure(&cause_of(&error)))?;
    for migration in report.applied_migrations() {
        log::info!("migrated the database: {migration}");
    }
    Ok(())
}

/// Without PostgreSQL's own detail.
fn cause_of(error: &refinery::Error) -> String {
    use std::error::Error as _;
    let cause = error.source().map(|cause| match cause.downcast_ref::<postgres::Error>() {
        Some(cause) => super::describe(cause),
        None => cause.to_string(),
    });
    cause.unwrap_or_else(|| error.to_string())
}

fn failure(cause: &str) -> Failure {
    Failure::Runtime(format!("cannot migrate the database; nothing was changed: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_the_newest() {
        let known = embedded::migrations::runner();
        assert_eq!(known.get_migrations().iter().map(refinery::Migration::version).max(), Some(NEWEST));
    }
}
