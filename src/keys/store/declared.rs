//! The rows that files of `keys apply` declare: told by the column `declared`, and changed in one transaction.

use std::time::Instant;

use postgres::{GenericClient, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::auth::announcement::{notify, write_notifying};
use crate::auth::api_key::KeyHash;
use crate::auth::store::{is_shut_out, never_if_far};
use crate::store::{Committed, Store, StoreError};

/// A row that a file declared, or whose hash one now declares.
pub struct KnownKey {
    pub id: Uuid,
    /// Lowercase hex SHA-256 of the whole key.
    pub hash: String,
    pub name: String,
    /// As stored.
    pub permissions: String,
    pub expires_at: Option<OffsetDateTime>,
    pub is_revoked: bool,
    /// Another key has taken its place; it has ended, or will after a grace.
    pub is_rotated: bool,
    /// Whether a file made it, and it is not a tenant's.
    pub is_declared: bool,
    /// Whose key it is, as far as that has a name; `None`: the server's.
    pub tenant: Option<String>,
}

/// What a declared row shall hold.
pub struct Declared<'a> {
    pub id: Uuid,
    pub name: &'a str,
    pub permissions: &'a str,
    pub expires_at: Option<OffsetDateTime>,
}

/// A step from what is there to what a file declares.
pub enum Step<'a> {
    /// A row with this hash, that of a key that was never here.
    Create(KeyHash, Declared<'a>),
    Change(Declared<'a>),
    Revoke(Uuid),
}

/// One file is applied at a time: two would each plan on what the other is about to change. Keeps no server from its
/// work, and only a role that may change keys can take it.
const LOCK: &str = "LOCK TABLE api_keys IN SHARE UPDATE EXCLUSIVE MODE";

/// Whether a row is the server's own.
macro_rules! is_servers {
    () => {
        concat!("(tenant IS NULL AND NOT (", is_shut_out!(), "))")
    };
}

const KNOWN: &str = concat!(
    "SELECT id, key_hash::text, name::text, COALESCE(permissions::text, ''), ",
    never_if_far!("expires_at"),
    ",
            revoked_at IS NOT NULL, rotated_at IS NOT NULL, declared AND ",
    is_servers!(),
    ",
            CASE WHEN NOT ",
    is_servers!(),
    " THEN COALESCE(tenant_id::text, '') END
     FROM api_keys WHERE declared AND ",
    is_servers!(),
    " OR key_hash = ANY($1::text[]) ORDER BY created_at, id"
);
/// The clock rather than the transaction, so that listings have them in the order of the file.
const CREATE: &str =
    "INSERT INTO api_keys (id, key_hash, name, permissions, created_at, expires_at, declared, is_admin)
     VALUES ($1, $2, $3, $4::text, clock_timestamp(), $5, true, $4::text = 'admin')";
const CHANGE: &str =
    "UPDATE api_keys SET name = $2, permissions = $3::text, expires_at = $4, is_admin = ($3::text = 'admin')
     WHERE id = $1";
const REVOKE: &str = "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL";

fn known(
    client: &mut impl GenericClient,
    hashes: &[KeyHash],
    suffix: &str,
) -> Result<Vec<KnownKey>, postgres::Error> {
    let rows = client.query(&format!("{KNOWN}{suffix}"), &[&hashes])?;
    rows.iter().map(known_key).collect()
}

fn known_key(row: &Row) -> Result<KnownKey, postgres::Error> {
    Ok(KnownKey {
        id: row.try_get(0)?,
        hash: row.try_get(1)?,
        name: row.try_get(2)?,
        permissions: row.try_get(3)?,
        expires_at: row.try_get(4)?,
        is_revoked: row.try_get(5)?,
        is_rotated: row.try_get(6)?,
        is_declared: row.try_get(7)?,
        tenant: row.try_get(8)?,
    })
}

/// Every declared row but a tenant's, and every other one that has one of these hashes.
///
/// # Errors
/// See `StoreError`.
pub fn known_keys(store: &Store, hashes: &[KeyHash], until: Instant) -> Result<Vec<KnownKey>, StoreError> {
    store.read(until, |session| known(&mut session.client, hashes, ""))
}

/// Hands the same rows to `plan` and takes the steps that it asks for, while no other session changes these rows.
/// All of it is committed when this returns; servers may still have to hear of it.
///
/// # Errors
/// See `StoreError`. Nothing has changed then, unless the session broke at the commit.
pub fn declare<'a>(
    store: &Store,
    hashes: &[KeyHash],
    mut plan: impl FnMut(Vec<KnownKey>) -> Vec<Step<'a>>,
    until: Instant,
) -> Result<Committed<()>, StoreError> {
    write_notifying(store, until, |session, is_notifying| {
        let mut transaction = session.client.transaction()?;
        transaction.batch_execute(LOCK)?;
        let steps = plan(known(&mut transaction, hashes, " FOR UPDATE")?);
        for step in &steps {
            take(&mut transaction, step)?;
        }
        if is_notifying && !steps.is_empty() {
            transaction.batch_execute(concat!("SELECT ", notify!()))?;
        }
        transaction.commit()
    })
}

fn take(client: &mut impl GenericClient, step: &Step<'_>) -> Result<(), postgres::Error> {
    match step {
        Step::Create(hash, row) => {
            client.execute(CREATE, &[&row.id, hash, &row.name, &row.permissions, &row.expires_at])
        }
        Step::Change(row) => client.execute(CHANGE, &[&row.id, &row.name, &row.permissions, &row.expires_at]),
        Step::Revoke(id) => client.execute(REVOKE, &[id]),
    }
    .map(|_| ())
}
