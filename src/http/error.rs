//! What the server itself refuses, fails at, or cannot do now, whatever the route. Here that becomes a status.

use std::borrow::Cow;

use super::response::{CHALLENGE, Response};

/// Variants without a text have the one that the contract gives them.
#[derive(Debug)]
pub enum Error {
    /// 400 with this line.
    BadRequest(String),
    /// 400: the client speaks TLS.
    TlsOnPlainPort,
    /// 401: a head that is too large for an `Authorization` that is no key.
    MalformedAuthorization,
    /// 404: no such path.
    NoSuchPath,
    /// 405, with the methods that would do.
    MethodNotAllowed(String),
    /// 408: the request did not come whole in time.
    RequestTimeout,
    /// 413: body over the limit, in bytes.
    ContentTooLarge(usize),
    /// 413 with this line: a stream over the limit of its route.
    StreamTooLarge(String),
    /// 414: request target over the limit.
    UriTooLong,
    /// 417: an `Expect` that is not `100-continue` (RFC 9110, 10.1.1).
    ExpectationFailed,
    /// 421: `https` on a connection that is not secured (RFC 9110, 7.4).
    MisdirectedRequest,
    /// 431: head over the limit.
    HeadTooLarge,
    /// 500. The cause is in the log, with the request's id.
    Internal,
    /// 501: a transfer coding or method form that we do not implement, with this line.
    NotImplemented(&'static str),
    /// 503: no answer came in time; nothing was changed.
    NoAnswer,
    /// 503: no answer came in time to a change that was begun.
    OutcomeUnknown,
    /// 503: the queue is full.
    Overloaded,
    /// 503: as many bodies to this path as it may have at a time.
    TooManyUploads(usize),
    /// 503: the disk took too long to take a body.
    StorageTooSlow,
    /// 507: a body does not fit on the disk.
    StorageFull,
    /// 505: another major version of HTTP.
    VersionNotSupported,
}

impl Error {
    fn status_and_text(&self) -> (u16, Cow<'_, str>) {
        match self {
            Error::BadRequest(line) => (400, line.into()),
            Error::TlsOnPlainPort => (400, "this port speaks plain HTTP, not TLS".into()),
            Error::MalformedAuthorization => (401, MALFORMED_AUTHORIZATION.into()),
            Error::NoSuchPath => (404, "not found".into()),
            Error::MethodNotAllowed(_) => (405, "method not allowed".into()),
            Error::RequestTimeout => (408, "request took too long to arrive".into()),
            Error::ContentTooLarge(limit) => {
                (413, format!("request body is larger than {limit} bytes").into())
            }
            Error::StreamTooLarge(line) => (413, line.into()),
            Error::UriTooLong => (414, "request target is too long".into()),
            Error::ExpectationFailed => (417, "unknown expectation: only 100-continue is supported".into()),
            Error::MisdirectedRequest => (421, "https is not served on this connection".into()),
            Error::HeadTooLarge => (431, "request header block is too large".into()),
            Error::Internal => (500, "internal error".into()),
            Error::NotImplemented(line) => (501, (*line).into()),
            Error::NoAnswer => (503, "database unavailable".into()),
            Error::OutcomeUnknown => (503, OUTCOME_UNKNOWN.into()),
            Error::Overloaded => (503, "server is overloaded".into()),
            Error::TooManyUploads(most) => {
                let line = format!(
                    "{most} bodies to this path are on their way or not answered yet, and no more may be; try again after one"
                );
                (503, line.into())
            }
            Error::StorageTooSlow => (503, "storage does not answer".into()),
            Error::StorageFull => (507, "storage is full".into()),
            Error::VersionNotSupported => (505, "only HTTP/1.0 and HTTP/1.1 are supported".into()),
        }
    }

    /// The answer, with the field lines that its status asks for.
    pub fn response(&self) -> Response {
        let (status, text) = self.status_and_text();
        let response = Response::error(status, &text);
        match self {
            Error::MalformedAuthorization => response.header("WWW-Authenticate", CHALLENGE),
            Error::MethodNotAllowed(allow) => response.header("Allow", allow.clone()),
            _ => response,
        }
    }
}

/// The text of 401 for a request without a key.
pub const MALFORMED_AUTHORIZATION: &str = "missing or malformed Authorization header";
/// The text of 503 for a change that may have been carried out.
pub const OUTCOME_UNKNOWN: &str = "the outcome is unknown: look whether it was done before trying again";
