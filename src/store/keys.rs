//! The statements on `api_keys`.

use std::fmt;
use std::time::{Duration, Instant};

use postgres::types::private::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type};
use postgres::{Client, GenericClient, Row, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use super::invalidation::since_boot;
use super::schema::Schema;
use super::session::TableStatements;
use super::{Committed, Store, StoreError};
use crate::postgres_link::{first_value, is_true};

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
    /// A later server's row for a tenant, which does not exist here.
    pub is_tenants: bool,
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

/// What a new row needs. PostgreSQL says when it was made.
pub struct NewKey<'a> {
    pub id: Uuid,
    /// Lowercase hex SHA-256 of the whole key.
    pub hash: Unlogged<'a>,
    pub prefix: &'a str,
    pub name: &'a str,
    pub permissions: &'a str,
    pub expires_at: Option<OffsetDateTime>,
}

impl NewKey<'_> {
    /// The parameters of `INSERT`.
    fn values(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.id, &self.hash, &self.prefix, &self.name, &self.permissions, &self.expires_at]
    }
}

/// A new key that takes an old one's place; name, permissions and lifetime are the old one's.
pub struct Successor<'a> {
    pub id: Uuid,
    /// Lowercase hex SHA-256 of the whole key.
    pub hash: &'a str,
    pub prefix: &'a str,
    /// For how long the old key goes on working; 0 revokes it.
    pub grace_seconds: f64,
    /// Longest life of a new key.
    pub longest_seconds: Option<f64>,
}

/// What a rotation made.
#[derive(Debug)]
pub struct Rotation {
    pub name: String,
    pub permissions: String,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    pub old_expires_at: OffsetDateTime,
}

/// What a rotation met.
#[derive(Debug)]
pub enum Rotated {
    Now(Rotation),
    /// It has its successor already, whether or not it still works.
    Earlier,
    /// Unknown, revoked or expired.
    NotValid,
}

/// A parameter that the driver's debug lines must not show.
pub struct Unlogged<'a>(pub &'a str);

impl fmt::Debug for Unlogged<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("…")
    }
}

impl ToSql for Unlogged<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.0.to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        <&str as ToSql>::accepts(kind)
    }

    postgres::types::to_sql_checked!();
}

/// Where a page begins: after this row, in the order newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub created_at: OffsetDateTime,
    pub id: Uuid,
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

/// What a revocation met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// It was valid until now; this is its name.
    Revoked(String),
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
pub(super) use never_if_far;

/// When a key was made, as near as RFC 3339 can write it, also where another program wrote no moment or an infinite one.
/// The index `api_keys_by_creation` has this very expression.
macro_rules! created_at {
    () => {
        "LEAST(GREATEST(created_at, '1970-01-01T00:00:00Z'), '9999-12-31T23:59:59Z')"
    };
}

