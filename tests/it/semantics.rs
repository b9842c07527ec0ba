//! What RFC 9110 asks of an origin server, where the contract has no line of its own for it.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use crate::framing::{impatient, refused};
use crate::keys::unknown_key;
use crate::support::http::{self, Connection, Response};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::{PATIENCE, wait_for};

/// One request of these lines on a connection of its own.
fn ask(server: &Server, line: &str, fields: &[&str]) -> Response {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    http::exchange(server.address, format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes())
}

/// An answer to HEAD ends with its head, whatever it is (RFC 9110, 9.3.2): content would be taken for the next answer.
#[test]
fn no_answer_to_head_has_content() {
    let database = Database::new();
    let mut server = impatient(&database);
    let key = format!("Authorization: Bearer {}", unknown_key());
    let long = "x".repeat(20_000);
    for (status, line, rest) in [
        (200, "/health HTTP/1.1", "Host: a\r\n\r\n"),
        (401, "/auth/verify HTTP/1.1", "Host: a\r\n\r\n"),
        (401, "/auth/keys HTTP/1.1", &format!("Host: a\r\n{key}\r\n\r\n")),
        (404, "/nowhere HTTP/1.1", "Host: a\r\n\r\n"),
        (405, "/auth/keys/x HTTP/1.1", "Host: a\r\n\r\n"),
        (400, "/health HTTP/1.1", "\r\n"),
        (400, "/health HTTP/1.1", "Host: a\r\n X: folded\r\n\r\n"),
        (400, "/health HTTP/1.1", "Host: a\r\nX: \x01\r\n\r\n"),
        (400, "/health HTTP/1.1", "Host: a\r\nContent-Length: x\r\n\r\n"),
        (400, "/health HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"),
        (401, "/health HTTP/1.1", &format!("Host: a\r\nAuthorization: {long}\r\n\r\n")),
        (408, "/health HTTP/1.1", "Host: a\r\nX-Unfinished"),
        (408, "/health HTTP/1.1", "Host: a\r\nContent-Length: 9\r\n\r\n"),
        (408, "/health HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"),
        (413, "/health HTTP/1.1", "Host: a\r\nContent-Length: 99999999\r\n\r\n"),
        (413, "/health HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n"),
        (414, &format!("/{long} HTTP/1.1"), "Host: a\r\n\r\n"),
        (417, "/health HTTP/1.1", "Host: a\r\nExpect: tea\r\n\r\n"),
        (421, "https://a/health HTTP/1.1", "Host: a\r\n\r\n"),
        (431, "/health HTTP/1.1", &format!("Host: a\r\nX: {long}\r\n\r\n")),
        (501, "/health HTTP/1.1", "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (505, "/health HTTP/2.0", "Host: a\r\n\r\n"),
    ] {
        let mut connection = Connection::open(server.address);
        connection.send_what_goes(format!("HEAD {line}\r\n{rest}").as_bytes());
        let response = connection.receive("HEAD");
        assert_eq!(response.status, status, "{line:.40} {rest:.60}");
        assert_ne!(response.header("Content-Length"), Some("0"), "as for GET: {response:#?}");
        connection.finish_sending();
        connection.expect_end();
    }
    // What looks like HEAD in the body of another method is not one.
    for (rest, status) in [("Content-Length: 99\r\n\r\n", 408), ("Transfer-Encoding: chunked\r\n\r\n", 400)] {
        let mut connection = Connection::open(server.address);
        connection
            .send(format!("POST /auth/keys HTTP/1.1\r\nHost: a\r\n{rest}HEAD / HTTP/1.1\r\n").as_bytes());
        let response = connection.receive("POST");
        assert_eq!(response.status, status);
        assert!(!response.error().is_empty());
        connection.expect_end();
    }
    server.expect_well("so many HEADs");
}

/// Also when a worker answers, or the queue is full: the connection goes on with the next answer.
#[test]
fn head_and_get_take_turns() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let mut connection = Connection::open(server.address);
    for path in ["/health", "/ready", "/metrics", "/openapi.json", "/auth/keys", "/auth/whoami", "/nowhere"] {
        for key in [None, Some(&*admin)] {
            let head = connection.ask("HEAD", path, key, None);
            let get = connection.ask("GET", path, key, None);
            assert_eq!(head.header("Content-Type"), get.header("Content-Type"), "{path}");
            assert!(head.body.is_empty() && !get.body.is_empty(), "{path}");
        }
    }
}

