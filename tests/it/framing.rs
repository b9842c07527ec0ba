//! What is a request and what is not (RFC 9112), byte by byte: one answer for one request, never a second one out of
//! what was a body, and a server that is there afterwards.

use std::time::Duration;

use crate::support::Seeded;
use crate::support::http::{self, Connection, Response};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

/// A whole request of its own. Where it is a part of another's body, nobody may answer it.
const SMUGGLED: &str = "GET /metrics HTTP/1.1\r\nHost: smuggled\r\n\r\n";

/// One that waits for nothing longer than it must, so that unfinished requests end soon.
fn impatient(database: &Database) -> Server {
    Start::on(database).arguments(["--request-timeout", "2s", "--idle-timeout", "2s"]).serving()
}

/// Sends these bytes; asserts one answer of one of these statuses that says why and closes, and a server that lives.
fn refused(server: &mut Server, name: &str, bytes: &[u8], statuses: &[u16]) -> Response {
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
fn lengths_that_are_none() {
    let database = Database::new();
    let mut server = impatient(&database);
    let key = server.bootstrap_key();
    let post = |fields: &str| {
        format!(
            "POST /auth/keys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\n{fields}\r\n\r\n{SMUGGLED}"
        )
    };
    for (value, statuses) in [
        ("+5", &[400][..]),
        ("5, 5", &[400]),
        ("5,6", &[400]),
        ("-1", &[400]),
        ("-0", &[400]),
        ("0x10", &[400]),
        ("", &[400]),
        (" ", &[400]),
        ("abc", &[400]),
        ("5 5", &[400]),
        ("5;", &[400]),
        ("\"5\"", &[400]),
        ("1e3", &[400]),
        ("5.0", &[400]),
        ("\u{665}", &[400]),
        ("30000000000", &[413]),
        ("9223372036854775808", &[413]),
        ("18446744073709551615", &[413]),
        // These fit no integer; both are true of them.
        ("18446744073709551616", &[400, 413]),
        ("99999999999999999999999999999999999999999", &[400, 413]),
    ] {
        let name = format!("Content-Length: {value}");
        refused(&mut server, &name, post(&name).as_bytes(), statuses);
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\ncontent-length: 0",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ] {
        refused(&mut server, fields, post(fields).as_bytes(), &[400]);
    }
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 1);
}

#[test]
fn transfer_codings_that_nobody_promised() {
    let database = Database::new();
    let mut server = impatient(&database);
    for fields in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:",
        "Transfer-Encoding: ,",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ] {
        let request = format!("POST /auth/keys HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n{SMUGGLED}");
        refused(&mut server, fields, request.as_bytes(), &[400, 411, 501]);
    }
    let old = format!("POST /auth/keys HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}");
    refused(&mut server, "chunked in HTTP/1.0", old.as_bytes(), &[400, 411, 501]);
}

