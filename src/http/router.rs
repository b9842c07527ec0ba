//! The hand-written matcher: a table of methods and path patterns, the parameters of a path, and what the program that
//! serves has to tell the server about a request.

use super::error::Error;
use super::head::{OTHER_METHOD, UNKNOWN_METHOD};
use super::request::Request;
use super::response::Response;

/// Parameters that a pattern can have.
const MOST_PARAMETERS: usize = 4;

/// A row of the table.
pub struct Route<E> {
    pub method: &'static str,
    /// Each `{name}` stands for one non-empty segment. Also the metrics' label.
    pub pattern: &'static str,
    pub body: BodyKind,
    /// What answers; its kind is the table's own.
    pub endpoint: E,
}

/// What body a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// None, or one of at most `head::BODY_LIMIT`, which handlers get in memory.
    Json,
    /// The same, and a larger one or one in chunks as a stream.
    LargeJson,
    /// One within `Service::stream_limit`, which handlers get as a file. The client is authorized before it sends
    /// any of it.
    Stream,
}

/// What the parameters of a pattern stand for in a path, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parameters<'p>([(&'static str, &'p str); MOST_PARAMETERS]);

impl<'p> Parameters<'p> {
    /// The segment as it stands in the path, percent-encoding included; empty where the pattern has no such name.
    pub fn get(&self, name: &str) -> &'p str {
        self.0.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

/// What the program serves.
pub trait Service: Send + Sync {
    /// Finds the route of a request by its method and its path (without query).
    ///
    /// # Errors
    /// As `find`.
    fn route(&self, method: &'static str, path: &str) -> Result<Routed, (Error, &'static str)>;

    /// How large the body of a route that takes a stream may be, if it is of this type.
    fn stream_limit(&self, routed: Routed, content_type: Option<&str>) -> StreamLimit;

    /// Whether an answer to this path that says nothing of it may be stored (RFC 9111, 5.2.2.5).
    fn may_be_stored(&self, path: &str) -> bool;

    /// Whether the database answers. Where it does not, a request that only reads is answered sooner.
    fn database_answers(&self) -> bool;

    /// The answer, where there is one without any wait: the event loop asks before it looks for a worker.
    fn answer_now(&self, routed: Routed, request: &Request<'_>) -> Option<Response>;

    /// The answer to a client that may not send the body of a stream, on a worker's own time. The request has only its
    /// head.
    fn refusal(&self, routed: Routed, request: &Request<'_>) -> Option<Response>;

    /// The answer, on a worker's own time; without a route to the server's own probe.
    fn answer(&self, routed: Option<Routed>, request: &Request<'_>) -> Response;
}

/// How large a stream may be.
#[derive(Debug)]
pub struct StreamLimit {
    pub bytes: usize,
    /// What the client is told of a larger one.
    pub text: String,
}

/// A row of the service's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routed {
    pub index: usize,
    pub pattern: &'static str,
    pub body: BodyKind,
}

/// The first row that matches a method and a path. `HEAD` is `GET` (RFC 9110, 9.3.2).
///
/// # Errors
/// `NotImplemented` for a method that is none of HTTP's, `NoSuchPath`, or `MethodNotAllowed` with the methods that the
/// path has; and the metrics' label of such a request.
pub fn find<E>(table: &[Route<E>], method: &str, path: &str) -> Result<Routed, (Error, &'static str)> {
    let method = if method == "HEAD" { "GET" } else { method };
    if method == OTHER_METHOD {
        return Err((UNKNOWN_METHOD, UNMATCHED));
    }
    // What is asked for most has no parameter, and then no other row is to be looked at.
    let found = table
        .iter()
        .enumerate()
        .find(|(_, row)| row.pattern == path && row.method == method)
        .or_else(|| matching(table, path).find(|(_, row)| row.method == method));
    found.map(|(index, row)| Routed { index, pattern: row.pattern, body: row.body }).ok_or_else(|| {
        match matching(table, path).next() {
            None => (Error::NoSuchPath, UNMATCHED),
            Some((_, row)) => (Error::MethodNotAllowed(allowed(table, path)), row.pattern),
        }
    })
}

/// The rows that are for a path: where one has a word of its own in a place, none with a parameter there is.
fn matching<'a, E>(table: &'a [Route<E>], path: &str) -> impl Iterator<Item = (usize, &'a Route<E>)> {
    let count = |row: &Route<E>| row.pattern.matches('{').count();
    let is_match = move |row: &Route<E>| parameters(row.pattern, path).is_some();
    let fewest = table.iter().filter(|row| is_match(row)).map(count).min();
    table.iter().enumerate().filter(move |(_, row)| Some(count(row)) == fewest && is_match(row))
}

/// The metrics' label of a request that no row is for.
const UNMATCHED: &str = "unmatched";

/// What the parameters of a pattern stand for, if the path is of that pattern.
pub fn parameters<'p>(pattern: &'static str, path: &'p str) -> Option<Parameters<'p>> {
    let mut found = Parameters::default();
    let mut slots = found.0.iter_mut();
    let (mut pattern, mut path) = (pattern, path);
    while let Some((before, rest)) = pattern.split_once('{') {
        let (name, after) = rest.split_once('}')?;
        let rest = path.strip_prefix(before)?;
        let (value, after_value) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        *slots.next()? = (name, value);
        if value.is_empty() {
            return None;
        }
        (pattern, path) = (after, after_value);
    }
    (pattern == path).then_some(found)
}

/// The value of `Allow` (RFC 9110, 10.2.1): every method that a path has, in the order of the alphabet.
fn allowed<E>(table: &[Route<E>], path: &str) -> String {
    let mut methods: Vec<&str> = Vec::new();
    for (_, row) in matching(table, path) {
        if !methods.contains(&row.method) {
            methods.push(row.method);
            methods.extend((row.method == "GET").then_some("HEAD"));
        }
    }
    methods.sort_unstable();
    methods.join(", ")
}

#[cfg(test)]
pub use tests::{TEST_ROUTE, TestService};

#[cfg(test)]
mod tests {
    use super::*;