/// What is refused gets nothing of the request before it on the same connection.
#[test]
fn a_refusal_is_about_its_own_request() {
    let database = Database::new();
    let server = Server::start(&database);
    for (line, refused) in [("HEAD /health", "GET /health"), ("GET /health", "HEAD /health")] {
        for path in ["/health", "/auth/verify"] {
            let line = line.replace("/health", path);
            let mut connection = Connection::open(server.address);
            connection.send(format!("{line} HTTP/1.1\r\nHost: a\r\nX-Request-Id: first\r\n\r\n").as_bytes());
            let first = connection.receive(line.split(' ').next().unwrap());
            assert_eq!(first.header("X-Request-Id"), Some("first"));
            connection.send(format!("\r\n{refused} HTTP/1.1\r\nX-Request-Id: a b\r\n\r\n").as_bytes());
            let method = refused.split(' ').next().unwrap();
            let second = connection.receive(method).expect_status(400);
            assert_ne!(second.header("X-Request-Id"), Some("first"), "{line}");
            assert_eq!(second.body.is_empty(), method == "HEAD", "{line}");
            // It may have been for a path under /auth.
            assert_eq!(second.header("Cache-Control"), Some("no-store"));
            connection.expect_end();
        }
    }
    // Its fresh id is its own.
    let ids: std::collections::BTreeSet<_> = (0..50)
        .map(|_| ask(&server, "GET /health", &[]).header("X-Request-Id").unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 50, "{ids:?}");
}

/// RFC 9110, 6.6.1: every answer has the time of its making.
#[test]
fn answers_are_dated() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let mut connection = Connection::open(server.address);
    for path in ["/health", "/auth/whoami", "/nowhere"] {
        let mut date = || {
            // A date has no fractions of a second.
            let before = SystemTime::now() - Duration::from_secs(1);
            let response = connection.ask("GET", path, Some(&admin), None);
            let date = httpdate::parse_http_date(response.header("Date").unwrap()).unwrap();
            assert!(before <= date && date <= SystemTime::now(), "{path}: {date:?}");
            date
        };
        let first = date();
        wait_for("the date to go on", || (date() > first).then_some(()));
    }
}

/// A client that goes on sending after the last answer is heard for a moment, so that it can read that answer, and not
/// for as long as it likes.
#[test]
fn what_follows_a_refusal_is_not_read_for_ever() {
    const PIECE: usize = 1024 * 1024;
    let database = Database::new();
    let mut server = Server::start(&database);
    let mut client = std::net::TcpStream::connect(server.address).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"nonsense\r\n\r\n").unwrap();
    let piece = vec![b'x'; PIECE];
    let sent = (0..).take_while(|_| client.write_all(&piece).is_ok()).take(65).count();
    assert!(sent < 64, "the server read at least {sent} MiB after its last answer");
    server.expect_well("a client that went on");
}

