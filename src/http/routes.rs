//! The hand-written matcher: one table of method, path pattern, who answers, and who may ask.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::head::{self, OTHER_METHOD};
use super::response::{Error, Response};
use super::server_status::{self, ServerStatus};
use crate::keys::expiry::format_rfc3339;
use crate::keys::handlers as keys;
use crate::keys::{Keys, Principal};

/// A whole request, as handlers see it. Paths are compared byte by byte: a trailing slash or a percent-encoded
/// letter is another path.
pub struct Request<'a> {
    /// The value of `X-Request-Id`: the client's own, or a fresh UUID.
    pub id: &'a str,
    /// `GET` also when the client sent `HEAD`.
    pub method: &'a str,
    pub path: &'a str,
    /// What follows the `?`, still percent-encoded.
    pub query: Option<&'a str>,
    /// `Authorization` as it came; `None` also when it came twice.
    pub authorization: Option<&'a str>,
    pub content_type: Option<&'a str>,
    /// The body has a content coding, which no handler undoes.
    pub has_content_coding: bool,
    pub body: &'a [u8],
    /// Who asks, for the log: the peer, or whom a trusted proxy names.
    pub client: IpAddr,
    /// All that is done for the request, waiting included, has to be over by then.
    pub deadline: Instant,
}

/// A request that passed the guard, and the `{id}` of its path.
pub struct Call<'a> {
    pub request: &'a Request<'a>,
    pub principal: Arc<Principal>,
    /// The path segment that `{id}` stands for; empty where the pattern has none.
    pub id: &'a str,
}

/// Which keys may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Keys with the permission `admin`.
    Admin,
    /// Any valid key but a tenant's; the handler decides the rest.
    ServerKey,
    /// Any valid key.
    AnyKey,
}

/// Who answers: the event loop's own thread, without any wait, or a worker that may wait for the database.
#[derive(Clone, Copy)]
pub enum Answer {
    EventLoop(fn(&ServerStatus) -> Response),
    Worker(Access, fn(&Keys, &Call<'_>) -> Result<Response, Error>),
}

/// A row of the table.
pub struct Route {
    pub method: &'static str,
    /// Path with at most one `{id}`, which stands for one non-empty segment. Also the metrics' label.
    pub pattern: &'static str,
    /// What stands before and after the `{id}`, if the pattern has one.
    around_id: Option<(&'static str, &'static str)>,
    pub answer: Answer,
    /// For people, in the block that `serve` prints.
    pub summary: &'static str,
}

const fn by_event_loop(
    method: &'static str,
    pattern: &'static str,
    answer: fn(&ServerStatus) -> Response,
    summary: &'static str,
) -> Route {
    Route { method, pattern, around_id: around_id(pattern), answer: Answer::EventLoop(answer), summary }
}

const fn by_worker(
    method: &'static str,
    pattern: &'static str,
    access: Access,
    handler: fn(&Keys, &Call<'_>) -> Result<Response, Error>,
    summary: &'static str,
) -> Route {
    Route { method, pattern, around_id: around_id(pattern), answer: Answer::Worker(access, handler), summary }
}

/// Split when the program is built, since every request is compared with every pattern.
const fn around_id(pattern: &'static str) -> Option<(&'static str, &'static str)> {
    let mut at = 0;
    while at < pattern.len() {
        if pattern.as_bytes()[at] == b'{' {
            let (before, id_and_after) = pattern.split_at(at);
            return Some((before, id_and_after.split_at("{id}".len()).1));
        }
        at += 1;
    }
    None
}

/// Every endpoint. The first row that matches wins.
pub const ROUTES: &[Route] = &[
    by_event_loop("GET", "/health", server_status::health, "liveness check"),
    by_event_loop("GET", "/ready", server_status::ready, "readiness check"),
    by_event_loop("GET", "/metrics", server_status::metrics, "Prometheus metrics"),
    by_event_loop("GET", "/openapi.json", server_status::openapi, "this interface, as OpenAPI"),
    by_worker("POST", "/auth/keys", Access::Admin, keys::create, "create API key"),
    by_worker("GET", "/auth/keys", Access::Admin, keys::list, "list API keys"),
    by_worker("DELETE", "/auth/keys/self", Access::AnyKey, keys::revoke_self, "revoke the key that asks"),
    by_worker("DELETE", "/auth/keys/{id}", Access::Admin, keys::revoke, "revoke key"),
    by_worker("POST", "/auth/keys/{id}/rotate", Access::ServerKey, keys::rotate, "replace key by a new one"),
    by_worker("GET", "/auth/whoami", Access::AnyKey, keys::whoami, "describe the key that asks"),
    by_worker("GET", "/auth/verify", Access::ServerKey, keys::verify, "check a key for a proxy"),
];

/// A row, and what its `{id}` stands for in this path.
pub struct Match<'p> {
    pub route: &'static Route,
    pub id: &'p str,
}

/// Finds the row for a method and a path (without query). `HEAD` is `GET` (RFC 9110, 9.3.2).
///
/// # Errors
/// `NotImplemented` for a method that is none of HTTP's, `NoSuchPath`, or `MethodNotAllowed` with the methods that the
/// path has.
pub fn find<'p>(method: &str, path: &'p str) -> Result<Match<'p>, Error> {
    let method = if method == "HEAD" { "GET" } else { method };
    if method == OTHER_METHOD {
        return Err(head::UNKNOWN_METHOD);
    }
    let found = ROUTES.iter().filter(|route| route.method == method);
    let mut found = found.filter_map(|route| matches(route, path).map(|id| Match { route, id }));
    found.next().ok_or_else(|| match allowed(path) {
        allowed if allowed.is_empty() => Error::NoSuchPath,
        allowed => Error::MethodNotAllowed(allowed),
    })
}

