//! Tenants: customers or teams with keys of their own and, if wished, a role and a schema in the database.

mod answer;
pub mod command;
mod connection_string;
mod creation;
mod first_login;
pub mod handlers;
mod limits;
mod login_trial;
mod name;
mod password;
pub mod removal;
mod role;
mod role_lock;
pub mod store;
mod views;

pub use limits::{Limits, LimitsChange};
pub use name::{OwnNames, TenantName};
pub use password::Password;
pub use role::obstacle;
use uuid::Uuid;

use crate::auth::Tenant;

/// What a tenant shall be.
pub struct NewTenant {
    pub id: Uuid,
    /// Of the schema too.
    pub name: TenantName,
    /// What its role is called and logs in with, if it shall have one.
    pub login: Option<(TenantName, Password)>,
}

/// Why it cannot be removed, unless with what makes it so all the same.
fn unfinished(tenant: &Tenant, force: &str) -> String {
    let name = tenant.name();
    format!("executions of tenant '{name}' have not ended: wait for them, or cancel them with {force}")
}

/// Why there is no password to change.
fn no_role(tenant: &Tenant) -> String {
    format!("tenant '{}' has no database role: it was made without username", tenant.name())
}
