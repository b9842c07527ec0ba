//! A new key in the place of an old one.

use std::time::Instant;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::Among;
use crate::auth::announcement::{notify, write_notifying};
use crate::auth::api_key::{KeyHash, Plaintext};
use crate::store::{Committed, Store, StoreError};

/// A new key that takes an old one's place; name, permissions and lifetime are the old one's.
pub struct Successor<'a> {
    pub id: Uuid,
    hash: KeyHash,
    prefix: &'a str,
    grace_seconds: f64,
    longest_seconds: Option<f64>,
}

impl<'a> Successor<'a> {
    /// `grace`: for how long the old key goes on working; 0 revokes it. `longest`: the longest life of a new key; 0 is
    /// no limit.
    pub fn new(key: &'a Plaintext, grace: Duration, longest: std::time::Duration) -> Successor<'a> {
        Successor {
            id: Uuid::new_v4(),
            hash: key.hash(),
            prefix: key.shown(),
            grace_seconds: grace.as_seconds_f64(),
            longest_seconds: (!longest.is_zero()).then_some(longest.as_secs_f64()),
        }
    }
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

/// The old key's lifetime is that of its creation; it is written for older servers, which rotate a rotated key again. It
/// is counted in seconds, since days are not of one length where clocks are put forward and back; in whole ones and
/// upwards, since ends are cut down to whole seconds, and a key that is rotated often must not lose one each time. Where
/// another program wrote no past moment of creation, it is what is left.
///
/// The row is locked before it is looked at, so of several rotations at once one makes a key. The others see what that
/// one has written: PostgreSQL reads a row again when it had to wait for its lock.
pub const ROTATE: &str = concat!(
    "WITH old AS (
         SELECT id, COALESCE(name::text, '') AS name, COALESCE(permissions::text, '') AS permissions, expires_at,
                tenant_id, tenant, is_admin,
                make_interval(secs => ceil(extract(epoch FROM
                    CASE WHEN expires_at > now() AND expires_at < '10000-01-01T00:00:00Z' THEN expires_at END
                    - CASE WHEN created_at > '1970-01-01T00:00:00Z' THEN LEAST(created_at, now()) ELSE now() END))) AS lifetime,
                rotated_at IS NOT NULL AS was_rotated,
                rotated_at IS NULL AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AS may_rotate
         FROM api_keys WHERE id = $1 AND ($7::uuid IS NULL OR tenant = $7) FOR UPDATE
     ), ended AS (
         UPDATE api_keys SET revoked_at = CASE WHEN $5::float8 = 0 THEN now() END, rotated_at = now(), lifetime = old.lifetime,
                expires_at = LEAST(old.expires_at, date_trunc('second', now() + make_interval(secs => $5)))
         FROM old WHERE api_keys.id = old.id AND may_rotate RETURNING api_keys.expires_at
     ), made AS (
         INSERT INTO api_keys (id, key_hash, prefix, name, permissions, created_at, tenant_id, tenant, is_admin,
                               expires_at, rotated_from)
         SELECT $2::uuid, $3::text, $4::text, name, permissions, now(), tenant_id, tenant, is_admin,
                CASE WHEN ends < '10000-01-01T00:00:00Z' THEN date_trunc('second', ends)
                     WHEN ends IS NOT NULL THEN '9999-12-31T23:59:59Z' END, id
         FROM old, LATERAL (SELECT LEAST(now() + lifetime, now() + make_interval(secs => $6::float8)) AS ends) AS bounded
         WHERE may_rotate RETURNING name::text, permissions::text, created_at, expires_at
     ), told AS (SELECT ",
    notify!(),
    " FROM made WHERE $8)
     SELECT made.name, made.permissions, made.created_at, made.expires_at, ended.expires_at, old.was_rotated,
            (SELECT count(*) FROM told)
     FROM old LEFT JOIN made ON true LEFT JOIN ended ON true"
);

/// Makes a key in the place of a valid one that has no successor yet. Committed when this returns; other servers
/// may still have to hear of it.
///
/// # Errors
/// See `StoreError`.
pub fn rotate(
    store: &Store,
    among: Among<'_>,
    id: Uuid,
    successor: &Successor<'_>,
    until: Instant,
) -> Result<Committed<Rotated>, StoreError> {
    let Successor { id: new, hash, prefix, grace_seconds, longest_seconds } = successor;
    write_notifying(store, until, |session, is_notifying| {
        let tenant = among.tenant_id();
        let row = session.query_opt(
            ROTATE,
            &[&id, new, hash, prefix, grace_seconds, longest_seconds, &tenant, &is_notifying],
        )?;
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