/// The pattern of a path, whatever the method.
pub fn pattern(path: &str) -> &'static str {
    ROUTES.iter().find(|route| matches(route, path).is_some()).map_or("unmatched", |route| route.pattern)
}

/// Route, guard, handler; where an error becomes a response.
pub fn dispatch(keys: &Keys, request: &Request<'_>) -> Response {
    let result = find(request.method, request.path).and_then(|found| match found.route.answer {
        Answer::EventLoop(_) => Err(Error::Internal("a route of the event loop came to a worker".to_owned())),
        Answer::Worker(access, handler) => {
            let principal = keys.authenticate(request.authorization, request.deadline)?;
            // Whoever has a valid key hears of its end with every answer, refusals included.
            let expires_soon = principal.expires_soon();
            let key_id = Some(principal.id);
            let response = keys
                .authorize(&principal, access)
                .and_then(|()| handler(keys, &Call { request, principal, id: found.id }))
                .unwrap_or_else(|error| logged(&error, request));
            let response = Response { key_id, ..response };
            Ok(match expires_soon {
                Some(end) => response.header("X-Auth-Key-Expires", format_rfc3339(end)),
                None => response,
            })
        }
    });
    result.unwrap_or_else(|error| logged(&error, request))
}

/// An error's response, and its line in the log: a bug's cause stands there alone.
fn logged(error: &Error, request: &Request<'_>) -> Response {
    match error {
        Error::Internal(text) => log::error!(request_id = request.id; "internal error: {text}"),
        other => log::debug!(request_id = request.id, status = other.status(); "refused"),
    }
    error.response()
}

/// What `{id}` stands for (empty where there is none), if the path is of that pattern.
fn matches<'p>(route: &Route, path: &'p str) -> Option<&'p str> {
    let Some((before, after)) = route.around_id else {
        return (route.pattern == path).then_some("");
    };
    let id = path.strip_prefix(before)?.strip_suffix(after)?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

/// Whether no answer to this path may be stored.
pub fn is_under_auth(path: &str) -> bool {
    path.strip_prefix("/auth").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The value of `Allow` (RFC 9110, 10.2.1): every method that a path has, none where no row matches, in
/// the order of the alphabet.
fn allowed(path: &str) -> String {
    let rows = ROUTES.iter().filter(|row| matches(row, path).is_some());
    let mut methods: Vec<&str> = Vec::new();
    for row in rows {
        if !methods.contains(&row.method) {
            methods.push(row.method);
            methods.extend((row.method == "GET").then_some("HEAD"));
        }
    }
    methods.sort_unstable();
    methods.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(method: &str, path: &str) -> Result<(&'static str, String), u16> {
        find(method, path)
            .map(|found| (found.route.pattern, found.id.to_owned()))
            .map_err(|error| error.status())
    }

    #[test]
    fn finds_rows_and_ids() {
        assert_eq!(pattern("GET", "/health"), Ok(("/health", String::new())));
        assert_eq!(pattern("HEAD", "/health"), Ok(("/health", String::new())));
        assert_eq!(pattern("DELETE", "/auth/keys/x-1"), Ok(("/auth/keys/{id}", "x-1".to_owned())));
    }

    #[test]
    fn other_spellings_are_other_paths() {
        for path in
            ["/", "", "*", "/health/", "//health", "/Health", "/%68ealth", "/auth/keys/", "/auth/keys/a/b"]
        {
            assert_eq!(pattern("GET", path), Err(404), "{path}");
        }
    }

    #[test]
    fn allow_names_what_the_path_has() {
        let allow = |method, path| match find(method, path) {
            Err(Error::MethodNotAllowed(allow)) => allow,
            _ => panic!("{method} {path} should not be allowed"),
        };
        assert_eq!(allow("PUT", "/health"), "GET, HEAD");
        assert_eq!(allow("DELETE", "/auth/keys"), "GET, HEAD, POST");
        assert_eq!(allow("GET", "/auth/keys/x"), "DELETE");
        assert_eq!(allow("GET", "/auth/keys/self"), "DELETE");
        assert_eq!(allow("TRACE", "/auth/keys/x/rotate"), "POST");
    }

    #[test]
    fn methods_that_are_none_come_first() {
        for path in ["/health", "/nowhere"] {
            assert_eq!(pattern(OTHER_METHOD, path), Err(501), "{path}");
        }
    }

    #[test]
    fn what_is_under_auth() {
        for (path, expected) in [
            ("/auth", true),
            ("/auth/", true),
            ("/auth/keys", true),
            ("/authors", false),
            ("/auth%2fkeys", false),
            ("//auth/keys", false),
            ("/health", false),
        ] {
            assert_eq!(is_under_auth(path), expected, "{path}");
        }
    }
}
