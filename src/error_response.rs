//! Which status, text and field lines a room's error becomes.

use crate::error::Error;
use crate::http::error::{MALFORMED_AUTHORIZATION, OUTCOME_UNKNOWN};
use crate::http::response::{CHALLENGE, Response};

/// The one place where a room's error becomes a status, a text and the field lines that the status asks for.
impl From<Error> for Response {
    fn from(error: Error) -> Response {
        let challenge = |error: &str| format!("{CHALLENGE}, error=\"{error}\"");
        let forbidden =
            |line| Response::error(403, line).header("WWW-Authenticate", challenge("insufficient_scope"));
        match error {
            Error::Malformed(line) => Response::error(400, &line),
            Error::MalformedAuthorization => {
                Response::error(401, MALFORMED_AUTHORIZATION).header("WWW-Authenticate", CHALLENGE)
            }
            Error::InvalidKey => Response::error(401, "invalid or revoked API key")
                .header("WWW-Authenticate", challenge("invalid_token")),
            Error::InsufficientPermissions => forbidden("insufficient permissions"),
            Error::UnknownPermission => forbidden("unknown permission in require"),
            Error::NotFound(line) => Response::error(404, line),
            Error::Conflict(line) => Response::error(409, line),
            Error::UnsupportedMediaType => Response::error(415, "expected Content-Type: application/json"),
            // Which codings would do: none (RFC 9110, 15.5.16).
            Error::UnsupportedContentCoding => {
                Response::error(415, "expected a body without Content-Encoding")
                    .header("Accept-Encoding", "identity")
            }
            Error::Invalid(line) => Response::error(422, &line),
            Error::Internal(_) => Response::error(500, "internal error"),
            Error::Unavailable(_) => Response::error(503, "database unavailable"),
            Error::OutcomeUnknown(_) => Response::error(503, OUTCOME_UNKNOWN),
        }
    }
}
