//! What needs no key: health, readiness, metrics, and the field lines that every answer carries.

use crate::support::http::{self, Connection, Response};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::{metrics, wait_for};

#[test]
fn health_and_readiness() {
    let database = Database::new();
    let server = Server::start(&database);
    server.get("/health", None).expect(200, r#"{"status":"ok"}"#);
    server.get("/ready", None).expect(200, r#"{"status":"ready"}"#);
    // Neither a query string nor a key that is not one makes a difference.
    server.get("/health?a=b", None).expect(200, r#"{"status":"ok"}"#);
    server.get("/health", Some("nonsense")).expect(200, r#"{"status":"ok"}"#);
}

#[test]
fn head_answers_as_get_without_a_body() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    for path in ["/health", "/ready", "/metrics", "/openapi.json", "/auth/keys", "/nowhere"] {
        let mut connection = Connection::open(server.address);
        let get = connection.ask("GET", path, Some(&key), None);
        let head = connection.ask("HEAD", path, Some(&key), None);
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.body, b"", "{path}");
        let names =
            |response: &Response| response.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&head), names(&get), "{path}");
        assert_eq!(head.header("Content-Type"), get.header("Content-Type"), "{path}");
        if path != "/metrics" {
            assert_eq!(head.header("Content-Length"), get.header("Content-Length"), "{path}");
        }
        // The next answer begins where it should: nothing of a body came along.
        assert_eq!(connection.ask("GET", "/health", None, None).text(), r#"{"status":"ok"}"#, "{path}");
    }
}

#[test]
fn content_types() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    for (path, content_type) in [
        ("/health", "application/json"),
        ("/ready", "application/json"),
        ("/metrics", "text/plain; version=0.0.4"),
        ("/openapi.json", "application/json"),
        ("/auth/keys", "application/json"),
        ("/nowhere", "application/json"),
    ] {
        assert_eq!(server.get(path, Some(&key)).header("Content-Type"), Some(content_type), "{path}");
    }
}

#[test]
fn metrics_have_the_promised_families() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    // Some families have a sample only once something happened.
    server.get("/auth/keys", Some(&key)).expect_status(200);
    server.get("/auth/keys", None).expect_status(401);
    let _ = http::raw(server.address, b"nonsense\r\n\r\n");
    // The keys are counted by a thread of their own, and the pool makes its first session in one.
    let late = [
        "cloacina_auth_failures_total",
        "cloacina_http_rejected_total",
        "cloacina_api_keys",
        "cloacina_db_pool_size",
    ];
    let samples = wait_for("what happens beside this test to be in the metrics", || {
        let samples = server.metrics();
        late.iter().all(|name| metrics::sum(&samples, name, &[]) > 0.0).then_some(samples)
    });
    for name in [
        "cloacina_up",
        "cloacina_build_info",
        "cloacina_http_requests_total",
        "cloacina_http_request_duration_seconds_bucket",
        "cloacina_http_request_duration_seconds_sum",
        "cloacina_http_request_duration_seconds_count",
        "cloacina_http_requests_in_flight",
        "cloacina_http_connections_open",
        "cloacina_http_queue_depth",
        "cloacina_http_rejected_total",
        "cloacina_auth_cache_hits_total",
        "cloacina_auth_cache_misses_total",
        "cloacina_auth_failures_total",
        "cloacina_db_pool_size",
        "cloacina_db_pool_idle",
        "cloacina_db_pool_wait_seconds_count",
        "cloacina_api_keys",
        "cloacina_executions",
        "cloacina_executions_ended_total",
        "cloacina_tasks",
        "cloacina_tasks_ended_total",
        "cloacina_queue_length",
        "cloacina_queue_oldest_seconds",
        "cloacina_task_start_seconds_count",
        "cloacina_attempts_abandoned_total",
        "cloacina_task_log_bytes",
        "cloacina_task_slots",
        "cloacina_task_slots_in_use",
        "cloacina_hosts_silent",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(samples.iter().any(|sample| sample.name == name), "no {name} in {samples:#?}");
    }
    assert_eq!(metrics::sum(&samples, "cloacina_up", &[]), 1.0);
    server.delete("/health", &key).expect_status(405);
    assert_eq!(
        server.metric("cloacina_http_requests_total", &[("route", "/health"), ("status", "405")]),
        1.0
    );
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(metrics::sum(&samples, "cloacina_build_info", &version), 1.0);
    assert!(metrics::sum(&samples, "cloacina_db_pool_size", &[]) >= 1.0);
    assert_eq!(metrics::sum(&samples, "cloacina_auth_failures_total", &[("reason", "malformed")]), 1.0);
    assert_eq!(metrics::sum(&samples, "cloacina_http_rejected_total", &[("reason", "malformed")]), 1.0);
    wait_for("one active key in the metrics", || {
        (server.metric("cloacina_api_keys", &[("state", "active")]) == 1.0).then_some(())
    });
}

/// Each status by its own name, those of refused requests too.
#[test]
fn the_status_label_is_the_status() {
    let database = Database::new();
    let server = Server::start(&database);
    for (request, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000)), "414"),
        ("GET https://a/health HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "421"),
        ("GET /health HTTP/1.1\r\nHost: a\r\nExpect: else\r\n\r\n".to_owned(), "417"),
        ("GET /health HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), "505"),
    ] {
        let request = request.replace("Host: a", "Host: a\r\nConnection: close");
        let answer = String::from_utf8(http::raw(server.address, request.as_bytes())).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(server.metric("cloacina_http_requests_total", &[("status", status)]), 1.0, "{status}");
    }
    assert_eq!(server.metric("cloacina_http_requests_total", &[("status", "500")]), 0.0);
}

