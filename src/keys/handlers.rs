//! The endpoints under `/auth`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::expiry::format_rfc3339;
use super::listing::{self, ListQuery};
use super::request_body::{self, CreateKey, End};
use super::store::{self, NewKey, Revocation, Rotated, Successor};
use super::{ALREADY_ROTATED, parse_id};
use crate::app::{App, Call};
use crate::auth::api_key::Plaintext;
use crate::auth::{Permission, announcement};
use crate::error::Error;
use crate::http::response::Response;
use crate::json_body::wrong;
use crate::paging::{cursor, is_miswritten, parameter};
use crate::store::StoreError;

/// `POST /auth/keys`: makes a key and shows it, this once.
pub fn create(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    let asked = CreateKey::read(call.request)?;
    let expires_at = end(app, asked.end, call.request.deadline)?;
    let key = Plaintext::generate()?;
    let new = NewKey::new(&key, &asked.name, asked.permission, expires_at);
    let committed = store::insert(&app.store, &new, call.request.deadline);
    let created_at = committed.map_err(|error| undone_if_made(app, new.id, error))?.value;
    log_change(call, "key created", new.id, new.name);
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

/// `GET /auth/keys`: a page of the listing, newest first.
pub fn list(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    let query = ListQuery::read(call.request.query)?;
    let page = query.page;
    let rows = store::list(&app.store, page.after, query.with_revoked, page.limit, call.request.deadline)?;
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
        Some(next) => response.header("Link", format!("<{}>; rel=\"next\"", query.target_of_next(&next))),
        None => response,
    })
}

/// `DELETE /auth/keys/{id}`: once this has answered, no server lets the key in.
pub fn revoke(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    revoke_key(app, call, key_id(call.parameters.get("id"))?)
}

/// `DELETE /auth/keys/self`: a key can always end itself.
pub fn revoke_self(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    revoke_key(app, call, call.principal.id)
}

fn revoke_key(app: &App, call: &Call<'_>, id: Uuid) -> Result<Response, Error> {
    let revocation = store::revoke(&app.store, id, call.request.deadline);
    // Also when it failed: it may have been carried out all the same.
    app.auth.cache.clear();
    let revocation = revocation?;
    if let Revocation::Revoked(name) = &revocation.value {
        log_change(call, "key revoked", id, name);
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
fn once_servers_know(app: &App, call: &Call<'_>, response: Response) -> Response {
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
    let id = if call.parameters.get("id") == "self" {
        call.principal.id
    } else {
        key_id(call.parameters.get("id"))?
    };
    if id != call.principal.id && call.principal.permission() != Some(Permission::Admin) {
        return Err(app.auth.forbid());
    }
    let grace = request_body::grace(call.request)?;
    let key = Plaintext::generate()?;
    let successor = Successor::new(&key, grace, app.max_key_lifetime);
    let rotation = store::rotate(&app.store, id, &successor, call.request.deadline);
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
    log_change(call, "key rotated", id, &made.name);
    log_change(call, "key created", successor.id, &made.name);
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

/// `GET /auth/whoami`: the key that asks.
pub fn whoami(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    let principal = &call.principal;
    let identity = Identity {
        id: principal.id,
        name: &principal.name,
        permissions: &principal.permissions,
        created_at: format_rfc3339(principal.created_at),
        expires_at: principal.expires_at.map(format_rfc3339),
        last_used_at: store::last_used_at(&app.store, principal.id, call.request.deadline)?
            .map(format_rfc3339),
    };
    Ok(Response::json(200, &identity)?)
}

/// `GET /auth/verify`: for a proxy that asks on behalf of another service. All three fields, always, and none of them
/// empty: some proxies would pass on the client's own instead.
pub fn verify(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    let query = call.request.query;
    // A proxy that asks for `Require` would else ask for nothing.
    let asked = match is_miswritten(query, "require") {
        true => Some(Err(())),
        false => parameter(query, "require"),
    };
    if let Some(required) = asked {
        // No key has a permission that there is none of, or two at once.
        let Some(required) = required.ok().and_then(|name| Permission::parse(&name)) else {
            app.auth.forbid();
            return Err(Error::UnknownPermission);
        };
        if call.principal.permission() < Some(required) {
            return Err(app.auth.forbid());
        }
    }
    Ok(Response::no_content()
        .header("X-Auth-Key-Id", call.principal.id.to_string())
        .header("X-Auth-Key-Name", field_value(&call.principal.name))
        .header("X-Auth-Permissions", field_value(&call.principal.permissions)))
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
const KEY_NOT_FOUND: Error = Error::NotFound(Cow::Borrowed("key not found or already revoked"));

/// Who did what to which key.
fn log_change(call: &Call<'_>, what: &str, id: Uuid, name: &str) {
    let (principal, client) = (&call.principal, call.request.client);
    log::info!(
        key_id:% = id,
        name = name,
        by:% = principal.id,
        by_name = principal.name,
        client:% = client,
        request_id = call.request.id;
        "{what}"
    );
}

const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// Text as a field value that every proxy passes on unchanged: what is not visible ASCII, and `%`, is
/// percent-encoded UTF-8 (RFC 3986, 2.1). `-` stands for none.
fn field_value(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    utf8_percent_encode(text, ENCODED).to_string()
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

#[derive(Serialize)]
struct Identity<'a> {
    id: Uuid,
    name: &'a str,
    permissions: &'a str,
    created_at: String,
    expires_at: Option<String>,
    last_used_at: Option<String>,
}

fn key_id(text: &str) -> Result<Uuid, Error> {
    parse_id(text).ok_or_else(|| Error::Malformed("invalid key ID format".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_values_are_visible_ascii() {
        assert_eq!(field_value("ci-deploy"), "ci-deploy");
        assert_eq!(field_value(" 50% caf\u{e9}\r\n"), "%2050%25%20caf%C3%A9%0D%0A");
        assert_eq!(field_value(""), "-");
    }

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
