//! The statements on `api_keys` with which keys are managed.

pub mod declared;
mod pages;
mod rotation;

use std::time::Instant;

use postgres::types::ToSql;
use postgres::{GenericClient, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::auth::announcement::{notify, write_notifying};
use crate::auth::api_key::{KeyHash, Plaintext};
use crate::auth::store::{FIND, never_if_far};
use crate::auth::{Permission, Tenant};
use crate::postgres_link::is_true;
use crate::store::{Cause, Committed, Store, StoreError, TableStatements};
use pages::LIST_SERVERS;
pub use pages::{Listed, list};
use rotation::ROTATE;
pub use rotation::{Rotated, Successor, rotate};

/// What a start tries on the table: no two that need the same of it, since each is a round trip.
pub const TABLE: TableStatements = TableStatements {
    table: "api_keys",
    statements: &[FIND, INSERT, INSERT_OF, LIST_SERVERS, REVOKE, ROTATE, LAST_USED],
};

/// What a new row needs. PostgreSQL says when it was made.
pub struct NewKey<'a> {
    pub id: Uuid,
    hash: KeyHash,
    prefix: &'a str,
    pub name: &'a str,
    pub permissions: &'static str,
    expires_at: Option<OffsetDateTime>,
}

impl<'a> NewKey<'a> {
    pub fn new(
        key: &'a Plaintext,
        name: &'a str,
        permission: Permission,
        expires_at: Option<OffsetDateTime>,
    ) -> NewKey<'a> {
        let (hash, prefix, permissions) = (key.hash(), key.shown(), permission.name());
        NewKey { id: Uuid::new_v4(), hash, prefix, name, permissions, expires_at }
    }

    /// The parameters of `INSERT`.
    fn values(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.id, &self.hash, &self.prefix, &self.name, &self.permissions, &self.expires_at]
    }
}

/// Which keys a change may find.
#[derive(Debug, Clone, Copy)]
pub enum Among<'a> {
    All,
    Of(&'a Tenant),
}

impl<'a> Among<'a> {
    pub fn tenant(self) -> Option<&'a Tenant> {
        match self {
            Among::All => None,
            Among::Of(tenant) => Some(tenant),
        }
    }

    /// Null stands for all.
    fn tenant_id(self) -> Option<Uuid> {
        self.tenant().map(Tenant::id)
    }
}

/// What a revocation met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// It was valid until now; this is its name.
    Revoked(String),
    /// It had been revoked before.
    Earlier,
    Unknown,
}

const INSERT: &str =
    "INSERT INTO api_keys (id, key_hash, prefix, name, permissions, created_at, expires_at, is_admin)
     VALUES ($1, $2, $3, $4, $5::text, now(), $6, $5::text = 'admin') RETURNING created_at";
/// The tenant's row is locked, so that a removal comes before or after.
const INSERT_OF: &str =
    "INSERT INTO api_keys (id, key_hash, prefix, name, permissions, created_at, expires_at, is_admin, tenant, tenant_id)
     SELECT $1::uuid, $2::text, $3::text, $4::text, $5::text, now(), $6::timestamptz, false, id, name
     FROM cloacina_tenants WHERE id = $7 AND removed_at IS NULL FOR SHARE RETURNING created_at";
/// The notification goes out with the commit; the number that others wait by is drawn after it.
///
/// The row of a key that is revoked already is written again, so that this commit too waits for a synchronous standby:
/// the first one may have given that up. A key that a rotation revoked is from now on revoked in its own right, and
/// `UNDO` leaves it so.
///
/// A trigger may leave the row as it was, so the third column is whether the key is revoked now.
const REVOKE: &str = concat!(
    "WITH old AS (
         SELECT id, COALESCE(name::text, '') AS name, revoked_at IS NULL AS was_valid FROM api_keys
         WHERE id = $1 AND ($2::uuid IS NULL OR tenant = $2) FOR UPDATE
     ), revoked AS (
         UPDATE api_keys SET revoked_at = CASE WHEN revoked_at = rotated_at THEN now() ELSE COALESCE(revoked_at, now()) END
         FROM old WHERE api_keys.id = old.id RETURNING revoked_at
     ), told AS (SELECT ",
    notify!(),
    " FROM revoked WHERE $3)
     SELECT old.name, old.was_valid, EXISTS (SELECT FROM revoked WHERE revoked_at IS NOT NULL),
            (SELECT count(*) FROM told) FROM old"
);
const LAST_USED: &str = concat!("SELECT ", never_if_far!("last_used_at"), " FROM api_keys WHERE id = $1");