#[test]
fn the_route_label_is_a_pattern() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    let id = "00000000-0000-4000-8000-000000000000";
    server.delete(&format!("/auth/keys/{id}"), &key).expect_status(404);
    server.get("/some/other/path?with=query", None).expect_status(404);
    let routed = [("method", "DELETE"), ("route", "/auth/keys/{id}"), ("status", "404")];
    wait_for("the DELETE in the metrics", || {
        (server.metric("cloacina_http_requests_total", &routed) == 1.0).then_some(())
    });
    assert_eq!(server.metric("cloacina_http_request_duration_seconds_count", &routed), 1.0);
    // A client must not be able to make labels.
    let _ = http::raw(server.address, b"BREW /tea HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let text = server.get("/metrics", None).text().to_owned();
    for raw in [id, "some/other", "query", "BREW", "tea"] {
        assert!(!text.contains(raw), "{raw} in the metrics");
    }
}

#[test]
fn request_ids() {
    let database = Database::new();
    let server = Server::start(&database);
    let longest = "i".repeat(64);
    for echoed in ["abc-123", "a", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~\"\\", &longest] {
        for path in ["/health", "/auth/keys", "/nowhere"] {
            let response = with_request_id(&server, path, echoed.as_bytes());
            assert_eq!(response.header("X-Request-Id"), Some(echoed), "{path}");
        }
    }
    let mut seen = Vec::new();
    let too_long = "i".repeat(65);
    for replaced in ["", "two words", "tab\tbed", "na\u{ef}ve", &too_long] {
        for path in ["/health", "/auth/keys"] {
            let response = with_request_id(&server, path, replaced.as_bytes());
            seen.push(fresh_id(&response));
        }
    }
    let not_utf_8 = with_request_id(&server, "/health", b"\xff\xfe");
    seen.push(fresh_id(&not_utf_8));
    seen.push(fresh_id(&server.get("/health", None)));
    seen.push(fresh_id(&http::responses(&http::raw(server.address, b"nonsense\r\n\r\n"))[0]));
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "an id was given twice");
}

fn with_request_id(server: &Server, path: &str, id: &[u8]) -> Response {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: ").into_bytes();
    request.extend_from_slice(id);
    request.extend_from_slice(b"\r\n\r\n");
    http::exchange(server.address, &request)
}

fn fresh_id(response: &Response) -> String {
    let id = response.header("X-Request-Id").unwrap_or_else(|| panic!("no id: {response:#?}"));
    assert_eq!(id.len(), 36, "{id}");
    uuid::Uuid::parse_str(id).unwrap_or_else(|error| panic!("{id}: {error}"));
    id.to_owned()
}

#[test]
fn nothing_under_auth_is_stored() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    let no_store = |response: Response| {
        assert_eq!(response.header("Cache-Control"), Some("no-store"), "{response:#?}");
    };
    no_store(server.get("/auth/keys", Some(&key)).expect_status(200));
    no_store(server.post("/auth/keys", &key, r#"{"name":"n"}"#).expect_status(201));
    no_store(server.get("/auth/keys", None).expect_status(401));
    no_store(server.get("/auth/nowhere", None).expect_status(404));
    no_store(server.delete("/auth/keys", &key).expect_status(405));
    no_store(server.delete("/auth/keys/x", &key).expect_status(400));
    no_store(server.post("/auth/keys", &key, "{").expect_status(400));
    no_store(server.post("/auth/keys", &key, "{}").expect_status(422));
    let large = http::request("POST", "/auth/keys", Some(&key), Some(&" ".repeat(65_537)));
    let mut connection = Connection::open(server.address);
    connection.send_what_goes(&large);
    no_store(connection.receive("POST").expect_status(413));
    assert_eq!(server.get("/health", None).header("Cache-Control"), None);
}

#[test]
fn ready_says_when_it_is_shutting_down() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--database-timeout", "30s"]).serving();
    let key = server.bootstrap_key();
    // A request that holds the drain up, on a worker that waits for a lock.
    server.wait_for_pool();
    let lock = database.lock_keys();
    let mut waiting = Connection::open(server.address);
    waiting.send(&http::request("GET", "/auth/keys", Some(&key), None));
    wait_for("the request to be under way", || {
        (server.metric("cloacina_http_requests_in_flight", &[]) >= 1.0).then_some(())
    });
    let mut watcher = Connection::open(server.address);
    watcher.ask("GET", "/ready", None, None).expect(200, r#"{"status":"ready"}"#);
    server.signal("TERM");
    let refused = wait_for("/ready to turn", || {
        let response = watcher.ask("GET", "/ready", None, None);
        if response.status == 200 {
            return None;
        }
        Some(response)
    });
    refused.expect(503, r#"{"status":"not ready","reason":"shutting down"}"#);
    lock.release();
    // The request that was under way gets its answer, and then the server goes.
    waiting.receive("GET").expect_status(200);
    drop(watcher);
    server.ended().expect_code(0);
}
