//! The printed endpoints, the served ones and the described ones are the same.

use std::collections::BTreeSet;

use crate::support::http;
use crate::support::postgres::Database;
use crate::support::server::Server;

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
