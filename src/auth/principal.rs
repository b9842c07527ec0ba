//! Who asks: the key that came with a request, and what it may do.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::lease::since_boot;
use super::tenant::Tenant;

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
    pub owner: Owner,
    /// The last use that was recorded, in seconds since 1970; 0: none.
    pub recorded_use: AtomicI64,
    pub clock: DatabaseClock,
}

/// Whose key it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    Server,
    Tenant(Tenant),
    /// A tenant that does not exist here: the key opens nothing.
    UnknownTenant,
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

/// What a key may do, each one what those before it may. `Admin` manages keys. What `Read` and `Write` of the server's own
/// keys mean is up to the service that asks; a tenant's see and change what is the tenant's.
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
    /// The server's keys with the permission `admin`.
    ServerAdmin,
    /// The same, and keys of the path's tenant with this permission at least.
    Tenant(Permission),
    /// Any valid key but one of a tenant that does not exist here; the handler decides the rest.
    KnownOwner,
    /// Any valid key.
    AnyKey,
}

impl Principal {
    /// `None` for what an older server may have stored and this one does not know, and for a key that opens nothing.
    pub fn permission(&self) -> Option<Permission> {
        Permission::parse(&self.permissions).filter(|_| self.owner != Owner::UnknownTenant)
    }

    pub fn is_server_admin(&self) -> bool {
        self.owner == Owner::Server && self.permission() == Some(Permission::Admin)
    }

    /// `None` for the server's keys, and for those that open nothing.
    pub fn tenant(&self) -> Option<&Tenant> {
        match &self.owner {
            Owner::Tenant(tenant) => Some(tenant),
            Owner::Server | Owner::UnknownTenant => None,
        }
    }

    /// Whether the key has the scope, on the path of this tenant where the scope is a tenant's.
    pub fn has(&self, scope: Scope, tenant: Option<&str>) -> bool {
        match scope {
            Scope::AnyKey => true,
            Scope::KnownOwner => self.owner != Owner::UnknownTenant,
            Scope::ServerAdmin => self.is_server_admin(),
            Scope::Tenant(least) => {
                let is_own = self.tenant().is_some_and(|own| Some(own.name()) == tenant);
                self.is_server_admin() || is_own && self.permission() >= Some(least)
            }
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
                owner: Owner::Server,
                recorded_use: AtomicI64::new(0),
                clock: DatabaseClock { then: OffsetDateTime::UNIX_EPOCH, since_boot: Duration::ZERO },
            }
        }
    }

    #[test]
    fn scopes() {
        let key = |owner: &Owner, permissions: &str| Principal {
            owner: owner.clone(),
            permissions: permissions.to_owned(),
            ..Principal::for_tests("x")
        };
        let acme = Owner::Tenant(Tenant::new(Uuid::nil(), "acme".to_owned()));
        let scopes = [
            Scope::AnyKey,
            Scope::KnownOwner,
            Scope::Tenant(Permission::Read),
            Scope::Tenant(Permission::Write),
            Scope::Tenant(Permission::Admin),
            Scope::ServerAdmin,
        ];
        // Whether a key has each scope: on the path of acme, and on that of another tenant.
        for (owner, permissions, on_acme, on_other) in [
            (&Owner::Server, "admin", "111111", "111111"),
            (&Owner::Server, "write", "110000", "110000"),
            (&Owner::Server, "root", "110000", "110000"),
            (&acme, "admin", "111110", "110000"),
            (&acme, "write", "111100", "110000"),
            (&acme, "read", "111000", "110000"),
            (&acme, "root", "110000", "110000"),
            (&Owner::UnknownTenant, "admin", "100000", "100000"),
        ] {
            let key = key(owner, permissions);
            for (tenant, expected) in [("acme", on_acme), ("other", on_other), ("ACME", on_other)] {
                let has: String =
                    scopes.map(|scope| if key.has(scope, Some(tenant)) { '1' } else { '0' }).iter().collect();
                assert_eq!(has, expected, "{owner:?} {permissions} {tenant}");
            }
        }
    }
}
