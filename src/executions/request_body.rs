//! What a request to execute a workflow says: its body, and its key that makes it one with another.

use std::io::Read as _;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::Error;
use crate::http::request::Request;
use crate::http::router::StreamLimit;
use crate::json_body::{texts, wrong, wrong_kind};
use crate::keys::expiry::parse_rfc3339;
use crate::sha256;
use crate::suggestion::did_you_mean;
use crate::terminal::start_of;
use crate::workflows::names::Version;

/// Bytes of a body.
const MOST_BYTES: usize = 1024 * 1024;
const FIELDS: [&str; 3] = ["context", "version", "run_at"];
/// Characters of an `Idempotency-Key`.
const MOST_KEY_CHARACTERS: usize = 255;

/// How large a body may be.
pub fn body_limit() -> StreamLimit {
    StreamLimit { bytes: MOST_BYTES, text: format!("request body is larger than {MOST_BYTES} bytes") }
}

/// What is to be executed, and how.
#[derive(Debug, PartialEq, Eq)]
pub struct Execute {
    /// A JSON object, as the client wrote it.
    pub context: String,
    pub version: Option<Version>,
    pub run_at: Option<OffsetDateTime>,
    /// Of the body, in hex.
    pub sha256: String,
}

impl Execute {
    /// Reads the body, which may be in a file.
    ///
    /// # Errors
    /// 415, 400 and 422 as for every body, 422 that names the field.
    pub fn read(request: &Request<'_>) -> Result<Execute, Error> {
        let Some(upload) = request.upload.take() else { return Execute::parse(request, request.body) };
        let mut body = Vec::new();
        if let Some(mut file) = upload.file() {
            file.by_ref().take(MOST_BYTES as u64).read_to_end(&mut body)?;
        }
        Execute::parse(request, &body)
    }

    fn parse(request: &Request<'_>, body: &[u8]) -> Result<Execute, Error> {
        let sha256 = sha256::hex(Sha256::digest(body));
        let mut execute = Execute { context: "{}".to_owned(), version: None, run_at: None, sha256 };
        if body.is_empty() {
            return Ok(execute);
        }
        for (name, value) in texts(request, body, r#"{"context":{}}"#)? {
            match name.as_str() {
                "context" if value.starts_with('{') => execute.context = value.to_owned(),
                "context" => return Err(wrong_kind("context", "an object", &kind(value))),
                "version" => {
                    let version = Version::parse(&text("version", value)?);
                    execute.version = Some(version.map_err(|error| wrong("version", error))?);
                }
                "run_at" => {
                    let text = text("run_at", value)?;
                    let run_at = parse_rfc3339(&text).map_err(|line| wrong("run_at", line))?;
                    // In whole seconds, and not before.
                    let is_later = OffsetDateTime::parse(&text, &Rfc3339).is_ok_and(|exact| exact > run_at);
                    let second = time::Duration::seconds(i64::from(is_later));
                    execute.run_at = Some(run_at.saturating_add(second));
                }
                unknown => {
                    let meant = did_you_mean(unknown, FIELDS);
                    let known = FIELDS.join(", ");
                    let line = format_args!("unknown field{meant}; known are {known}");
                    return Err(wrong(&start_of(unknown), line));
                }
            }
        }
        Ok(execute)
    }
}

/// The `Idempotency-Key`, if there is one.
///
/// # Errors
/// 400 for what is none.
pub fn idempotency_key<'a>(request: &Request<'a>) -> Result<Option<&'a str>, Error> {
    match request.idempotency_key {
        Some(key) if !(1..=MOST_KEY_CHARACTERS).contains(&key.len()) => Err(Error::Malformed(format!(
            "Idempotency-Key: expected 1 to {MOST_KEY_CHARACTERS} visible ASCII characters, once"
        ))),
        key => Ok(key),
    }
}

/// A field that is a string.
fn text(name: &str, value: &str) -> Result<String, Error> {
    match value.starts_with('"') {
        true => Ok(serde_json::from_str(value)?),
        false => Err(wrong_kind(name, "a string", &kind(value))),
    }
}

/// Some value of the same kind.
fn kind(value: &str) -> Value {
    match value.as_bytes().first() {
        Some(b'{') => Value::Object(Map::new()),
        Some(b'[') => Value::Array(Vec::new()),
        Some(b'"') => Value::from(""),
        Some(b't' | b'f') => Value::from(true),
        Some(b'n') => Value::Null,
        _ => Value::from(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json_body::{json_request, refused};

    #[test]
    fn bodies() {
        let read = |body| Execute::read(&json_request(body));
        let whole = read(" {\"context\": {\"a\" : 1.0000000000000000000001}, \"version\":\"1.2.0\",\"run_at\":\"2030-01-01T02:00:00.5+02:00\"}").unwrap();
        assert_eq!(whole.context, "{\"a\" : 1.0000000000000000000001}");
        assert_eq!(whole.version.unwrap().to_string(), "1.2.0");
        assert_eq!(whole.run_at.unwrap(), time::macros::datetime!(2030-01-01 0:00:01 UTC));
        for none in ["", "{}"] {
            let execute = read(none).unwrap();
            assert_eq!((&*execute.context, execute.version, execute.run_at), ("{}", None, None));
        }
        for (body, status, start) in [
            ("{", 400, "request body is not valid JSON: "),
            ("[]", 422, "invalid type: sequence, expected a JSON object such as {\"context\":{}}"),
            ("{\"context\":[1]}", 422, "context: expected an object, not an array"),
            ("{\"context\":null}", 422, "context: expected an object, not null"),
            ("{\"context\":{\"a\":1,\"a\":1}}", 422, "a: stands more than once"),
            ("{\"context\":{\"a\":1e999}}", 400, "request body is not valid JSON: number out of range"),
            (
                "{\"contxt\":{}}",
                422,
                "contxt: unknown field (did you mean `context`?); known are context, version, run_at",
            ),
            ("{\"version\":1}", 422, "version: expected a string, not a number"),
            ("{\"version\":\"1\"}", 422, "version: `1` is no version: write 1.0.0"),
            ("{\"run_at\":\"tomorrow\"}", 422, "run_at: expected a date and time as in RFC 3339"),
        ] {
            let (got, line) = refused(read(body).unwrap_err());
            assert!(got == status && line.starts_with(start), "{body}: {got} {line}");
        }
    }
}
