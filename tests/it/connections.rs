//! Connections: many requests on one, clients that talk nonsense, and clients that leave.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::framing::{SMUGGLED, impatient};
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::wait_for;
use crate::support::{PATIENCE, Seeded};

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

/// The poll tells once that bytes have come, and once that no more will; both may come as one.
#[test]
fn who_has_finished_sending_is_answered_and_let_go() {
    let database = Database::new();
    let mut server = Server::start(&database);
    let key = server.bootstrap_key();
    for round in 0..60 {
        let path = ["/health", "/auth/verify", "/auth/keys"][round % 3];
        let mut connection = Connection::open(server.address);
        connection.send(&http::request("GET", path, Some(&key), None));
        if round % 2 == 0 {
            connection.finish_sending();
        }
        assert!(connection.receive("GET").status < 300);
        connection.finish_sending();
        connection.expect_end();
    }
    server.expect_well("clients that finished sending");
}

/// Requests that fill the buffer of one read to its last byte, and one more that begins right after it.
#[test]
fn a_read_that_fills_its_buffer_is_not_the_last() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    let plain = http::request("GET", "/auth/verify", Some(&key), None);
    for more in [0, 1, plain.len()] {
        let mut bytes = plain.repeat(16 * 1024 / plain.len() - 1);
        let count = bytes.len() / plain.len();
        let padding = 16 * 1024 + more - bytes.len() - plain.len() - "X: \r\n".len();
        let (head, end) = plain.split_at(plain.len() - 2);
        bytes.extend([head, format!("X: {}\r\n", "x".repeat(padding)).as_bytes(), end].concat());
        assert_eq!(bytes.len(), 16 * 1024 + more);
        let mut connection = Connection::open(server.address);
        connection.send(&bytes);
        for _ in 0..=count {
            connection.receive("GET").expect_status(204);
        }
        // It goes on as if nothing had been.
        assert_eq!(connection.ask("GET", "/health", None, None).status, 200);
    }
}

/// What the socket does not take at once comes later, each byte once.
#[test]
fn answers_that_do_not_fit_come_whole() {
    const COUNT: usize = 300;
    let database = Database::new();
    let server = Server::start(&database);
    let expected = server.get("/openapi.json", None).expect_status(200).body;
    // A window this small is full long before the last answer.
    let socket = Socket::new(Domain::for_address(server.address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut client = TcpStream::from(socket);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(&http::request("GET", "/openapi.json", None, None).repeat(COUNT)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    // The thread that answers this has been as far as it could get with the others.
    wait_for("the first answers", || {
        let answered = server.metric("cloacina_http_requests_total", &[("route", "/openapi.json")]);
        assert!(answered < COUNT as f64, "everything fitted");
        (answered > 1.0).then_some(())
    });
    let mut said = Vec::new();
    client.read_to_end(&mut said).unwrap();
    let responses = http::responses(&said);
    assert_eq!(responses.len(), COUNT);
    assert!(responses.iter().all(|response| response.status == 200 && response.body == expected));
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
    silent.expect_end_or_408();
}
