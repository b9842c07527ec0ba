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
    /// 505: another major version of HTTP.
    VersionNotSupported,
}

impl Error {
    pub fn status(&self) -> u16 {
        match self {
            Error::BadRequest(_) | Error::TlsOnPlainPort => 400,
            Error::MalformedAuthorization => 401,
            Error::NoSuchPath => 404,
            Error::MethodNotAllowed(_) => 405,
            Error::RequestTimeout => 408,
            Error::ContentTooLarge(_) => 413,
            Error::UriTooLong => 414,
            Error::ExpectationFailed => 417,
            Error::MisdirectedRequest => 421,
            Error::HeadTooLarge => 431,
            Error::Internal => 500,
            Error::NotImplemented(_) => 501,
            Error::NoAnswer | Error::OutcomeUnknown | Error::Overloaded => 503,
            Error::VersionNotSupported => 505,
        }
    }

    fn message(&self) -> Cow<'_, str> {
        match self {
            Error::BadRequest(line) => line.into(),
            Error::NotImplemented(line) => (*line).into(),
            Error::TlsOnPlainPort => "this port speaks plain HTTP, not TLS".into(),
            Error::MalformedAuthorization => MALFORMED_AUTHORIZATION.into(),
            Error::NoSuchPath => "not found".into(),
            Error::MethodNotAllowed(_) => "method not allowed".into(),
            Error::RequestTimeout => "request took too long to arrive".into(),
            Error::ContentTooLarge(limit) => format!("request body is larger than {limit} bytes").into(),
            Error::UriTooLong => "request target is too long".into(),
            Error::ExpectationFailed => "unknown expectation: only 100-continue is supported".into(),
            Error::MisdirectedRequest => "https is not served on this connection".into(),
            Error::HeadTooLarge => "request header block is too large".into(),
            Error::Internal => "internal error".into(),
            Error::NoAnswer => "database unavailable".into(),
            Error::OutcomeUnknown => OUTCOME_UNKNOWN.into(),
            Error::Overloaded => "server is overloaded".into(),
            Error::VersionNotSupported => "only HTTP/1.0 and HTTP/1.1 are supported".into(),
        }
    }

    /// The answer, with the field lines that its status asks for.
    pub fn response(&self) -> Response {
        let response = Response::error(self.status(), &self.message());
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
pub const OUTCOME_UNKNOWN: &str = "the outcome is unknown: list keys before trying again";
