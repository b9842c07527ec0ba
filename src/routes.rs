//! Every endpoint: one table of method, path pattern, scope and handler. The only file that knows HTTP and all rooms.

use std::sync::Arc;

use crate::app::{App, Call};
use crate::auth::{Principal, Scope};
use crate::error::Error;
use crate::http::error::Error as HttpError;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::router::{self, BodyKind, Route, Routed, Service};
use crate::keys::expiry::format_rfc3339;
use crate::keys::handlers as keys;
use crate::server_endpoints;

/// What answers a route.
pub struct Endpoint {
    pub handler: Handler,
    /// For people, in the block that `serve` prints.
    pub summary: &'static str,
}

/// What answers an authorized request.
type Answer = fn(&App, &Call<'_>) -> Result<Response, Error>;

/// How a route is answered, and what for that has to be known of the client.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Anyone may ask, and the event loop answers.
    Public(fn(&App) -> Response),
    /// A worker answers: it may wait for the database.
    Worker(Scope, Answer),
    /// The same for a handler that never waits: where the key is in the cache, the event loop answers.
    Cached(Scope, Answer),
}

impl Handler {
    /// Which keys it takes; `None` where no key is needed.
    pub fn scope(self) -> Option<Scope> {
        match self {
            Public(_) => None,
            Worker(scope, _) | Cached(scope, _) => Some(scope),
        }
    }
}

use Handler::{Cached, Public, Worker};
use Scope::{AnyKey, ServerAdmin, ServerKey};

const fn row(
    method: &'static str,
    pattern: &'static str,
    handler: Handler,
    summary: &'static str,
) -> Route<Endpoint> {
    Route { method, pattern, body: BodyKind::Json, endpoint: Endpoint { handler, summary } }
}

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
    row("POST", "/auth/keys/{id}/rotate", Worker(ServerKey, keys::rotate), "replace key by a new one"),
    row("GET", "/auth/whoami", Worker(AnyKey, keys::whoami), "describe the key that asks"),
    row("GET", "/auth/verify", Cached(ServerKey, keys::verify), "check a key for a proxy"),
];

impl Service for App {
    fn route(&self, method: &'static str, path: &str) -> Result<Routed, (HttpError, &'static str)> {
        router::find(ROUTES, method, path)
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
            Worker(..) => None,
            Cached(scope, handler) => {
                let principal = self.auth.authenticate_cached(request.authorization)?;
                Some(self.call(routed, request, principal, scope, handler))
            }
        }
    }

    fn answer(&self, routed: Option<Routed>, request: &Request<'_>) -> Response {
        let Some(routed) = routed else { return HttpError::NoSuchPath.response() };
        match ROUTES[routed.index].endpoint.handler {
            Public(handler) => handler(self),
            Worker(scope, handler) | Cached(scope, handler) => {
                self.authenticate_and_call(routed, request, scope, handler)
            }
        }
    }

    fn refusal(&self, routed: Routed, request: &Request<'_>) -> Option<Response> {
        let scope = ROUTES[routed.index].endpoint.handler.scope()?;
        let may = |_: &App, _: &Call<'_>| Ok(Response::no_content());
        let response = self.authenticate_and_call(routed, request, scope, may);
        (response.status != 204).then_some(response)
    }
}

impl App {
    fn authenticate_and_call(
        &self,
        routed: Routed,
        request: &Request<'_>,
        scope: Scope,
        answer: Answer,
    ) -> Response {
        match self.auth.authenticate(request.authorization, request.deadline) {
            Ok(principal) => self.call(routed, request, principal, scope, answer),
            Err(error) => logged(error, request),
        }
    }

    /// Has a handler answer a known principal. When its key ends soon, every answer says so, refusals included.
    fn call(
        &self,
        routed: Routed,
        request: &Request<'_>,
        principal: Arc<Principal>,
        scope: Scope,
        handler: Answer,
    ) -> Response {
        let expires_soon = principal.expires_soon();
        let key_id = Some(principal.id);
        let parameters = router::parameters(routed.pattern, request.path).unwrap_or_default();
        let response = self
            .auth
            .authorize(&principal, scope)
            .and_then(|()| handler(self, &Call { request, principal, parameters }))
            .unwrap_or_else(|error| logged(error, request));
        let response = Response { key_id, ..response };
        match expires_soon {
            Some(end) => response.header("X-Auth-Key-Expires", format_rfc3339(end)),
            None => response,
        }
    }
}

/// An error's response, and its line in the log: a bug's cause stands there alone.
fn logged(error: Error, request: &Request<'_>) -> Response {
    match &error {
        Error::Internal(cause) => log::error!(request_id = request.id; "internal error: {cause}"),
        Error::Unavailable(cause) | Error::OutcomeUnknown(Some(cause)) => {
            log::debug!(request_id = request.id; "refused: {cause}");
        }
        // Its text may quote what the client sent, which may be a key in the wrong place.
        _ => {}
    }
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
