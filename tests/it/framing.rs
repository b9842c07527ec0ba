//! What is a request and what is not (RFC 9112), byte by byte: one answer for one request, never a second one out of
//! what was a body, and a server that is there afterwards.

use crate::support::http::{self, Connection, Response};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};

/// A whole request of its own. Where it is a part of another's body, nobody may answer it.
pub const SMUGGLED: &str = "GET /metrics HTTP/1.1\r\nHost: smuggled\r\n\r\n";

/// One that waits for nothing longer than it must, so that unfinished requests end soon.
pub fn impatient(database: &Database) -> Server {
    Start::on(database).arguments(["--request-timeout", "2s", "--idle-timeout", "2s"]).serving()
}

/// Sends these bytes; asserts one answer of one of these statuses that says why and closes, and a server that lives.
pub fn refused(server: &mut Server, name: &str, bytes: &[u8], statuses: &[u16]) -> Response {
    let said = http::raw(server.address, bytes);
    let mut responses = http::responses(&said);
    assert_eq!(responses.len(), 1, "{name}: {}", String::from_utf8_lossy(&said));
    let response = responses.remove(0);
    assert!(statuses.contains(&response.status), "{name}: {response:#?}");
    assert!(!response.error().is_empty(), "{name}");
    assert!(response.closes(), "{name}: {response:#?}");
    assert!(response.header("X-Request-Id").is_some(), "{name}");
    server.expect_well(name);
    response
}

#[test]
fn heads_that_are_none() {
    let database = Database::new();
    let mut server = impatient(&database);
    let with =
        |line: &str| format!("GET /health HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n{SMUGGLED}").into_bytes();
    for (name, line) in [
        ("folded by a blank", "X-A: b\r\n c"),
        ("folded by a tab", "X-A: b\r\n\tc"),
        ("folded length", "X-A: b\r\n Content-Length: 5"),
        ("folded first line", " X-A: b"),
        ("blank before the colon", "X-A : b"),
        ("tab before the colon", "X-A\t: b"),
        ("blank before a length's colon", "Content-Length : 5"),
        ("blank in a name", "X A: b"),
        ("no colon", "X-A"),
        ("no name", ": b"),
        ("NUL in a value", "X-A: b\0c"),
        ("bare CR in a value", "X-A: b\rc"),
        ("bare LF in a value", "X-A: b\nX-C: d"),
        ("CR before CRLF", "X-A: b\r"),
        ("control character in a value", "X-A: b\x01c"),
        ("DEL in a value", "X-A: b\x7fc"),
        ("NUL in a name", "X-\0A: b"),
        ("non-ASCII in a name", "X-\u{e4}: b"),
        ("parentheses in a name", "X(A): b"),
    ] {
        refused(&mut server, name, &with(line), &[400]);
    }
    let bare = "GET /health HTTP/1.1\nHost: a\n\nGET /metrics HTTP/1.1\nHost: a\n\n";
    refused(&mut server, "bare LF everywhere", bare.as_bytes(), &[400]);
    let bare = "GET /health HTTP/1.1\rHost: a\r\r";
    refused(&mut server, "bare CR everywhere", bare.as_bytes(), &[400, 408]);
}

#[test]
fn hosts() {
    let database = Database::new();
    let mut server = impatient(&database);
    for (name, fields) in [
        ("no Host", "X-A: b"),
        ("two Hosts", "Host: a\r\nHost: a"),
        ("two different Hosts", "Host: a\r\nhost: b"),
        ("blank in Host", "Host: a b"),
        ("path in Host", "Host: a/b"),
        ("URL as Host", "Host: http://a"),
        ("user in Host", "Host: user@a"),
        ("two names in Host", "Host: a, b"),
        ("port that is none", "Host: a:b"),
        ("open bracket", "Host: [::1"),
        ("query in Host", "Host: a?b"),
        ("percent sign that encodes nothing", "Host: %zz"),
        ("cut percent-encoding", "Host: a%2"),
        ("no address in brackets", "Host: [zz]"),
        ("empty brackets", "Host: []"),
        ("brackets and more", "Host: [::1]a"),
        ("address without brackets", "Host: ::1"),
        ("port without a host", "Host: :80"),
        ("backslash in Host", "Host: a\\b"),
    ] {
        let request = format!("GET /health HTTP/1.1\r\n{fields}\r\n\r\n{SMUGGLED}");
        refused(&mut server, name, request.as_bytes(), &[400]);
    }
    for host in [
        "",
        "a",
        "a:",
        "localhost:8080",
        "127.0.0.1",
        "[::1]",
        "[::1]:80",
        "[v1.x]",
        "api.example.com.",
        "A-b_c.example",
        "a%2Db",
    ] {
        let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n");
        http::exchange(server.address, request.as_bytes()).expect_status(200);
    }
}

