//! The document of `GET /openapi.json`: what each room writes of its endpoints in an openapi.json of its own, completed
//! by what follows from the table of routes and by what is the same for all.

use serde_json::{Map, Value, json};

use crate::auth::Scope;
use crate::http::router::Route;
use crate::routes::{Endpoint, may_be_stored};

/// Each with one tag, its room's. The first one is the frame that takes up the others.
const PARTS: &[&str] = &[
    include_str!("openapi.json"),
    include_str!("keys/openapi.json"),
    include_str!("tenants/openapi.json"),
    include_str!("workflows/openapi.json"),
    include_str!("executions/openapi.json"),
];

/// A response that operations have in common, as its part of the document says it. An operation's own one of the same
/// status stands in its place.
struct Shared {
    /// In `components`.
    name: String,
    status: String,
    /// `all`, those that need a `key`, those that a valid key may not be enough for (`scope`), those of a `tenant`, those
    /// with a `body`.
    operations: String,
}

const REQUEST_ID: &str = "X-Request-Id";
const NO_STORE: &str = "Cache-Control";
const KEY_EXPIRES: &str = "X-Auth-Key-Expires";

/// OpenAPI 3.1 of every row of the table, compact as all our JSON.
///
/// # Errors
/// A part is no JSON, which a test rules out.
pub fn document(table: &[Route<Endpoint>]) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&assembled(table, &parts()?))
}

fn parts() -> serde_json::Result<Vec<Value>> {
    PARTS.iter().map(|part| serde_json::from_str(part)).collect()
}

fn assembled(table: &[Route<Endpoint>], parts: &[Value]) -> Value {
    let mut document = parts[0].clone();
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document["tags"] = parts.iter().map(|part| part["tags"][0].clone()).collect();
    for (kind, components) in parts[1..].iter().flat_map(|part| members(&part["components"])) {
        for (name, component) in members(components) {
            document["components"][kind][name] = component.clone();
        }
    }
    let mut all_shared = Vec::new();
    for (name, response) in document["components"]["responses"].as_object_mut().into_iter().flatten() {
        let mut take = |key| response.as_object_mut()?.remove(key)?.as_str().map(str::to_owned);
        let (Some(status), Some(operations)) = (take("status"), take("operations")) else { continue };
        let headers = match (&*status, &*operations) {
            (_, "all") => &[REQUEST_ID][..],
            ("401", _) => &[REQUEST_ID, NO_STORE],
            _ => &[REQUEST_ID, NO_STORE, KEY_EXPIRES],
        };
        complete_message(response, headers);
        all_shared.push(Shared { name: name.clone(), status, operations });
    }
    document["paths"] = json!({});
    for row in table {
        let method = row.method.to_lowercase();
        let part = parts.iter().find(|part| part["paths"][row.pattern][&method].is_object());
        let mut operation =
            part.map_or(json!({}), |part| written(part, &part["paths"][row.pattern][&method]));
        operation["tags"] = part.map(|part| &part["tags"][0]["name"]).into_iter().cloned().collect();
        complete(&mut operation, row, &all_shared);
        document["paths"][row.pattern][&method] = operation;
    }
    document
}

/// An operation as a part says it: all that it does not say itself is that of the operation which it is `like`.
fn written(part: &Value, operation: &Value) -> Value {
    let like = operation["like"].as_str().and_then(|place| part.pointer(place));
    let fields = members(like.unwrap_or(&Value::Null)).chain(members(operation));
    fields.filter(|(name, _)| *name != "like").map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Adds to an operation what follows from its row.
fn complete(operation: &mut Value, row: &Route<Endpoint>, all_shared: &[Shared]) {
    let scope = row.endpoint.handler.scope();
    let (first, rest) = row.endpoint.summary.split_at(1);
    operation["summary"] = (first.to_uppercase() + rest).into();
    if scope.is_none() {
        operation["security"] = json!([]);
    }
    let in_path = row.pattern.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let mut parameters: Vec<Value> = in_path.map(|(name, _)| reference("parameters", name)).collect();
    parameters.extend(operation["parameters"].as_array().into_iter().flatten().cloned());
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    let has_body = operation["requestBody"].is_object();
    if has_body {
        complete_message(&mut operation["requestBody"], &[]);
    }
    let no_store = (!may_be_stored(row.pattern)).then_some(NO_STORE);
    let key_expires = scope.map(|_| KEY_EXPIRES);
    let headers: Vec<_> = [Some(REQUEST_ID), no_store, key_expires].into_iter().flatten().collect();
    for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        complete_message(response, &headers);
    }
    for Shared { name, status, operations } in all_shared {
        let is_shared = match &**operations {
            "key" => scope.is_some(),
            "scope" => scope.is_some_and(|scope| scope != Scope::AnyKey),
            "tenant" => row.pattern.contains("{tenant}"),
            "body" => has_body,
            _ => true,
        };
        if is_shared && operation["responses"][status].is_null() {
            operation["responses"][status] = reference("responses", name);
        }
    }
}

