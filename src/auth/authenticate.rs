//! Header, hash, cache, database, principal: who may pass.

use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;

use super::api_key::{self, KeyHash};
use super::principal::{DatabaseClock, NAME_CHARACTERS};
use super::store::{self, Lookup};
use super::tenant::{Tenant, find_tenant};
use super::{Auth, Owner, Principal, Scope};
use crate::error::Error;
use crate::metrics::AuthFailure;
use crate::terminal::start_of;

impl Auth {
    /// The principal of a valid key. The lookup is by a hash of the key, so its time tells nothing of the key itself.
    ///
    /// # Errors
    /// `MalformedAuthorization`, `InvalidKey`, `Unavailable`.
    pub fn authenticate(&self, authorization: Option<&str>, until: Instant) -> Result<Arc<Principal>, Error> {
        let key = authorization.and_then(bearer).ok_or_else(|| self.refuse(AuthFailure::Malformed))?;
        if api_key::looks_like_ours(key) && api_key::is_mistyped(key) {
            return Err(self.refuse(AuthFailure::Checksum));
        }
        let hash = KeyHash::of(key);
        let principal = match self.cache.get(&hash) {
            Ok(principal) => {
                self.metrics.cache_hits.inc();
                principal
            }
            Err(generation) => {
                self.metrics.cache_misses.inc();
                let found = store::find(&self.store, hash, until)?;
                let (principal, ends) = valid(found).map_err(|reason| self.refuse(reason))?;
                let principal = Arc::new(principal);
                self.cache.put(generation, hash, Arc::clone(&principal), ends);
                principal
            }
        };
        self.last_used.record(&principal);
        Ok(principal)
    }

    /// The principal of a key that is in the cache, without any wait.
    pub fn authenticate_cached(&self, authorization: Option<&str>) -> Option<Arc<Principal>> {
        let principal = self.cache.get(&KeyHash::of(authorization.and_then(bearer)?)).ok()?;
        self.metrics.cache_hits.inc();
        self.last_used.record(&principal);
        Some(principal)
    }

    /// Whether a principal's key has the scope of a route that is no tenant's.
    ///
    /// # Errors
    /// `InsufficientPermissions`, counted.
    pub fn authorize(&self, principal: &Principal, scope: Scope) -> Result<(), Error> {
        if principal.has(scope, None) { Ok(()) } else { Err(self.forbid()) }
    }

    /// The tenant of a path, where a principal's key has the scope there. It is looked up for the server's admin alone,
    /// so another tenant's key learns nothing of it, not even by the time that the answer takes.
    ///
    /// # Errors
    /// `InsufficientPermissions`, counted; `NotFound`, `Unavailable`.
    pub fn authorize_tenant(
        &self,
        principal: &Principal,
        scope: Scope,
        name: &str,
        until: Instant,
    ) -> Result<Tenant, Error> {
        if !principal.has(scope, Some(name)) {
            return Err(self.forbid());
        }
        match principal.tenant() {
            Some(own) => Ok(own.clone()),
            None => self.tenant(name, until),
        }
    }

    /// The tenant of this name, for the server's admin.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub fn tenant(&self, name: &str, until: Instant) -> Result<Tenant, Error> {
        find_tenant(&self.store, name, until)?
            .ok_or_else(|| Error::NotFound(format!("tenant '{}' not found", start_of(name)).into()))
    }

    /// For handlers that find out for themselves that a principal may not do what it asks for.
    pub fn forbid(&self) -> Error {
        self.refuse(AuthFailure::Permission)
    }

    /// The error of a request that is not let in, which is counted.
    fn refuse(&self, reason: AuthFailure) -> Error {
        self.metrics.auth_failed(reason);
        log::debug!(reason:? = reason; "not let in");
        match reason {
            AuthFailure::Malformed => Error::MalformedAuthorization,
            AuthFailure::Permission => Error::InsufficientPermissions,
            _ => Error::InvalidKey,
        }
    }
}

/// The owner of a valid key, and when its life has run out, `since_boot`. The database's clock alone decides: from that
/// time on it is asked again, so a cached key is refused in the second in which it ends, whatever our own clock says.
fn valid(found: Option<Lookup>) -> Result<(Principal, Option<std::time::Duration>), AuthFailure> {
    let Lookup { row, now, asked, answered } = found.ok_or(AuthFailure::Unknown)?;
    if row.revoked_at.is_some() {
        return Err(AuthFailure::Revoked);
    }
    if row.expires_at.is_some_and(|end| end <= now) {
        return Err(AuthFailure::Expired);
    }
    let owner = match (row.tenant, row.tenant_name) {
        (None, _) if row.is_shut_out => Owner::UnknownTenant,
        (None, _) => Owner::Server,
        (Some(id), Some(name)) => Owner::Tenant(Tenant::new(id, name)),
        (Some(_), None) => Owner::UnknownTenant,
    };
    let ends = row.expires_at.map(|end| asked.saturating_add((end - now).unsigned_abs()));
    let principal = Principal {
        id: row.id,
        name: shortened(row.name),
        permissions: shortened(row.permissions),
        created_at: row.created_at,
        expires_at: row.expires_at,
        owner,
        recorded_use: row.last_used_at.map_or(0, OffsetDateTime::unix_timestamp).into(),
        clock: DatabaseClock { then: now, since_boot: answered },
    };
    Ok((principal, ends))
}

/// Another program may have stored texts of any length, which would go into field values, log lines and the cache. No
/// permission is as long as what is left.
fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(NAME_CHARACTERS) {
        text.truncate(end);
        text.shrink_to_fit();
    }
    text
}

/// The token of `Bearer <token>` (RFC 6750, 2.1): the scheme in any case, one or more spaces, visible ASCII. More
/// characters than RFC 6750 has are allowed, for keys that their owners chose.
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, rest) = authorization.split_once(' ')?;
    let token = rest.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && api_key::can_be_sent(token)).then_some(token)
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
        assert_eq!(bearer(&format!("Bearer {}", "x".repeat(api_key::LONGEST + 1))), None);
    }
}
