//! Who asks: the key that came with a request, and what it may do.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::lease::since_boot;

/// Longest name of a key, in characters.
pub const NAME_CHARACTERS: usize = 255;
/// From so long before its expiry on, answers to a key say when that is.
const WARNED_BEFORE: time::Duration = time::Duration::days(7);

/// The row of a valid key.
#[derive(Debug)]
pub struct Principal {
    pub id: Uuid,
    /// As stored, but no longer than the name of a new key; so is `permissions`.
    pub name: String,
    /// See `permission`.
    pub permissions: String,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    /// A later server's key for a tenant, which does not exist here: it opens nothing.
    pub is_tenants: bool,
    /// The last use that was recorded, in seconds since 1970; 0: none.
    pub recorded_use: AtomicI64,
    pub clock: DatabaseClock,
}

/// The database's clock as a lookup saw it; it goes on by our own count of time, not by what our clock says it is.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseClock {
    pub then: OffsetDateTime,
    /// When that was, `since_boot`.
    pub since_boot: Duration,
}

impl DatabaseClock {
    pub fn now(self) -> OffsetDateTime {
        self.then.saturating_add(
            time::Duration::try_from(since_boot().saturating_sub(self.since_boot)).unwrap_or_default(),
        )
    }
}

/// What a key may do. Only `Admin` manages keys; what the others mean is up to the service that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    Read,
    Write,
    Admin,
}

impl Permission {
    pub const NAMES: &'static str = "admin, write or read";

    pub fn parse(name: &str) -> Option<Permission> {
        [Permission::Admin, Permission::Write, Permission::Read]
            .into_iter()
            .find(|known| known.name() == name)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Permission::Admin => "admin",
            Permission::Write => "write",
            Permission::Read => "read",
        }
    }
}

/// Which keys a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Keys with the permission `admin`.
    ServerAdmin,
    /// Any valid key but a tenant's; the handler decides the rest.
    ServerKey,
    /// Any valid key.
    AnyKey,
}

impl Principal {
    /// `None` for what an older server may have stored and this one does not know, and for a tenant's key: it opens
    /// nothing.
    pub fn permission(&self) -> Option<Permission> {
        Permission::parse(&self.permissions).filter(|_| !self.is_tenants)
    }

    pub fn has(&self, scope: Scope) -> bool {
        match scope {
            Scope::ServerAdmin => self.permission() == Some(Permission::Admin),
            Scope::ServerKey => !self.is_tenants,
            Scope::AnyKey => true,
        }
    }

    /// When the key expires, once that is near.
    pub fn expires_soon(&self) -> Option<OffsetDateTime> {
        self.expires_at.filter(|end| *end - self.clock.now() <= WARNED_BEFORE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Principal {
        pub fn for_tests(name: &str) -> Principal {
            Principal {
                id: Uuid::nil(),
                name: name.to_owned(),
                permissions: "admin".to_owned(),
                created_at: OffsetDateTime::UNIX_EPOCH,
                expires_at: None,
                is_tenants: false,
                recorded_use: AtomicI64::new(0),
                clock: DatabaseClock { then: OffsetDateTime::UNIX_EPOCH, since_boot: Duration::ZERO },
            }
        }
    }
}
