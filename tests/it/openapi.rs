//! The printed endpoints, the served ones and the described ones are the same, and so are the answers.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::errors::wait_for_lookups;
use crate::executions::HOST;
use crate::keys::{insert_key, unknown_key};
use crate::support::http::{self, Response};
use crate::support::package::{self, package, package_of};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "HEAD"];

/// Method and path of every line such as `  DEL /auth/keys/:id -- revoke key (auth required)`.
fn printed(server: &Server) -> BTreeSet<(String, String)> {
    server
        .stdout_with("/auth/verify")
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_once(" -- "))
        .map(|(endpoint, _)| {
            let (method, path) = endpoint.split_once(' ').unwrap();
            let method = if method == "DEL" { "DELETE" } else { method };
            let path = path.split('/').map(|part| match part.strip_prefix(':') {
                Some(name) => format!("{{{name}}}"),
                None => part.to_owned(),
            });
            (method.to_owned(), path.collect::<Vec<_>>().join("/"))
        })
        .collect()
}

#[test]
fn every_endpoint_is_described_and_every_description_is_served() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    assert!(!server.get("/openapi.json", None).text().contains('\n'), "it is compact");
    let document = server.get("/openapi.json", None).expect_status(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            if operations.get(method.to_lowercase()).is_some() {
                described.insert((method.to_owned(), path.clone()));
            }
        }
    }
    assert_eq!(described, printed(&server));

    // No method beyond these, but for HEAD where there is GET.
    let paths: BTreeSet<&String> = described.iter().map(|(_, path)| path).collect();
    for path in paths {
        let target = path_of(path, NOTHING);
        for method in METHODS {
            let request = http::request(method, &target, Some(&admin), None);
            let status = http::exchange(server.address, &request).status;
            let plain = if method == "HEAD" { "GET" } else { method };
            // A path may be of several patterns: those with the fewest parameters count.
            let parameters = |pattern: &str| pattern.matches('{').count();
            let is_for = |pattern: &&str| is_of(&target, pattern);
            let fewest =
                described.iter().map(|(_, pattern)| pattern.as_str()).filter(is_for).map(parameters).min();
            let known = described.iter().any(|(method, pattern)| {
                method == plain && is_of(&target, pattern) && Some(parameters(pattern)) == fewest
            });
            // What else they say does not matter: on the way, the key revokes itself.
            assert_eq!(status != 405, known, "{method} {path}: {status}");
        }
    }
}

/// Whether a path is of this pattern.
fn is_of(path: &str, pattern: &str) -> bool {
    let (mut parts, mut wanted) = (path.split('/'), pattern.split('/'));
    wanted.by_ref().all(|wanted| parts.next().is_some_and(|part| wanted.starts_with('{') || part == wanted))
        && parts.next().is_none()
}

/// An id that no key has.
const NOTHING: &str = "00000000-0000-4000-8000-000000000000";

/// A path of this pattern: of this id, and of the tenant acme unless the id names another one before a `/`. Of a workflow it
/// is the name, with the version after an `@`.
fn path_of(pattern: &str, id: &str) -> String {
    let (tenant, id) = id.split_once('/').unwrap_or(("acme", id));
    let (name, version) = id.split_once('@').unwrap_or((id, "1.0.0"));
    let path = pattern.replace("{tenant}", tenant).replace("{id}", id).replace("{task}", "only");
    path.replace("{name}", name).replace("{version}", version)
}

