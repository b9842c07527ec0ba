//! The end of a server: whoever was heard is answered, and the next server takes over where this one stops.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::cluster::{Cluster, free_port};
use crate::support::directory::Directory;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

#[test]
fn every_request_that_was_read_gets_its_whole_answer() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    let request = http::request("GET", "/auth/keys", Some(&key), None);
    let address = server.address;
    let answers = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            let (request, answers) = (&request, &answers);
            // Until it is told that the connection ends. A connection that ended before a request was read says
            // nothing at all, and never half an answer: `receive` would not take that.
            scope.spawn(move || {
                let mut connection = Connection::open(address);
                loop {
                    connection.send_what_goes(request);
                    let Some(response) = connection.receive_or_end("GET") else { return };
                    assert_eq!(response.status, 200, "{}", response.text());
                    answers.fetch_add(1, Ordering::Relaxed);
                    if response.closes() {
                        return connection.expect_end();
                    }
                }
            });
        }
        wait_for("all of them to be under way", || (answers.load(Ordering::Relaxed) > 200).then_some(()));
        server.signal("TERM");
    });
    let began = Instant::now();
    let ended = server.ended().expect_code(0);
    assert!(began.elapsed() < Duration::from_secs(25), "it had nothing left to do");
    assert!(ended.stderr.contains("drained"), "{ended:#?}");
}

/// Connected, and not yet accepted: the kernel has told these clients that they are heard.
#[test]
fn whoever_connected_before_the_signal_is_answered() {
    let database = Database::new();
    let server = Server::start(&database);
    server.signal("STOP");
    let mut clients: Vec<_> = (0..300).map(|_| Connection::open(server.address)).collect();
    clients.iter_mut().for_each(|client| client.send(&http::request("GET", "/health", None, None)));
    server.signal("TERM");
    server.signal("CONT");
    for client in &mut clients {
        client.receive("GET").expect_status(200);
    }
    server.ended().expect_code(0);
}

/// A request that waits for a lock of ours.
fn stuck_request(database: &Database, server: &Server, key: &str) -> Connection {
    let mut stuck = Connection::open(server.address);
    stuck.send(&http::request("GET", "/auth/keys", Some(key), None));
    let mut client = database.client();
    wait_for("the request to wait for the lock", || {
        let query = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        (client.query_one(query, &[]).unwrap().get::<_, i64>(0) > 0).then_some(())
    });
    stuck
}

/// `nohup`, and every shell script that detaches a program, ignores SIGHUP on its behalf.
#[test]
fn a_hangup_that_is_ignored_stays_so() {
    let database = Database::new();
    let mut server = Start::on(&database).after("trap '' HUP").serving();
    for _ in 0..3 {
        server.signal("HUP");
        server.get("/health", None).expect_status(200);
    }
    server.expect_well("three hangups");
    assert!(!server.stderr().contains("draining"), "{}", server.stderr());
    let ended = server.terminate().expect_code(0);
    assert!(!ended.stderr.contains("SIGHUP"), "{ended:#?}");
}

/// The first process of a container dies of no signal that it does not handle.
#[test]
fn a_server_that_waits_for_its_database_can_be_stopped() {
    // Taken, so that nobody else listens there, and closed to everybody.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    drop(taken);
    let url = format!("postgresql://nobody@127.0.0.1:{port}/none");
    let starting = Start::without_database().database_url(&url).starting();
    wait_for("it to wait", || starting.stderr().contains("waiting up to").then_some(()));
    starting.signal("TERM");
    let began = Instant::now();
    let ended = starting.ended().expect_code(0);
    assert!(began.elapsed() < Duration::from_secs(10), "it would have waited 30 s for the database");
    assert!(ended.stderr.contains("told to stop before it served"), "{ended:#?}");
}

/// timeout(1), for one, signals a process and then its group.
#[test]
fn a_signal_that_comes_twice_at_once_is_one() {
    let database = Database::new();
    let server = Server::start(&database);
    let pid = server.pid();
    let both = std::process::Command::new("sh")
        .args(["-c", &format!("kill -TERM {pid}; kill -TERM {pid}")])
        .status();
    assert!(both.unwrap().success());
    let ended = server.ended().expect_code(0);
    assert!(ended.stderr.contains("drained"), "{ended:#?}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--database-timeout", "10m"]).serving();
    let key = server.bootstrap_key();
    server.wait_for_pool();
    let lock = database.lock_keys();
    let _stuck = stuck_request(&database, &server, &key);
    server.signal("TERM");
    wait_for("the first signal to be taken", || server.stderr().contains("draining").then_some(()));
    // Two within a tenth of a second are one.
    std::thread::sleep(Duration::from_millis(150));
    let began = Instant::now();
    server.signal("TERM");
    let ended = server.ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(began.elapsed() < Duration::from_secs(10), "the drain would have taken 30 s");
    lock.release();
}

#[test]
fn the_drain_has_an_end() {
    let database = Database::new();
    let server =
        Start::on(&database).arguments(["--database-timeout", "10m", "--shutdown-timeout", "2s"]).serving();
    let key = server.bootstrap_key();
    server.wait_for_pool();
    let lock = database.lock_keys();
    let mut stuck = stuck_request(&database, &server, &key);
    let began = Instant::now();
    let ended = server.terminate();
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.last_words().contains("1 connections were cut off"), "{ended:#?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    stuck.expect_end();
    lock.release();
}