#[test]
fn versions() {
    let database = Database::new();
    let mut server = impatient(&database);
    for (name, bytes, statuses) in [
        ("HTTP/0.9", "GET /health\r\n\r\n", &[400, 505][..]),
        ("HTTP/0.9 and nothing more", "GET /health\r\n", &[400, 408, 505]),
        ("HTTP/0.9 by name", "GET /health HTTP/0.9\r\n\r\n", &[400, 505]),
        ("HTTP/2.0", "GET /health HTTP/2.0\r\nHost: a\r\n\r\n", &[400, 505]),
        ("HTTP/3.0", "GET /health HTTP/3.0\r\nHost: a\r\n\r\n", &[400, 505]),
        ("HTTP/2", "GET /health HTTP/2\r\nHost: a\r\n\r\n", &[400, 505]),
        ("HTTP/1.10", "GET /health HTTP/1.10\r\nHost: a\r\n\r\n", &[400, 505]),
        ("HTTP/11.1", "GET /health HTTP/11.1\r\nHost: a\r\n\r\n", &[400, 505]),
        ("http/1.1", "GET /health http/1.1\r\nHost: a\r\n\r\n", &[400, 505]),
        ("HTTPS/1.1", "GET /health HTTPS/1.1\r\nHost: a\r\n\r\n", &[400, 505]),
        ("preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 505]),
        ("a TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n", &[400]),
        ("SSH", "SSH-2.0-OpenSSH_9.2\r\n\r\n", &[400, 505]),
    ] {
        refused(&mut server, name, bytes.as_bytes(), statuses);
    }
    // Later minor versions are served as 1.1 (RFC 9110, 2.5).
    for version in ["HTTP/1.2", "HTTP/1.9"] {
        let mut connection = Connection::open(server.address);
        for _ in 0..2 {
            connection.send(format!("GET /health {version}\r\nHost: a\r\n\r\n").as_bytes());
            let response = connection.receive("GET");
            assert_eq!((response.status, response.closes()), (200, false), "{version}");
        }
        let request = format!("GET /health {version}\r\n\r\n{SMUGGLED}");
        refused(&mut server, version, request.as_bytes(), &[400]);
    }
    // HTTP/1.0 needs no Host, and closes unless it is asked not to.
    let said = http::raw(server.address, b"GET /health HTTP/1.0\r\n\r\n");
    let responses = http::responses(&said);
    assert_eq!(responses.len(), 1);
    assert_eq!((responses[0].status, responses[0].closes()), (200, true));
    let said = http::raw(server.address, b"GET /health HTTP/1.0\r\n\r\nGET /health HTTP/1.0\r\n\r\n");
    assert_eq!(http::responses(&said).len(), 1, "HTTP/1.0 closes after its answer");
    let mut connection = Connection::open(server.address);
    for _ in 0..3 {
        connection.send(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = connection.receive("GET");
        assert_eq!(response.header("Connection"), Some("keep-alive"), "{response:#?}");
        assert_eq!(response.status, 200);
    }
    connection.send(b"GET /health HTTP/1.0\r\n\r\n");
    assert!(connection.receive("GET").closes());
    connection.expect_end();
}

#[test]
fn request_lines() {
    let database = Database::new();
    let mut server = impatient(&database);
    for (name, line, statuses) in [
        ("nothing but blanks", "   ", &[400][..]),
        ("no target", "GET HTTP/1.1", &[400]),
        ("empty target", "GET  HTTP/1.1", &[400]),
        ("two blanks", "GET  /health HTTP/1.1", &[400]),
        ("two blanks before the version", "GET /health  HTTP/1.1", &[400]),
        ("blank at the end", "GET /health HTTP/1.1 ", &[400, 505]),
        ("blank before the method", " GET /health HTTP/1.1", &[400]),
        ("tab between", "GET\t/health\tHTTP/1.1", &[400]),
        ("blank in the target", "GET /hea lth HTTP/1.1", &[400, 505]),
        ("control character in the target", "GET /hea\x01lth HTTP/1.1", &[400]),
        ("NUL in the target", "GET /hea\0lth HTTP/1.1", &[400]),
        ("brace in the method", "G{T /health HTTP/1.1", &[400]),
        ("relative target", "GET health HTTP/1.1", &[400, 404]),
        ("authority as a target", "GET localhost:80 HTTP/1.1", &[400, 404]),
        ("a tunnel", "CONNECT localhost:80 HTTP/1.1", &[400, 404, 405, 501]),
        ("asterisk for GET", "GET * HTTP/1.1", &[400]),
        ("asterisk for OPTIONS", "OPTIONS * HTTP/1.1", &[404]),
        ("the whole server in absolute form", "OPTIONS http://localhost HTTP/1.1", &[404]),
        ("lower-case method", "get /health HTTP/1.1", &[501]),
        ("mixed-case method", "Get /health HTTP/1.1", &[501]),
        ("unheard-of method", "GETT /health HTTP/1.1", &[501]),
        ("backslash in the path", "GET /health\\ HTTP/1.1", &[400]),
        ("backslash for a slash", "GET /auth\\keys HTTP/1.1", &[400]),
        ("quote in the path", "GET /\"health\" HTTP/1.1", &[400]),
        ("angle brackets in the path", "GET /<health> HTTP/1.1", &[400]),
        ("bar in the path", "GET http://a/health|x HTTP/1.1", &[400]),
        ("no host but a port", "GET http://:80/health HTTP/1.1", &[400]),
        ("no host", "GET http:///health HTTP/1.1", &[400]),
        ("percent sign in the host", "GET http://%zz/health HTTP/1.1", &[400]),
        ("no address in brackets", "GET http://[zz]/health HTTP/1.1", &[400]),
        ("user in the target", "GET http://user@a/health HTTP/1.1", &[400]),
        ("fragment in the target", "GET /health#x HTTP/1.1", &[400]),
    ] {
        let request = format!("{line}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        refused(&mut server, name, request.as_bytes(), statuses);
    }
    for length in [8000, 16_384, 50_000] {
        let method = "M".repeat(length);
        let request = format!("{method} /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        refused(&mut server, "a method without end", request.as_bytes(), &[501]);
    }
    // Every server must take the absolute form (RFC 9112, 3.2.2).
    for (target, status) in [
        ("http://localhost/health", 200),
        ("http://localhost:8080/health?a=b", 200),
        ("HTTP://LOCALHOST/health", 200),
        ("http://localhost/nowhere", 404),
        ("http://localhost", 404),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(http::exchange(server.address, request.as_bytes()).status, status, "{target}");
    }
    server.expect_well("all these lines");
}

#[test]
fn fields_that_mean_nothing_here() {
    let database = Database::new();
    let mut server = impatient(&database);
    let odd_qualities: String =
        (0..24).map(|n| format!("c{n};q={}", ["1.5", "-1", "NaN", "0.0001", "x"][n % 5]) + ",").collect();
    for fields in [
        format!("TE: {odd_qualities}"),
        "TE: trailers".to_owned(),
        "Accept: nothing/at-all".to_owned(),
        "Accept-Encoding: gzip;q=NaN".to_owned(),
        "Range: bytes=0-1".to_owned(),
        "If-None-Match: *".to_owned(),
        "Transfer: chunked".to_owned(),
        "X-Latin-1: caf\u{e9}".to_owned(),
        "X-Empty:".to_owned(),
        "Content-Length: 0".to_owned(),
        "Content-Length:   0  ".to_owned(),
        "Content-Length: 00".to_owned(),
    ] {
        let mut connection = Connection::open(server.address);
        for _ in 0..6 {
            connection.send(format!("GET /health HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes());
            assert_eq!(connection.receive("GET").text(), r#"{"status":"ok"}"#, "{fields}");
        }
    }
    let key = server.bootstrap_key();
    for _ in 0..20 {
        let request = format!(
            "GET /auth/keys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nTE: {odd_qualities}\r\n\r\n"
        );
        http::exchange(server.address, request.as_bytes()).expect_status(200);
    }
    server.expect_well("odd fields");
}

/// An answer that says what was wrong is the one to look for in a log.
#[test]
fn a_refused_request_keeps_its_id() {
    let database = Database::new();
    let mut server = impatient(&database);
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    for (head, fields, status) in [
        ("POST /auth/keys HTTP/1.1", "Host: a\r\nContent-Length: 999999\r\n", 413),
        ("POST /auth/keys HTTP/1.1", "Host: a\r\nContent-Length: 9\r\n", 408),
        ("POST /auth/keys HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked\r\n", 408),
        ("GET /health HTTP/1.1", "", 400),
        ("GET /health HTTP/1.1", "Host: a\r\nExpect: tea\r\n", 417),
        ("GET /health HTTP/1.1", &long, 431),
        ("GET /health HTTP/2.0", "Host: a\r\n", 505),
    ] {
        let request = format!("{head}\r\nx-request-id:  the-id-1 \r\n{fields}\r\n");
        let mut connection = Connection::open(server.address);
        connection.send_what_goes(request.as_bytes());
        let response = connection.receive("GET");
        assert_eq!(
            (response.status, response.header("X-Request-Id")),
            (status, Some("the-id-1")),
            "{fields:.40}"
        );
    }
    let said = http::raw(server.address, b"GET /health HTTP/1.1\r\nX-Request-Id: a b\r\n\r\n");
    assert_ne!(http::responses(&said)[0].header("X-Request-Id"), Some("a b"), "not a plain one");
    server.expect_well("refused requests with ids");
}

/// Whoever offers another protocol gets its answer in this one (RFC 9110, 7.8), and may already be talking the other:
/// nothing of that is taken for a request.
#[test]
fn an_offer_to_upgrade_is_answered_once() {
    let database = Database::new();
    let mut server = impatient(&database);
    for fields in [
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Connection: keep-alive, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 0",
    ] {
        let request = format!("GET /health HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        for follows in [SMUGGLED.as_bytes(), &[0, 1, 2, 13, 10, 13, 10], &[b'x'; 100_000]] {
            let said = http::raw(server.address, &[request.as_bytes(), follows].concat());
            let responses = http::responses(&said);
            assert_eq!(responses.len(), 1, "{fields}: {}", String::from_utf8_lossy(&said));
            assert_eq!((responses[0].status, responses[0].text()), (200, r#"{"status":"ok"}"#), "{fields}");
            assert!(responses[0].closes(), "{fields}");
        }
    }
    // The same where a worker answers, while the gate already sees what follows.
    let flood: Vec<u8> = (0_u32..500_000).flat_map(u32::to_be_bytes).collect();
    let request = "GET /auth/keys HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    for _ in 0..50 {
        let said = http::raw(server.address, &[request.as_bytes(), &flood].concat());
        assert!(http::responses(&said).len() <= 1, "{}", String::from_utf8_lossy(&said));
    }
    server.expect_well("offers to upgrade");
}

#[test]
fn no_more_than_64_fields() {
    let database = Database::new();
    let mut server = impatient(&database);
    let with = |count: usize| {
        let fields: String = (1..count).map(|number| format!("X-{number}: y\r\n")).collect();
        format!("GET /health HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
    };
    http::exchange(server.address, &with(64)).expect_status(200);
    for count in [65, 70, 500] {
        let response = refused(&mut server, "too many fields", &with(count), &[431]);
        assert_eq!(response.error(), "request header block is too large");
    }
}