/// Whether there is no key at all, valid or not.
///
/// # Errors
/// The session broke, or the table is not there.
pub fn is_empty(client: &mut impl GenericClient) -> Result<bool, postgres::Error> {
    is_true(client, "SELECT NOT EXISTS (SELECT FROM api_keys)")
}

/// Keeps all others from adding a key until the transaction ends. Only a role that may change keys can do that.
///
/// # Errors
/// Another session has the table, or the session broke.
pub fn lock(transaction: &mut Transaction<'_>) -> Result<(), postgres::Error> {
    transaction.batch_execute("LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE")
}

/// Adds the first key, as part of the running transaction.
///
/// # Errors
/// The session broke, or the table does not take the row.
pub fn insert_first(client: &mut impl GenericClient, key: &NewKey<'_>) -> Result<(), postgres::Error> {
    client.query_one(INSERT, &key.values()).map(|_| ())
}

/// Adds a key and returns when it was made.
///
/// # Errors
/// See `StoreError`; so for all of these.
pub fn insert(
    store: &Store,
    key: &NewKey<'_>,
    until: Instant,
) -> Result<Committed<OffsetDateTime>, StoreError> {
    store.write(until, |session| session.query_one(INSERT, &key.values())?.try_get(0))
}

/// The same for a tenant's key; `None`: the tenant was removed meanwhile.
pub fn insert_of(
    store: &Store,
    tenant: &Tenant,
    key: &NewKey<'_>,
    until: Instant,
) -> Result<Committed<Option<OffsetDateTime>>, StoreError> {
    store.write(until, |session| {
        let [id, hash, prefix, name, permissions, expires_at] = key.values();
        let values = [id, hash, prefix, name, permissions, expires_at, &tenant.id()];
        session.query_opt(INSERT_OF, &values)?.map(|row| row.try_get(0)).transpose()
    })
}

/// Revokes a key. The row is committed when this returns; other servers may still have to hear of it.
pub fn revoke(
    store: &Store,
    among: Among<'_>,
    id: Uuid,
    until: Instant,
) -> Result<Committed<Revocation>, StoreError> {
    let Committed { value, is_confirmed } = write_notifying(store, until, |session, is_notifying| {
        let Some(row) = session.query_opt(REVOKE, &[&id, &among.tenant_id(), &is_notifying])? else {
            return Ok(Some(Revocation::Unknown));
        };
        Ok(match (row.try_get(1)?, row.try_get(2)?) {
            (_, false) => None,
            (true, true) => Some(Revocation::Revoked(row.try_get(0)?)),
            (false, true) => Some(Revocation::Earlier),
        })
    })?;
    let refused = || StoreError::Refused(Cause::NotTaken(format!("the revocation of {id}")));
    Ok(Committed { value: value.ok_or_else(refused)?, is_confirmed })
}

/// When a key was last used, as far as that is written.
pub fn last_used_at(store: &Store, id: Uuid, until: Instant) -> Result<Option<OffsetDateTime>, StoreError> {
    store.read(until, |session| session.query_opt(LAST_USED, &[&id])?.map_or(Ok(None), |row| row.try_get(0)))
}

/// How many keys are valid or expired, and how many are revoked.
pub fn count(store: &Store, until: Instant) -> Result<(i64, i64), StoreError> {
    store.read(until, |session| {
        let row =
            session.query_one("SELECT count(*) - count(revoked_at), count(revoked_at) FROM api_keys", &[])?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    })
}
