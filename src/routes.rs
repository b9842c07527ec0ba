//! Every endpoint: one table of method, path pattern, scope and handler. The only file that knows HTTP and all rooms.

use std::sync::Arc;

use crate::app::{App, Call};
use crate::auth::{Permission, Principal, Scope, Tenant};
use crate::error::Error;
use crate::executions::{handlers as executions, log_handler, request_body};
use crate::http::error::Error as HttpError;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::router::{self, BodyKind, Route, Routed, Service, StreamLimit};
use crate::keys::expiry::format_rfc3339;
use crate::keys::handlers as keys;
use crate::keys::verify;
use crate::server_endpoints;
use crate::tenants::handlers as tenants;
use crate::workflows::{handlers as workflows, upload};

/// What answers a route.
pub struct Endpoint {
    pub handler: Handler,
    /// For people, in the block that `serve` prints.
    pub summary: &'static str,
}

/// What answers an authorized request.
type Answer = fn(&App, &Call<'_>) -> Result<Response, Error>;
/// What answers one that concerns a tenant.
type TenantAnswer = fn(&App, &Call<'_>, &Tenant) -> Result<Response, Error>;

/// How a route is answered, and what for that has to be known of the client.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Anyone may ask, and the event loop answers.
    Public(fn(&App) -> Response),
    /// A worker answers: it may wait for the database.
    Worker(Scope, Answer),
    /// The same for a handler that never waits: where the key is in the cache, the event loop answers.
    Cached(Scope, Answer),
    /// A worker answers for the `{tenant}` of the path.
    Tenant(Scope, TenantAnswer),
}

impl Handler {
    /// Which keys it takes; `None` where no key is needed.
    pub fn scope(self) -> Option<Scope> {
        match self {
            Public(_) => None,
            Worker(scope, _) | Cached(scope, _) | Handler::Tenant(scope, _) => Some(scope),
        }
    }
}

use Handler::{Cached, Public, Worker};
use Scope::{AnyKey, KnownOwner, ServerAdmin};

/// Which keys may read, change or manage what is a tenant's.
const TENANT_READ: Scope = Scope::Tenant(Permission::Read);
const TENANT_WRITE: Scope = Scope::Tenant(Permission::Write);
const TENANT_ADMIN: Scope = Scope::Tenant(Permission::Admin);

const fn row(
    method: &'static str,
    pattern: &'static str,
    handler: Handler,
    summary: &'static str,
) -> Route<Endpoint> {
    Route { method, pattern, body: BodyKind::Json, endpoint: Endpoint { handler, summary } }
}

const UPLOAD: Route<Endpoint> = row(
    "POST",
    "/tenants/{tenant}/workflows",
    Handler::Tenant(TENANT_WRITE, upload::upload),
    "upload a workflow package",
);
const EXECUTE: Route<Endpoint> = row(
    "POST",
    "/tenants/{tenant}/workflows/{name}/execute",
    Handler::Tenant(TENANT_WRITE, executions::execute),
    "execute a workflow",
);

/// The first row that matches counts.
pub const ROUTES: &[Route<Endpoint>] = &[
    row("GET", "/health", Public(server_endpoints::health), "liveness check"),
    row("GET", "/ready", Public(server_endpoints::ready), "readiness check"),
    row("GET", "/metrics", Public(server_endpoints::metrics), "Prometheus metrics"),
    row("GET", "/openapi.json", Public(server_endpoints::openapi), "this interface, as OpenAPI"),
    row("POST", "/auth/keys", Worker(ServerAdmin, keys::create), "create API key"),
    row("GET", "/auth/keys", Worker(ServerAdmin, keys::list), "list API keys"),
    row("DELETE", "/auth/keys/self", Worker(AnyKey, keys::revoke_self), "revoke the key that asks"),
    row("DELETE", "/auth/keys/{id}", Worker(ServerAdmin, keys::revoke), "revoke key"),
    row("POST", "/auth/keys/{id}/rotate", Worker(KnownOwner, keys::rotate), "replace key by a new one"),
    row("GET", "/auth/whoami", Worker(AnyKey, verify::whoami), "describe the key that asks"),
    row("GET", "/auth/verify", Cached(KnownOwner, verify::verify), "check a key for a proxy"),
    row("POST", "/tenants", Worker(ServerAdmin, tenants::create), "create tenant"),
    row("GET", "/tenants", Worker(ServerAdmin, tenants::list), "list tenants"),
    row("GET", "/tenants/{tenant}", Handler::Tenant(TENANT_READ, tenants::show), "describe tenant"),
    row(
        "PATCH",
        "/tenants/{tenant}",
        Handler::Tenant(ServerAdmin, tenants::change),
        "change a tenant's limits",
    ),
    row("DELETE", "/tenants/{tenant}", Handler::Tenant(ServerAdmin, tenants::remove), "remove tenant"),
    row(
        "POST",
        "/tenants/{tenant}/password",
        Handler::Tenant(ServerAdmin, tenants::set_password),
        "give a tenant's database role a new password",
    ),
    row(
        "POST",
        "/tenants/{tenant}/keys",
        Handler::Tenant(TENANT_ADMIN, keys::create_of),
        "create a tenant's key",
    ),
    row(
        "GET",
        "/tenants/{tenant}/keys",
        Handler::Tenant(TENANT_ADMIN, keys::list_of),
        "list a tenant's keys",
    ),
    row(
        "DELETE",
        "/tenants/{tenant}/keys/{id}",
        Handler::Tenant(TENANT_ADMIN, keys::revoke_of),
        "revoke a tenant's key",
    ),
    row(
        "POST",
        "/tenants/{tenant}/keys/{id}/rotate",
        Handler::Tenant(TENANT_ADMIN, keys::rotate_of),
        "replace a tenant's key by a new one",
    ),
    Route { body: BodyKind::Stream, ..UPLOAD },
    row(
        "GET",
        "/tenants/{tenant}/workflows",
        Handler::Tenant(TENANT_READ, workflows::list),
        "list workflows",
    ),
    row(
        "GET",
        "/tenants/{tenant}/workflows/{name}",
        Handler::Tenant(TENANT_READ, workflows::show),
        "describe a workflow",
    ),
    row(
        "GET",
        "/tenants/{tenant}/workflows/{name}/{version}/package",
        Handler::Tenant(TENANT_READ, workflows::download),
        "download a package as it was uploaded",
    ),
    row(
        "DELETE",
        "/tenants/{tenant}/workflows/{name}/{version}",
        Handler::Tenant(TENANT_WRITE, workflows::delete),
        "delete a version of a workflow",
    ),
    row(
        "POST",
        "/tenants/{tenant}/workflows/{name}/pause",
        Handler::Tenant(TENANT_WRITE, workflows::pause),
        "pause a workflow",
    ),
    row(
        "POST",
        "/tenants/{tenant}/workflows/{name}/resume",
        Handler::Tenant(TENANT_WRITE, workflows::resume),
        "resume a workflow",
    ),
    Route { body: BodyKind::LargeJson, ..EXECUTE },
    row(
        "GET",
        "/tenants/{tenant}/executions",
        Handler::Tenant(TENANT_READ, executions::list),
        "list executions",
    ),
    row(
        "GET",
        "/tenants/{tenant}/executions/{id}",
        Handler::Tenant(TENANT_READ, executions::show),
        "describe an execution",
    ),
    row(
        "GET",
        "/tenants/{tenant}/executions/{id}/events",
        Handler::Tenant(TENANT_READ, executions::events),
        "list what has happened to an execution",
    ),
    row(
        "GET",
        "/tenants/{tenant}/executions/{id}/tasks/{task}/log",
        Handler::Tenant(TENANT_READ, log_handler::log),
        "show what a task has printed",
    ),
    row(
        "POST",
        "/tenants/{tenant}/executions/{id}/cancel",
        Handler::Tenant(TENANT_WRITE, executions::cancel),
        "cancel an execution",
    ),
    row(
        "POST",
        "/tenants/{tenant}/executions/{id}/retry",
        Handler::Tenant(TENANT_WRITE, executions::retry),
        "run what failed of an execution again",
    ),
];

impl Service for App {
    fn route(&self, method: &'static str, path: &str) -> Result<Routed, (HttpError, &'static str)> {
        router::find(ROUTES, method, path)
    }

    fn stream_limit(&self, routed: Routed, content_type: Option<&str>) -> StreamLimit {
        match routed.body {
            BodyKind::LargeJson => request_body::body_limit(),
            BodyKind::Json | BodyKind::Stream => upload::body_limit(self.max_package_size, content_type),
        }
    }

    fn may_be_stored(&self, path: &str) -> bool {
        may_be_stored(path)
    }

    fn database_answers(&self) -> bool {
        self.store.status.answers()
    }

    fn answer_now(&self, routed: Routed, request: &Request<'_>) -> Option<Response> {
        match ROUTES[routed.index].endpoint.handler {
            Public(handler) => Some(handler(self)),
            Worker(..) | Handler::Tenant(..) => None,
            handler @ Cached(..) => {
                let principal = self.auth.authenticate_cached(request.authorization)?;
                Some(self.call(routed, request, principal, handler))
            }
        }
    }

    fn answer(&self, routed: Option<Routed>, request: &Request<'_>) -> Response {
        let Some(routed) = routed else { return HttpError::NoSuchPath.response() };
        self.authenticate_and_call(routed, request, ROUTES[routed.index].endpoint.handler)
    }

    fn refusal(&self, routed: Routed, request: &Request<'_>) -> Option<Response> {
        let handler = match ROUTES[routed.index].endpoint.handler {
            Public(_) => return None,
            Worker(scope, _) | Cached(scope, _) => Worker(scope, |_, _| Ok(Response::no_content())),
            Handler::Tenant(scope, _) => Handler::Tenant(scope, |_, _, _| Ok(Response::no_content())),
        };
        let response = self.authenticate_and_call(routed, request, handler);
        (response.status != 204).then_some(response)
    }
}

impl App {
    fn authenticate_and_call(&self, routed: Routed, request: &Request<'_>, handler: Handler) -> Response {
        if let Public(handler) = handler {
            return handler(self);
        }
        match self.auth.authenticate(request.authorization, request.deadline) {
            Ok(principal) => self.call(routed, request, principal, handler),
            Err(error) => logged(error, request),
        }
    }

    /// Has a handler answer a known principal. When its key ends soon, every answer says so, refusals included.
    fn call(
        &self,
        routed: Routed,
        request: &Request<'_>,
        principal: Arc<Principal>,
        handler: Handler,
    ) -> Response {
        let expires_soon = principal.expires_soon();
        let key_id = Some(principal.id);
        let parameters = router::parameters(routed.pattern, request.path).unwrap_or_default();
        let call = Call { request, principal, parameters };
        let response =
            self.authorize_and_answer(&call, handler).unwrap_or_else(|error| logged(error, request));
        let response = Response { key_id, ..response };
        match expires_soon {
            Some(end) => response.header("X-Auth-Key-Expires", format_rfc3339(end)),
            None => response,
        }
    }

    fn authorize_and_answer(&self, call: &Call<'_>, handler: Handler) -> Result<Response, Error> {
        match handler {
            Public(handler) => Ok(handler(self)),
            Worker(scope, handler) | Cached(scope, handler) => {
                self.auth.authorize(&call.principal, scope)?;
                handler(self, call)
            }
            Handler::Tenant(scope, handler) => {
                let (name, until) = (call.parameters.get("tenant"), call.request.deadline);
                let tenant = self.auth.authorize_tenant(&call.principal, scope, name, until)?;
                handler(self, call, &tenant)
            }
        }
    }
}

/// An error's response, and its lines in the log.
fn logged(error: Error, request: &Request<'_>) -> Response {
    error.log(request.id);
    let response = Response::from(error);
    log::debug!(request_id = request.id, status = response.status; "refused");
    response
}

/// Whether an answer to this path may be stored: not where keys and passwords are shown.
pub fn may_be_stored(path: &str) -> bool {
    !["auth", "tenants"].contains(&path.split('/').nth(1).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_under_auth_or_tenants_may_be_stored() {
        for (path, expected) in [
            ("/auth", false),
            ("/auth/", false),
            ("/auth/keys", false),
            ("/tenants", false),
            ("/tenants/", false),
            ("/tenants/a/keys", false),
            ("/authors", true),
            ("/auth%2fkeys", true),
            ("/tenants.html", true),
            ("/x/tenants", true),
            ("//auth/keys", true),
            ("/health", true),
            ("/", true),
        ] {
            assert_eq!(may_be_stored(path), expected, "{path}");
        }
    }

    #[test]
    fn each_row_is_found_by_a_path_of_its_pattern() {
        for (index, row) in ROUTES.iter().enumerate() {
            let path = row.pattern.replace(['{', '}'], "-");
            let expected = Routed { index, pattern: row.pattern, body: row.body };
            assert_eq!(router::find(ROUTES, row.method, &path).unwrap(), expected, "{path}");
        }
    }
}