/// Of a body or a response that is written in short: `schema` stands for JSON of that schema, `error` for an error of
/// that text.
fn complete_message(message: &mut Value, headers: &[&str]) {
    for name in headers {
        if message["headers"][name].is_null() {
            message["headers"][name] = reference("headers", name);
        }
    }
    let Some(message) = message.as_object_mut() else { return };
    let json = match (message.remove("schema"), message.remove("error")) {
        (Some(schema), _) => json!({ "schema": schema }),
        (None, Some(text)) => {
            json!({ "schema": reference("schemas", "Error"), "example": { "error": text } })
        }
        (None, None) => return,
    };
    message.insert("content".to_owned(), json!({ "application/json": json }));
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

/// None where it is no object.
fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::routes::ROUTES;

    fn served() -> Value {
        serde_json::from_slice(&document(ROUTES).unwrap()).unwrap()
    }

    /// The object that stands for this one, where it is a reference.
    fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
        let Some(place) = value["$ref"].as_str() else { return value };
        let found = document.pointer(place.trim_start_matches('#'));
        found.unwrap_or_else(|| panic!("nothing at {place}"))
    }

    /// Every object in this value that refers to another one.
    fn references<'d>(value: &'d Value, found: &mut BTreeSet<&'d str>) {
        found.extend(value["$ref"].as_str());
        members(value).for_each(|(_, value)| references(value, found));
        value.as_array().into_iter().flatten().for_each(|value| references(value, found));
    }

    fn operations(document: &Value) -> BTreeSet<(String, String)> {
        let of_path = |(path, methods): (&String, &Value)| {
            members(methods).map(|(method, _)| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
        };
        members(&document["paths"]).flat_map(of_path).collect()
    }

    #[test]
    fn every_row_is_described_and_nothing_else() {
        let rows: BTreeSet<_> =
            ROUTES.iter().map(|row| (row.method.to_owned(), row.pattern.to_owned())).collect();
        let written: BTreeSet<_> = parts().unwrap().iter().flat_map(operations).collect();
        assert_eq!(written, rows);
        assert_eq!(operations(&served()), rows);
    }

    #[test]
    fn operations_say_what_their_rows_say() {
        let document = served();
        let mut ids = BTreeSet::new();
        for row in ROUTES {
            let operation = &document["paths"][row.pattern][row.method.to_lowercase()];
            let place = format!("{} {}: {operation:#}", row.method, row.pattern);
            assert!(ids.insert(operation["operationId"].as_str().expect("an id")), "{place}");
            assert!(operation["tags"][0].is_string(), "{place}");
            let summary = operation["summary"].as_str().unwrap();
            assert!(summary.eq_ignore_ascii_case(row.endpoint.summary), "{place}");

            let scope = row.endpoint.handler.scope();
            let security = operation.get("security").unwrap_or(&document["security"]);
            let expected = if scope.is_some() { json!([{ "bearer": [] }]) } else { json!([]) };
            assert_eq!(*security, expected, "{place}");
            // What operations with a key have in common promises that none of it is stored.
            assert!(scope.is_none() || !may_be_stored(row.pattern), "{place}");
            let has = |status: &str| operation["responses"].get(status).is_some();
            assert_eq!(has("401"), scope.is_some(), "{place}");
            assert_eq!(has("403"), scope.is_some_and(|scope| scope != Scope::AnyKey), "{place}");
            assert_eq!(has("415"), operation.get("requestBody").is_some(), "{place}");
            assert!(members(&operation["responses"]).any(|(status, _)| status.starts_with('2')), "{place}");

            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let in_path: BTreeSet<_> = parameters
                .map(|parameter| resolved(&document, parameter))
                .filter(|parameter| parameter["in"] == "path" && parameter["required"] == true)
                .map(|parameter| format!("{{{}}}", parameter["name"].as_str().unwrap()))
                .collect();
            let in_pattern: BTreeSet<_> =
                row.pattern.split('/').filter(|part| part.contains('{')).map(str::to_owned).collect();
            assert_eq!(in_path, in_pattern, "{place}");

            for (status, response) in members(&operation["responses"]) {
                let response = resolved(&document, response);
                assert!(response["description"].is_string(), "{status} of {place}");
                assert!(response["headers"].get(REQUEST_ID).is_some(), "{status} of {place}");
                let says_json = response["content"].get("application/json").is_some();
                let needs_none = status.starts_with('2') || status == "304";
                assert!(says_json || needs_none, "{status} of {place}");
            }
        }
    }

    #[test]
    fn references_lead_somewhere_and_nothing_is_left_over() {
        let document = served();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        let of_kind = |(kind, components): (&String, &Value)| {
            let places = members(components).map(|(name, _)| format!("#/components/{kind}/{name}"));
            places.collect::<Vec<_>>()
        };
        let mut defined: BTreeSet<String> = members(&document["components"]).flat_map(of_kind).collect();
        defined.remove("#/components/securitySchemes/bearer");
        assert_eq!(defined, found.into_iter().map(str::to_owned).collect());
    }
}
