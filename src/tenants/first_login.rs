//! How the role of a tenant logs in, and what a new one's first login comes to before it is given away.

use std::time::{Duration, Instant};

use super::connection_string::{Address, ConnectionString};
use super::login_trial::{Login, LoginTrial};
use super::{NewTenant, Password, TenantName, store};
use crate::auth::find_tenant;
use crate::config::TenantDatabaseHost;
use crate::store::{Store, StoreError};

/// How long it may take at least to remove a tenant again, whatever its request has left.
const TAKE_BACK_LIMIT: Duration = Duration::from_secs(1);

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
/// `Unknown`: the role is not let in, and the tenant could not be removed again, or that is not known.
pub fn first_login(
    store: &Store,
    host: Option<&TenantDatabaseHost>,
    new: &NewTenant,
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
    let left = until.saturating_duration_since(Instant::now());
    let why = match login.try_once(&hosts, left) {
        LoginTrial::LetIn => return Ok(FirstLogin::Possible(string)),
        LoginTrial::NotKnown(why) => {
            log::warn!(tenant = new.name.as_str(); "could not find out whether the database lets a new role in: {why}");
            return Ok(FirstLogin::Possible(string));
        }
        LoginTrial::Refused(why) => why,
    };
    // It was made, so that it could not be removed is not that nothing was changed.
    take_back(store, new, until.max(Instant::now() + TAKE_BACK_LIMIT))
        .map_err(|error| StoreError::Unknown(error.into_cause()))?;
    Ok(FirstLogin::TakenBack(why))
}

fn take_back(store: &Store, new: &NewTenant, until: Instant) -> Result<(), StoreError> {
    // Another request may have removed it meanwhile, and a third one made another of its name.
    let found = find_tenant(store, new.name.as_str(), until)?.filter(|found| found.id() == new.id);
    if let Some(tenant) = found {
        store::remove(store, &tenant, true, until)?;
    }
    Ok(())
}