/// The deadline is one for all of the drain, whatever still waits for a database that does not answer.
#[test]
fn a_hung_database_does_not_hold_the_end_up() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server =
        Start::on(&database).arguments(["--database-timeout", "8s", "--shutdown-timeout", "10s"]).serving();
    let key = server.bootstrap_key();
    let frozen = cluster.freeze();
    let mut asked = Connection::open(server.address);
    asked.send(&http::request("GET", "/auth/keys", Some(&key), None));
    wait_for("the request to be under way", || {
        (server.metric("cloacina_http_requests_in_flight", &[]) >= 1.0).then_some(())
    });
    let began = Instant::now();
    server.signal("TERM");
    asked.receive("GET").expect(503, r#"{"error":"database unavailable"}"#);
    server.ended();
    // 10 s, and not 10 s more for the threads.
    assert!(began.elapsed() < Duration::from_secs(16), "{:?}", began.elapsed());
    drop(frozen);
}

#[test]
fn a_passed_socket_is_served_instead_of_bind() {
    let database = Database::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let bind = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = bind.local_addr().unwrap().to_string();
    // It would fail, were it looked at.
    let server = Start::on(&database).arguments(["--bind", &taken]).on_socket(&listener).serving();
    assert_eq!(server.address, address);
    server.stderr_with("--bind is ignored");
    server.get("/health", None).expect_status(200);
    server.terminate().expect_code(0);
    // The socket is there, and takes connections for whoever comes next.
    let waiting = TcpStream::connect(address).unwrap();
    let server = Start::on(&database).on_socket(&listener).serving();
    server.get("/health", None).expect_status(200);
    drop(waiting);
}

#[test]
fn what_is_passed_must_be_one_listening_socket() {
    let database = Database::new();
    for (name, prelude) in [
        ("no socket", "exec 3</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1"),
        ("nothing", "exec 3<&-; export LISTEN_PID=$$ LISTEN_FDS=1"),
    ] {
        let ended = Start::on(&database).after(prelude).failing().expect_code(2);
        assert!(ended.last_words().contains("LISTEN_FDS"), "{name}: {ended:#?}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let twice = "exec 3<&0 4<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=2";
    let ended = Start::on(&database).on_socket(&listener).after(twice).failing().expect_code(2);
    assert!(ended.last_words().contains("LISTEN_FDS passes 2 sockets"), "{ended:#?}");
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    silent.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let ended = Start::on(&database).on_socket(&silent.into()).failing().expect_code(2);
    assert!(ended.last_words().contains("a socket that does not listen"), "{ended:#?}");
    // What was meant for another process is none of our business.
    for other in ["LISTEN_PID=1 LISTEN_FDS=1", "LISTEN_FDS=1"] {
        let other = format!("exec 3</dev/null; export {other}");
        Start::on(&database).after(&other).serving().get("/health", None).expect_status(200);
    }
}

/// Connections that it ended linger in the kernel for a minute, and keep the port from a socket that does
/// not ask to share it.
#[test]
fn a_port_that_was_served_a_moment_ago_is_served_again() {
    let database = Database::new();
    let bind = format!("127.0.0.1:{}", free_port());
    for _ in 0..2 {
        let server = Start::on(&database).arguments(["--bind", &bind]).serving();
        let mut connection = http::Connection::open(server.address);
        connection.send(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        connection.receive("GET").expect_status(200);
        connection.expect_end();
        drop(connection);
        server.terminate().expect_code(0);
    }
}

/// As under systemd with a socket unit: the socket stays, the servers come and go.
#[test]
fn a_thousand_requests_across_five_restarts() {
    let database = Database::new();
    let home = Directory::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let start = || Start::on(&database).home(&home).on_socket(&listener).serving();
    let mut server = start();
    let key = server.bootstrap_key();
    let request = http::request("GET", "/auth/keys", Some(&key), None);
    let answered = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            while answered.load(Ordering::Relaxed) < 1000 && !stop.load(Ordering::Relaxed) {
                http::exchange(address, &request).expect_status(200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        for restart in 1..=5 {
            wait_for("requests to be answered between the restarts", || {
                (answered.load(Ordering::Relaxed) >= restart * 150 || client.is_finished()).then_some(())
            });
            let old = server;
            old.terminate().expect_code(0);
            server = start();
        }
        let finished = client.join();
        stop.store(true, Ordering::Relaxed);
        finished.unwrap();
    });
    assert_eq!(answered.load(Ordering::Relaxed), 1000);
}

/// A parent that blocks signals for itself, as one that waits for them in a thread of its own does, hands that on.
#[test]
fn signals_that_the_parent_had_blocked() {
    let database = Database::new();
    for signal in ["TERM", "INT"] {
        let server =
            Start::on(&database).after(r#"set -- env --block-signal=TERM --block-signal=INT "$@""#).serving();
        server.signal(signal);
        let ended = server.ended();
        ended.expect_code(0);
    }
}

/// The thread that still waits then does nothing for a client.
#[test]
fn a_database_that_hangs_with_nothing_under_way() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server =
        Start::on(&database).arguments(["--shutdown-timeout", "5s", "--database-timeout", "50s"]).serving();
    let mut other = database.client();
    other.batch_execute("BEGIN; LOCK TABLE api_keys IN EXCLUSIVE MODE").unwrap();
    server.get("/auth/whoami", Some(&server.bootstrap_key())).expect_status(200);
    wait_for("the writing of when the key was used", || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                       AND datname = current_database()";
        (database.value::<i64>(waiting) > 0).then_some(())
    });
    let _frozen = cluster.freeze();
    wait_for("the server to notice", || (server.get("/ready", None).status == 503).then_some(()));
    server.signal("TERM");
    let ended = server.ended().expect_code(0);
    assert!(ended.stderr.contains("drained"), "{ended:#?}");
}
