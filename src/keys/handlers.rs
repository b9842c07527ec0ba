//! The endpoints with which keys are managed, the server's and a tenant's.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::expiry::format_rfc3339;
use super::listing::{self, ListQuery};
use super::request_body::{self, CreateKey, End};
use super::store::{self, Among, Listed, NewKey, Revocation, Rotated, Successor};
use super::{ALREADY_ROTATED, parse_id};
use crate::app::{App, Call};
use crate::auth::api_key::Plaintext;
use crate::auth::{Tenant, announcement};
use crate::error::Error;
use crate::http::response::Response;
use crate::json_body::wrong;
use crate::paging::{cursor, given};
use crate::store::StoreError;

/// `POST /auth/keys`: makes a key of the server's and shows it, this once.
pub fn create(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    create_for(app, call, None)
}

/// `POST /tenants/{tenant}/keys`: the same for a tenant's.
pub fn create_of(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    create_for(app, call, Some(tenant))
}

fn create_for(app: &App, call: &Call<'_>, tenant: Option<&Tenant>) -> Result<Response, Error> {
    let asked = CreateKey::read(call.request)?;
    let expires_at = end(app, asked.end, call.request.deadline)?;
    let key = Plaintext::generate()?;
    let new = NewKey::new(&key, &asked.name, asked.permission, expires_at);
    let until = call.request.deadline;
    let committed = match tenant {
        None => store::insert(&app.store, &new, until).map(|made| Some(made.value)),
        Some(tenant) => store::insert_of(&app.store, tenant, &new, until).map(|made| made.value),
    };
    let created_at = committed.map_err(|error| undone_if_made(app, new.id, error))?;
    let created_at = created_at.ok_or(TENANT_REMOVED)?;
    log_change(call, tenant, "key created", new.id, new.name);
    let made = Created {
        id: new.id,
        name: new.name,
        key: key.reveal(),
        permissions: new.permissions,
        created_at: format_rfc3339(created_at),
        expires_at: expires_at.map(format_rfc3339),
        rotated_from: None,
        old_key_expires_at: None,
    };
    Ok(undone_if_undelivered(app, new.id, Response::json(201, &made)?))
}

/// `GET /auth/keys`: a page of the listing, newest first: the server's keys, with `?tenant=` those of one or all tenants
/// as well.
pub fn list(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    let named = given(call.request.query, "tenant", "a tenant's name, or * for all")?;
    let named = named.map(|(name, _)| name);
    let listed = match named.as_deref() {
        None => Listed::Servers,
        Some("*") => Listed::All,
        Some(name) => Listed::ServersAnd(app.auth.tenant(name, call.request.deadline)?),
    };
    let others: Vec<_> = named.iter().map(|name| ("tenant", name.as_str())).collect();
    list_page(app, call, &listed, "/auth/keys", &others)
}

/// `GET /tenants/{tenant}/keys`: the same for a tenant's.
pub fn list_of(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    list_page(app, call, &Listed::Of(tenant.clone()), call.request.path, &[])
}

/// `others`: the parameters of the next page's address that are not every listing's.
fn list_page(
    app: &App,
    call: &Call<'_>,
    listed: &Listed,
    path: &str,
    others: &[(&str, &str)],
) -> Result<Response, Error> {
    let query = ListQuery::read(call.request.query)?;
    let page = query.page;
    let until = call.request.deadline;
    let rows = store::list(&app.store, listed, page.after, query.with_revoked, page.limit, until)?;
    let next = rows.next.map(cursor);
    let mut body = Vec::with_capacity(LISTED_BYTES * rows.len() + 128);
    body.extend_from_slice(b"{\"keys\":[");
    for (index, row) in rows.iter::<&str>().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        listing::write(&row?, &mut body)?;
    }
    body.push(b']');
    if let Some(next) = &next {
        body.extend_from_slice(format!(",\"next\":\"{next}\"").as_bytes());
    }
    body.push(b'}');
    let response = Response::bytes(200, "application/json", body);
    Ok(match next {
        Some(next) => {
            response.header("Link", format!("<{}>; rel=\"next\"", query.target_of_next(path, &next, others)))
        }
        None => response,
    })
}

