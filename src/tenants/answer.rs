//! The JSON objects that show a tenant, over HTTP and on the command line.

use std::time::Instant;

use serde::Serialize;

use super::connection_string::ConnectionString;
use super::role::removed_name;
use super::store::{Removal, TenantRow};
use super::{Limits, Password};
use crate::auth::Tenant;
use crate::executions;
use crate::keys::expiry::format_rfc3339;
use crate::store::{Store, StoreError};
use crate::workflows;

/// How a tenant's role logs in: this is all null where it has none.
#[derive(Serialize)]
pub struct Made<'a> {
    schema_name: &'a str,
    username: Option<&'a str>,
    password: Option<&'a str>,
    connection_string: Option<&'a str>,
}

impl<'a> Made<'a> {
    pub fn without_role(schema_name: &'a str) -> Made<'a> {
        Made { schema_name, username: None, password: None, connection_string: None }
    }

    pub fn new(
        schema_name: &'a str,
        username: &'a str,
        password: &'a Password,
        string: &'a ConnectionString,
    ) -> Made<'a> {
        Made {
            schema_name,
            username: Some(username),
            password: Some(password.reveal()),
            connection_string: Some(string.reveal()),
        }
    }
}

/// What a tenant has.
#[derive(Serialize)]
pub struct Counts {
    #[serde(flatten)]
    packages: workflows::store::Counts,
    #[serde(flatten)]
    executions: executions::store::tenant_counts::Counts,
}

impl Counts {
    /// # Errors
    /// See `StoreError`.
    pub fn of(store: &Store, tenant: &Tenant, until: Instant) -> Result<Counts, StoreError> {
        Ok(Counts {
            packages: workflows::store::count(store, tenant, until)?,
            executions: executions::store::tenant_counts::count(store, tenant, until)?,
        })
    }
}

#[derive(Serialize)]
pub struct Shown<'a> {
    schema_name: &'a str,
    username: Option<&'a str>,
    created_at: String,
    #[serde(flatten)]
    limits: &'a Limits,
    /// Not in listings.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    counts: Option<&'a Counts>,
}

impl<'a> From<&'a TenantRow> for Shown<'a> {
    fn from(row: &'a TenantRow) -> Shown<'a> {
        Shown {
            schema_name: &row.name,
            username: row.username.as_deref(),
            created_at: format_rfc3339(row.created_at),
            limits: &row.limits,
            counts: None,
        }
    }
}

impl<'a> Shown<'a> {
    pub fn with_counts(row: &'a TenantRow, counts: &'a Counts) -> Shown<'a> {
        Shown { counts: Some(counts), ..Shown::from(row) }
    }
}

#[derive(Serialize)]
pub struct Removed<'a> {
    status: &'static str,
    schema_name: &'a str,
    /// What cannot be dropped yet, and where its objects are.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    databases: &'a [String],
}

impl<'a> Removed<'a> {
    pub fn new(tenant: &'a Tenant, removal: &'a Removal) -> Removed<'a> {
        let databases = &*removal.other_databases;
        let role = (!databases.is_empty()).then(|| removed_name(tenant.id()));
        Removed { status: "removed", schema_name: tenant.name(), role, databases }
    }
}
