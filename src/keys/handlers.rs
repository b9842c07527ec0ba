//! The endpoints under `/auth`.

use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use super::key::Plaintext;
use super::listing::{Listed, Page, cursor, moment, moment_or_null};
use super::{Keys, Permission, expiry, fresh_id};
use crate::http::reply::{Error, Reply};
use crate::http::routes::{Call, Request};
use crate::store::keys::{NewKey, Position, Revocation};

const NAME_CHARACTERS: usize = 255;

/// `POST /auth/keys`: makes a key and shows it, this once.
pub fn create(keys: &Keys, call: &Call<'_>) -> Result<Reply, Error> {
    let asked = Asked::read(&json_object(call.request)?, OffsetDateTime::now_utc())?;
    let key = Plaintext::generate().map_err(|error| Error::Internal(error.to_string()))?;
    let hash = key.hash();
    let new = NewKey {
        id: fresh_id()?,
        hash: hash.as_str(),
        prefix: key.shown(),
        name: &asked.name,
        permissions: asked.permission.name(),
        expires_at: asked.expires_at,
    };
    let created_at = keys.store.insert(&new)?;
    log::info!(key_id:% = new.id, name = new.name, by:% = call.caller.id, by_name = call.caller.name; "key created");
    let made = Created {
        id: new.id,
        name: new.name,
        key: key.reveal(),
        permissions: new.permissions,
        created_at,
        expires_at: asked.expires_at,
    };
    Reply::json(201, &made)
}

/// `GET /auth/keys`: a page of the listing, newest first.
pub fn list(keys: &Keys, call: &Call<'_>) -> Result<Reply, Error> {
    let page = Page::from_query(call.request.query)?;
    // One more than asked for tells whether there is another page.
    let mut rows = keys.store.list(page.after, page.with_revoked, page.limit as i64 + 1)?;
    let is_last = rows.len() <= page.limit;
    rows.truncate(page.limit);
    let next = rows
        .last()
        .filter(|_| !is_last)
        .map(|row| cursor(Position { created_at: row.created_at, id: row.id }));
    let reply =
        Reply::json(200, &Listing { keys: rows.iter().map(Listed::from).collect(), next: next.as_deref() })?;
    Ok(match next {
        Some(next) => reply.header("Link", format!("<{}>; rel=\"next\"", page.target_of_next(&next))),
        None => reply,
    })
}

/// `DELETE /auth/keys/{id}`: once this has answered, the key lets nobody in, on any server.
pub fn revoke(keys: &Keys, call: &Call<'_>) -> Result<Reply, Error> {
    let id = key_id(call.id)?;
    let revocation = keys.store.revoke(id);
    // Also when it failed: it may have been carried out all the same.
    keys.cache.clear();
    let revocation = revocation?;
    if let Revocation::Revoked(name) = &revocation {
        log::info!(key_id:% = id, name = name.as_str(), by:% = call.caller.id, by_name = call.caller.name; "key revoked");
    }
    if revocation == Revocation::Unknown {
        return Err(Error::NotFound("key not found or already revoked"));
    }
    // For an earlier revocation as well: whoever made it may still be waiting.
    keys.store.wait_for_servers(keys.server)?;
    match revocation {
        Revocation::Revoked(_) => Reply::json(200, &Revoked { status: "revoked", id }),
        _ => Err(Error::NotFound("key not found or already revoked")),
    }
}

#[derive(Serialize)]
struct Created<'a> {
    id: Uuid,
    name: &'a str,
    key: &'a str,
    permissions: &'a str,
    #[serde(serialize_with = "moment")]
    created_at: OffsetDateTime,
    #[serde(serialize_with = "moment_or_null", skip_serializing_if = "Option::is_none")]
    expires_at: Option<OffsetDateTime>,
}

#[derive(Serialize)]
struct Listing<'a> {
    keys: Vec<Listed<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

#[derive(Serialize)]
struct Revoked {
    status: &'static str,
    id: Uuid,
}

/// The hyphenated form only: one key, one spelling of its path (but for case).
fn key_id(text: &str) -> Result<Uuid, Error> {
    let id = Some(text).filter(|text| text.len() == 36).and_then(|text| Uuid::try_parse(text).ok());
    id.ok_or_else(|| Error::BadRequest("invalid key ID format".to_owned()))
}

/// The body as a JSON object.
fn json_object(request: &Request<'_>) -> Result<Map<String, Value>, Error> {
    let media_type =
        request.content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(Error::UnsupportedMediaType);
    }
    // Whether it is JSON at all comes first, whatever its first fault of meaning may be.
    serde_json::from_slice::<serde::de::IgnoredAny>(request.body)
        .and_then(|_| serde_json::from_slice(request.body))
        .map(|Fields(fields)| fields)
        .map_err(|error| match error.is_data() {
            true => Error::Unprocessable(plain_cause(&error)),
            false => Error::BadRequest(format!("request body is not valid JSON: {error}")),
        })
}

/// serde_json's own text without its position, which means nothing for a fault of meaning.
fn plain_cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// An object in which no field stands twice: parsers do not agree on which of them counts.
struct Fields(Map<String, Value>);

impl<'de> serde::Deserialize<'de> for Fields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Fields;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a JSON object such as {\"name\":\"ci-deploy\"}")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut access: A) -> Result<Fields, A::Error> {
                let mut fields = Map::new();
                let mut twice = None;
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if fields.insert(name.clone(), value).is_some() {
                        twice = Some(name);
                    }
                }
                // Only now, so that a body that is no JSON further on is told so.
                match twice {
                    Some(name) => Err(serde::de::Error::custom(format_args!(
                        "{}: stands more than once",
                        quoted(&name)
                    ))),
                    None => Ok(Fields(fields)),
                }
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A field's name as it may stand in an error: short, and without anything that a terminal would obey.
fn quoted(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_debug).collect()
}