/// `DELETE /auth/keys/{id}`: once this has answered, no server lets the key in.
pub fn revoke(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    revoke_key(app, call, Among::All, key_id(call.parameters.get("id"))?)
}

/// `DELETE /tenants/{tenant}/keys/{id}`: the same for a tenant's.
pub fn revoke_of(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    revoke_key(app, call, Among::Of(tenant), key_id(call.parameters.get("id"))?)
}

/// `DELETE /auth/keys/self`: a key can always end itself.
pub fn revoke_self(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    revoke_key(app, call, Among::All, call.principal.id)
}

fn revoke_key(app: &App, call: &Call<'_>, among: Among<'_>, id: Uuid) -> Result<Response, Error> {
    let revocation = store::revoke(&app.store, among, id, call.request.deadline);
    // Also when it failed: it may have been carried out all the same.
    app.auth.cache.clear();
    let revocation = revocation?;
    if let Revocation::Revoked(name) = &revocation.value {
        log_change(call, among.tenant(), "key revoked", id, name);
    }
    let response = match revocation.value {
        Revocation::Unknown => return Err(KEY_NOT_FOUND),
        // A failover may bring the key back.
        _ if !revocation.is_confirmed => return Err(Error::OutcomeUnknown(None)),
        Revocation::Revoked(_) => {
            let body = format!(r#"{{"status":"revoked","id":"{id}"}}"#);
            Response::bytes(200, "application/json", body.into_bytes())
        }
        Revocation::Earlier => KEY_NOT_FOUND.into(),
    };
    // For an earlier revocation as well: its client may still be waiting.
    Ok(once_servers_know(app, call, response))
}

/// The answer to a change that is committed, to be given once no other server lets a key in by what it knew before.
pub fn once_servers_know(app: &App, call: &Call<'_>, response: Response) -> Response {
    let Some(announced) = announcement::announce(&app.store, app.auth.server, call.request.deadline) else {
        return response;
    };
    let waiting = Arc::clone(&app.auth.waiting);
    response.parked(move |parked| waiting.add(announced, || parked.complete()))
}

/// A new key that no client was given must not stay valid, nor a key that it replaced stay dead.
fn undone_if_undelivered(app: &App, id: Uuid, response: Response) -> Response {
    let undelivered = Arc::clone(&app.auth.undelivered);
    response.or_if_undelivered(move || undelivered.add(id))
}

/// The same for one of which it is not known whether it was made.
fn undone_if_made(app: &App, id: Uuid, error: StoreError) -> Error {
    if let StoreError::Unknown(_) = error {
        app.auth.undelivered.add(id);
    }
    error.into()
}

/// `POST /auth/keys/{id}/rotate`: a new key in the place of an old one, which dies at once or after a grace.
pub fn rotate(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    let own = call.principal.id;
    let id = match call.parameters.get("id") {
        "self" => Ok(own),
        text => key_id(text),
    };
    // Comes first: a key that may not do this is told so whatever the path names.
    if !id.as_ref().is_ok_and(|id| *id == own) && !call.principal.is_server_admin() {
        return Err(app.auth.forbid());
    }
    rotate_key(app, call, Among::All, id?)
}

/// `POST /tenants/{tenant}/keys/{id}/rotate`: the same for a tenant's.
pub fn rotate_of(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    rotate_key(app, call, Among::Of(tenant), key_id(call.parameters.get("id"))?)
}

fn rotate_key(app: &App, call: &Call<'_>, among: Among<'_>, id: Uuid) -> Result<Response, Error> {
    let grace = request_body::grace(call.request)?;
    let key = Plaintext::generate()?;
    let successor = Successor::new(&key, grace, app.max_key_lifetime);
    let rotation = store::rotate(&app.store, among, id, &successor, call.request.deadline);
    // The old key's end has come nearer, for all that is remembered of it here and elsewhere.
    app.auth.cache.clear();
    let rotation = rotation.map_err(|error| undone_if_made(app, successor.id, error))?;
    let made = match rotation.value {
        // A failover may bring the old key back as it was, so it is brought back here.
        Rotated::Now(_) if !rotation.is_confirmed => {
            app.auth.undelivered.add(successor.id);
            return Err(Error::OutcomeUnknown(None));
        }
        Rotated::Now(made) => made,
        Rotated::Earlier => return Err(Error::Conflict(ALREADY_ROTATED.into())),
        Rotated::NotValid => return Err(KEY_NOT_FOUND),
    };
    log_change(call, among.tenant(), "key rotated", id, &made.name);
    log_change(call, among.tenant(), "key created", successor.id, &made.name);
    let created = Created {
        id: successor.id,
        name: &made.name,
        key: key.reveal(),
        permissions: &made.permissions,
        created_at: format_rfc3339(made.created_at),
        expires_at: made.expires_at.map(format_rfc3339),
        rotated_from: Some(id),
        old_key_expires_at: Some(format_rfc3339(made.old_expires_at)),
    };
    let response = undone_if_undelivered(app, successor.id, Response::json(201, &created)?);
    Ok(once_servers_know(app, call, response))
}

/// When a new key ends: as asked for, within the longest life that is allowed, by the database's clock. Where neither
/// says anything, that is not asked.
///
/// # Errors
/// `Invalid`: it has ended already, or would live for longer.
fn end(app: &App, asked: Option<End>, until: Instant) -> Result<Option<OffsetDateTime>, Error> {
    let longest = app.max_key_lifetime;
    if asked.is_none() && longest.is_zero() {
        return Ok(None);
    }
    let now = app.store.now(until)?;
    let field = asked.map_or("expires_at", End::field);
    End::bounded(asked, longest, now).map_err(|line| wrong(field, line))
}

/// About as long as one key is in a listing.
const LISTED_BYTES: usize = 256;
const TENANT_REMOVED: Error = Error::NotFound(Cow::Borrowed("the tenant was removed"));
const KEY_NOT_FOUND: Error = Error::NotFound(Cow::Borrowed("key not found or already revoked"));

/// Who did what to which key, and of which tenant where the path names one.
fn log_change(call: &Call<'_>, tenant: Option<&Tenant>, what: &str, id: Uuid, name: &str) {
    let (principal, client) = (&call.principal, call.request.client);
    log::info!(
        key_id:% = id,
        name = name,
        tenant = tenant.map(Tenant::name),
        by:% = principal.id,
        by_name = principal.name,
        client:% = client,
        request_id = call.request.id;
        "{what}"
    );
}

#[derive(Serialize)]
struct Created<'a> {
    id: Uuid,
    name: &'a str,
    key: &'a str,
    permissions: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotated_from: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_key_expires_at: Option<String>,
}

fn key_id(text: &str) -> Result<Uuid, Error> {
    parse_id(text).ok_or_else(|| Error::Malformed("invalid key ID format".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hyphenated() {
        assert!(key_id("a1b2c3d4-e5f6-7890-abcd-ef1234567890").is_ok());
        assert!(key_id("A1B2C3D4-E5F6-7890-ABCD-EF1234567890").is_ok());
        for bad in [
            "",
            "x",
            "a1b2c3d4e5f67890abcdef1234567890",
            "{a1b2c3d4-e5f6-7890-abcd-ef1234567890}",
            "urn:uuid:a1b2c3d4-e5f6-7890-abcd-ef1234567890",
            "a1b2c3d4-e5f6-7890-abcd-ef123456789g",
        ] {
            assert!(key_id(bad).is_err(), "{bad}");
        }
    }
}