/// Every column of `KeyRow`, in its order. Adopted tables may have `varchar` where we have `text`, and times that no
/// RFC 3339 can write: ends far ahead are never, whatever else is far away is as far as can be written.
macro_rules! columns {
    () => {
        concat!("id, COALESCE(name::text, ''), COALESCE(permissions::text, ''), ", created_at!(), ",
         CASE WHEN revoked_at IS NOT NULL
              THEN LEAST(GREATEST(revoked_at, '1970-01-01T00:00:00Z'), '9999-12-31T23:59:59Z') END, prefix::text,
         ", never_if_far!("expires_at"), ", ", never_if_far!("last_used_at"), ",
         tenant_id IS NOT NULL OR permissions = 'admin' AND COALESCE(NOT is_admin, false)")
    };
}

const FIND: &str = concat!("SELECT ", columns!(), ", now() FROM api_keys WHERE key_hash = $1");
const INSERT: &str =
    "INSERT INTO api_keys (id, key_hash, prefix, name, permissions, created_at, expires_at, is_admin)
     VALUES ($1, $2, $3, $4, $5::text, now(), $6, $5::text = 'admin') RETURNING created_at";
const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM api_keys WHERE (",
    created_at!(),
    ", id) < ($1, $2) AND ($3 OR revoked_at IS NULL) ORDER BY ",
    created_at!(),
    " DESC, id DESC LIMIT $4"
);
const LIST_FIRST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM api_keys WHERE $1 OR revoked_at IS NULL ORDER BY ",
    created_at!(),
    " DESC, id DESC LIMIT $2"
);
/// The notification goes out with the commit; the number that others wait by is drawn after it.
///
/// The row of a key that is revoked already is written again, so that this commit too waits for a synchronous standby:
/// the first one may have given that up. A key that a rotation revoked is from now on revoked in its own right, and
/// `UNDO` leaves it so.
///
/// A trigger may leave the row as it was, so the third column is whether the key is revoked now.
const REVOKE: &str = "WITH old AS (
         SELECT id, COALESCE(name::text, '') AS name, revoked_at IS NULL AS was_valid FROM api_keys WHERE id = $1 FOR UPDATE
     ), revoked AS (
         UPDATE api_keys SET revoked_at = CASE WHEN revoked_at = rotated_at THEN now() ELSE COALESCE(revoked_at, now()) END
         FROM old WHERE api_keys.id = old.id RETURNING revoked_at
     ), told AS (SELECT pg_notify('api_key_changes', '') FROM revoked)
     SELECT old.name, old.was_valid, EXISTS (SELECT FROM revoked WHERE revoked_at IS NOT NULL),
            (SELECT count(*) FROM told) FROM old";
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

/// Whether there is no key at all, valid or not.
///
/// # Errors
/// The session broke, or the table is not there.
pub fn is_empty(client: &mut impl GenericClient) -> Result<bool, postgres::Error> {
    is_true(client, "SELECT NOT EXISTS (SELECT FROM api_keys)")
}

/// How many keys are tenants', in a table that may not have been migrated yet: then null is no admin.
///
/// # Errors
/// The session broke.
pub fn count_tenants(
    client: &mut Client,
    schema: &Schema,
    is_migrated: bool,
) -> Result<u64, postgres::Error> {
    let tenant = if schema.has_tenant_id { "tenant_id IS NOT NULL" } else { "false" };
    let no_admin = match (schema.has_is_admin, is_migrated) {
        (true, true) => "permissions = 'admin' AND NOT is_admin",
        (true, false) => "permissions = 'admin' AND is_admin IS NOT TRUE",
        (false, _) => "false",
    };
    let query = format!("SELECT count(*) FROM api_keys WHERE {tenant} OR {no_admin}");
    Ok(first_value(client, &query)?.and_then(|count| count.parse().ok()).unwrap_or_default())
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

/// The old key's lifetime is that of its creation; it is written for older servers, which rotate a rotated key again. It
/// is counted in seconds, since days are not of one length where clocks are put forward and back; in whole ones and
/// upwards, since ends are cut down to whole seconds, and a key that is rotated often must not lose one each time. Where
/// another program wrote no past moment of creation, it is what is left.
///
/// The row is locked before it is looked at, so of several rotations at once one makes a key. The others see what that
/// one has written: PostgreSQL reads a row again when it had to wait for its lock.
const ROTATE: &str = "WITH old AS (
         SELECT id, COALESCE(name::text, '') AS name, COALESCE(permissions::text, '') AS permissions, expires_at,
                tenant_id, is_admin,
                make_interval(secs => ceil(extract(epoch FROM
                    CASE WHEN expires_at > now() AND expires_at < '10000-01-01T00:00:00Z' THEN expires_at END
                    - CASE WHEN created_at > '1970-01-01T00:00:00Z' THEN LEAST(created_at, now()) ELSE now() END))) AS lifetime,
                rotated_at IS NOT NULL AS was_rotated,
                rotated_at IS NULL AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AS may_rotate
         FROM api_keys WHERE id = $1 FOR UPDATE
     ), ended AS (
         UPDATE api_keys SET revoked_at = CASE WHEN $5::float8 = 0 THEN now() END, rotated_at = now(), lifetime = old.lifetime,
                expires_at = LEAST(old.expires_at, date_trunc('second', now() + make_interval(secs => $5)))
         FROM old WHERE api_keys.id = old.id AND may_rotate RETURNING api_keys.expires_at
     ), made AS (
         INSERT INTO api_keys (id, key_hash, prefix, name, permissions, created_at, tenant_id, is_admin, expires_at, rotated_from)
         SELECT $2::uuid, $3::text, $4::text, name, permissions, now(), tenant_id, is_admin,
                CASE WHEN ends < '10000-01-01T00:00:00Z' THEN date_trunc('second', ends)
                     WHEN ends IS NOT NULL THEN '9999-12-31T23:59:59Z' END, id
         FROM old, LATERAL (SELECT LEAST(now() + lifetime, now() + make_interval(secs => $6::float8)) AS ends) AS bounded
         WHERE may_rotate RETURNING name::text, permissions::text, created_at, expires_at
     ), told AS (SELECT pg_notify('api_key_changes', '') FROM made)
     SELECT made.name, made.permissions, made.created_at, made.expires_at, ended.expires_at, old.was_rotated,
            (SELECT count(*) FROM told)
     FROM old LEFT JOIN made ON true LEFT JOIN ended ON true";
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
const LAST_USED: &str = concat!("SELECT ", never_if_far!("last_used_at"), " FROM api_keys WHERE id = $1");

