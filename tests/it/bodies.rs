//! Where a body ends (RFC 9112, 6 and 7): never a second request out of what was the body of the first.

use crate::framing::{SMUGGLED, impatient, refused};
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::Server;

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
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, br,\r\nTransfer-Encoding: , chunked,",
        "Transfer-Encoding: identity, chunked",
    ] {
        let request = format!("POST /auth/keys HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n{SMUGGLED}");
        let response = refused(&mut server, fields, request.as_bytes(), &[501]);
        assert_eq!(response.error(), "the only transfer coding that is supported is chunked", "{fields}");
    }
    for fields in [
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
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ] {
        let request = format!("POST /auth/keys HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n{SMUGGLED}");
        refused(&mut server, fields, request.as_bytes(), &[400]);
    }
    let old = format!("POST /auth/keys HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}");
    refused(&mut server, "chunked in HTTP/1.0", old.as_bytes(), &[400, 411, 501]);
}

/// Empty elements of a list do not count, and all lines are one list (RFC 9110, 5.3 and 5.6.1.2).
#[test]
fn chunked_in_a_list_with_empty_elements() {
    let database = Database::new();
    let mut server = Server::start(&database);
    let key = server.bootstrap_key();
    for (number, fields) in [
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding:,\t,Chunked , ,",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: ,",
    ]
    .into_iter()
    .enumerate()
    {
        let body = format!("{{\"name\":\"listed-{number}\"}}");
        let request = format!(
            "POST /auth/keys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\n{fields}\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        let mut connection = Connection::open(server.address);
        connection.send(request.as_bytes());
        let made = connection.receive("POST").expect_status(201).json();
        assert_eq!(made["name"], format!("listed-{number}"), "{fields}");
        connection.ask("GET", "/health", None, None).expect_status(200);
    }
    server.expect_well("lists");
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
    let zeros = "0".repeat(200);
    let many_zeros = format!("{zeros}1\r\n \r\n").repeat(30) + "c\r\n{\"name\":\"c\"}\r\n0\r\n\r\n";
    let of_each = format!(
        "{}{}c\r\n{{\"name\":\"c\"}}\r\n0\r\n{}\r\n",
        format!("{zeros}1\r\n \r\n").repeat(8),
        format!("1;{zeros}\r\n \r\n").repeat(8),
        "X-T: y\r\n".repeat(200)
    );
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
        ("data with another end", "c\r\n{\"name\":\"c\"}xx0\r\n\r\n"),
        ("data without its end", "c\r\n{\"name\":\"c\"}0\r\n\r\n"),
        ("bare LF after the size", "c\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("bare LF after the data", "c\r\n{\"name\":\"c\"}\n0\r\n\r\n"),
        ("bare CR in an extension", "c;a\rb\r\n{\"name\":\"c\"}\r\n0\r\n\r\n"),
        ("endless extension", &many_extensions),
        ("endless trailers", &many_trailers),
        ("too many chunks", &many_chunks),
        ("endless zeros", &many_zeros),
        ("a little of each", &of_each),
    ] {
        let request = format!("{head}{chunks}{SMUGGLED}");
        refused(&mut server, name, request.as_bytes(), &[400, 411, 413, 431, 501]);
    }
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), before);
    // A body that never ends is a slow one.
    let unfinished = format!("{head}c\r\n{{\"name\":");
    refused(&mut server, "unfinished", unfinished.as_bytes(), &[408, 411, 501]);
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
    // A body in chunks is waited for as well.
    let mut connection = Connection::open(server.address);
    let length = format!("Content-Length: {}", content.len());
    connection
        .send(head("HTTP/1.1", "100-continue").replace(&length, "Transfer-Encoding: chunked").as_bytes());
    assert_eq!(connection.receive("POST").status, 100);
    connection.send(format!("{:x}\r\n{content}\r\n0\r\n\r\n", content.len()).as_bytes());
    connection.receive("POST").expect_status(201);
    // Whoever sends the body at once needs no permission, and may or may not get it.
    let mut connection = Connection::open(server.address);
    connection.send(format!("{}{content}", head("HTTP/1.1", "100-continue")).as_bytes());
    let mut response = connection.receive("POST");
    if response.status == 100 {
        response = connection.receive("POST");
    }
    response.expect_status(201);
    // HTTP/1.0 knows no 100 (RFC 9110, 10.1.1): the server waits for the body in silence, to the end of its patience.
    for (body, status) in [(content, 201), ("", 408)] {
        let mut connection = Connection::open(server.address);
        connection.send(format!("{}{body}", head("HTTP/1.0", "100-continue")).as_bytes());
        connection.receive("POST").expect_status(status);
    }
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
