//! Clients that send, read or end slowly: each of them costs a place until its deadline, and nobody else anything.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::{PATIENCE, wait_for};

/// What the server may hold while it is treated badly, in KiB.
const MEMORY_LIMIT: u64 = 96 * 1024;

/// Whether the other side has ended this connection.
fn has_ended(stream: &mut TcpStream) -> bool {
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return true,
            // Its last words.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

#[test]
fn a_byte_now_and_then_holds_nobody_up() {
    let database = Database::new();
    let mut server = Start::on(&database).arguments(["--request-timeout", "3s"]).serving();
    let key = server.bootstrap_key();
    let before = server.footprint();
    let head = b"GET /health HTTP/1.1\r\nHost: a\r\nX-Slow: ";
    let body = b"POST /auth/keys HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n";
    let began = Instant::now();
    let mut slow: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(if number % 2 == 0 { head } else { body }).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let mut rounds = 0;
    // Each of them sends on, and never comes to an end, until the server has had enough of all.
    while !slow.is_empty() {
        assert!(began.elapsed() < PATIENCE, "{} slow clients are still there", slow.len());
        slow.retain_mut(|stream| stream.write_all(b"x").is_ok() && !has_ended(stream));
        // On connections of their own, as anybody who comes now.
        server.get("/health", None).expect_status(200);
        server.get("/auth/keys", Some(&key)).expect_status(200);
        let now = server.footprint();
        assert_eq!(now.threads, before.threads, "slow clients must cost no threads");
        assert!(now.memory < MEMORY_LIMIT, "{now:?}");
        rounds += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "they were to be borne for three seconds");
    assert!(rounds > 5, "ordinary clients were to be served meanwhile");
    assert!(server.metric("cloacina_http_rejected_total", &[("reason", "too_slow")]) >= 300.0);
    server.expect_well("slow clients");
}

/// Whoever connects and says nothing has no more time than whoever says a little.
#[test]
fn silence_from_the_start_ends_with_the_request_deadline() {
    let database = Database::new();
    let server =
        Start::on(&database).arguments(["--request-timeout", "1s", "--idle-timeout", "10m"]).serving();
    Connection::open(server.address).expect_end_or_408();
    // After a request it is another matter.
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.ask("GET", "/health", None, None).status, 200);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(connection.ask("GET", "/health", None, None).status, 200);
}

/// The idle time is that between two requests.
#[test]
fn a_first_request_may_come_later_than_the_idle_time() {
    let database = Database::new();
    let server =
        Start::on(&database).arguments(["--request-timeout", "10m", "--idle-timeout", "1s"]).serving();
    let mut fresh = Connection::open(server.address);
    let mut idle = Connection::open(server.address);
    assert_eq!(idle.ask("GET", "/health", None, None).status, 200);
    idle.expect_end();
    assert_eq!(fresh.ask("GET", "/health", None, None).status, 200);
}

#[test]
fn a_client_that_asks_a_lot_and_reads_nothing() {
    let database = Database::new();
    let mut server = Start::on(&database).arguments(["--workers", "1", "--write-timeout", "2s"]).serving();
    let key = server.bootstrap_key();
    for number in 0..50 {
        server.create_key(&key, &format!("{number:0>200}"));
    }
    let list = http::request("GET", "/auth/keys", Some(&key), None);
    let health = http::request("GET", "/health", None, None);
    for request in [list, health] {
        let mut greedy = TcpStream::connect(server.address).unwrap();
        greedy.set_nonblocking(true).unwrap();
        let many = request.repeat(200);
        let began = Instant::now();
        // As much as it takes, and then more whenever it takes more, until it has had enough.
        loop {
            match greedy.write(&many) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(_) => break,
            }
            assert!(began.elapsed() < PATIENCE, "a client that reads nothing is still there");
            // The one worker is free, and so is the gate.
            server.get("/auth/keys?limit=1", Some(&key)).expect_status(200);
        }
        let now = server.footprint();
        assert!(now.memory < MEMORY_LIMIT, "{now:?}");
    }
    server.expect_well("clients that read nothing");
}

/// The gate is one thread: whoever keeps it busy must leave it to others now and then.
#[test]
fn a_client_that_never_stops_asking_leaves_room_for_others() {
    let database = Database::new();
    let mut server = Server::start(&database);
    let done = AtomicBool::new(false);
    let many = http::request("GET", "/health", None, None).repeat(2000);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut asker = TcpStream::connect(server.address).unwrap();
            let mut reader = asker.try_clone().unwrap();
            let (done, many) = (&done, &many);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) && asker.write_all(many).is_ok() {}
                let _ = asker.shutdown(std::net::Shutdown::Both);
            });
            scope.spawn(move || {
                let mut chunk = vec![0; 256 * 1024];
                while reader.read(&mut chunk).is_ok_and(|count| count > 0) {}
            });
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..30 {
            let began = Instant::now();
            let answered = std::panic::catch_unwind(AssertUnwindSafe(|| server.get("/health", None).status));
            slowest = slowest.max(began.elapsed());
            if answered.ok() != Some(200) {
                slowest = PATIENCE;
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(slowest < Duration::from_secs(3), "somebody waited {slowest:?} for /health");
    });
    server.expect_well("a client that never stops asking");
}

/// Each byte of a body may come in a chunk of its own; what is around it is not kept.
#[test]
fn bodies_in_small_chunks_cost_what_is_in_them() {
    let database = Database::new();
    let mut server = Start::on(&database).arguments(["--request-timeout", "1m"]).serving();
    let mut start = b"POST /auth/keys HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    start.extend(b"1\r\n \r\n".repeat(50_000));
    // As they are sent, 57 MiB, which is far more than is allowed; decoded, 10 MiB.
    let mut clients: Vec<Connection> = (0..200)
        .map(|_| {
            let mut client = Connection::open(server.address);
            client.send(&start);
            client
        })
        .collect();
    for client in &mut clients {
        client.send(b"0\r\n\r\n");
        assert_eq!(client.receive("POST").status, 401);
    }
    let now = server.footprint();
    assert!(now.peak < MEMORY_LIMIT, "{now:?}");
    server.expect_well("bodies in small chunks");
}

/// Where memory is short it is those who hold it that go, not those who wait for their next request.
#[test]
fn unfinished_bodies_cost_those_who_send_them() {
    let database = Database::new();
    let mut server = Start::on(&database).arguments(["--request-timeout", "1m"]).serving();
    let key = server.bootstrap_key();
    let mut well_behaved = Connection::open(server.address);
    assert_eq!(well_behaved.ask("GET", "/auth/keys", Some(&key), None).status, 200);
    let mut start =
        b"POST /auth/keys HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 65000\r\n\r\n".to_vec();
    start.resize(start.len() + 64_000, b' ');
    // Far more than is allowed: 50 MiB.
    let mut hoarders: Vec<TcpStream> = (0..800)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            let _ = stream.write_all(&start);
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    wait_for("the memory to be taken from somebody", || {
        hoarders.retain_mut(|stream| !has_ended(stream));
        (hoarders.len() < 700).then_some(())
    });
    let now = server.footprint();
    assert!(now.peak < MEMORY_LIMIT, "{now:?}");
    assert_eq!(well_behaved.ask("GET", "/auth/keys", Some(&key), None).status, 200);
    server.expect_well("hoarders");
}
