//! More than it can take: connections, requests, and requests that are none. The surplus is turned away at once, and
//! nothing of it stays behind.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::footprint::file_limits;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::{PATIENCE, wait_for};

#[test]
fn the_limit_of_open_files_is_raised() {
    let database = Database::new();
    let server = Start::on(&database).after("ulimit -Sn 128").serving();
    let (soft, hard) = file_limits(server.pid());
    assert_eq!(soft, hard);
    assert!(soft > 128);
}

#[test]
fn more_connections_than_descriptors() {
    let database = Database::new();
    let mut server = Start::on(&database).after("ulimit -n 256").serving();
    let key = server.bootstrap_key();
    assert!(server.lets_in(&key));
    assert_eq!(file_limits(server.pid()), (256, 256));
    server.stderr_with("limit of open files");
    // None of them says a word.
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(TcpStream::connect_timeout(&server.address, PATIENCE).unwrap());
        if silent.len() % 100 == 0 {
            server.expect_well("silent connections");
            assert!(server.lets_in(&key));
        }
    }
    drop(silent);
    wait_for("their places to be free again", || {
        (server.metric("cloacina_http_connections_open", &[]) <= 1.0).then_some(())
    });
    // What is left: the log, the sessions, three for each worker, and a few.
    assert!(server.footprint().descriptors < 100, "{:?}", server.footprint());
    server.expect_well("all of them are gone");
    assert!(server.lets_in(&key));
}

#[test]
fn whoever_was_silent_for_longest_gives_way() {
    let database = Database::new();
    let mut server = Start::on(&database).arguments(["--max-connections", "50"]).serving();
    let key = server.bootstrap_key();
    let mut all: Vec<Connection> = Vec::new();
    for _ in 0..200 {
        let mut connection = Connection::open(server.address);
        assert_eq!(connection.ask("GET", "/auth/keys?limit=1", Some(&key), None).status, 200);
        all.push(connection);
        assert!(server.metric("cloacina_http_connections_open", &[]) <= 50.0);
    }
    assert_eq!(all.last_mut().unwrap().ask("GET", "/health", None, None).status, 200);
    all[0].expect_end();
    assert!(server.metric("cloacina_http_rejected_total", &[("reason", "evicted")]) >= 100.0);
    server.expect_well("too many connections");
}

/// A connection that waits for its client, after one answer: without a request, or with half of one.
fn waiting(server: &Server, half: &str) -> Connection {
    let mut connection = Connection::open(server.address);
    // With the answer it is known that what came with the request has been looked at.
    connection.send(format!("GET /health HTTP/1.1\r\nHost: a\r\n\r\n{half}").as_bytes());
    connection.receive("GET").expect_status(200);
    connection
}