/// A chunked body is understood whole, or the request is refused: which of the two is the server's choice.
#[test]
fn chunked_bodies() {
    let database = Database::new();
    let mut server = impatient(&database);
    let key = server.bootstrap_key();
    let head = format!(
        "POST /auth/keys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    for (name, chunks) in [
        ("two chunks", "8\r\n{\"name\":\r\n4\r\n\"c\"}\r\n0\r\n\r\n"),
        ("extensions", "C;a=b;c=\"d;e\"\r\n{\"name\":\"c\"}\r\n0;last\r\n\r\n"),
        ("trailers", "c\r\n{\"name\":\"c\"}\r\n0\r\nX-Trailer: yes\r\nContent-Length: 5\r\n\r\n"),
        ("leading zeros", "000C\r\n{\"name\":\"c\"}\r\n000\r\n\r\n"),
    ] {
        let said = http::raw(server.address, format!("{head}{chunks}").as_bytes());
        let responses = http::responses(&said);
        assert_eq!(responses.len(), 1, "{name}: {}", String::from_utf8_lossy(&said));
        assert!([201, 411, 501].contains(&responses[0].status), "{name}: {}", responses[0].text());
        server.expect_well(name);
    }
    let before: i64 = database.value("SELECT count(*) FROM api_keys");
    let many_extensions = format!("c;{}\r\n{{\"name\":\"c\"}}\r\n0\r\n\r\n", "x".repeat(200_000));
    let many_trailers = format!("c\r\n{{\"name\":\"c\"}}\r\n0\r\n{}\r\n", "X-T: y\r\n".repeat(20_000));
    let many_chunks = format!("{}0\r\n\r\n", "1\r\n \r\n".repeat(70_000));
    for (name, chunks) in [
        ("no size", "\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("not hex", "zz\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("negative", "-1\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("signed", "+c\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("prefixed", "0xc\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("blank before the size", " c\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("too large a number", "FFFFFFFFFFFFFFFFF\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("largest number", "FFFFFFFFFFFFFFFF\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("too large a chunk", "10001\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("data longer than its size", "5\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("data without its end", "c\r\n{\"name\":\"c\"}0\r\n\r\n"),
        ("bare LF after the size", "c\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("bare LF after the data", "c\r\n{\"name\":\"c\"}\n0\r\n\r\n"),
        ("bare CR in an extension", "c;a\rb\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("endless extension", &many_extensions),
        ("endless trailers", &many_trailers),
        ("too many chunks", &many_chunks),
    ] {
        let request = format!("{head}{chunks}{SMUGGLED}");
        refused(&mut server, name, request.as_bytes(), &[400, 411, 413, 431, 501]);
    }
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), before);
    // A body that never ends is a slow one.
    let unfinished = format!("{head}c\r\n{{\"name\":");
    refused(&mut server, "unfinished", unfinished.as_bytes(), &[408, 411, 501]);
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
    ] {
        let request = format!("GET /health HTTP/1.1\r\n{fields}\r\n\r\n{SMUGGLED}");
        refused(&mut server, name, request.as_bytes(), &[400]);
    }
    for host in ["a", "localhost:8080", "127.0.0.1", "[::1]", "[::1]:80", "api.example.com.", "A-b_c.example"]
    {
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
        ("asterisk for GET", "GET * HTTP/1.1", &[400, 404]),
        ("asterisk for OPTIONS", "OPTIONS * HTTP/1.1", &[400, 404, 405, 501]),
        ("lower-case method", "get /health HTTP/1.1", &[400, 405, 501]),
        ("mixed-case method", "Get /health HTTP/1.1", &[400, 405, 501]),
        ("unheard-of method", "GETT /health HTTP/1.1", &[400, 405, 501]),
    ] {
        let request = format!("{line}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        refused(&mut server, name, request.as_bytes(), statuses);
    }
    let odd_method = format!("{} /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "M".repeat(8000));
    refused(&mut server, "a method without end", odd_method.as_bytes(), &[400, 405, 501]);
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
fn empty_lines_before_a_request() {
    let database = Database::new();
    let mut server = impatient(&database);
    // Some clients of old sent one after a body (RFC 9112, 2.2).
    for lines in [1, 2] {
        let mut connection = Connection::open(server.address);
        for _ in 0..2 {
            connection.send("\r\n".repeat(lines).as_bytes());
            assert_eq!(connection.ask("GET", "/health", None, None).status, 200, "{lines}");
        }
    }
    // But a flood of them is no request.
    let flood = "\r\n".repeat(100_000);
    let said = http::raw(server.address, flood.as_bytes());
    assert!(http::responses(&said).len() <= 1, "{}", String::from_utf8_lossy(&said));
    server.expect_well("a flood of empty lines");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let database = Database::new();
    let mut server = Server::start(&database);
    let key = server.bootstrap_key();
    let mut bytes = Vec::new();
    for number in 0..50 {
        // Some are answered at once and some wait for the database; the order is that of the requests.
        let (method, path, body) = match number {
            25 => ("POST", "/auth/keys", Some(r#"{"name":"in-the-middle"}"#)),
            _ if number % 3 == 0 => ("GET", "/auth/keys", None),
            _ if number % 3 == 1 => ("GET", "/health", None),
            _ => ("GET", "/nowhere", None),
        };
        let request = http::request(method, path, Some(&key), body);
        let tagged = String::from_utf8(request).unwrap().replacen(
            "Host:",
            &format!("X-Request-Id: {number}\r\nHost:"),
            1,
        );
        bytes.extend_from_slice(tagged.as_bytes());
    }
    let mut connection = Connection::open(server.address);
    connection.send(&bytes);
    for number in 0..50 {
        let response = connection.receive("GET");
        assert_eq!(response.header("X-Request-Id"), Some(number.to_string().as_str()));
        let status = match number {
            25 => 201,
            _ if number % 3 == 2 => 404,
            _ => 200,
        };
        assert_eq!(response.status, status, "request {number}: {}", response.text());
        if number % 3 == 0 {
            let keys = response.json()["keys"].as_array().unwrap().len();
            assert_eq!(keys, if number > 25 { 2 } else { 1 }, "request {number}");
        }
    }
    // The connection lives on, byte by byte if need be.
    for byte in http::request("GET", "/health", None, None) {
        connection.send(&[byte]);
    }
    assert_eq!(connection.receive("GET").status, 200);
    connection.finish_sending();
    connection.expect_end();

    // Nothing after a close is a request any more.
    let closing = format!("GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{SMUGGLED}");
    let said = http::raw(server.address, closing.as_bytes());
    let responses = http::responses(&said);
    assert_eq!(responses.len(), 1);
    assert!(responses[0].closes());

    // Whoever half-closes after asking still hears every answer.
    let mut connection = Connection::open(server.address);
    connection.send(&bytes);
    connection.finish_sending();
    assert_eq!(http::responses(&connection.rest()).len(), 50);
    server.expect_well("pipelining");
}

/// A body that an endpoint does not want must not become the next request.
#[test]
fn unwanted_bodies_are_no_requests() {
    let database = Database::new();
    let mut server = Server::start(&database);
    let key = server.bootstrap_key();
    for (method, path, key) in [
        ("GET", "/health", None),
        ("GET", "/auth/keys", Some(&key)),
        ("GET", "/nowhere", None),
        ("PUT", "/health", None),
        ("DELETE", "/auth/keys/nonsense", Some(&key)),
        ("POST", "/auth/keys", None),
        ("POST", "/auth/keys", Some(&key)),
    ] {
        let authorization = key.map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\n{authorization}Content-Length: {}\r\n\r\n{SMUGGLED}",
            SMUGGLED.len()
        );
        let last = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let said = http::raw(server.address, format!("{request}{last}").as_bytes());
        let responses = http::responses(&said);
        assert!(
            responses.iter().all(|response| !response.body.starts_with(b"# HELP")),
            "{method} {path}: the body was answered"
        );
        // A server may close instead of taking the body; else the request that follows gets its answer.
        let expected = if responses[0].closes() { 1 } else { 2 };
        assert_eq!(responses.len(), expected, "{method} {path}: {}", String::from_utf8_lossy(&said));
        server.expect_well("an unwanted body");
    }
}

#[test]
fn expectations() {
    let database = Database::new();
    let mut server = impatient(&database);
    let key = server.bootstrap_key();
    let content = r#"{"name":"expected"}"#;
    let head = |version: &str, expect: &str| {
        format!(
            "POST /auth/keys {version}\r\nHost: a\r\nAuthorization: Bearer {key}\r\nExpect: {expect}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            content.len()
        )
    };
    for expect in ["100-continue", "100-Continue"] {
        let mut connection = Connection::open(server.address);
        connection.send(head("HTTP/1.1", expect).as_bytes());
        let interim = connection.receive("POST");
        assert_eq!(interim.status, 100, "{interim:#?}");
        connection.send(content.as_bytes());
        connection.receive("POST").expect_status(201);
        // The connection goes on as if nothing had been.
        assert_eq!(connection.ask("GET", "/health", None, None).status, 200);
    }
    // Whoever sends the body at once needs no permission, and may or may not get it.
    let mut connection = Connection::open(server.address);
    connection.send(format!("{}{content}", head("HTTP/1.1", "100-continue")).as_bytes());
    let mut response = connection.receive("POST");
    if response.status == 100 {
        response = connection.receive("POST");
    }
    response.expect_status(201);
    // HTTP/1.0 knows no 100 (RFC 9110, 10.1.1).
    let mut connection = Connection::open(server.address);
    connection.send(format!("{}{content}", head("HTTP/1.0", "100-continue")).as_bytes());
    connection.receive("POST").expect_status(201);
    // No invitation for a body that is too large.
    let mut connection = Connection::open(server.address);
    connection.send(
        b"POST /auth/keys HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 70000\r\n\r\n",
    );
    connection.receive("POST").expect_status(413);
    connection.expect_end();
    let response =
        refused(&mut server, "unknown expectation", head("HTTP/1.1", "a-miracle").as_bytes(), &[417]);
    assert_eq!(response.error(), "unknown expectation: only 100-continue is supported");
}

#[test]
fn fields_that_mean_nothing_here() {
    let database = Database::new();
    let mut server = impatient(&database);
    let odd_qualities: String =
        (0..24).map(|n| format!("c{n};q={}", ["1.5", "-1", "NaN", "0.0001", "x"][n % 5]) + ",").collect();
    for fields in [
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".to_owned(),
        "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__".to_owned(),
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

/// Five mebibytes of noise on a thousand connections, half of it behind something that begins as a request does.
#[test]
fn noise() {
    let database = Database::new();
    let mut server = impatient(&database);
    let pid = server.pid();
    let address = server.address;
    let beginnings: [&[u8]; 5] = [
        b"",
        b"GET ",
        b"GET /health HTTP/1.1\r\nHost: a\r\n",
        b"POST /auth/keys HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n",
        b"POST /auth/keys HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
    ];
    let senders: Vec<_> = (0..8_u64)
        .map(|sender| {
            std::thread::spawn(move || {
                let mut seeded = Seeded::new(0xC10A_C14A + sender);
                for round in 0..125 {
                    let mut bytes = beginnings[if round % 2 == 0 { 0 } else { round / 2 % 5 }].to_vec();
                    bytes.extend_from_slice(&seeded.bytes(5243));
                    let mut connection = Connection::open(address);
                    connection.send_what_goes(&bytes);
                    connection.finish_sending();
                    // Whatever it answers has the form of answers.
                    let said = connection.rest();
                    for response in http::responses(&said) {
                        assert!((400..600).contains(&response.status), "{response:#?}");
                    }
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    server.expect_well("noise");
    assert_eq!(server.pid(), pid);
    // Nothing of it stays behind: no connection, and no descriptor.
    wait_for("the connections of the noise to end", || {
        (server.metric("cloacina_http_connections_open", &[]) <= 2.0).then_some(())
    });
    let key = server.bootstrap_key();
    assert!(server.lets_in(&key));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 1);
}

/// Connections that come and say nothing, or half of it, and go.
#[test]
fn clients_that_leave() {
    let database = Database::new();
    let mut server = impatient(&database);
    let key = server.bootstrap_key();
    let whole = http::request("POST", "/auth/keys", Some(&key), Some(r#"{"name":"left"}"#));
    for sent in [0, 1, 20, whole.len() - 1] {
        for finishes in [false, true] {
            let mut connection = Connection::open(server.address);
            connection.send(&whole[..sent]);
            if finishes {
                connection.finish_sending();
                let said = connection.rest();
                for response in http::responses(&said) {
                    assert_eq!(response.status, 400, "{response:#?}");
                }
            }
        }
    }
    server.expect_well("clients that left");
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 1);
    // One that says nothing at all is let go of.
    let mut silent = Connection::open(server.address);
    std::thread::sleep(Duration::from_millis(10));
    silent.expect_end_or_408();
}
