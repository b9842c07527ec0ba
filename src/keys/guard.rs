//! Header, hash, cache, database, caller: who may pass.

use std::sync::Arc;
use std::time::Instant;

use time::{Duration, OffsetDateTime};

use super::key::{self, KeyHash};
use super::{Caller, Keys, Permission};
use crate::http::reply::Error;
use crate::http::routes::Access;
use crate::metrics::AuthFailure;
use crate::store::StoreError;
use crate::store::keys::KeyRow;

/// From so long before its expiry on, answers to a key say when that is.
const WARNED_BEFORE: Duration = Duration::days(7);

impl Keys {
    /// Lets in whoever has a valid key, and counts whom it does not. The lookup is by a hash of the key, so its time
    /// tells nothing of the key itself.
    ///
    /// # Errors
    /// `MalformedAuthorization`, `InvalidKey`, `DatabaseUnavailable`.
    pub fn admit(&self, authorization: Option<&str>, until: Instant) -> Result<Arc<Caller>, Error> {
        self.identify(authorization, until).map_err(|refusal| match refusal {
            Refusal::Store(error) => error.into(),
            Refusal::Because(reason) => {
                self.metrics.auth_failed(reason);
                log::debug!(reason:? = reason; "not let in");
                match reason {
                    AuthFailure::Malformed => Error::MalformedAuthorization,
                    _ => Error::InvalidKey,
                }
            }
        })
    }

    /// Lets the caller do this, if its key may.
    ///
    /// # Errors
    /// `InsufficientPermissions`, counted.
    pub fn allow(&self, caller: &Caller, access: Access) -> Result<(), Error> {
        match access {
            Access::Admin if caller.permission() != Some(Permission::Admin) => Err(self.forbid()),
            Access::Admin | Access::AnyKey => Ok(()),
        }
    }

    fn identify(&self, authorization: Option<&str>, until: Instant) -> Result<Arc<Caller>, Refusal> {
        let key = authorization.and_then(bearer).ok_or(Refusal::Because(AuthFailure::Malformed))?;
        if key::looks_like_ours(key) && key::is_mistyped(key) {
            return Err(Refusal::Because(AuthFailure::Checksum));
        }
        let hash = KeyHash::of(key);
        let caller = match self.cache.get(&hash) {
            Ok(caller) => {
                self.metrics.cache_hits.inc();
                caller
            }
            Err(ticket) => {
                self.metrics.cache_misses.inc();
                let row = self.store.find(hash.as_str(), until).map_err(Refusal::Store)?;
                let caller = Arc::new(valid(row).map_err(Refusal::Because)?);
                self.cache.put(ticket, hash, Arc::clone(&caller));
                caller
            }
        };
        let now = OffsetDateTime::now_utc();
        if caller.expires_at.is_some_and(|end| end <= now) {
            return Err(Refusal::Because(AuthFailure::Expired));
        }
        self.uses.note(&caller, now);
        Ok(caller)
    }

    /// For handlers that find out for themselves that a caller may not do what it asks for.
    pub fn forbid(&self) -> Error {
        self.metrics.auth_failed(AuthFailure::Permission);
        log::debug!(reason:? = AuthFailure::Permission; "not let in");
        Error::InsufficientPermissions
    }
}

impl Caller {
    /// When the key expires, once that is near.
    pub fn expires_soon(&self) -> Option<OffsetDateTime> {
        self.expires_at.filter(|end| *end - OffsetDateTime::now_utc() <= WARNED_BEFORE)
    }
}

enum Refusal {
    Because(AuthFailure),
    Store(StoreError),
}

/// The row of a key that is not revoked. Expiry is looked at with each use.
fn valid(row: Option<KeyRow>) -> Result<Caller, AuthFailure> {
    match row {
        None => Err(AuthFailure::Unknown),
        Some(row) if row.revoked_at.is_some() => Err(AuthFailure::Revoked),
        Some(row) => Ok(Caller {
            id: row.id,
            name: row.name,
            permissions: row.permissions,
            created_at: row.created_at,
            expires_at: row.expires_at,
            noted_use: row.last_used_at.map_or(0, OffsetDateTime::unix_timestamp).into(),
        }),
    }
}

/// The token of `Bearer <token>` (RFC 6750, 2.1): the scheme in any case, one or more spaces, visible ASCII. More
/// characters than RFC 6750 has are allowed, for keys that their owners chose.
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, rest) = authorization.split_once(' ')?;
    let token = rest.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && key::can_be_sent(token)).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens() {
        for (header, token) in [
            ("Bearer abc", Some("abc")),
            ("bEaReR    abc  ", Some("abc")),
            ("Bearer a!#$", Some("a!#$")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Bearer  ", None),
            ("Bearer a b", None),
            ("Bearer\tabc", None),
            ("Bearerabc", None),
            ("Basic abc", None),
            (" Bearer abc", None),
            ("", None),
        ] {
            assert_eq!(bearer(header), token, "{header:?}");
        }
        assert_eq!(bearer(&format!("Bearer {}", "x".repeat(key::LONGEST + 1))), None);
    }
}