/// What this stands for, where it is a reference.
fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(place) => document.pointer(place.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

/// Each operation of the document with its path and the statuses that it may answer with.
fn operations(document: &Value) -> impl Iterator<Item = (String, &str, &Map<String, Value>)> {
    document["paths"].as_object().unwrap().iter().flat_map(|(path, operations)| {
        METHODS.into_iter().filter_map(move |method| {
            let operation = operations.get(method.to_lowercase())?;
            Some((method.to_owned(), path.as_str(), operation["responses"].as_object().unwrap()))
        })
    })
}

/// What a request may be answered before its operation is looked at.
const OF_ANY_REQUEST: [&str; 9] = ["400", "408", "413", "414", "417", "421", "431", "501", "505"];

#[test]
fn what_any_request_may_be_answered_is_described_everywhere() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--request-timeout", "1s"]).serving();
    let document = server.get("/openapi.json", None).expect_status(200).json();
    // An upload is read only for a client that may send it.
    let admin = server.bootstrap_key();
    server.post("/tenants", &admin, r#"{"schema_name":"acme"}"#).expect_status(201);
    let let_in = format!("Host: a\r\nAuthorization: Bearer {admin}\r\n");
    let long = "x".repeat(20_000);
    let schema = "#/components/schemas/Error";
    for (method, path, responses) in operations(&document) {
        let path = path_of(path, NOTHING);
        for (status, target, version, fields) in [
            ("400", "", "1.1", ""),
            ("408", "", "1.1", &*format!("{let_in}Content-Length: 9\r\n")),
            ("413", "", "1.1", &*format!("{let_in}Content-Length: 999999999\r\n")),
            ("414", &*format!("?{long}"), "1.1", "Host: a\r\n"),
            ("417", "", "1.1", "Host: a\r\nExpect: tea\r\n"),
            ("421", "https://a", "1.1", "Host: a\r\n"),
            ("431", "", "1.1", &*format!("Host: a\r\nX: {long}\r\n")),
            ("501", "", "1.1", "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n"),
            ("505", "", "2.0", "Host: a\r\n"),
        ] {
            assert!(OF_ANY_REQUEST.contains(&status));
            let target =
                if target.starts_with('?') { path.clone() + target } else { target.to_owned() + &path };
            let mut connection = http::Connection::open(server.address);
            let request = format!("{method} {target} HTTP/{version}\r\n{fields}\r\n");
            connection.send_what_goes(request.as_bytes());
            let response = connection.receive(&method);
            assert_eq!(response.status.to_string(), status, "{method} {path}: {response:#?}");
            let described = responses.get(status).unwrap_or_else(|| panic!("{method} {path}: no {status}"));
            let described = resolved(&document, described);
            assert_eq!(described["content"]["application/json"]["schema"]["$ref"], schema, "{described}");
        }
    }
}

/// Asserts that a value is of a schema, of which every word must be known here.
#[track_caller]
fn expect_fit(document: &Value, schema: &Value, value: &Value, place: &str) {
    let text = value.as_str();
    let length = || text.unwrap().chars().count() as u64;
    for (word, expected) in schema.as_object().unwrap() {
        let fits = match word.as_str() {
            "$ref" => {
                expect_fit(document, resolved(document, schema), value, place);
                true
            }
            "type" => {
                let types = expected.as_array().map_or(std::slice::from_ref(expected), Vec::as_slice);
                types.iter().any(|name| match name.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_i64(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    other => panic!("{other} is not known here"),
                })
            }
            "const" => value == expected,
            "anyOf" => {
                let required = |schema: &Value| resolved(document, schema)["required"].clone();
                let has_all = |schema: &&Value| {
                    required(schema)
                        .as_array()
                        .unwrap()
                        .iter()
                        .all(|name| value.get(name.as_str().unwrap()).is_some())
                };
                let fitting = expected.as_array().unwrap().iter().find(has_all);
                let fitting = fitting.unwrap_or_else(|| panic!("{place}: {value} is none of {expected}"));
                expect_fit(document, fitting, value, place);
                true
            }
            "enum" => expected.as_array().unwrap().contains(value),
            "minLength" => length() >= expected.as_u64().unwrap(),
            "maxLength" => length() <= expected.as_u64().unwrap(),
            "format" => text.is_none_or(|text| match expected.as_str().unwrap() {
                "uuid" => uuid::Uuid::try_parse(text).is_ok(),
                "date-time" => {
                    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_ok()
                }
                other => panic!("{other} is not known here"),
            }),
            "pattern" => match expected.as_str().unwrap() {
                "^[0-9]+$" => text.unwrap().bytes().all(|byte| byte.is_ascii_digit()),
                "^Bearer realm=\"cloacina\"" => text.unwrap().starts_with("Bearer realm=\"cloacina\""),
                "^clk_[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}$" => {
                    text.unwrap().starts_with("clk_") && text.unwrap().len() == 53
                }
                other => panic!("{other} is not known here"),
            },
            "properties" => {
                for (name, schema) in expected.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        expect_fit(document, schema, value, &format!("{place}, {name}"));
                    }
                }
                true
            }
            "required" => {
                expected.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "additionalProperties" if expected.is_object() => {
                for value in value.as_object().unwrap().values() {
                    expect_fit(document, expected, value, place);
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(*expected, false, "{place}");
                value.as_object().unwrap().keys().all(|name| schema["properties"].get(name).is_some())
            }
            "items" => {
                for value in value.as_array().unwrap() {
                    expect_fit(document, expected, value, place);
                }
                true
            }
            "maxItems" => value.as_array().unwrap().len() as u64 <= expected.as_u64().unwrap(),
            "description" | "examples" => true,
            other => panic!("{other} is not known here"),
        };
        assert!(fits, "{place}: {value} is not of {word} {expected}");
    }
}

/// Asserts that an answer has the field lines and the body that are described, and no others.
#[track_caller]
fn expect_described(document: &Value, (method, path): (&str, &str), response: &Response) {
    let status = response.status.to_string();
    let place = format!("{method} {path} {status}");
    let described = &document["paths"][path][method.to_lowercase()]["responses"][&status];
    assert!(!described.is_null(), "{place} is not described: {response:#?}");
    let described = resolved(document, described);
    let headers = described["headers"].as_object().unwrap();
    for (name, header) in headers {
        let header = resolved(document, header);
        match response.header(name) {
            Some(value) => {
                expect_fit(document, &header["schema"], &value.into(), &format!("{place}, {name}"))
            }
            None => assert_eq!(header["required"], false, "{place}: no {name} in {response:#?}"),
        }
    }
    let of_every_answer = ["Date", "Content-Type", "Content-Length", "Connection"];
    for (name, _) in &response.headers {
        let is_known = headers.contains_key(name) || of_every_answer.contains(&name.as_str());
        assert!(is_known, "{place}: {name} is not described");
    }
    let Some(content) = described.get("content") else {
        return assert_eq!(response.text(), "", "{place}");
    };
    let content_type = response.header("Content-Type").unwrap();
    let content = content.get(content_type).unwrap_or_else(|| panic!("{place}: {content_type}"));
    let body = match content_type {
        "application/json" => response.json(),
        "application/gzip" => return,
        _ => response.text().into(),
    };
    expect_fit(document, &content["schema"], &body, &place);
}

#[test]
fn every_answer_is_as_described_and_every_described_one_is_seen() {
    let database = Database::new();
    let server = Server::start(&database);
    let document = server.get("/openapi.json", None).expect_status(200).json();
    let bootstrap_key = server.bootstrap_key();
    let unknown_key = unknown_key();
    let read_key = "a-key-that-may-only-read";
    insert_key(&database, read_key, "reader", "read");
    // It expires soon, which answers to it say.
    let soon_over = server.make_key(&bootstrap_key, r#"{"name":"soon","expires_in":"1h"}"#);
    let (revoked, _) = server.create_key(&bootstrap_key, "to be revoked");
    let (rotated, _) = server.create_key(&bootstrap_key, "to be rotated");
    let (admin, soon) = (Some(&*bootstrap_key), Some(soon_over.key()));
    let (unknown, reader) = (Some(&*unknown_key), Some(read_key));
    let mut seen = BTreeSet::new();
    let mut check = |method: &str, path: &str, response: Response| {
        expect_described(&document, (method, path), &response);
        seen.insert(format!("{method} {path} {}", response.status));
    };

    // What the path stands for, the query, the key, the body and the status.
    let list = ("GET", "/auth/keys");
    let create = ("POST", "/auth/keys");
    let revoke = ("DELETE", "/auth/keys/{id}");
    let rotate = ("POST", "/auth/keys/{id}/rotate");
    let verify = ("GET", "/auth/verify");
    let verified_by_writers = "?require=write";
    let list_of = ("GET", "/tenants/{tenant}/keys");
    let create_of = ("POST", "/tenants/{tenant}/keys");
    let revoke_of = ("DELETE", "/tenants/{tenant}/keys/{id}");
    let rotate_of = ("POST", "/tenants/{tenant}/keys/{id}/rotate");
    let name_of_role = format!("{}_acme", database.name());
    let new_tenant = format!(r#"{{"schema_name":"acme","username":"{name_of_role}"}}"#);
    let create_tenant = ("POST", "/tenants");
    let list_tenants = ("GET", "/tenants");
    let show_tenant = ("GET", "/tenants/{tenant}");
    let change_tenant = ("PATCH", "/tenants/{tenant}");
    let remove_tenant = ("DELETE", "/tenants/{tenant}");
    let set_password = ("POST", "/tenants/{tenant}/password");
    let list_workflows = ("GET", "/tenants/{tenant}/workflows");
    let upload = ("POST", "/tenants/{tenant}/workflows");
    let show_workflow = ("GET", "/tenants/{tenant}/workflows/{name}");
    let download = ("GET", "/tenants/{tenant}/workflows/{name}/{version}/package");
    let delete = ("DELETE", "/tenants/{tenant}/workflows/{name}/{version}");
    let pause = ("POST", "/tenants/{tenant}/workflows/{name}/pause");
    let resume = ("POST", "/tenants/{tenant}/workflows/{name}/resume");
    let execute = ("POST", "/tenants/{tenant}/workflows/{name}/execute");
    let list_executions = ("GET", "/tenants/{tenant}/executions");
    let show_execution = ("GET", "/tenants/{tenant}/executions/{id}");
    let list_events = ("GET", "/tenants/{tenant}/executions/{id}/events");
    let show_log = ("GET", "/tenants/{tenant}/executions/{id}/tasks/{task}/log");
    let cancel = ("POST", "/tenants/{tenant}/executions/{id}/cancel");
    let retry = ("POST", "/tenants/{tenant}/executions/{id}/retry");
    let response = server.post("/tenants", &bootstrap_key, &new_tenant).expect_status(201);
    check(create_tenant.0, create_tenant.1, response);
    for (body, status) in [
        (package("nightly", "1.0.0"), 201),
        (package("nightly", "1.0.0"), 200),
        (package_of("nightly", "1.0.0", 9), 409),
        (package("nightly", "1.0"), 422),
    ] {
        let response = package::upload(server.address, "acme", &bootstrap_key, &body);
        check(upload.0, upload.1, response.expect_status(status));
    }
    let large = "Content-Type: application/gzip\r\nContent-Length: 999999999\r\n";
    let request = package::head("acme", &bootstrap_key, large);
    check(upload.0, upload.1, http::exchange(server.address, request.as_bytes()).expect_status(413));
    database.execute(HOST);
    package::upload(server.address, "acme", &bootstrap_key, &package("daily", "1.0.0")).expect_status(201);
    let path = path_of(execute.1, "nightly");
    let executed = server.post(&path, &bootstrap_key, "{}").expect_status(202).json();
    let executed = executed["execution_id"].as_str().unwrap();
    let large = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {bootstrap_key}\r\nContent-Length: 1048577\r\n\r\n"
    );
    check(execute.0, execute.1, http::exchange(server.address, large.as_bytes()).expect_status(413));
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nIf-None-Match: *\r\n\r\n",
        path_of(download.1, "nightly@1.0.0"),
        soon_over.key()
    );
    check(download.0, download.1, http::exchange(server.address, request.as_bytes()).expect_status(304));
    let of_tenant =
        || server.post("/tenants/acme/keys", &bootstrap_key, r#"{"name":"a"}"#).expect_status(201).json();
    let (revoked_of, rotated_of) = (of_tenant(), of_tenant());
    let (revoked_of, rotated_of) = (revoked_of["id"].as_str().unwrap(), rotated_of["id"].as_str().unwrap());
    for ((method, path), id, query, key, body, status) in [
        (("GET", "/health"), "", "", None, None, 200),
        (("GET", "/ready"), "", "", None, None, 200),
        (("GET", "/metrics"), "", "", None, None, 200),
        (("GET", "/openapi.json"), "", "", None, None, 200),
        (list, "", "", admin, None, 200),
        (list, "", "?limit=1", soon, None, 200),
        (list, "", "?limit=0", soon, None, 400),
        (list, "", "", unknown, None, 401),
        (list, "", "", reader, None, 403),
        (create, "", "", soon, Some(r#"{"name":"a"}"#), 201),
        (create, "", "", admin, Some(r#"{"name":"a","expires_in":"1d"}"#), 201),
        (create, "", "", soon, Some("{"), 400),
        (create, "", "", None, Some("{}"), 401),
        (create, "", "", reader, Some("{}"), 403),
        (create, "", "", soon, None, 415),
        (create, "", "", soon, Some("{}"), 422),
        (revoke, &revoked, "", soon, None, 200),
        (revoke, &revoked, "", soon, None, 404),
        (revoke, "x", "", soon, None, 400),
        (revoke, &revoked, "", unknown, None, 401),
        (revoke, &revoked, "", reader, None, 403),
        (rotate, &rotated, "", soon, Some(r#"{"grace":"1h"}"#), 201),
        (rotate, &rotated, "", soon, None, 409),
        (rotate, "x", "", soon, None, 400),
        (rotate, &rotated, "", None, None, 401),
        (rotate, &rotated, "", reader, None, 403),
        (rotate, NOTHING, "", soon, None, 404),
        (rotate, NOTHING, "", soon, Some(r#"{"grace":1}"#), 422),
        (create_tenant, "", "", soon, Some(r#"{"schema_name":"beta"}"#), 201),
        (create_tenant, "", "", soon, Some("{"), 400),
        (create_tenant, "", "", unknown, Some("{}"), 401),
        (create_tenant, "", "", reader, Some("{}"), 403),
        (create_tenant, "", "", soon, Some(&*new_tenant), 409),
        (create_tenant, "", "", soon, None, 415),
        (create_tenant, "", "", soon, Some("{}"), 422),
        (list_tenants, "", "", soon, None, 200),
        (list_tenants, "", "?limit=1", soon, None, 200),
        (list_tenants, "", "?limit=0", soon, None, 400),
        (list_tenants, "", "", unknown, None, 401),
        (list_tenants, "", "", reader, None, 403),
        (show_tenant, "", "", soon, None, 200),
        (show_tenant, "", "", unknown, None, 401),
        (show_tenant, "", "", reader, None, 403),
        (show_tenant, "ghost/", "", soon, None, 404),
        (change_tenant, "", "", soon, Some(r#"{"retention":null,"paths":{"/srv/acme":"rw"}}"#), 200),
        (change_tenant, "", "", soon, Some("{"), 400),
        (change_tenant, "", "", unknown, Some("{}"), 401),
        (change_tenant, "", "", reader, Some("{}"), 403),
        (change_tenant, "ghost/", "", soon, Some("{}"), 404),
        (change_tenant, "", "", soon, None, 415),
        (change_tenant, "", "", soon, Some(r#"{"retention":1}"#), 422),
        (set_password, "", "", soon, None, 200),
        (set_password, "", "", soon, Some("{"), 400),
        (set_password, "", "", unknown, None, 401),
        (set_password, "", "", reader, None, 403),
        (set_password, "ghost/", "", soon, None, 404),
        (set_password, "beta/", "", soon, None, 409),
        (set_password, "", "", soon, Some(r#"{"password":1}"#), 422),
        (list, "", "?tenant=ghost", soon, None, 404),
        (list_of, "", "", soon, None, 200),
        (list_of, "", "?limit=0", soon, None, 400),
        (list_of, "", "", unknown, None, 401),
        (list_of, "", "", reader, None, 403),
        (list_of, "ghost/", "", soon, None, 404),
        (create_of, "", "", soon, Some(r#"{"name":"a"}"#), 201),
        (create_of, "", "", soon, Some("{"), 400),
        (create_of, "", "", None, Some("{}"), 401),
        (create_of, "", "", reader, Some("{}"), 403),
        (create_of, "ghost/", "", soon, Some("{}"), 404),
        (create_of, "", "", soon, None, 415),
        (create_of, "", "", soon, Some("{}"), 422),
        (revoke_of, revoked_of, "", soon, None, 200),
        (revoke_of, revoked_of, "", soon, None, 404),
        (revoke_of, "x", "", soon, None, 400),
        (revoke_of, revoked_of, "", unknown, None, 401),
        (revoke_of, revoked_of, "", reader, None, 403),
        (rotate_of, rotated_of, "", soon, Some(r#"{"grace":"1h"}"#), 201),
        (rotate_of, rotated_of, "", soon, None, 409),
        (rotate_of, "x", "", soon, None, 400),
        (rotate_of, rotated_of, "", None, None, 401),
        (rotate_of, rotated_of, "", reader, None, 403),
        (rotate_of, &rotated, "", soon, None, 404),
        (rotate_of, NOTHING, "", soon, Some(r#"{"grace":1}"#), 422),
        (show_workflow, "nightly", "", soon, None, 200),
        (show_workflow, "nightly", "?version=1.0.0", soon, None, 200),
        (show_workflow, "nightly", "?version=1&version=2", soon, None, 400),
        (show_workflow, "nightly", "", unknown, None, 401),
        (show_workflow, "nightly", "", reader, None, 403),
        (show_workflow, "nothing", "", soon, None, 404),
        (list_workflows, "", "", soon, None, 200),
        (list_workflows, "", "?all=true&limit=1", soon, None, 200),
        (list_workflows, "", "?limit=0", soon, None, 400),
        (list_workflows, "", "", unknown, None, 401),
        (list_workflows, "", "", reader, None, 403),
        (list_workflows, "ghost/", "", soon, None, 404),
        (upload, "", "", soon, None, 400),
        (upload, "", "", unknown, None, 401),
        (upload, "", "", reader, None, 403),
        (upload, "ghost/", "", soon, None, 404),
        (upload, "", "", soon, Some("{}"), 415),
        (download, "nightly@1.0.0", "", soon, None, 200),
        (download, "nightly@1.0.0", "", unknown, None, 401),
        (download, "nightly@1.0.0", "", reader, None, 403),
        (download, "nightly@2.0.0", "", soon, None, 404),
        (pause, "nightly", "", soon, None, 200),
        (pause, "nightly", "", unknown, None, 401),
        (pause, "nightly", "", reader, None, 403),
        (pause, "nothing", "", soon, None, 404),
        (resume, "nightly", "", soon, None, 200),
        (resume, "nightly", "", unknown, None, 401),
        (resume, "nightly", "", reader, None, 403),
        (resume, "nothing", "", soon, None, 404),
        (execute, "daily", "", soon, Some(r#"{"context":{}}"#), 202),
        (execute, "daily", "?wait=1", soon, None, 202),
        (execute, "daily", "?wait=61", soon, None, 400),
        (execute, "daily", "", unknown, None, 401),
        (execute, "daily", "", reader, None, 403),
        (execute, "nothing", "", soon, None, 404),
        (execute, "daily", "", soon, Some("[]"), 422),
        (change_tenant, "", "", soon, Some(r#"{"max_pending_executions":1}"#), 200),
        (execute, "daily", "", soon, None, 429),
        (list_executions, "", "", soon, None, 200),
        (list_executions, "", "?limit=1&status=Pending", soon, None, 200),
        (list_executions, "", "?status=x", soon, None, 400),
        (list_executions, "", "", unknown, None, 401),
        (list_executions, "", "", reader, None, 403),
        (list_executions, "ghost/", "", soon, None, 404),
        (show_execution, executed, "", soon, None, 200),
        (show_execution, "x", "", soon, None, 400),
        (show_execution, executed, "", unknown, None, 401),
        (show_execution, executed, "", reader, None, 403),
        (show_execution, NOTHING, "", soon, None, 404),
        (list_events, executed, "", soon, None, 200),
        (list_events, "x", "", soon, None, 400),
        (list_events, executed, "", unknown, None, 401),
        (list_events, executed, "", reader, None, 403),
        (list_events, NOTHING, "", soon, None, 404),
        (show_log, executed, "", soon, None, 200),
        (show_log, "x", "", soon, None, 400),
        (show_log, executed, "", unknown, None, 401),
        (show_log, executed, "", reader, None, 403),
        (show_log, executed, "?attempt=1", soon, None, 404),
        (delete, "nightly@1.0.0", "", soon, None, 409),
        (retry, executed, "", soon, None, 409),
        (cancel, executed, "", soon, None, 202),
        (cancel, "x", "", soon, None, 400),
        (cancel, executed, "", unknown, None, 401),
        (cancel, executed, "", reader, None, 403),
        (cancel, NOTHING, "", soon, None, 404),
        (cancel, executed, "", soon, None, 409),
        (retry, executed, "", soon, None, 202),
        (retry, "x", "", soon, None, 400),
        (retry, executed, "", unknown, None, 401),
        (retry, executed, "", reader, None, 403),
        (retry, NOTHING, "", soon, None, 404),
        (cancel, executed, "", soon, None, 202),
        (delete, "nightly@1.0.0", "", soon, None, 200),
        (delete, "nightly@1.0.0", "", unknown, None, 401),
        (delete, "nightly@1.0.0", "", reader, None, 403),
        (delete, "nightly@1.0.0", "", soon, None, 404),
        (remove_tenant, "", "", unknown, None, 401),
        (remove_tenant, "", "", reader, None, 403),
        (remove_tenant, "", "", soon, None, 409),
        (remove_tenant, "", "?force=1", soon, None, 400),
        (remove_tenant, "", "?force=true", soon, None, 200),
        (remove_tenant, "", "", soon, None, 404),
        (("GET", "/auth/whoami"), "", "", admin, None, 200),
        (("GET", "/auth/whoami"), "", "", soon, None, 200),
        (("GET", "/auth/whoami"), "", "", unknown, None, 401),
        (verify, "", "", admin, None, 204),
        (verify, "", verified_by_writers, soon, None, 204),
        (verify, "", "", None, None, 401),
        (verify, "", verified_by_writers, reader, None, 403),
        (("DELETE", "/auth/keys/self"), "", "", unknown, None, 401),
        (("DELETE", "/auth/keys/self"), "", "", soon, None, 200),
    ] {
        let target = path_of(path, id) + query;
        let response = http::exchange(server.address, &http::request(method, &target, key, body));
        check(method, path, response.expect_status(status));
    }
    let gzip = "Content-Type: application/json\r\nContent-Encoding: gzip";
    for (pattern, fields) in [
        (rotate.1, "Content-Type: text/plain"),
        (rotate.1, gzip),
        (rotate_of.1, gzip),
        (set_password.1, gzip),
        (execute.1, gzip),
    ] {
        let path = path_of(pattern, &format!("beta/{NOTHING}"));
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {bootstrap_key}\r\n\
             {fields}\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let response = http::exchange(server.address, request.as_bytes()).expect_status(415);
        check("POST", pattern, response);
    }

    // Let in, and revoked before it comes to revoke itself.
    let (id, key) = server.create_key(&bootstrap_key, "overtaken");
    let mut other = database.client();
    let mut revocation = other.transaction().unwrap();
    revocation.batch_execute(&format!("UPDATE api_keys SET revoked_at = now() WHERE id = '{id}'")).unwrap();
    let mut connection = http::Connection::open(server.address);
    connection.send(&http::request("DELETE", "/auth/keys/self", Some(&key), None));
    wait_for_lookups(&database, 1);
    revocation.commit().unwrap();
    check("DELETE", "/auth/keys/self", connection.receive("DELETE").expect_status(404));

    // Without a database.
    drop((other, database));
    wait_for("the server to see it", || (server.get("/ready", None).status == 503).then_some(()));
    for (method, path, responses) in operations(&document) {
        if responses.contains_key("503") {
            let body = ["POST", "PATCH"].contains(&&*method).then_some(r#"{"name":"a"}"#);
            let request = http::request(&method, &path_of(path, NOTHING), admin, body);
            check(&method, path, http::exchange(server.address, &request).expect_status(503));
        }
    }

    // All but bugs, and what another test shows of every operation.
    let mut described = BTreeSet::new();
    for (method, path, responses) in operations(&document) {
        let own = responses.iter().filter(|(status, response)| {
            *status != "500" && !(OF_ANY_REQUEST.contains(&status.as_str()) && response["$ref"].is_string())
        });
        described.extend(own.map(|(status, _)| format!("{method} {path} {status}")));
        let labels = [("method", &*method), ("route", path)];
        assert!(server.metric("cloacina_http_requests_total", &labels) > 0.0, "no metric of {method} {path}");
    }
    let unseen: Vec<_> = described.difference(&seen).collect();
    assert!(unseen.is_empty(), "described, and not tried here: {unseen:#?}");
}
