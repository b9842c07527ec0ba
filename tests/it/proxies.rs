//! The server behind a real nginx and a real Caddy with HTTPS, as `scripts/deploy/` configures them, and whom it then
//! takes for the client.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::front::{CLIENT, Front, Kind, looked_over, with_both};
use crate::support::http::{self, Connection, responses};
use crate::support::metrics::sum;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::upstream::Upstream;
use crate::support::wait_for;

with_both! {
    every_endpoint_answers_over_https
    what_is_too_large_ends_at_the_proxy
    what_is_too_slow_ends_at_the_proxy
    connections_to_the_server_are_kept
    the_log_names_the_client_behind_the_proxy
    all_examples_and_a_second_service_stand_side_by_side
}

fn all_examples_and_a_second_service_stand_side_by_side(kind: Kind) {
    let (own, service) = match kind {
        Kind::Nginx => ("nginx.conf", "nginx-verify.conf"),
        Kind::Caddy => ("Caddyfile", "Caddyfile-verify"),
    };
    let read = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy").join(name);
        fs::read_to_string(path).unwrap()
    };
    // What the file says of a second one.
    let second = read(service).replace("service", "wiki");
    assert!(read(service).contains("`sed s/service/wiki/g`"));
    let sites = [
        ("api.example.com", read(own)),
        ("service.example.com", read(service)),
        ("wiki.example.com", second),
    ];
    let ended = looked_over(kind, &sites).expect_code(0);
    // nginx calls a name that is taken twice a warning.
    assert!(!ended.stderr.contains("[warn]") && !ended.stderr.contains("conflicting"), "{ended:#?}");
}

