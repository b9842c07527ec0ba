//! Rows of `api_keys` as a request meets them: a key is found, its last use is written, and a new one that no client has
//! is undone.

use std::time::{Duration, Instant};

use postgres::Row;
use postgres::types::private::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type};
use time::OffsetDateTime;
use uuid::Uuid;

use super::api_key::KeyHash;
use super::lease::since_boot;
use crate::store::{Store, StoreError};

/// A row of `api_keys`, without the hash. Its texts are its own, or still PostgreSQL's answer.
#[derive(Debug, Clone)]
pub struct KeyRow<T = String> {
    pub id: Uuid,
    pub name: T,
    /// As stored; only `admin`, `write` and `read` mean something.
    pub permissions: T,
    pub created_at: OffsetDateTime,
    pub revoked_at: Option<OffsetDateTime>,
    /// `None` for rows of an older server.
    pub prefix: Option<T>,
    pub expires_at: Option<OffsetDateTime>,
    pub last_used_at: Option<OffsetDateTime>,
    /// Whose key it is; `None`: the server's, unless `is_shut_out`.
    pub tenant: Option<Uuid>,
    /// `None`: the tenant was removed.
    pub tenant_name: Option<T>,
    /// A later original's row for a tenant, which does not exist here.
    pub is_shut_out: bool,
}

/// What a lookup found, the database's time, and this machine's time before and after it.
#[derive(Debug)]
pub struct Lookup {
    pub row: KeyRow,
    /// The database's clock.
    pub now: OffsetDateTime,
    /// `since_boot`, before the database was asked. A time to live that is counted from here on ends at its moment by
    /// the database's clock or before, never after.
    pub asked: Duration,
    /// `since_boot`, when the answer was there. `now`, counted on from here, is the database's time or earlier, never
    /// later.
    pub answered: Duration,
}

/// What the undoing of a creation or a rotation met.
#[derive(Debug)]
pub enum Undone {
    /// The new key was valid until now; this is its name, and the id of the key that has its place again.
    Now {
        name: String,
        restored: Option<Uuid>,
    },
    /// It had been revoked before.
    Earlier,
    Unknown,
}

/// A moment, where RFC 3339 can write it: one far ahead is as good as none.
macro_rules! never_if_far {
    ($column:literal) => {
        concat!(
            "CASE WHEN ",
            $column,
            " < '10000-01-01T00:00:00Z' THEN GREATEST(",
            $column,
            ", '1970-01-01T00:00:00Z') END"
        )
    };
}
pub(crate) use never_if_far;

/// When a key was made, as near as RFC 3339 can write it, also where another program wrote no moment or an infinite one.
/// The index `api_keys_by_creation` has this very expression.
macro_rules! created_at {
    () => {
        "LEAST(GREATEST(created_at, '1970-01-01T00:00:00Z'), '9999-12-31T23:59:59Z')"
    };
}

pub(crate) use created_at;

/// Whether a row is a later original's for a tenant that does not exist here.
macro_rules! is_shut_out {
    () => {
        "tenant IS NULL AND (tenant_id IS NOT NULL OR permissions = 'admin' AND COALESCE(NOT is_admin, false))"
    };
}

pub(crate) use is_shut_out;

/// Every column of `KeyRow`, in its order. Adopted tables may have `varchar` where we have `text`, and times that no
/// RFC 3339 can write: ends far ahead are never, whatever else is far away is as far as can be written. What the tenant is
/// called comes from its row, unless the statement knows.
macro_rules! columns {
    () => {
        columns!(
            "CASE WHEN tenant IS NOT NULL
                  THEN (SELECT name FROM cloacina_tenants WHERE id = api_keys.tenant AND removed_at IS NULL) END"
        )
    };
    ($tenant_name:literal) => {
        concat!("id, COALESCE(name::text, ''), COALESCE(permissions::text, ''), ", created_at!(), ",
         CASE WHEN revoked_at IS NOT NULL
              THEN LEAST(GREATEST(revoked_at, '1970-01-01T00:00:00Z'), '9999-12-31T23:59:59Z') END, prefix::text,
         ", never_if_far!("expires_at"), ", ", never_if_far!("last_used_at"), ",
         tenant, ", $tenant_name, ", ", is_shut_out!())
    };
}

pub(crate) use columns;

/// By the hash.
pub const FIND: &str = concat!("SELECT ", columns!(), ", now() FROM api_keys WHERE key_hash = $1");
/// Revokes a new key that no client was given. The key whose place it took gets back what the rotation changed, unless
/// either of them was changed since: both moments of a rotation are those of its transaction. Its end follows from
/// `lifetime`; see `ROTATE`. A file's key stays as it is, since another file may have dropped it meanwhile.
///
/// No server is notified: none remembers a key that no client has, and none remembers that a key is dead. A notification
/// would wait for every other commit that sends one, such as one that waits for a standby.
const UNDO: &str = "WITH lost AS (
         SELECT id, COALESCE(name::text, '') AS name, created_at, rotated_from, rotated_at
         FROM api_keys WHERE id = $1 AND revoked_at IS NULL FOR UPDATE
     ), revoked AS (
         UPDATE api_keys SET revoked_at = now() FROM lost WHERE api_keys.id = lost.id RETURNING api_keys.id
     ), restored AS (
         UPDATE api_keys SET revoked_at = NULL, rotated_at = NULL, lifetime = NULL,
                expires_at = date_trunc('second', api_keys.lifetime +
                    CASE WHEN api_keys.created_at > '1970-01-01T00:00:00Z'
                         THEN LEAST(api_keys.created_at, api_keys.rotated_at) ELSE api_keys.rotated_at END)
         FROM lost WHERE api_keys.id = lost.rotated_from AND lost.rotated_at IS NULL AND NOT declared
              AND api_keys.rotated_at = lost.created_at
              AND (api_keys.revoked_at IS NULL OR api_keys.revoked_at = lost.created_at) RETURNING api_keys.id
     )
     SELECT (SELECT name FROM lost), (SELECT id FROM restored), EXISTS (SELECT FROM api_keys WHERE id = $1)";

