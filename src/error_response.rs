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
            Error::NotFound(line) => Response::error(404, &line),
            Error::Conflict(line) => Response::error(409, &line),
            Error::TooLarge(line) => Response::error(413, &line),
            Error::UnsupportedMediaType(right) => {
                Response::error(415, &format!("expected Content-Type: {right}"))
            }
            // Which codings would do: none (RFC 9110, 15.5.16).
            Error::UnsupportedContentCoding => {
                Response::error(415, "expected a body without Content-Encoding")
                    .header("Accept-Encoding", "identity")
            }
            Error::Invalid(line) => Response::error(422, &line),
            Error::TooMany(line) => Response::error(429, &line),
            Error::Internal(_) => Response::error(500, "internal error"),
            Error::Unavailable(_) => Response::error(503, "database unavailable"),
            Error::Unable(line) => Response::error(503, &line),
            Error::OutcomeUnknown(_) => Response::error(503, OUTCOME_UNKNOWN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_their_room_says() {
        for (error, status, text) in [
            (Error::NotFound("tenant 'a' not found".into()), 404, "tenant 'a' not found"),
            (Error::Conflict("role 'a' exists".into()), 409, "role 'a' exists"),
            (Error::Unable("grant it CREATEROLE".to_owned()), 503, "grant it CREATEROLE"),
        ] {
            let response = Response::from(error);
            let body = format!("{{\"error\":\"{text}\"}}");
            assert_eq!((response.status, &*response.body), (status, body.as_bytes()));
            let retry_after = response.headers.iter().any(|(name, _)| *name == "Retry-After");
            assert_eq!(retry_after, status == 503, "{text}");
        }
    }
}