#[test]
fn methods_that_nobody_knows_are_501() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = format!("Authorization: Bearer {}", server.bootstrap_key());
    for method in ["BREW", "PROPFIND", "get", "Get", "GETT", "HEAD1", "OTHER", "M-SEARCH"] {
        for path in ["/health", "/auth/keys", "/nowhere"] {
            let response = ask(&server, &format!("{method} {path}"), &[&admin]);
            assert_eq!(response.header("Allow"), None, "{method} {path}");
            response.expect(501, r#"{"error":"unknown method"}"#);
        }
    }
    // Those that HTTP has are known.
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "QUERY"] {
        ask(&server, &format!("{method} /health"), &[]).expect(405, r#"{"error":"method not allowed"}"#);
        ask(&server, &format!("{method} /nowhere"), &[]).expect(404, r#"{"error":"not found"}"#);
    }
}

/// RFC 9110, 7.4: only a gateway that is trusted may say that its client's connection was secured.
#[test]
fn https_needs_a_secured_connection() {
    let database = Database::new();
    let mut server = Server::start(&database);
    let admin = format!("Authorization: Bearer {}", server.bootstrap_key());
    for target in ["https://a/health", "HTTPS://a:443/auth/keys", "https://a/nowhere", "https://a"] {
        let response = ask(&server, &format!("GET {target}"), &[&admin]);
        response.expect(421, r#"{"error":"https is not served on this connection"}"#);
    }
    ask(&server, "GET http://a/health", &[]).expect_status(200);
    server.expect_well("misdirected requests");
    for (trusted, status) in [("127.0.0.1", 200), ("192.0.2.0/24", 421)] {
        let server = Start::on(&database).arguments(["--trusted-proxy", trusted]).serving();
        assert_eq!(ask(&server, "GET https://a/health", &[]).status, status, "{trusted}");
    }
}

#[test]
fn a_coded_body_is_415() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = format!("Authorization: Bearer {}", server.bootstrap_key());
    let post = |coding: &str| {
        let body = r#"{"name":"coded"}"#;
        let request = format!(
            "POST /auth/keys HTTP/1.1\r\nHost: a\r\n{key}\r\nContent-Type: application/json\r\n\
             Content-Encoding:{coding}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        http::exchange(server.address, request.as_bytes())
    };
    for coding in [" gzip", " br, gzip", " identity, gzip", " x", "gzip\r\nContent-Encoding: identity"] {
        let response = post(coding);
        assert_eq!(response.header("Accept-Encoding"), Some("identity"), "{coding}");
        response.expect(415, r#"{"error":"expected a body without Content-Encoding"}"#);
    }
    for coding in ["", " identity", " Identity", " ,"] {
        post(coding).expect_status(201);
    }
    // Where no body is read, its coding means nothing: a proxy may pass on its client's.
    ask(&server, "GET /auth/verify", &[&key, "Content-Encoding: gzip"]).expect_status(204);
}

#[test]
fn only_what_is_under_auth_or_tenants_must_not_be_stored() {
    let database = Database::new();
    let server = Server::start(&database);
    for (path, expected) in [
        ("/auth", Some("no-store")),
        ("/auth/", Some("no-store")),
        ("/auth/nowhere", Some("no-store")),
        ("/auth/keys?x", Some("no-store")),
        ("/auth?x", Some("no-store")),
        ("/tenants", Some("no-store")),
        ("/tenants/", Some("no-store")),
        ("/tenants/a/nowhere?x", Some("no-store")),
        ("/tenants.html", None),
        ("/x/tenants", None),
        ("/authors", None),
        ("/auth.html", None),
        ("/auth%2Fkeys", None),
        ("/health", None),
    ] {
        assert_eq!(server.get(path, None).header("Cache-Control"), expected, "{path}");
    }
}

/// The one who sent it sees no HTTP; the one who runs the server has to be told what it was.
#[test]
fn tls_on_a_plain_port_is_logged_as_that() {
    let database = Database::new();
    let mut server = impatient(&database);
    let hello = b"\x16\x03\x01\x00\xc4\x01\x00\x00\xc0\x03\x03";
    for _ in 0..3 {
        let response = refused(&mut server, "a TLS hello", hello, &[400]);
        assert_eq!(response.error(), "this port speaks plain HTTP, not TLS");
    }
    refused(&mut server, "its first byte", &hello[..1], &[400]);
    assert_eq!(server.metric("cloacina_http_rejected_total", &[("reason", "tls")]), 4.0);
    assert_eq!(server.metric("cloacina_http_rejected_total", &[("reason", "malformed")]), 0.0);
    wait_for("the log to say so", || server.log().contains("TLS on a plain port: ").then_some(()));
}

/// Whatever bytes a path, a query or a field has, the answer is the client's fault or none; and never a lost worker.
#[test]
fn odd_bytes_are_never_500() {
    let database = Database::new();
    let mut server = impatient(&database);
    let admin = server.bootstrap_key();
    let mut odd: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    odd.extend((0..=255).map(|byte| format!("%{byte:02x}").into_bytes()));
    for text in [
        "%",
        "%%",
        "%2",
        "%zz",
        "%u0041",
        "..",
        "../..",
        "%2e%2e%2f",
        ";",
        "&&",
        "==",
        "=&=",
        "+",
        "\u{1f511}",
        "%F0%9F%94%91",
        "%ff%fe",
        "%c0%80",
        "%ed%a0%80",
        "{id}",
        "null",
        "-1",
        "0",
        "1e3",
        "NaN",
        "99999999999999999999",
        "0x10",
        "'",
        "\"",
        "' OR 1=1 --",
        "${jndi:x}",
        "%00",
        "true",
        "[]",
        "a[b]=c",
        "limit",
        "limit=",
        "limit=%00",
        "after=%00",
        "after=\u{e9}",
        "after=-4713-01-01T00:00:00Z",
        "revoked=%ff",
        "require=%00",
        "require=\u{e9}",
    ] {
        odd.push(text.as_bytes().to_vec());
    }
    odd.push(b"x".repeat(8000));
    odd.push(b"%41".repeat(2500));
    for (index, odd) in odd.iter().enumerate() {
        for (method, before, after) in [
            ("DELETE", "/auth/keys/", ""),
            ("POST", "/auth/keys/", "/rotate"),
            ("GET", "/auth/keys?limit=", ""),
            ("GET", "/auth/keys?after=", ""),
            ("GET", "/auth/keys?revoked=", ""),
            ("GET", "/auth/keys?", "=1"),
            ("GET", "/auth/verify?require=", ""),
            ("GET", "/health?", ""),
            ("GET", "/", ""),
        ] {
            let mut request = format!("{method} {before}").into_bytes();
            request.extend_from_slice(odd);
            request.extend_from_slice(
                format!("{after} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {admin}\r\n\r\n")
                    .as_bytes(),
            );
            let said = http::raw(server.address, &request);
            let responses = http::responses(&said);
            let [response] = &*responses else {
                panic!("{method} {before} {index}: {}", String::from_utf8_lossy(&said))
            };
            assert!(
                response.status < 500 || response.status == 505,
                "{method} {before} {index}: {response:#?}"
            );
        }
    }
    server.expect_well("odd bytes");
    server.get("/auth/whoami", Some(&admin)).expect_status(200);
}