const WRITE_USES: &str = "WITH used AS (
         SELECT id, at FROM unnest($1::uuid[], $2::timestamptz[]) AS used (id, at)
     ), due AS (
         SELECT id, at FROM used JOIN api_keys USING (id) WHERE last_used_at IS NULL OR last_used_at < at - interval '60 s'
         FOR NO KEY UPDATE OF api_keys SKIP LOCKED
     ), written AS (
         UPDATE api_keys SET last_used_at = due.at FROM due WHERE api_keys.id = due.id RETURNING api_keys.id
     )
     SELECT id FROM used JOIN api_keys USING (id)
     WHERE (last_used_at IS NULL OR last_used_at < at - interval '60 s') AND id NOT IN (SELECT id FROM written)";

/// For what is done from time to time and can be done later: a session that waits for a lock is one less for reads.
const NO_LONG_LOCKS: &str = "SET LOCAL lock_timeout = '100ms'";

/// A row that has the columns of `columns!` first.
///
/// # Errors
/// A value is not of the type that we expect.
pub fn key_row<'a, T: FromSql<'a>>(row: &'a Row) -> Result<KeyRow<T>, postgres::Error> {
    Ok(KeyRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        permissions: row.try_get(2)?,
        created_at: row.try_get(3)?,
        revoked_at: row.try_get(4)?,
        prefix: row.try_get(5)?,
        expires_at: row.try_get(6)?,
        last_used_at: row.try_get(7)?,
        tenant: row.try_get(8)?,
        tenant_name: row.try_get(9)?,
        is_shut_out: row.try_get(10)?,
    })
}

/// As text. The driver's debug lines show what stands for it.
impl ToSql for KeyHash {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.as_str().to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        <&str as ToSql>::accepts(kind)
    }

    postgres::types::to_sql_checked!();
}

/// The row of a key, by its hash; revoked and expired ones too.
///
/// # Errors
/// See `StoreError`; so for all of these.
pub fn find(store: &Store, hash: KeyHash, until: Instant) -> Result<Option<Lookup>, StoreError> {
    store.read(until, |session| {
        let asked = since_boot();
        let row = session.query_opt(FIND, &[&hash])?;
        let answered = since_boot();
        let lookup = |row: &Row| Ok(Lookup { row: key_row(row)?, now: row.try_get(11)?, asked, answered });
        row.as_ref().map(lookup).transpose()
    })
}

/// Revokes a new key that no client was given, and gives the key that was rotated for it its place back. Waits
/// neither for a standby nor for locks: the session may be one that reads need.
pub fn undo(store: &Store, id: Uuid, until: Instant) -> Result<Undone, StoreError> {
    let undone = store.write(until, |session| {
        let mut transaction = session.client.transaction()?;
        transaction.batch_execute(&format!("SET LOCAL synchronous_commit = local; {NO_LONG_LOCKS}"))?;
        let row = transaction.query_one(UNDO, &[&id])?;
        transaction.commit()?;
        Ok(match (row.try_get(0)?, row.try_get(2)?) {
            (Some(name), _) => Undone::Now { name, restored: row.try_get(1)? },
            (None, true) => Undone::Earlier,
            (None, false) => Undone::Unknown,
        })
    });
    undone.map(|undone| undone.value)
}

/// Writes when keys were last used, one moment for each id. Older moments never replace newer ones. Waits for no
/// lock of a row: returns the ids of rows that another session holds now.
pub fn write_uses(
    store: &Store,
    ids: &[Uuid],
    timestamps: &[OffsetDateTime],
    until: Instant,
) -> Result<Vec<Uuid>, StoreError> {
    let written = store.write(until, |session| {
        let mut transaction = session.client.transaction()?;
        // Not worth a session that waits for a standby.
        transaction.batch_execute(&format!("SET LOCAL synchronous_commit = off; {NO_LONG_LOCKS}"))?;
        let rows = transaction.query(WRITE_USES, &[&ids, &timestamps])?;
        transaction.commit()?;
        rows.iter().map(|row| row.try_get(0)).collect()
    });
    written.map(|written| written.value)
}
