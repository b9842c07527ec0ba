//! Every row of the contract's error table: status, body, and the field lines that belong to it.

use crate::keys::{INVALID, MALFORMED, insert_key, unknown_key};
use crate::support::cluster::Cluster;
use crate::support::http::{self, Connection, Response};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

const LIMIT: usize = 64 * 1024;

fn body(message: &str) -> String {
    serde_json::json!({ "error": message }).to_string()
}

/// A request with a body of this type.
fn post(server: &Server, key: &str, content_type: Option<&str>, content: &[u8]) -> Response {
    let content_type = content_type.map_or(String::new(), |value| format!("Content-Type: {value}\r\n"));
    let mut request = format!(
        "POST /auth/keys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n{content_type}Content-Length: {}\r\n\r\n",
        content.len()
    )
    .into_bytes();
    request.extend_from_slice(content);
    http::exchange(server.address, &request)
}

#[test]
fn bodies_that_do_not_parse_are_400_and_say_where() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    let deep = "[".repeat(10_000);
    for content in [
        "",
        " ",
        "{",
        "[",
        r#"["a" "b"]"#,
        "nonsense",
        r#"{"name":"#,
        r#"{"name":"a"}}"#,
        r#"{"name":"a"} x"#,
        r#"{"name":'a'}"#,
        "{\"name\":\"a\n\"}",
        r#"{"name":"\ud800"}"#,
        "\u{feff}{\"name\":\"a\"}",
        &deep,
    ] {
        let response = post(&server, &key, Some("application/json"), content.as_bytes());
        let message = response.error();
        assert_eq!(response.status, 400, "{content:.40}: {message}");
        let place = message.strip_prefix("request body is not valid JSON: ");
        assert!(place.is_some_and(|place| place.contains("line") && place.contains("column")), "{message}");
    }
    let not_utf_8 = post(&server, &key, Some("application/json"), b"{\"name\":\"\xff\"}").expect_status(400);
    assert!(not_utf_8.error().starts_with("request body is not valid JSON: "), "{}", not_utf_8.text());
    // Nothing of it was carried out.
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 1);
}

#[test]
fn who_may_not() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, revoked) = server.create_key(&admin, "revoked");
    server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    for permissions in ["read", "write", "", "ADMIN", "administrator", "admin,read"] {
        insert_key(&database, &format!("a-key-that-has-{permissions}"), "lesser", permissions);
    }
    let challenge = |extra: &str| Some(format!("Bearer realm=\"cloacina\"{extra}"));
    let mut rows = vec![
        (None, 401, MALFORMED, challenge("")),
        (Some("two words".to_owned()), 401, MALFORMED, challenge("")),
        (Some(unknown_key()), 401, INVALID, challenge(", error=\"invalid_token\"")),
        (Some(revoked), 401, INVALID, challenge(", error=\"invalid_token\"")),
        (Some("a-key-of-nobody".to_owned()), 401, INVALID, challenge(", error=\"invalid_token\"")),
    ];
    for permissions in ["read", "write", "", "ADMIN", "administrator", "admin,read"] {
        rows.push((
            Some(format!("a-key-that-has-{permissions}")),
            403,
            r#"{"error":"insufficient permissions"}"#,
            challenge(", error=\"insufficient_scope\""),
        ));
    }
    for (key, status, body, challenge) in rows {
        for (method, path, json) in [
            ("GET", "/auth/keys", None),
            ("HEAD", "/auth/keys", None),
            ("POST", "/auth/keys", Some(r#"{"name":"n"}"#)),
            // Who may not ask does not learn what was wrong with the question.
            ("POST", "/auth/keys", Some("{")),
            ("DELETE", "/auth/keys/nonsense", None),
            ("GET", "/auth/keys?limit=nonsense", None),
        ] {
            let response = http::exchange(server.address, &http::request(method, path, key.as_deref(), json));
            assert_eq!(response.status, status, "{method} {path} with {key:?}");
            assert_eq!(
                response.header("WWW-Authenticate"),
                challenge.as_deref(),
                "{method} {path} with {key:?}"
            );
            if method != "HEAD" {
                assert_eq!(response.text(), body, "{method} {path} with {key:?}");
            }
        }
    }
}

#[test]
fn unknown_paths_and_methods_come_before_any_key() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    for key in [None, Some("nonsense"), Some(key.as_str())] {
        for path in [
            "/",
            "/nowhere",
            "/auth",
            "/auth/",
            "/auth/keys/",
            "/auth//keys",
            "//auth/keys",
            "/health/",
            "/%68ealth",
            "/Health",
            "/auth/keys/a/b",
            "/auth/keys/../keys",
            "/./health",
            "/health%00",
            "/health;a=b",
            "/index.html",
            "/metrics/",
            "/.env",
        ] {
            server.get(path, key).expect(404, &body("not found"));
            if let Some(key) = key {
                server.delete(path, key).expect(404, &body("not found"));
                server.post(path, key, "nonsense").expect(404, &body("not found"));
            }
        }
        for (method, path, allow) in [
            ("POST", "/health", "GET, HEAD"),
            ("PUT", "/health", "GET, HEAD"),
            ("DELETE", "/ready", "GET, HEAD"),
            ("PATCH", "/metrics", "GET, HEAD"),
            ("OPTIONS", "/health", "GET, HEAD"),
            ("TRACE", "/health", "GET, HEAD"),
            ("POST", "/openapi.json", "GET, HEAD"),
            ("PUT", "/auth/keys", "GET, HEAD, POST"),
            ("DELETE", "/auth/keys", "GET, HEAD, POST"),
            ("GET", "/auth/keys/self", "DELETE"),
        ] {
            let response = http::exchange(server.address, &http::request(method, path, key, None));
            assert_eq!(response.header("Allow"), Some(allow), "{method} {path}: {response:#?}");
            response.expect(405, &body("method not allowed"));
        }
        let response = server.get("/auth/keys/00000000-0000-4000-8000-000000000000", key);
        let allow = response.header("Allow").unwrap_or_default().to_owned();
        assert!(allow.split(", ").any(|method| method == "DELETE"), "{allow}");
        response.expect(405, &body("method not allowed"));
    }
}

