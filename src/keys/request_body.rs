//! Request bodies under `/auth`, and the rules of what stands in them.

use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use super::expiry;
use crate::auth::{NAME_CHARACTERS, Permission};
use crate::error::Error;
use crate::http::request::Request;
use crate::json_body::{know, object, text, wrong};
use crate::terminal::start_of;

const LONGEST_GRACE: Duration = Duration::days(3650);

/// What `POST /auth/keys` was asked for.
#[derive(Debug)]
pub struct CreateKey {
    pub name: String,
    pub permission: Permission,
    pub end: Option<End>,
}

/// When a key shall expire, as the field of that name says it.
#[derive(Debug, Clone, Copy)]
pub enum End {
    ExpiresAt(OffsetDateTime),
    ExpiresIn(Duration),
}

impl End {
    pub fn field(self) -> &'static str {
        match self {
            End::ExpiresAt(_) => "expires_at",
            End::ExpiresIn(_) => "expires_in",
        }
    }

    /// # Errors
    /// That is not after `now`, or too far.
    pub fn at(self, now: OffsetDateTime) -> Result<OffsetDateTime, &'static str> {
        let at = match self {
            End::ExpiresAt(at) => at,
            End::ExpiresIn(duration) => expiry::after(now, duration)?,
        };
        if at > now { Ok(at) } else { Err("must lie in the future") }
    }

    /// When a new key ends that was asked to end then: see `expiry::bounded`.
    ///
    /// # Errors
    /// As those of `at`, and that it would live for longer.
    pub fn bounded(
        asked: Option<End>,
        longest: std::time::Duration,
        now: OffsetDateTime,
    ) -> Result<Option<OffsetDateTime>, String> {
        expiry::bounded(asked.map(|end| end.at(now)).transpose()?, longest, now)
    }
}

impl CreateKey {
    /// # Errors
    /// 415, 400 or 422, with what is wrong with which field.
    pub fn read(request: &Request<'_>) -> Result<CreateKey, Error> {
        let fields = &object(request, r#"{"name":"ci-deploy"}"#)?;
        know(fields, &["name", "permissions", "role", "expires_at", "expires_in"])?;
        let name = text(fields, "name")?.ok_or_else(|| wrong("name", "missing"))?;
        check_name(name).map_err(|line| wrong("name", line))?;
        Ok(CreateKey { name: name.to_owned(), permission: permission(fields)?, end: end(fields)? })
    }
}

/// The grace of a rotation; an empty body asks for none.
///
/// # Errors
/// As `CreateKey::read`.
pub fn grace(request: &Request<'_>) -> Result<Duration, Error> {
    if request.body.is_empty() {
        return Ok(Duration::ZERO);
    }
    let fields = &object(request, r#"{"grace":"24h"}"#)?;
    know(fields, &["grace"])?;
    match text(fields, "grace")? {
        None => Ok(Duration::ZERO),
        Some(grace) => read_grace(grace).map_err(|line| wrong("grace", line)),
    }
}

/// For how long an old key shall go on beside its successor.
///
/// # Errors
/// What would be right.
pub fn read_grace(text: &str) -> Result<Duration, &'static str> {
    expiry::duration(text)
        .ok()
        .filter(|grace| *grace <= LONGEST_GRACE)
        .ok_or("expected a duration up to 3650d, such as 24h, 30m or 7d")
}

/// What a key may be called.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let count = name.chars().count();
    if name.is_empty() {
        Err("must not be empty".to_owned())
    } else if count > NAME_CHARACTERS {
        Err(format!("has {count} characters; at most {NAME_CHARACTERS} are allowed"))
    } else if name.chars().any(char::is_control) {
        Err("must not have control characters".to_owned())
    } else {
        Ok(())
    }
}

fn permission(fields: &Map<String, Value>) -> Result<Permission, Error> {
    let (field, name) = match (text(fields, "permissions")?, text(fields, "role")?) {
        (Some(permissions), Some(role)) if permissions != role => {
            return Err(wrong("role", "means the same as permissions, and says something else"));
        }
        (Some(name), _) => ("permissions", name),
        (None, Some(name)) => ("role", name),
        (None, None) => return Ok(Permission::Admin),
    };
    Permission::parse(name).ok_or_else(|| {
        wrong(field, format_args!("`{}` is unknown; expected {}", start_of(name), Permission::NAMES))
    })
}