/// For what is done from time to time and can be done later: a session that waits for a lock is one less for reads.
const NO_LONG_LOCKS: &str = "SET LOCAL lock_timeout = '100ms'";

/// What a start tries on the table.
pub const TABLE: TableStatements = TableStatements {
    table: "api_keys",
    statements: &[FIND, INSERT, LIST, LIST_FIRST, REVOKE, ROTATE, LAST_USED],
};

/// Rows of a page, as PostgreSQL sent them: a thousand copies of each text would only be thrown away.
pub struct Rows(Vec<Row>);

impl Rows {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// One after another.
    ///
    /// # Errors
    /// A value is not of the type that we expect.
    pub fn iter<'a, T: FromSql<'a>>(&'a self) -> impl Iterator<Item = Result<KeyRow<T>, StoreError>> {
        self.0.iter().map(|row| Ok(key_row(row)?))
    }

    /// Where the last row stands.
    ///
    /// # Errors
    /// As `iter`.
    pub fn end(&self) -> Result<Option<Position>, StoreError> {
        let position = |row: &Row| Ok(Position { id: row.try_get(0)?, created_at: row.try_get(3)? });
        self.0.last().map(position).transpose()
    }
}

fn key_row<'a, T: FromSql<'a>>(row: &'a Row) -> Result<KeyRow<T>, postgres::Error> {
    Ok(KeyRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        permissions: row.try_get(2)?,
        created_at: row.try_get(3)?,
        revoked_at: row.try_get(4)?,
        prefix: row.try_get(5)?,
        expires_at: row.try_get(6)?,
        last_used_at: row.try_get(7)?,
        is_tenants: row.try_get(8)?,
    })
}

impl Store {
    /// The row of a key, by the lowercase hex SHA-256 of the whole key; revoked and expired ones too.
    ///
    /// # Errors
    /// See `StoreError`; so for all of these.
    pub fn find(&self, hash: &str, until: Instant) -> Result<Option<Lookup>, StoreError> {
        self.read(until, |session| {
            let asked = since_boot();
            let row = session.query_opt(FIND, &[&Unlogged(hash)])?;
            let answered = since_boot();
            let lookup = |row: &Row| Ok(Lookup { row: key_row(row)?, now: row.try_get(9)?, asked, answered });
            row.as_ref().map(lookup).transpose()
        })
    }

    /// The database's clock, which decides when a key ends.
    pub fn now(&self, until: Instant) -> Result<OffsetDateTime, StoreError> {
        self.read(until, |session| session.query_one("SELECT now()", &[])?.try_get(0))
    }

    /// Adds a key and returns when it was made.
    pub fn insert(&self, key: &NewKey<'_>, until: Instant) -> Result<Committed<OffsetDateTime>, StoreError> {
        self.write(until, |session| session.query_one(INSERT, &key.values())?.try_get(0))
    }

