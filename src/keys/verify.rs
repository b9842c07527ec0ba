//! The endpoints that tell of the key which comes with the request: `whoami` to its owner, `verify` to a proxy.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use uuid::Uuid;

use super::expiry::format_rfc3339;
use super::store;
use crate::app::{App, Call};
use crate::auth::{Permission, Tenant, is_tenant_name};
use crate::error::Error;
use crate::http::response::Response;
use crate::paging::{is_miswritten, parameter};

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
        tenant: principal.tenant().map(Tenant::name),
    };
    Ok(Response::json(200, &identity)?)
}

/// `GET /auth/verify`: for a proxy that asks on behalf of another service. All four fields, always, and none of them
/// empty: some proxies would pass on the client's own instead.
pub fn verify(app: &App, call: &Call<'_>) -> Result<Response, Error> {
    let principal = &call.principal;
    let tenant = principal.tenant().map(Tenant::name);
    // What a tenant's key is worth is for the proxy to say: one that was there before tenants were has not been asked.
    let is_wanted = match asked_of_proxy(call, "tenant") {
        None => tenant.is_none(),
        Some(Ok(wanted)) if wanted == "*" => true,
        Some(Ok(wanted)) => is_tenant_name(&wanted) && tenant.is_none_or(|tenant| tenant == wanted),
        Some(Err(())) => false,
    };
    if !is_wanted {
        return Err(app.auth.forbid());
    }
    if let Some(required) = asked_of_proxy(call, "require") {
        // No key has a permission that there is none of, or two at once.
        let Some(required) = required.ok().and_then(|name| Permission::parse(&name)) else {
            app.auth.forbid();
            return Err(Error::UnknownPermission);
        };
        if principal.permission() < Some(required) {
            return Err(app.auth.forbid());
        }
    }
    Ok(Response::no_content()
        .header("X-Auth-Key-Id", principal.id.to_string())
        .header("X-Auth-Key-Name", field_value(&principal.name))
        .header("X-Auth-Permissions", field_value(&principal.permissions))
        .header("X-Auth-Tenant", tenant.unwrap_or("-").to_owned()))
}

/// What a proxy asks of the key in this parameter. In another case it stands for an error: a proxy that asks for
/// `Require` would else ask for nothing.
fn asked_of_proxy(call: &Call<'_>, name: &str) -> Option<Result<String, ()>> {
    let query = call.request.query;
    if is_miswritten(query, name) { Some(Err(())) } else { parameter(query, name) }
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
struct Identity<'a> {
    id: Uuid,
    name: &'a str,
    permissions: &'a str,
    created_at: String,
    expires_at: Option<String>,
    last_used_at: Option<String>,
    tenant: Option<&'a str>,
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
}
