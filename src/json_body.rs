//! Request bodies that are JSON objects, whose fields are checked one by one, so that an error names its field.

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::http::request::Request;
use crate::json_text;
use crate::terminal::start_of;

/// The body as a JSON object. `example` is one that the route takes, for a client that sent something else.
///
/// # Errors
/// 415 for another type, 400 for what is no JSON, 422 for what is no object or has a field twice.
pub fn object(request: &Request<'_>, example: &str) -> Result<Map<String, Value>, Error> {
    expect_json(request)?;
    // Whether it is JSON at all comes first, whatever its first fault of meaning may be.
    serde_json::from_slice::<IgnoredAny>(request.body)
        .and_then(|_| Fields { example }.deserialize(&mut serde_json::Deserializer::from_slice(request.body)))
        .map_err(refusal)
}

/// The fields of a body that is a JSON object, by name, with the text of each value.
///
/// # Errors
/// As `object`.
pub fn texts<'b>(
    request: &Request<'_>,
    body: &'b [u8],
    example: &str,
) -> Result<Vec<(String, &'b str)>, Error> {
    expect_json(request)?;
    serde_json::from_slice::<IgnoredAny>(body)
        .and_then(|_| json_text::check(body, example))
        .map_err(refusal)?;
    let fields = std::str::from_utf8(body).ok().and_then(json_text::fields);
    fields.ok_or_else(|| Error::Internal("the fields of a body are not found".into()))
}

/// # Errors
/// 415.
fn expect_json(request: &Request<'_>) -> Result<(), Error> {
    let media_type =
        request.content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(Error::UnsupportedMediaType("application/json"));
    }
    if request.has_content_coding {
        return Err(Error::UnsupportedContentCoding);
    }
    Ok(())
}

fn refusal(error: serde_json::Error) -> Error {
    match error.is_data() {
        true => Error::Invalid(plain_cause(&error)),
        false => Error::Malformed(format!("request body is not valid JSON: {error}")),
    }
}

/// serde_json's own text without its position, which means nothing for a fault of meaning.
fn plain_cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Reads an object in which no field stands twice: parsers do not agree on which of them counts.
struct Fields<'a> {
    example: &'a str,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "a JSON object such as {}", self.example)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut fields = Map::new();
        while let Some((name, Distinct(value))) = access.next_entry::<String, _>()? {
            if fields.insert(name.clone(), value).is_some() {
                let name = start_of(&name);
                return Err(A::Error::custom(format_args!("{name}: stands more than once")));
            }
        }
        Ok(fields)
    }
}

/// A value of which the same is true at every depth.
struct Distinct(Value);

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Distinct, D::Error> {
        deserializer.deserialize_any(DistinctVisitor).map(Distinct)
    }
}

struct DistinctVisitor;

impl<'de> Visitor<'de> for DistinctVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Distinct(value)) = access.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        Fields { example: "{}" }.visit_map(access).map(Value::Object)
    }
}

/// Refuses what is not in `known`.
///
/// # Errors
/// 422 that names the first such field.
pub fn know(fields: &Map<String, Value>, known: &[&str]) -> Result<(), Error> {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => {
            Err(wrong(&start_of(unknown), format_args!("unknown field; known are {}", known.join(", "))))
        }
    }
}

/// The text of a field; `None` where it is not there.
///
/// # Errors
/// 422: its value is no string.
pub fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Error> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_kind(name, "a string", other)),
    }
}

/// 422 for a field whose value is of another kind.
pub fn wrong_kind(field: &str, expected: &str, value: &Value) -> Error {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    wrong(field, format_args!("expected {expected}, not {kind}"))
}

/// 422 with what is wrong with a field.
pub fn wrong(field: &str, line: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("{field}: {line}"))
}

#[cfg(test)]
pub use tests::{json_request, refused};

#[cfg(test)]
mod tests {
    use super::*;

    /// A request with this body.
    pub fn json_request(body: &str) -> Request<'_> {
        Request {
            id: "",
            path: "",
            query: None,
            authorization: None,
            content_type: Some("Application/JSON; charset=utf-8"),
            if_none_match: None,
            idempotency_key: None,
            has_content_coding: false,
            body: body.as_bytes(),
            upload: Default::default(),
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            deadline: std::time::Instant::now(),
        }
    }

    /// The status and the text of an error about a body.
    pub fn refused(error: Error) -> (u16, String) {
        match error {
            Error::Malformed(line) => (400, line),
            Error::Invalid(line) => (422, line),
            other => (0, format!("{other:?}")),
        }
    }

    fn read(body: &str) -> Result<String, (u16, String)> {
        let fields = object(&json_request(body), r#"{"name":"x"}"#).map_err(refused)?;
        know(&fields, &["name", "role"]).map_err(refused)?;
        Ok(text(&fields, "name").map_err(refused)?.unwrap_or("none").to_owned())
    }

    #[test]
    fn objects_that_will_do() {
        assert_eq!(read(r#" {"role":1,"name":"a"} "#), Ok("a".to_owned()));
        assert_eq!(read("{}"), Ok("none".to_owned()));
        let nested = r#"{"role":[null,true,-1,18446744073709551615,1.5,"a",{"b":{"b":[]}}]}"#;
        let fields = object(&json_request(nested), "{}").unwrap();
        assert_eq!(Value::Object(fields).to_string(), nested);
    }

    #[test]
    fn bodies_that_will_not() {
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
            ("[]", 422, "invalid type: sequence, expected a JSON object such as {\"name\":\"x\"}"),
            ("null", 422, "invalid type: null, expected a JSON object such as {\"name\":\"x\"}"),
            (r#"{"name":"a","name":"b"}"#, 422, "name: stands more than once"),
            (r#"{"role":{"a":"b","a":"b"}}"#, 422, "a: stands more than once"),
            (r#"{"role":[1,{"a":[{"b":1,"c":2,"b":1}]}]}"#, 422, "b: stands more than once"),
            (r#"{"name":"a","nmae":"b"}"#, 422, "nmae: unknown field; known are name, role"),
            (r#"{"name":null}"#, 422, "name: expected a string, not null"),
            (r#"{"name":true}"#, 422, "name: expected a string, not a boolean"),
            (r#"{"name":5}"#, 422, "name: expected a string, not a number"),
            (r#"{"name":["a"]}"#, 422, "name: expected a string, not an array"),
            (r#"{"name":{"a":"b"}}"#, 422, "name: expected a string, not an object"),
        ] {
            let (got, line) = read(body).unwrap_err();
            assert!(got == status && line.starts_with(start), "{body:.80}: {got} {line}");
        }
    }
}