/// What `POST /auth/keys` was asked for.
#[derive(Debug)]
struct Asked {
    name: String,
    permission: Permission,
    expires_at: Option<OffsetDateTime>,
}

impl Asked {
    fn read(fields: &Map<String, Value>, now: OffsetDateTime) -> Result<Asked, Error> {
        const KNOWN: [&str; 5] = ["name", "permissions", "role", "expires_at", "expires_in"];
        if let Some(unknown) = fields.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(wrong(
                &quoted(unknown),
                "unknown field; known are name, permissions, expires_at and expires_in",
            ));
        }
        let name = text(fields, "name")?.ok_or_else(|| wrong("name", "missing"))?;
        check_name(name).map_err(|line| wrong("name", line))?;
        Ok(Asked { name: name.to_owned(), permission: permission(fields)?, expires_at: end(fields, now)? })
    }
}

fn wrong(field: &str, line: impl std::fmt::Display) -> Error {
    Error::Unprocessable(format!("{field}: {line}"))
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Error> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => {
            let kind = match other {
                Value::Null => "null",
                Value::Bool(_) => "a boolean",
                Value::Number(_) => "a number",
                Value::Array(_) => "an array",
                _ => "an object",
            };
            Err(wrong(name, format_args!("expected a string, not {kind}")))
        }
    }
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
        wrong(field, format_args!("`{}` is unknown; expected {}", quoted(name), Permission::NAMES))
    })
}

fn end(fields: &Map<String, Value>, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, Error> {
    let end = match (text(fields, "expires_at")?, text(fields, "expires_in")?) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(wrong("expires_in", "stands beside expires_at; only one of them may"));
        }
        (Some(at), None) => expiry::moment(at).map_err(|line| wrong("expires_at", line))?,
        (None, Some(after)) => {
            let duration = expiry::duration(after).map_err(|line| wrong("expires_in", line))?;
            expiry::after(now, duration).map_err(|line| wrong("expires_in", line))?
        }
    };
    if end <= now {
        let field = if fields.contains_key("expires_at") { "expires_at" } else { "expires_in" };
        return Err(wrong(field, "must lie in the future"));
    }
    Ok(Some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Asked, (u16, String)> {
        let request = Request {
            id: "",
            method: "POST",
            path: "",
            query: None,
            authorization: None,
            content_type: Some("Application/JSON; charset=utf-8"),
            body: body.as_bytes(),
            client: std::net::Ipv4Addr::LOCALHOST.into(),
        };
        let now = expiry::moment("2026-01-01T00:00:00Z").unwrap();
        json_object(&request).and_then(|fields| Asked::read(&fields, now)).map_err(|error| match error {
            Error::BadRequest(line) => (400, line),
            Error::Unprocessable(line) => (422, line),
            other => (other.status(), String::new()),
        })
    }

    #[test]
    fn bodies_that_will_do() {
        let asked = read(r#"{"name":"ci-deploy"}"#).unwrap();
        assert_eq!(
            (&*asked.name, asked.permission, asked.expires_at),
            ("ci-deploy", Permission::Admin, None)
        );
        assert_eq!(
            read(r#"{"name":"x","role":"read","permissions":"read"}"#).unwrap().permission,
            Permission::Read
        );
        assert!(read(&format!(r#"{{"name":"{}"}}"#, "\u{e9}".repeat(255))).is_ok());
        let end = read(r#"{"name":"x","expires_in":"1d"}"#).unwrap().expires_at.unwrap();
        assert_eq!(expiry::written(end), "2026-01-02T00:00:00+00:00");
    }

    #[test]
    fn bodies_that_will_not() {
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(256));
        let deep = "[".repeat(10_000);
        for (body, status, start) in [
            ("", 400, "request body is not valid JSON: EOF while parsing a value at line 1 column 0"),
            (
                "{\"name\":\"x\"",
                400,
                "request body is not valid JSON: EOF while parsing an object at line 1 column 11",
            ),
            ("{\"name\":\"x\"} x", 400, "request body is not valid JSON: trailing characters at line 1"),
            ("{\"name\":1,\"name\":2", 400, "request body is not valid JSON: EOF"),
            (r#"{"name":"\ud800"}"#, 400, "request body is not valid JSON: "),
            (&deep, 400, "request body is not valid JSON: EOF while parsing a list"),
            ("[]", 422, "invalid type: sequence, expected a JSON object such as"),
            ("null", 422, "invalid type: null, expected a JSON object"),
            ("{}", 422, "name: missing"),
            (r#"{"name":null}"#, 422, "name: expected a string, not null"),
            (r#"{"name":5}"#, 422, "name: expected a string, not a number"),
            (r#"{"name":""}"#, 422, "name: must not be empty"),
            (&long, 422, "name: has 256 characters; at most 255 are allowed"),
            (r#"{"name":"a\u0000b"}"#, 422, "name: must not have control characters"),
            (r#"{"name":"a","name":"b"}"#, 422, "name: stands more than once"),
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

    #[test]
    fn ids_are_hyphenated() {
        assert!(key_id("a1b2c3d4-e5f6-7890-abcd-ef1234567890").is_ok());
        assert!(key_id("A1B2C3D4-E5F6-7890-ABCD-EF1234567890").is_ok());
        for bad in [
            "",
            "x",
            "a1b2c3d4e5f67890abcdef1234567890",
            "{a1b2c3d4-e5f6-7890-abcd-ef1234567890}",
            "urn:uuid:a1b2c3d4-e5f6-7890-abcd-ef1234567890",
            "a1b2c3d4-e5f6-7890-abcd-ef123456789g",
        ] {
            assert!(key_id(bad).is_err(), "{bad}");
        }
    }
}