    /// The route of every request to a `TestService`.
    pub const TEST_ROUTE: Routed = Routed { index: 0, pattern: "/test", body: BodyKind::Json };

    /// Answers `/now` on the event loop, and all else on a worker.
    pub struct TestService<F>(pub F);

    impl<F: Fn(&Request<'_>) -> Response + Send + Sync> Service for TestService<F> {
        fn route(&self, _method: &'static str, path: &str) -> Result<Routed, (Error, &'static str)> {
            if path.starts_with("/watchdog-") { Err((Error::NoSuchPath, UNMATCHED)) } else { Ok(TEST_ROUTE) }
        }

        fn stream_limit(&self, _routed: Routed, _content_type: Option<&str>) -> StreamLimit {
            StreamLimit { bytes: 100, text: "too large for a test".to_owned() }
        }

        fn may_be_stored(&self, _path: &str) -> bool {
            false
        }

        fn database_answers(&self) -> bool {
            true
        }

        fn answer_now(&self, _routed: Routed, request: &Request<'_>) -> Option<Response> {
            (request.path == "/now").then(|| (self.0)(request))
        }

        fn refusal(&self, _routed: Routed, _request: &Request<'_>) -> Option<Response> {
            None
        }

        fn answer(&self, _routed: Option<Routed>, request: &Request<'_>) -> Response {
            (self.0)(request)
        }
    }

    const fn row(method: &'static str, pattern: &'static str) -> Route<()> {
        Route { method, pattern, body: BodyKind::Json, endpoint: () }
    }

    const TABLE: &[Route<()>] = &[
        row("GET", "/health"),
        row("POST", "/keys"),
        row("GET", "/keys"),
        row("DELETE", "/keys/self"),
        row("DELETE", "/keys/{id}"),
        row("POST", "/keys/{id}/rotate"),
        row("PATCH", "/tenants/{tenant}"),
        row("GET", "/tenants/{tenant}"),
        row("PUT", "/tenants/{tenant}/workflows/{name}/{version}"),
    ];

    fn found(method: &str, path: &str) -> Result<&'static str, u16> {
        find(TABLE, method, path).map(|routed| routed.pattern).map_err(|(error, _)| error.response().status)
    }

    #[test]
    fn finds_rows_and_parameters() {
        assert_eq!(found("GET", "/health"), Ok("/health"));
        assert_eq!(found("HEAD", "/health"), Ok("/health"));
        assert_eq!(found("DELETE", "/keys/self"), Ok("/keys/self"), "the first row counts");
        assert_eq!(found("DELETE", "/keys/x-1"), Ok("/keys/{id}"));
        assert_eq!(found("PATCH", "/tenants/a"), Ok("/tenants/{tenant}"));
        let pattern = found("PUT", "/tenants/a/workflows/b%2Fc/1.0").unwrap();
        let parameters = parameters(pattern, "/tenants/a/workflows/b%2Fc/1.0").unwrap();
        let values = ["tenant", "name", "version", "other"].map(|name| parameters.get(name));
        assert_eq!(values, ["a", "b%2Fc", "1.0", ""]);
    }

    #[test]
    fn other_spellings_are_other_paths() {
        for path in [
            "/",
            "",
            "*",
            "/health/",
            "//health",
            "/Health",
            "/%68ealth",
            "/healthy",
            "/keys/",
            "/keys/a/b",
            "/keys//rotate",
            "/tenants//workflows/b/1",
            "/tenants/a/workflows/b/",
            "/tenants/a/workflows/b/1/2",
        ] {
            for method in ["GET", "DELETE", "POST", "PUT"] {
                assert_eq!(found(method, path), Err(404), "{method} {path}");
            }
        }
    }

    #[test]
    fn allow_names_what_the_path_has() {
        let allow = |method, path| match find(TABLE, method, path) {
            Err((Error::MethodNotAllowed(allow), _)) => allow,
            _ => panic!("{method} {path} should not be allowed"),
        };
        assert_eq!(allow("PUT", "/health"), "GET, HEAD");
        assert_eq!(allow("DELETE", "/keys"), "GET, HEAD, POST");
        assert_eq!(allow("GET", "/keys/x"), "DELETE");
        assert_eq!(allow("GET", "/keys/self"), "DELETE");
        assert_eq!(allow("TRACE", "/keys/x/rotate"), "POST");
        assert_eq!(allow("POST", "/tenants/a"), "GET, HEAD, PATCH");
        assert_eq!(allow("PATCH", "/keys"), "GET, HEAD, POST");
    }

    #[test]
    fn methods_that_are_none_come_first() {
        for path in ["/health", "/nowhere"] {
            assert_eq!(found(OTHER_METHOD, path), Err(501), "{path}");
        }
    }
}
