//! The printed endpoints, the served ones and the described ones are the same.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::support::http;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};

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
            (method.to_owned(), path.replace(":id", "{id}"))
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
        let target = path.replace("{id}", "00000000-0000-4000-8000-000000000000");
        for method in METHODS {
            let request = http::request(method, &target, Some(&admin), None);
            let status = http::exchange(server.address, &request).status;
            let plain = if method == "HEAD" { "GET" } else { method };
            let known = described.contains(&(plain.to_owned(), path.clone()));
            // What else they say does not matter: on the way, the key revokes itself.
            assert_eq!(status != 405, known, "{method} {path}: {status}");
        }
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

#[test]
fn what_any_request_may_be_answered_is_described_everywhere() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--request-timeout", "1s"]).serving();
    let document = server.get("/openapi.json", None).expect_status(200).json();
    let long = "x".repeat(20_000);
    let schema = "#/components/schemas/Error";
    for (method, path, responses) in operations(&document) {
        let path = path.replace("{id}", "00000000-0000-4000-8000-000000000000");
        for (status, target, version, fields) in [
            ("400", "", "1.1", ""),
            ("408", "", "1.1", "Host: a\r\nContent-Length: 9\r\n"),
            ("413", "", "1.1", "Host: a\r\nContent-Length: 99999999\r\n"),
            ("414", &*format!("?{long}"), "1.1", "Host: a\r\n"),
            ("417", "", "1.1", "Host: a\r\nExpect: tea\r\n"),
            ("421", "https://a", "1.1", "Host: a\r\n"),
            ("431", "", "1.1", &*format!("Host: a\r\nX: {long}\r\n")),
            ("501", "", "1.1", "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n"),
            ("505", "", "2.0", "Host: a\r\n"),
        ] {
            let target =
                if target.starts_with('?') { path.clone() + target } else { target.to_owned() + &path };
            let mut connection = http::Connection::open(server.address);
            let request = format!("{method} {target} HTTP/{version}\r\n{fields}\r\n");
            connection.send_what_goes(request.as_bytes());
            let response = connection.receive(&method);
            assert_eq!(response.status.to_string(), status, "{method} {path}: {response:#?}");
            let described = responses.get(status).unwrap_or_else(|| panic!("{method} {path}: no {status}"));
            let described = match described["$ref"].as_str() {
                Some(place) => document.pointer(place.trim_start_matches('#')).unwrap(),
                None => described,
            };
            assert_eq!(described["content"]["application/json"]["schema"]["$ref"], schema, "{described}");
        }
    }
}