#[test]
fn other_content_types_are_415() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    let content = br#"{"name":"typed"}"#;
    for content_type in [
        None,
        Some(""),
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonx"),
        Some("application"),
        Some("multipart/form-data; boundary=application/json"),
    ] {
        post(&server, &key, content_type, content)
            .expect(415, &body("expected Content-Type: application/json"));
    }
    for content_type in [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "application/json ; charset=\"utf-8\"",
    ] {
        post(&server, &key, Some(content_type), content).expect_status(201);
    }
}

#[test]
fn what_is_wrong_with_which_field() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    let too_long = format!(r#"{{"name":"{}"}}"#, "n".repeat(256));
    for (content, field) in [
        ("{}", "name"),
        ("[]", "object"),
        ("null", "object"),
        ("\"name\"", "object"),
        (r#"{"name":null}"#, "name"),
        (r#"{"name":1}"#, "name"),
        (r#"{"name":["a"]}"#, "name"),
        (r#"{"name":""}"#, "name"),
        (r#"{"name":"a\u0000b"}"#, "name"),
        (r#"{"name":"a\nb"}"#, "name"),
        (r#"{"name":"\u007f"}"#, "name"),
        (r#"{"name":"\u0085"}"#, "name"),
        (&too_long, "name"),
        (r#"{"name":"a","nom":"b"}"#, "nom"),
        (r#"{"name":"a","Name":"b"}"#, "Name"),
        (r#"{"name":"a","name":"b"}"#, "name"),
        (r#"{"name":"a","permissions":"root"}"#, "permissions"),
        (r#"{"name":"a","permissions":""}"#, "permissions"),
        (r#"{"name":"a","permissions":null}"#, "permissions"),
        (r#"{"name":"a","permissions":["admin"]}"#, "permissions"),
        (r#"{"name":"a","role":"Admin"}"#, "role"),
        (r#"{"name":"a","role":"read","permissions":"write"}"#, "role"),
        (r#"{"name":"a","expires_at":"2020-01-01T00:00:00Z"}"#, "expires_at"),
        (r#"{"name":"a","expires_at":"tomorrow"}"#, "expires_at"),
        (r#"{"name":"a","expires_at":4102444800}"#, "expires_at"),
        (r#"{"name":"a","expires_at":"2999-02-29T00:00:00Z"}"#, "expires_at"),
        (r#"{"name":"a","expires_in":"0d"}"#, "expires_in"),
        (r#"{"name":"a","expires_in":"-1d"}"#, "expires_in"),
        (r#"{"name":"a","expires_in":"soon"}"#, "expires_in"),
        (r#"{"name":"a","expires_in":"90"}"#, "expires_in"),
        (r#"{"name":"a","expires_in":"9999999999999d"}"#, "expires_in"),
        (r#"{"name":"a","expires_in":"1d","expires_at":"2999-01-01T00:00:00Z"}"#, "expires_in"),
    ] {
        let response = server.post("/auth/keys", &key, content);
        let message = response.error();
        assert_eq!(response.status, 422, "{content}: {message}");
        assert!(message.contains(field), "{content}: {message}");
    }
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 1);
}

#[test]
fn bodies_of_64_kib_and_no_more() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    // As large as it may be: it is read, and then it is wrong for other reasons.
    let name = "n".repeat(LIMIT - r#"{"name":""}"#.len());
    let largest = format!(r#"{{"name":"{name}"}}"#);
    assert_eq!(largest.len(), LIMIT);
    server.post("/auth/keys", &key, &largest).expect_status(422);
    server.post("/auth/keys", &key, &" ".repeat(LIMIT)).expect_status(400);
    // Blanks around a small object are a body, too.
    let padded = format!("{}{{\"name\":\"padded\"}}", " ".repeat(LIMIT - 17));
    server.post("/auth/keys", &key, &padded).expect_status(201);

    for length in [LIMIT + 1, 2 * LIMIT, 10_000_000] {
        let mut connection = Connection::open(server.address);
        connection.send_what_goes(&http::request(
            "POST",
            "/auth/keys",
            Some(&key),
            Some(&" ".repeat(length)),
        ));
        let response = connection.receive("POST");
        assert!(response.closes(), "{response:#?}");
        response.expect(413, &body("request body is larger than 65536 bytes"));
        connection.expect_end();
    }
    // Said, and not even sent.
    let head = "POST /auth/keys HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n";
    let mut connection = Connection::open(server.address);
    connection.send(head.as_bytes());
    connection.receive("POST").expect(413, &body("request body is larger than 65536 bytes"));
    connection.expect_end();
}

#[test]
fn heads_of_16_kib_and_no_more() {
    let database = Database::new();
    let server = Server::start(&database);
    let request = |padding: usize| {
        format!("GET /health HTTP/1.1\r\nHost: a\r\nX-Padding: {}\r\n\r\n", "x".repeat(padding))
    };
    http::exchange(server.address, request(15_000).as_bytes()).expect_status(200);
    // Without an end, too: it is refused for its length, not for the time that it takes.
    let endless = request(200_000).trim_end().to_owned();
    for request in [request(16_384), request(20_000), request(200_000), endless] {
        let mut connection = Connection::open(server.address);
        connection.send_what_goes(request.as_bytes());
        let response = connection.receive("GET");
        assert!(response.closes(), "{response:#?}");
        response.expect(431, &body("request header block is too large"));
        connection.expect_end();
    }
    // The beginning of this one has been looked at when the rest comes, a line that does not end.
    let mut connection = Connection::open(server.address);
    let beginning = request(0);
    connection.send(format!("{beginning}{}", beginning.trim_end()).as_bytes());
    connection.receive("GET").expect_status(200);
    connection.send_what_goes(&[b'x'; 16 * 1024]);
    connection.receive("GET").expect(431, &body("request header block is too large"));
    connection.expect_end();
}

#[test]
fn targets_of_8_kib_and_no_more() {
    let database = Database::new();
    let server = Server::start(&database);
    let ask = |target: &str| {
        let mut connection = Connection::open(server.address);
        connection.send_what_goes(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        connection.receive("GET")
    };
    let limit = 8 * 1024;
    let padded = |start: &str, length: usize| format!("{start}{}", "p".repeat(length - start.len()));
    ask(&padded("/health?", limit)).expect_status(200);
    ask(&padded("http://a/health?", limit)).expect_status(200);
    ask(&padded("/", limit)).expect_status(404);
    for length in [limit + 1, 12_000, 20_000, 200_000] {
        for start in ["/health?", "/", "http://a/health?", "nonsense"] {
            let response = ask(&padded(start, length));
            assert!(response.closes(), "{response:#?}");
            response.expect(414, &body("request target is too long"));
        }
    }
    // The rest of a head is not the target's.
    let request = format!("GET /health HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let mut connection = Connection::open(server.address);
    connection.send_what_goes(request.as_bytes());
    connection.receive("GET").expect_status(431);
}

#[test]
fn slow_requests_are_408() {
    let database = Database::new();
    let mut server = Start::on(&database).arguments(["--request-timeout", "1s"]).serving();
    let key = server.bootstrap_key();
    let whole = http::request("POST", "/auth/keys", Some(&key), Some(r#"{"name":"slow"}"#));
    // In the request line, in the head, before the body, and in it.
    let head_end = whole.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    for sent in [3, 30, head_end - 1, head_end, whole.len() - 1] {
        let mut connection = Connection::open(server.address);
        connection.send(&whole[..sent]);
        let response = connection.receive("POST");
        assert!(response.closes(), "{response:#?}");
        response.expect(408, &body("request took too long to arrive"));
        connection.expect_end();
    }
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 1);
    server.expect_well("slow requests");
}

#[test]
fn without_a_database_it_is_503() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let mut server = Start::on(&database).arguments(["--database-timeout", "2s"]).serving();
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "before");
    server.get("/ready", None).expect(200, r#"{"status":"ready"}"#);

    cluster.stop_immediately();
    let unavailable = body("database unavailable");
    for request in [
        // No cache knows this one.
        http::request("GET", "/auth/keys", Some(&unknown_key()), None),
        http::request("GET", "/auth/keys", Some(&admin), None),
        http::request("POST", "/auth/keys", Some(&admin), Some(r#"{"name":"during"}"#)),
        http::request("DELETE", &format!("/auth/keys/{id}"), Some(&admin), None),
    ] {
        let response = http::exchange(server.address, &request);
        let wait = response.header("Retry-After").unwrap_or_else(|| panic!("{response:#?}"));
        assert!(wait.parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{wait}");
        assert_eq!(response.header("WWW-Authenticate"), None);
        assert_eq!(response.header("Cache-Control"), Some("no-store"));
        response.expect(503, &unavailable);
    }
    let not_ready = wait_for("/ready to say that the database is gone", || {
        let response = server.get("/ready", None);
        (response.status != 200).then_some(response)
    });
    not_ready.expect(503, r#"{"status":"not ready","reason":"database unreachable"}"#);
    server.expect_well("the end of its database");
    // What needs no database is answered as always.
    server.get("/auth/keys", None).expect(401, MALFORMED);
    server.get("/nowhere", None).expect_status(404);
    server.get("/metrics", None).expect_status(200);

    cluster.restart();
    wait_for("the server to find its database again", || {
        let response = server.get("/auth/keys", Some(&key));
        assert!([200, 503].contains(&response.status), "{}", response.text());
        (response.status == 200).then_some(())
    });
    wait_for("/ready to say so", || (server.get("/ready", None).status == 200).then_some(()));
    server.terminate().expect_code(0);
}

/// Waits until so many sessions of the server wait for a lock of ours.
pub fn wait_for_lookups(database: &Database, count: i64) {
    let mut client = database.client();
    wait_for("a request of the server to wait for the lock", || {
        let waiting: i64 = client
            .query_one(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'",
                &[],
            )
            .unwrap()
            .get(0);
        (waiting >= count).then_some(())
    });
}

#[test]
fn a_hung_database_is_503() {
    let database = Database::new();
    let mut server = Start::on(&database).arguments(["--database-timeout", "1s"]).serving();
    let admin = server.bootstrap_key();
    server.wait_for_pool();
    let lock = database.lock_keys();
    for path in ["/auth/keys", "/auth/keys?limit=2"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\nAuthorization: Bearer {admin}\r\n\r\n"
        );
        let response = http::exchange(server.address, request.as_bytes());
        assert!(response.header("Retry-After").is_some(), "{response:#?}");
        assert_eq!(response.header("X-Request-Id"), Some("mine"), "{response:#?}");
        assert_eq!(response.header("Cache-Control"), Some("no-store"), "{response:#?}");
        response.expect(503, &body("database unavailable"));
        server.expect_well("a lookup that hung");
    }
    lock.release();
    wait_for("the server to answer again", || {
        (server.get("/auth/keys", Some(&admin)).status == 200).then_some(())
    });
}

#[test]
fn a_full_queue_is_503() {
    let database = Database::new();
    let mut server = Start::on(&database)
        .arguments(["--workers", "1", "--queue", "1", "--database-timeout", "30s"])
        .serving();
    let admin = server.bootstrap_key();
    server.wait_for_pool();
    let lock = database.lock_keys();
    let request = http::request("GET", "/auth/keys", Some(&admin), None);
    // One is at work, and one waits.
    let mut admitted = [Connection::open(server.address), Connection::open(server.address)];
    admitted[0].send(&request);
    wait_for_lookups(&database, 1);
    admitted[1].send(&request);
    wait_for("the second request to be taken", || {
        (server.metric("cloacina_http_requests_in_flight", &[]) == 2.0).then_some(())
    });
    for _ in 0..6 {
        let mut turned_away = Connection::open(server.address);
        turned_away.send(&request);
        let response = turned_away.receive("GET");
        assert!(response.header("Retry-After").is_some(), "{response:#?}");
        assert_eq!(response.header("Cache-Control"), Some("no-store"), "{response:#?}");
        response.expect(503, &body("server is overloaded"));
    }
    assert_eq!(server.metric("cloacina_http_rejected_total", &[("reason", "overloaded")]), 6.0);
    // What needs no worker is answered all the while.
    server.expect_well("its queue filled");
    lock.release();
    admitted[0].receive("GET").expect_status(200);
    // A request that has waited for long is turned away as well: how long this one did depends on the machine.
    let waited = admitted[1].receive("GET");
    if waited.status != 200 {
        waited.expect(503, &body("server is overloaded"));
    }
    assert!(server.lets_in(&admin));
}
