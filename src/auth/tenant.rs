//! A tenant as authorization knows it. No other module can make one, so a statement that takes one concerns a tenant
//! that the request's key may reach.

use std::time::Instant;

use uuid::Uuid;

use crate::store::{Store, StoreError};

/// A tenant that was there when it was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    id: Uuid,
    name: String,
}

impl Tenant {
    pub(super) fn new(id: Uuid, name: String) -> Tenant {
        Tenant { id, name }
    }

    /// Its own for ever: a tenant that gets the name of a removed one has another.
    pub fn id(&self) -> Uuid {
        self.id
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Whether a tenant can have this name, as far as its characters say: 1 to 63, an ASCII letter or `_` first, then letters,
/// digits and `_`.
pub fn is_tenant_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    (1..=63).contains(&text.len())
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(is_allowed)
}

pub const FIND_TENANT: &str =
    "SELECT id, name FROM cloacina_tenants WHERE lower(name COLLATE \"C\") = lower($1 COLLATE \"C\")
     AND name = $1 AND removed_at IS NULL";

/// The tenant of this name, for a caller that may reach any: the server's admin, and the command line.
///
/// # Errors
/// See `StoreError`.
pub fn find_tenant(store: &Store, name: &str, until: Instant) -> Result<Option<Tenant>, StoreError> {
    // Of texts with a zero byte PostgreSQL takes none.
    if !is_tenant_name(name) {
        return Ok(None);
    }
    store.read(until, |session| {
        let row = session.query_opt(FIND_TENANT, &[&name])?;
        row.map(|row| Ok(Tenant::new(row.try_get(0)?, row.try_get(1)?))).transpose()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "_", "Acme_2", &"x".repeat(63)] {
            assert!(is_tenant_name(name), "{name}");
        }
        for name in ["", "2a", "a-b", "a b", "caf\u{e9}", "*", "a.b", "\u{0}", &"x".repeat(64)] {
            assert!(!is_tenant_name(name), "{name}");
        }
    }
}