fn end(fields: &Map<String, Value>) -> Result<Option<End>, Error> {
    match (text(fields, "expires_at")?, text(fields, "expires_in")?) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(wrong("expires_in", "stands beside expires_at; only one of them may")),
        (Some(at), None) => expiry::parse_rfc3339(at)
            .map(|at| Some(End::ExpiresAt(at)))
            .map_err(|line| wrong("expires_at", line)),
        (None, Some(text)) => expiry::duration(text)
            .map(|duration| Some(End::ExpiresIn(duration)))
            .map_err(|line| wrong("expires_in", line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json_body::{json_request, refused};

    fn now() -> OffsetDateTime {
        expiry::parse_rfc3339("2026-01-01T00:00:00Z").unwrap()
    }

    fn read(body: &str) -> Result<CreateKey, (u16, String)> {
        let read = CreateKey::read(&json_request(body)).and_then(|asked| match asked.end {
            Some(end) => end.at(now()).map(|_| asked).map_err(|line| wrong(end.field(), line)),
            None => Ok(asked),
        });
        read.map_err(refused)
    }

    #[test]
    fn bodies_that_will_do() {
        let asked = read(r#"{"name":"ci-deploy"}"#).unwrap();
        assert_eq!(
            (&*asked.name, asked.permission, asked.end.is_none()),
            ("ci-deploy", Permission::Admin, true)
        );
        assert_eq!(
            read(r#"{"name":"x","role":"read","permissions":"read"}"#).unwrap().permission,
            Permission::Read
        );
        assert!(read(&format!(r#"{{"name":"{}"}}"#, "\u{e9}".repeat(255))).is_ok());
        let end = read(r#"{"name":"x","expires_in":"1d"}"#).unwrap().end.unwrap().at(now()).unwrap();
        assert_eq!(expiry::format_rfc3339(end), "2026-01-02T00:00:00+00:00");
    }

    #[test]
    fn graces() {
        let read = |body: &str| grace(&json_request(body)).map_err(refused);
        assert_eq!(read(""), Ok(Duration::ZERO));
        assert_eq!(read("{}"), Ok(Duration::ZERO));
        assert_eq!(read(r#"{"grace":"7d"}"#), Ok(Duration::days(7)));
        for (body, start) in [
            ("[]", "invalid type: sequence, expected a JSON object such as {\"grace\":\"24h\"}"),
            (r#"{"grace":"3651d"}"#, "grace: expected a duration up to 3650d"),
            (r#"{"name":"x"}"#, "name: unknown field; known are grace"),
        ] {
            let (status, line) = read(body).unwrap_err();
            assert!(status == 422 && line.starts_with(start), "{body}: {status} {line}");
        }
    }

    #[test]
    fn bodies_that_will_not() {
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(256));
        for (body, status, start) in [
            ("[]", 422, "invalid type: sequence, expected a JSON object such as {\"name\":\"ci-deploy\"}"),
            ("{}", 422, "name: missing"),
            (r#"{"name":5}"#, 422, "name: expected a string, not a number"),
            (r#"{"name":""}"#, 422, "name: must not be empty"),
            (&long, 422, "name: has 256 characters; at most 255 are allowed"),
            (r#"{"name":"a\u0000b"}"#, 422, "name: must not have control characters"),
            (r#"{"name":"a","nmae":"b"}"#, 422, "nmae: unknown field; known are"),
            (
                r#"{"name":"a","permissions":"root"}"#,
                422,
                "permissions: `root` is unknown; expected admin, write or read",
            ),
            (r#"{"name":"a","permissions":"read","role":"write"}"#, 422, "role: means the same"),
            (
                r#"{"name":"a","expires_at":"2025-12-31T23:59:59Z"}"#,
                422,
                "expires_at: must lie in the future",
            ),
            (r#"{"name":"a","expires_at":"soon"}"#, 422, "expires_at: expected a date and time"),
            (r#"{"name":"a","expires_in":"0d"}"#, 422, "expires_in: must lie in the future"),
            (r#"{"name":"a","expires_in":"9999999d"}"#, 422, "expires_in: lies beyond the year 9999"),
            (r#"{"name":"a","expires_in":"5 days"}"#, 422, "expires_in: expected a number"),
            (
                r#"{"name":"a","expires_in":"5d","expires_at":"2030-01-01T00:00:00Z"}"#,
                422,
                "expires_in: stands beside",
            ),
        ] {
            let (got, line) = read(body).unwrap_err();
            assert!(got == status && line.starts_with(start), "{body:.80}: {got} {line}");
        }
    }
}
