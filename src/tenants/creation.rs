//! How a tenant is made: its row, its schema and its role in one transaction, under names that nothing else has.

use std::time::Instant;

use postgres::Transaction;
use postgres::error::DbError;

use super::NewTenant;
use super::role::{self, Refusal};
use crate::store::{Committed, Store, StoreError};

/// What a creation came to.
#[derive(Debug)]
pub enum Creation {
    Made,
    Exists(String),
    Unable(String),
}

/// The server's own role, and the schema in which its tables lie: no tenant may have their names.
///
/// # Errors
/// See `StoreError`; so for all of these.
pub fn own_names(store: &Store, until: Instant) -> Result<(String, String), StoreError> {
    store.read(until, |session| {
        let row = session.query_one(
            "SELECT current_user::text, nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
             WHERE pg_class.oid = 'api_keys'::regclass",
            &[],
        )?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    })
}

/// Makes a tenant, its role and its schema in one transaction: all of it, or nothing.
pub fn create(store: &Store, new: &NewTenant, until: Instant) -> Result<Committed<Creation>, StoreError> {
    store.write(until, |session| {
        let mut transaction = session.client.transaction()?;
        match create_in(&mut transaction, new) {
            Ok(()) => transaction.commit().map(|()| Creation::Made),
            // Nothing was done: the transaction is rolled back when it is dropped.
            Err(Refusal::Exists(text)) => Ok(Creation::Exists(text)),
            Err(Refusal::Unable(text)) => Ok(Creation::Unable(text)),
            Err(Refusal::Failed(error)) => Err(error),
        }
    })
}

fn create_in(transaction: &mut Transaction<'_>, new: &NewTenant) -> Result<(), Refusal> {
    let (name, username) = (new.name.as_str(), new.login.as_ref().map(|(username, _)| username.as_str()));
    if let Some(text) = taken(transaction, name, username)? {
        return Err(Refusal::Exists(text));
    }
    let insert = "INSERT INTO cloacina_tenants (id, name, username) VALUES ($1, $2, $3)";
    transaction.execute(insert, &[&new.id, &name, &username]).map_err(|error| {
        // Another request was faster.
        let index = error.as_db_error().and_then(DbError::constraint);
        match (index, username) {
            (Some("cloacina_tenants_by_username"), Some(username)) => {
                Refusal::Exists(format!("role '{username}' exists"))
            }
            (Some("cloacina_tenants_by_name"), _) => Refusal::Exists(format!("tenant '{name}' exists")),
            _ => Refusal::Failed(error),
        }
    })?;
    match &new.login {
        Some((username, password)) => {
            role::provide(transaction, new.id, name, username.as_str(), password).map(|_| ())
        }
        None => Ok(()),
    }
}

/// What has one of these names already, also in another case: two such names are one to a person.
fn taken(
    transaction: &mut Transaction<'_>,
    name: &str,
    username: Option<&str>,
) -> Result<Option<String>, postgres::Error> {
    let row = transaction.query_opt(
        "SELECT kind, found, found <> asked FROM (
             SELECT 'tenant' AS kind, name AS found, $1::text AS asked FROM cloacina_tenants
             WHERE removed_at IS NULL AND lower(name COLLATE \"C\") = lower($1::text COLLATE \"C\")
             UNION ALL
             SELECT 'schema', nspname::text, $1::text FROM pg_namespace
             WHERE lower(nspname::text COLLATE \"C\") = lower($1::text COLLATE \"C\")
             UNION ALL
             SELECT 'role', rolname::text, $2::text FROM pg_roles
             WHERE lower(rolname::text COLLATE \"C\") = lower($2::text COLLATE \"C\")
             UNION ALL
             -- That role's usual path would begin with the schema.
             SELECT 'role', rolname::text, $1::text FROM pg_roles WHERE rolname = $1::text AND $2::text IS NOT NULL
         ) AS taken LIMIT 1",
        &[&name, &username],
    )?;
    row.map(|row| {
        let (kind, found): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let differs = if row.try_get(2)? { ", which differs only in case" } else { "" };
        Ok(format!("{kind} '{found}' exists{differs}"))
    })
    .transpose()
}