    /// At most `limit` rows, newest first.
    pub fn list(
        &self,
        after: Option<Position>,
        with_revoked: bool,
        limit: i64,
        until: Instant,
    ) -> Result<Rows, StoreError> {
        self.read(until, |session| {
            let rows = match after {
                Some(Position { created_at, id }) => {
                    session.query(LIST, &[&created_at, &id, &with_revoked, &limit])?
                }
                None => session.query(LIST_FIRST, &[&with_revoked, &limit])?,
            };
            Ok(Rows(rows))
        })
    }

    /// Revokes a key. The row is committed when this returns; other servers may still have to hear of it.
    pub fn revoke(&self, id: Uuid, until: Instant) -> Result<Committed<Revocation>, StoreError> {
        let Committed { value, is_confirmed } = self.write(until, |session| {
            let Some(row) = session.query_opt(REVOKE, &[&id])? else {
                return Ok(Some(Revocation::Unknown));
            };
            Ok(match (row.try_get(1)?, row.try_get(2)?) {
                (_, false) => None,
                (true, true) => Some(Revocation::Revoked(row.try_get(0)?)),
                (false, true) => Some(Revocation::Earlier),
            })
        })?;
        let refused = || StoreError::Refused(format!("the table did not take the revocation of {id}"));
        Ok(Committed { value: value.ok_or_else(refused)?, is_confirmed })
    }

    /// Revokes a new key that no client was given, and gives the key that was rotated for it its place back. Waits
    /// neither for a standby nor for locks: the session may be one that reads need.
    pub fn undo(&self, id: Uuid, until: Instant) -> Result<Undone, StoreError> {
        let undone = self.write(until, |session| {
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

    /// Makes a key in the place of a valid one that has no successor yet. Committed when this returns; other servers
    /// may still have to hear of it.
    pub fn rotate(
        &self,
        id: Uuid,
        successor: &Successor<'_>,
        until: Instant,
    ) -> Result<Committed<Rotated>, StoreError> {
        let Successor { id: new, hash, prefix, grace_seconds, longest_seconds } = successor;
        self.write(until, |session| {
            let row = session
                .query_opt(ROTATE, &[&id, new, &Unlogged(hash), prefix, grace_seconds, longest_seconds])?;
            let Some(row) = row else { return Ok(Rotated::NotValid) };
            let Some(name) = row.try_get(0)? else {
                return Ok(if row.try_get(5)? { Rotated::Earlier } else { Rotated::NotValid });
            };
            Ok(Rotated::Now(Rotation {
                name,
                permissions: row.try_get(1)?,
                created_at: row.try_get(2)?,
                expires_at: row.try_get(3)?,
                old_expires_at: row.try_get(4)?,
            }))
        })
    }

    /// When a key was last used, as far as that is written.
    pub fn last_used_at(&self, id: Uuid, until: Instant) -> Result<Option<OffsetDateTime>, StoreError> {
        self.read(until, |session| {
            session.query_opt(LAST_USED, &[&id])?.map_or(Ok(None), |row| row.try_get(0))
        })
    }

    /// Writes when keys were last used, one moment for each id. Older moments never replace newer ones. Waits for no
    /// lock of a row: returns the ids of rows that another session holds now.
    pub fn write_uses(
        &self,
        ids: &[Uuid],
        timestamps: &[OffsetDateTime],
        until: Instant,
    ) -> Result<Vec<Uuid>, StoreError> {
        let written = self.write(until, |session| {
            let mut transaction = session.client.transaction()?;
            // Not worth a session that waits for a standby.
            transaction.batch_execute(&format!("SET LOCAL synchronous_commit = off; {NO_LONG_LOCKS}"))?;
            let rows = transaction.query(WRITE_USES, &[&ids, &timestamps])?;
            transaction.commit()?;
            rows.iter().map(|row| row.try_get(0)).collect()
        });
        written.map(|written| written.value)
    }

    /// How many keys are valid or expired, and how many are revoked.
    pub fn count(&self, until: Instant) -> Result<(i64, i64), StoreError> {
        self.read(until, |session| {
            let row = session
                .query_one("SELECT count(*) - count(revoked_at), count(revoked_at) FROM api_keys", &[])?;
            Ok((row.try_get(0)?, row.try_get(1)?))
        })
    }
}
