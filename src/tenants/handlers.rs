//! The endpoints with which the server's admin manages tenants, and a tenant looks at itself.

use postgres::error::SqlState;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::answer::{Counts, Made, Removed, Shown};
use super::creation::{self, Creation};
use super::first_login::{FirstLogin, connection_string, first_login};
use super::store::{self, PasswordChange, TenantRow};
use super::{LimitsChange, NewTenant, OwnNames, Password, TenantName, no_role, unfinished};
use crate::app::{App, Call};
use crate::auth::Tenant;
use crate::error::Error;
use crate::http::response::Response;
use crate::json_body::{know, object, text, wrong};
use crate::keys::handlers::once_servers_know;
use crate::paging::{self, cursor, given};
use crate::postgres_link::describe;
use crate::store::{Cause, StoreError};

/// `POST /tenants`: makes a tenant, and shows its role's password, this once.
pub fn create(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    let fields = object(call.request, r#"{"schema_name":"acme"}"#)?;
    know(&fields, &["schema_name", "username", "password"])?;
    let until = call.request.deadline;
    let (own_role, own_schema) = creation::own_names(&app.store, until)?;
    let own = OwnNames { role: &own_role, schema: &own_schema };
    let named = |field, name: &str| TenantName::parse(name, &own).map_err(|error| wrong(field, error));
    let name = text(&fields, "schema_name")?.ok_or_else(|| wrong("schema_name", "missing"))?;
    let name = named("schema_name", name)?;
    let username = text_or_null(&fields, "username")?.map(|name| named("username", name)).transpose()?;
    let login = match (username, text_or_null(&fields, "password")?) {
        (Some(username), chosen) => Some((username, password(chosen)?)),
        (None, None) => None,
        (None, Some(_)) => return Err(wrong("password", "stands without username, whose it would be")),
    };
    let new = NewTenant { id: Uuid::new_v4(), name, login };
    match creation::create(&app.store, &new, until)?.value {
        Creation::Made => {}
        Creation::Exists(text) => return Err(Error::Conflict(text.into())),
        Creation::Unable(text) => return Err(Error::Unable(text)),
    }
    let name = new.name.as_str();
    log_change(call, name, "tenant created");
    let Some(login) = &new.login else { return Ok(Response::json(201, &Made::without_role(name))?) };
    let host = app.tenant_database_host.as_ref();
    match first_login(&app.store, host, &new, login, until)? {
        FirstLogin::Possible(string) => {
            let (username, password) = login;
            Ok(Response::json(201, &Made::new(name, username.as_str(), password, &string))?)
        }
        FirstLogin::TakenBack(why) => {
            app.tenant_removal.wake();
            log_change(call, name, "tenant removed again, since the database does not let its role in");
            // Another client may have made keys for it meanwhile.
            app.auth.cache.clear();
            Ok(once_servers_know(app, call, Error::Unable(why).into()))
        }
    }
}

/// `GET /tenants`: a page of the listing, newest first.
pub fn list(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    let page = paging::Page::from_query(call.request.query)?;
    let found = store::list(&app.store, page.after, page.limit, call.request.deadline)?;
    let next = found.next.map(cursor);
    let tenants = found.tenants.iter().map(Shown::from).collect();
    let response = Response::json(200, &Listing { tenants, next: next.as_deref() })?;
    Ok(match next {
        Some(next) => response
            .header("Link", format!("<{}>; rel=\"next\"", page.target_of_next("/tenants", &next, &[]))),
        None => response,
    })
}

/// `GET /tenants/{tenant}`.
pub fn show(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    shown(app, call, store::show(&app.store, tenant, call.request.deadline)?, tenant)
}

/// `PATCH /tenants/{tenant}`: changes its limits.
pub fn change(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let change = LimitsChange::read(&object(call.request, r#"{"max_running_tasks":4}"#)?)?;
    let changed = store::change_limits(&app.store, tenant, &change, call.request.deadline)?;
    if changed.is_some() {
        log_change(call, tenant.name(), "limits of a tenant changed");
    }
    shown(app, call, changed, tenant)
}

fn shown(app: &App, call: &Call<'_>, row: Option<TenantRow>, tenant: &Tenant) -> Result<Response, Error> {
    let row = row.ok_or_else(|| not_found(tenant))?;
    let counts = Counts::of(&app.store, tenant, call.request.deadline)?;
    Ok(Response::json(200, &Shown::with_counts(&row, &counts))?)
}

/// It was removed meanwhile.
fn not_found(tenant: &Tenant) -> Error {
    Error::NotFound(format!("tenant '{}' not found", tenant.name()).into())
}

/// `POST /tenants/{tenant}/password`: gives its role another password, and shows it, this once. Where role or schema are not
/// there, as in a database that was restored elsewhere, they are made.
pub fn set_password(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let chosen = match call.request.body.is_empty() {
        true => Map::new(),
        false => object(call.request, r#"{"password":"…"}"#)?,
    };
    know(&chosen, &["password"])?;
    let password = password(text_or_null(&chosen, "password")?)?;
    let changed =
        store::set_password(&app.store, tenant, &password, call.request.deadline).map_err(unable)?;
    let username = match changed.value {
        PasswordChange::Made { username } => username,
        PasswordChange::NoRole => return Err(Error::Conflict(no_role(tenant).into())),
        PasswordChange::Removed => return Err(not_found(tenant)),
        PasswordChange::Exists(text) => return Err(Error::Conflict(text.into())),
        PasswordChange::Unable(text) => return Err(Error::Unable(text)),
    };
    log_change(call, tenant.name(), "password of a tenant's role changed");
    let string = connection_string(&app.store, app.tenant_database_host.as_ref(), &username, &password);
    Ok(Response::json(200, &Made::new(tenant.name(), &username, &password, &string))?)
}

/// `DELETE /tenants/{tenant}`: once this has answered, no server lets one of its keys in, its role does not log in, and
/// its names are free.
pub fn remove(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let force = match given(call.request.query, "force", "true or false")? {
        Some((value, wrong)) => value.parse().map_err(|_| wrong)?,
        None => false,
    };
    let removal = store::remove(&app.store, tenant, force, call.request.deadline);
    // Also when it failed: it may have been carried out all the same.
    app.auth.cache.clear();
    let removal = removal.map_err(unable)?;
    if removal.value.has_unfinished {
        return Err(Error::Conflict(unfinished(tenant, "?force=true").into()));
    }
    if !removal.value.was_there {
        // The client that removed it may still be waiting.
        return Ok(once_servers_know(app, call, not_found(tenant).into()));
    }
    log_change(call, tenant.name(), "tenant removed");
    app.tenant_removal.wake();
    // Who waits for an execution of it hears that it is gone.
    app.execution_changes.committed();
    // A failover may bring it back.
    if !removal.is_confirmed {
        return Err(Error::OutcomeUnknown(None));
    }
    let response = Response::json(200, &Removed::new(tenant, &removal.value))?;
    Ok(once_servers_know(app, call, response))
}

/// The server can do to a tenant's role and schema what it made them with, unless that was taken from it by hand.
fn unable(error: StoreError) -> Error {
    match &error {
        StoreError::Refused(Cause::Driver(cause))
            if cause.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) =>
        {
            Error::Unable(format!(
                "the database does not let the server change what the tenant has there: {}; the server's database role \
                 has to own the schema, to have CREATE on the database, and to be a superuser or to have CREATEROLE and ADMIN \
                 OPTION on the tenant's role; nothing was changed, and the tenant's keys are let in as before",
                describe(cause)
            ))
        }
        _ => error.into(),
    }
}

/// A field that may be null, which means the same as none.
fn text_or_null<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Error> {
    match fields.get(name) {
        Some(Value::Null) => Ok(None),
        _ => text(fields, name),
    }
}

/// The password that was chosen, or a new one where it is missing or empty.
fn password(chosen: Option<&str>) -> Result<Password, Error> {
    match chosen.filter(|chosen| !chosen.is_empty()) {
        Some(chosen) => Password::from_text(chosen).map_err(|line| wrong("password", line)),
        None => Ok(Password::generate()?),
    }
}

/// Who did what to which tenant.
fn log_change(call: &Call<'_>, tenant: &str, what: &str) {
    let (principal, client) = (&call.principal, call.request.client);
    log::info!(
        tenant = tenant,
        by:% = principal.id,
        by_name = principal.name,
        client:% = client,
        request_id = call.request.id;
        "{what}"
    );
}

#[derive(Serialize)]
struct Listing<'a> {
    tenants: Vec<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}
