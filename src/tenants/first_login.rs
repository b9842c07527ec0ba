//! How the role of a tenant logs in, and what a new one's first login comes to before it is given away.

use std::time::Instant;

use super::connection_string::{Address, ConnectionString};
use super::login_trial::{Login, LoginTrial};
use super::{Password, TenantName, store};
use crate::auth::find_tenant;
use crate::config::TenantDatabaseHost;
use crate::store::{Store, StoreError};

/// What it comes to.
pub enum FirstLogin {
    /// It works, as far as that is known.
    Possible(ConnectionString),
    /// The database does not let the role in, so the tenant was removed again: what it says, and what helps.
    TakenBack(String),
}

/// What a tenant's role logs in with. `host`: the one that was set for tenants.
pub fn connection_string(
    store: &Store,
    host: Option<&TenantDatabaseHost>,
    username: &str,
    password: &Password,
) -> ConnectionString {
    let address = Address::new(&store.factory.connector.hosts(), host);
    ConnectionString::new(username, password, &address)
}

/// Tries the login of a tenant that was made just now, once.
///
/// # Errors
/// See `StoreError`: the role is not let in, and the tenant could not be removed again.
pub fn first_login(
    store: &Store,
    host: Option<&TenantDatabaseHost>,
    tenant: &TenantName,
    (username, password): &(TenantName, Password),
    until: Instant,
) -> Result<FirstLogin, StoreError> {
    let hosts = store.factory.connector.hosts();
    let address = &Address::new(&hosts, host);
    let string = ConnectionString::new(username.as_str(), password, address);
    let login = Login {
        user: username.as_str(),
        address,
        connection_string: &string,
        is_at_host_of_tenants: host.is_some(),
    };
    let why = match login.try_once(&hosts) {
        LoginTrial::LetIn => return Ok(FirstLogin::Possible(string)),
        LoginTrial::NotKnown(why) => {
            log::warn!(tenant = tenant.as_str(); "could not find out whether the database lets a new role in: {why}");
            return Ok(FirstLogin::Possible(string));
        }
        LoginTrial::Refused(why) => why,
    };
    if let Some(tenant) = find_tenant(store, tenant.as_str(), until)? {
        store::remove(store, &tenant, until)?;
    }
    Ok(FirstLogin::TakenBack(why))
}