fn every_endpoint_answers_over_https(kind: Kind) {
    let database = Database::new();
    let server = Server::start(&database);
    let front = Front::before(kind, server.address);
    let admin = format!("Authorization: Bearer {}", server.bootstrap_key());
    front.ask("GET /health", &[]).expect(200, r#"{"status":"ok"}"#);
    wait_for("readiness", || (front.ask("GET /ready", &[]).status == 200).then_some(()));
    front.ask("GET /metrics", &[]).expect_status(200);
    front.ask("GET /openapi.json", &[]).expect_status(200);
    front.ask("HEAD /health", &[]).expect_status(200);
    front.ask("GET /auth/keys", &[]).expect_status(401).header("WWW-Authenticate").unwrap();
    let made = front.post("/auth/keys", &[&admin], r#"{"name":"ci-deploy"}"#).expect_status(201).json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let bearer = format!("Authorization: Bearer {key}");
    let listed = front.ask("GET /auth/keys?limit=1", &[&admin]).expect_status(200);
    assert_eq!(listed.json()["keys"][0]["id"], *id);
    assert!(listed.header("Link").is_some());
    front.ask("GET /auth/whoami", &[&bearer]).expect_status(200);
    assert_eq!(
        front.ask("GET /auth/verify", &[&bearer]).expect_status(204).header("X-Auth-Key-Id"),
        Some(id)
    );
    let rotated = front.post(&format!("/auth/keys/{id}/rotate"), &[&bearer], "{}").expect_status(201).json();
    let bearer = format!("Authorization: Bearer {}", rotated["key"].as_str().unwrap());
    front.ask("DELETE /auth/keys/self", &[&bearer]).expect_status(200);
    front.ask("GET /auth/whoami", &[&bearer]).expect_status(401);
    let made = front.post("/auth/keys", &[&admin], r#"{"name":"short-lived"}"#).expect_status(201).json();
    let revocation = format!("DELETE /auth/keys/{}", made["id"].as_str().unwrap());
    front.ask(&revocation, &[&admin]).expect_status(200);
    front.ask(&revocation, &[&admin]).expect(404, r#"{"error":"key not found or already revoked"}"#);
    front.ask("GET /nowhere", &[]).expect(404, r#"{"error":"not found"}"#);
    let answer = front.ask("GET /health", &["X-Request-Id: from-outside"]);
    assert_eq!(answer.header("X-Request-Id"), Some("from-outside"));

    // What tenants have goes through as it is, of a tenant that is not there.
    let description = front.ask("GET /openapi.json", &[]).json();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys().filter(|_| path.starts_with("/tenants")) {
            let line = format!("{} {}", method.to_uppercase(), path.replace(['{', '}'], ""));
            let head = format!("{line} HTTP/1.1\r\nHost: a\r\n{admin}\r\n\r\n");
            let direct = http::exchange(server.address, head.as_bytes());
            let answer = front.ask(&line, &[&admin, "Content-Length: 0"]).expect_status(direct.status);
            assert_eq!(answer.text(), direct.text(), "{line}");
        }
    }

    // That was all there is.
    let samples = server.metrics();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let labels = [("route", path.as_str()), ("method", &*method.to_uppercase())];
            let count = sum(&samples, "cloacina_http_requests_total", &labels);
            assert!(count > 0.0, "this test should ask for {method} {path}");
        }
    }
}

/// How much has come to the server, whole or not, but for our own looks at its metrics.
fn seen_by(server: &Server) -> f64 {
    let samples = server.metrics();
    let requests = |labels| sum(&samples, "cloacina_http_requests_total", labels);
    requests(&[]) - requests(&[("route", "/metrics")]) + sum(&samples, "cloacina_http_rejected_total", &[])
}

fn what_is_too_large_ends_at_the_proxy(kind: Kind) {
    let database = Database::new();
    let server = Server::start(&database);
    let front = Front::before(kind, server.address);
    let admin = format!("Authorization: Bearer {}", server.bootstrap_key());
    let json = "Content-Type: application/json";
    let body = |length: usize| format!("{{\"name\":\"{}\"}}", "x".repeat(length - 11));
    let chunked = |length: usize| {
        let fields = [&*admin, json, "Transfer-Encoding: chunked"];
        let body = format!("{length:x}\r\n{}\r\n0\r\n\r\n", body(length));
        let mut connection = front.connect();
        connection.send_what_goes(&front.request("POST /auth/keys", &fields, &body));
        connection.receive("POST")
    };
    // What the server itself would take goes on to it.
    for answer in [front.post("/auth/keys", &[&admin], &body(65_536)), chunked(65_536)] {
        assert!(answer.expect_status(422).error().starts_with("name: "));
    }
    let before = seen_by(&server);
    assert_eq!(before, 2.0);
    for length in [65_537, 10_000_000] {
        for refused in [front.post("/auth/keys", &[&admin], &body(length)), chunked(length)] {
            assert_eq!(refused.expect_status(413).header("X-Request-Id"), None, "{length}");
        }
    }
    // One that only says that it will be.
    let mut connection = front.connect();
    let fields = [&*admin, json, "Content-Length: 99999999999", "Expect: 100-continue"];
    connection.send(&front.request("POST /auth/keys", &fields, ""));
    connection.receive("POST").expect_status(413);
    // A head that no server takes.
    let refused = front.ask("GET /auth/keys", &[&admin, &format!("X: {}", "x".repeat(2_000_000))]);
    assert!([400, 431].contains(&refused.status), "{refused:#?}");
    assert_eq!(refused.header("X-Request-Id"), None);
    assert_eq!(seen_by(&server), before);
}

fn what_is_too_slow_ends_at_the_proxy(kind: Kind) {
    let database = Database::new();
    let server = Server::start(&database);
    let front = Front::before(kind, server.address);
    let admin = format!("Authorization: Bearer {}", server.bootstrap_key());
    let started = |framing: &str, body: &str| {
        let fields = [&*admin, "Content-Type: application/json", framing];
        let mut connection = front.connect();
        connection.send(&front.request("POST /auth/keys", &fields, body));
        connection
    };
    let (length, chunked) = ("Content-Length: 21", "Transfer-Encoding: chunked");
    let mut head = front.connect();
    let whole_head = front.request("GET /auth/keys", &[&admin], "");
    head.send(&whole_head[..whole_head.len() - 2]);
    // All wait at once.
    let waiting = [
        head,
        started(length, ""),
        started(length, r#"{"name":"#),
        started(chunked, ""),
        started(chunked, "8\r\n{\"name\":"),
    ];
    // Those who go away before they have said all.
    let mut gone = [started(length, r#"{"name":"#), started(chunked, ""), started(chunked, "2\r\n{}\r\n")];
    gone.iter_mut().for_each(Connection::finish_sending);
    // One that always has a little more, so that only the whole is too slow. nginx does not mind that, and keeps it.
    if kind == Kind::Caddy {
        let mut dripping = started("Content-Length: 1000", "");
        wait_for("an answer to what is too slow as a whole", || {
            dripping.send_what_goes(b" ");
            dripping.says_something_within(Duration::from_millis(500)).then_some(())
        });
        dripping.receive("POST").expect_status(408);
    }
    for (number, mut connection) in waiting.into_iter().enumerate() {
        for answer in responses(&connection.rest()) {
            assert!([400, 408].contains(&answer.status), "{number}: {answer:#?}");
            assert_eq!(answer.header("X-Request-Id"), None, "{number}: {answer:#?}");
        }
    }
    for mut connection in gone {
        let _ = connection.rest();
    }
    assert_eq!(seen_by(&server), 0.0);
    // Only what asks for this number: not even a connection was opened for any of them.
    assert_eq!(server.metric("cloacina_http_connections_open", &[]), 1.0);
    front.ask("GET /auth/keys", &[&admin]).expect_status(200);
    assert_eq!(seen_by(&server), 1.0);
}

fn connections_to_the_server_are_kept(kind: Kind) {
    let server = Upstream::start();
    let front = Front::before(kind, server.address);
    // A connection is free again only a moment after its answer has been passed on.
    let reused = wait_for("a connection that carries a second request", || {
        front.ask("GET /health", &[]).expect_status(200);
        front.post("/auth/keys", &[], "{}").expect_status(200);
        let seen = server.take_seen();
        (seen[0].connection == seen[1].connection).then_some(seen)
    });
    assert_eq!(reused.len(), 2);
}

/// The value of `client` in the log line about the request with this id.
fn logged_client(server: &Server, request_id: &str) -> String {
    let path = server.home().join("logs/cloacina-server.log");
    wait_for("the line in the log", || {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let mut lines =
            lines.filter(|line| line["message"] == "answered" && line["request_id"] == request_id);
        lines.next().map(|line| line["client"].as_str().unwrap().to_owned())
    })
}

fn the_log_names_the_client_behind_the_proxy(kind: Kind) {
    let database = Database::new();
    let server = Start::on(&database)
        .environment("RUST_LOG", "debug")
        .arguments(["--trusted-proxy", "127.0.0.1"])
        .serving();
    let front = Front::before(kind, server.address);
    let admin = format!("Authorization: Bearer {}", server.bootstrap_key());
    front.ask("GET /health", &["X-Request-Id: plain"]).expect_status(200);
    front.ask("GET /health", &["X-Request-Id: forged", "X-Forwarded-For: 198.51.100.7"]).expect_status(200);
    let twice =
        ["X-Request-Id: twice", "X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 127.0.0.1", &admin];
    front.ask("GET /auth/keys", &twice).expect_status(200);
    for request_id in ["plain", "forged", "twice"] {
        assert_eq!(logged_client(&server, request_id), CLIENT, "{request_id}");
    }
    front.post("/auth/keys", &[&admin], r#"{"name":"ci-deploy"}"#).expect_status(201);
    assert_eq!(server.log_line(&["\"ci-deploy\""])["client"], CLIENT);

    // The same proxy before a server that was not told to trust it.
    let server = Start::on(&database).environment("RUST_LOG", "debug").serving();
    let front = Front::before(kind, server.address);
    front.ask("GET /health", &["X-Request-Id: untrusted"]).expect_status(200);
    assert_eq!(logged_client(&server, "untrusted"), "127.0.0.1");
}

#[test]
fn only_trusted_proxies_name_the_client() {
    let database = Database::new();
    let ask = |server: &Server, id: &str, fields: &str| {
        let request = format!("GET /health HTTP/1.1\r\nHost: h\r\nX-Request-Id: {id}\r\n{fields}\r\n");
        http::exchange(server.address, request.as_bytes()).expect_status(200);
        logged_client(server, id)
    };
    let debug = |flags: &[&str]| {
        let start = Start::on(&database).environment("RUST_LOG", "debug");
        flags.iter().fold(start, |start, flag| start.arguments([*flag])).serving()
    };
    let forwarded = "X-Forwarded-For: 198.51.100.7\r\n";

    let server = debug(&[]);
    assert_eq!(ask(&server, "a", forwarded), "127.0.0.1");
    let server = debug(&["--trusted-proxy=10.0.0.0/8, 127.0.0.2"]);
    assert_eq!(ask(&server, "a", forwarded), "127.0.0.1");

    // Those who come over IPv4 are known by that, also where we listen for both.
    let mut server = debug(&["--trusted-proxy=10.0.0.0/8,127.0.0.0/8", "--bind=[::]:0"]);
    server.address = ([127, 0, 0, 1], server.address.port()).into();
    for (id, fields, client) in [
        ("none", "", "127.0.0.1"),
        ("one", forwarded, "198.51.100.7"),
        ("v6", "X-Forwarded-For: 2001:DB8::7\r\n", "2001:db8::7"),
        ("many", "X-Forwarded-For: 192.0.2.1, 198.51.100.7, 10.0.0.1\r\n", "198.51.100.7"),
        (
            "lines",
            "X-Forwarded-For: 192.0.2.1, 198.51.100.7\r\nX: y\r\nx-forwarded-for: 10.0.0.1\r\n",
            "198.51.100.7",
        ),
        ("malformed", "X-Forwarded-For: 198.51.100.7, somebody, 10.0.0.1\r\n", "10.0.0.1"),
        ("other", "Forwarded: for=198.51.100.7\r\nX-Real-IP: 198.51.100.7\r\n", "127.0.0.1"),
    ] {
        assert_eq!(ask(&server, id, fields), client, "{id}");
    }
}