#[test]
fn idle_connections_give_way_first_and_of_each_kind_the_oldest() {
    let database = Database::new();
    let flags = ["--max-connections", "50", "--request-timeout", "5m", "--idle-timeout", "5m"];
    let server = Start::on(&database).arguments(flags).serving();
    const HALF: &str = "GET /health HTTP/1.1\r\nHost: a\r\n";
    // One that comes when there is no place ends 32 others.
    const GIVE_WAY: usize = 32;
    let many = |count: usize, half| -> Vec<_> { (0..count).map(|_| waiting(&server, half)).collect() };
    let goes_on = |connection: &mut Connection, rest: &str| {
        connection.send(rest.as_bytes());
        connection.receive("GET").expect_status(200);
    };

    // Those with half a request are the oldest, and stay.
    let mut unfinished = many(10, HALF);
    let mut idle = many(40, "");
    idle.push(waiting(&server, ""));
    idle.drain(..GIVE_WAY).for_each(|mut oldest| oldest.expect_end());

    // Where the idle ones are not enough.
    unfinished.extend(many(50 - unfinished.len() - idle.len(), HALF));
    let mut newest = waiting(&server, "");
    let left = GIVE_WAY - idle.len();
    idle.iter_mut().for_each(Connection::expect_end);
    unfinished.drain(..left).for_each(|mut oldest| oldest.expect_end());
    assert!(unfinished.len() > 10);
    unfinished.iter_mut().for_each(|connection| goes_on(connection, "\r\n"));
    goes_on(&mut newest, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
}

/// What the HTTP library would choke on, again and again.
#[test]
fn poison_leaves_nothing_behind() {
    let database = Database::new();
    let mut server = Start::on(&database).arguments(["--request-timeout", "2s"]).serving();
    let odd: String = (0..24).map(|number| format!("trailers;q=0.{number}{number}1e7,")).collect();
    let long_line = format!("GET /health HTTP/1.1\r\nHost: a\r\nX-Long: {}", "x".repeat(3 * 1024 * 1024));
    let many_lines = format!("GET /health HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-A: b\r\n".repeat(100_000));
    let endless = format!(
        "GET /auth/keys HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n{}",
        "\0\u{1}".repeat(1024 * 1024)
    );
    let poisons = [
        ("preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 60),
        ("HTTP/3.0", "GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 60),
        ("odd TE", format!("GET /nowhere HTTP/1.1\r\nHost: a\r\nTE: {odd}\r\nConnection: close\r\n\r\n"), 60),
        (
            "odd TE with a worker",
            format!("GET /auth/keys HTTP/1.1\r\nHost: a\r\nTE: {odd}\r\nConnection: close\r\n\r\n"),
            60,
        ),
        ("header line without end", long_line, 20),
        ("header lines without end", many_lines, 20),
        ("upgrade with a body without end", endless, 20),
        (
            "length of 30 GB",
            "POST /auth/keys HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000000\r\n\r\nx".to_owned(),
            60,
        ),
    ];
    let all_of_them = |server: &mut Server| {
        for (name, poison, times) in &poisons {
            for _ in 0..*times {
                for response in http::responses(&http::raw(server.address, poison.as_bytes())) {
                    assert!((400..600).contains(&response.status), "{name}: {response:#?}");
                }
            }
            server.expect_well(name);
        }
        wait_for("the connections to end", || {
            (server.metric("cloacina_http_connections_open", &[]) <= 1.0).then_some(())
        });
        server.footprint()
    };
    // What the first round costs may be caches and heaps; the second must find all it needs.
    let first = all_of_them(&mut server);
    let second = all_of_them(&mut server);
    assert_eq!(second.threads, first.threads);
    assert!(second.descriptors <= first.descriptors + 1, "{first:?} {second:?}");
    assert!(second.memory <= first.memory + 8 * 1024, "{first:?} {second:?}");
    assert!(server.lets_in(&server.bootstrap_key()));
}

#[test]
fn more_requests_than_it_can_answer() {
    let database = Database::new();
    let mut server = Start::on(&database).arguments(["--workers", "2", "--queue", "8"]).serving();
    let key = server.bootstrap_key();
    for number in 0..100 {
        server.create_key(&key, &format!("{number:0>200}"));
    }
    let list = http::request("GET", "/auth/keys", Some(&key), None);
    let mut clients: Vec<Connection> = (0..300).map(|_| Connection::open(server.address)).collect();
    let mut served = 0;
    for round in 0..3 {
        clients.iter_mut().for_each(|client| client.send(&list));
        server.expect_well("a flood of requests");
        for client in &mut clients {
            let response = client.receive("GET");
            match response.status {
                200 => served += 1,
                _ => {
                    assert!(response.header("Retry-After").is_some(), "{response:#?}");
                    assert!(!response.closes(), "round {round}: to come again needs no new connection");
                    response.expect(503, r#"{"error":"server is overloaded"}"#);
                }
            }
        }
    }
    assert!(served > 0, "some of them should have been served");
    assert!(server.lets_in(&key));
}

#[test]
fn two_sessions_serve_two_hundred_clients() {
    let database = Database::new();
    let mut server = Start::on(&database).arguments(["--pool-size", "2"]).serving();
    let key = server.bootstrap_key();
    let address = server.address;
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let key = key.clone();
            std::thread::spawn(move || {
                let mut connection = Connection::open(address);
                let began = Instant::now();
                let mut answered = 0;
                // A slow machine may turn some of them away for a moment; nobody may be left out for good.
                while answered < 5 {
                    let response = connection.ask("GET", "/auth/keys?limit=1", Some(&key), None);
                    match response.status {
                        200 => answered += 1,
                        503 => std::thread::sleep(Duration::from_millis(100)),
                        other => panic!("{other}: {}", response.text()),
                    }
                    assert!(began.elapsed() < PATIENCE, "one client got {answered} answers");
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    server.get("/ready", None).expect_status(200);
    assert!(server.metric("cloacina_db_pool_size", &[]) <= 2.0);
    server.expect_well("two hundred clients");
}

/// Refusals are counted one by one, and logged in one line now and then.
#[test]
fn a_flood_of_refused_requests_is_no_flood_of_lines() {
    let database = Database::new();
    let server = Server::start(&database);
    let lines = || server.log().lines().count();
    server.log_line(&["\"serving\""]);
    let before = lines();
    let flood = http::request("GET", "/auth/keys", Some("nobody-has-this-key"), None);
    let mut connection = Connection::open(server.address);
    for _ in 0..2000 {
        connection.send(&flood);
        connection.receive("GET").expect_status(401);
    }
    for _ in 0..100 {
        let _ = http::raw(server.address, b"nonsense\r\n\r\n");
    }
    let summary = wait_for("a line that sums the refusals up", || {
        let log = server.log();
        let sum = |name: &str| -> u64 {
            let counts = log.lines().filter(|line| line.contains("refused")).filter_map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["level"], "WARN", "{line}");
                let message = line["message"].as_str().unwrap().to_owned();
                let (_, rest) = message.split_once(&format!("{name}: "))?;
                rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
            });
            counts.sum()
        };
        (sum("unknown key") == 2000 && sum("malformed request") == 100).then_some(log.clone())
    });
    assert!(lines() - before < 20, "{summary}");
}
