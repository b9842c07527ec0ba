//! Under systemd: the server says when it answers and when it drains, and feeds the watchdog for as long as it answers;
//! and the unit files are ones that systemd takes, with the sandbox that they promise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::support::cluster::Cluster;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::Start;
use crate::support::supervisor::Supervisor;
use crate::support::wait_for;

/// The watchdog's time, as text in microseconds and as itself.
const WATCHDOG_USEC: &str = "2000000";
const WATCHDOG: Duration = Duration::from_secs(2);
/// A silence that is none of a busy machine's.
const SILENCE: Duration = Duration::from_secs(6);

fn under(supervisor: &Supervisor, start: Start) -> Start {
    start.environment("NOTIFY_SOCKET", &supervisor.address)
}

fn watched(supervisor: &Supervisor, start: Start) -> Start {
    under(supervisor, start).environment("WATCHDOG_USEC", WATCHDOG_USEC)
}

#[test]
fn ready_once_it_answers_and_stopping_once_it_drains() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    cluster.stop_immediately();
    let supervisor = Supervisor::new();
    let starting = under(&supervisor, Start::on(&database)).starting();
    wait_for("the server to wait for its database", || starting.stderr().contains("waiting").then_some(()));
    assert_eq!(supervisor.messages(), [""; 0], "it does not serve yet");
    cluster.restart();
    supervisor.expect("READY=1");
    let server = starting.serving();
    assert!(server.lets_in(&server.bootstrap_key()));
    assert_eq!(supervisor.message(WATCHDOG), None, "no watchdog was asked for");
    server.terminate().expect_code(0);
    assert_eq!(supervisor.messages(), ["STOPPING=1"]);
}

#[test]
fn stopping_is_said_before_the_last_answer() {
    let database = Database::new();
    let supervisor = Supervisor::new();
    let server = under(&supervisor, Start::on(&database)).serving();
    supervisor.expect("READY=1");
    let key = server.bootstrap_key();
    let mut locker = database.client();
    let mut lock = locker.transaction().unwrap();
    lock.batch_execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut asked = Connection::open(server.address);
    asked.send(&http::request("GET", "/auth/keys", Some(&key), None));
    wait_for("the request to be under way", || {
        (server.metric("cloacina_http_requests_in_flight", &[]) >= 1.0).then_some(())
    });
    server.signal("TERM");
    supervisor.expect("STOPPING=1");
    lock.rollback().unwrap();
    asked.receive("GET").expect_status(200);
    server.ended().expect_code(0);
}

/// However it is bound, it finds itself.
#[test]
fn every_bind_is_reached() {
    let database = Database::new();
    for bind in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "[::1]:0"] {
        let supervisor = Supervisor::with_abstract_name();
        let server = watched(&supervisor, Start::on(&database).arguments(["--bind", bind])).serving();
        supervisor.expect("READY=1");
        supervisor.expect("WATCHDOG=1");
        server.terminate().expect_code(0);
        supervisor.wait_for("STOPPING=1");
    }
}

#[test]
fn every_passed_socket_is_reached() {
    let database = Database::new();
    let v6_alone = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    v6_alone.set_only_v6(true).unwrap();
    v6_alone.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
    v6_alone.listen(16).unwrap();
    let bound = |ip: IpAddr| TcpListener::bind((ip, 0)).unwrap();
    let sockets = [v6_alone.into(), bound(Ipv4Addr::UNSPECIFIED.into()), bound(Ipv6Addr::UNSPECIFIED.into())];
    for listener in sockets {
        let supervisor = Supervisor::new();
        let server = watched(&supervisor, Start::on(&database).on_socket(&listener)).serving();
        supervisor.expect("READY=1");
        supervisor.expect("WATCHDOG=1");
        server.terminate().expect_code(0);
        supervisor.wait_for("STOPPING=1");
    }
}

#[test]
fn the_watchdog_is_fed_and_nothing_counts_it() {
    let database = Database::new();
    let supervisor = Supervisor::new();
    let server = watched(&supervisor, Start::on(&database).arguments(["--verbose"])).serving();
    supervisor.expect("READY=1");
    for _ in 0..4 {
        supervisor.expect("WATCHDOG=1");
    }
    let requests = server.metric("cloacina_http_requests_total", &[]);
    assert_eq!(requests, 0.0, "what the server asks itself is no request of a client");
    for name in ["cloacina_auth_failures_total", "cloacina_http_rejected_total"] {
        assert_eq!(server.metric(name, &[]), 0.0, "{name}");
    }
    let ended = server.terminate().expect_code(0);
    assert!(!ended.stderr.contains("refused since"), "{}", ended.stderr);
    // The path is in no log, for nobody to use it.
    assert!(!ended.stderr.contains("/watchdog-"), "{}", ended.stderr);
}

#[test]
fn without_a_supervisor_or_for_another_process() {
    let database = Database::new();
    let supervisor = Supervisor::new();
    let other = watched(&supervisor, Start::on(&database).after("export WATCHDOG_PID=1")).serving();
    supervisor.expect("READY=1");
    assert_eq!(supervisor.message(WATCHDOG), None, "the watchdog is another process's");
    other.terminate().expect_code(0);
    supervisor.expect("STOPPING=1");
    let own = watched(&supervisor, Start::on(&database).after("export WATCHDOG_PID=$$")).serving();
    supervisor.expect("READY=1");
    supervisor.expect("WATCHDOG=1");
    drop(own);
    // Somebody's leavings in the environment are no reason not to serve.
    let gone = Start::on(&database).environment("NOTIFY_SOCKET", "/nonexistent/notify").serving();
    wait_for("a line about it", || gone.stderr().contains("cannot tell systemd READY=1").then_some(()));
    gone.get("/ready", None).expect_status(200);
    let wrong = Start::on(&database).environment("NOTIFY_SOCKET", "notify").serving();
    assert!(wrong.stderr().contains("cannot use NOTIFY_SOCKET `notify`"), "{}", wrong.stderr());
}

/// Every worker waits, for longer than the watchdog would, and a restart would help nobody.
#[test]
fn a_hung_database_is_no_reason_to_be_killed() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let supervisor = Supervisor::new();
    let arguments = ["--workers", "2", "--pool-size", "4", "--queue", "4", "--database-timeout", "10m"];
    let mut server = watched(&supervisor, Start::on(&database).arguments(arguments)).serving();
    let key = server.bootstrap_key();
    wait_for("the pool to be full", || (server.metric("cloacina_db_pool_size", &[]) >= 4.0).then_some(()));
    let frozen = cluster.freeze();
    let list = http::request("GET", "/auth/keys", Some(&key), None);
    // The queue is full as well.
    let mut clients: Vec<Connection> = (0..6).map(|_| Connection::open(server.address)).collect();
    for client in &mut clients {
        client.send(&list);
    }
    wait_for("the server to see it", || (server.get("/ready", None).status == 503).then_some(()));
    supervisor.messages();
    let since = Instant::now();
    while since.elapsed() < WATCHDOG * 4 {
        supervisor.expect("WATCHDOG=1");
    }
    server.expect_well("a hung database");
    drop(frozen);
    wait_for("the database to be back", || (server.get("/ready", None).status == 200).then_some(()));
    for client in &mut clients {
        let status = client.receive("GET").status;
        // Those that waited behind others are turned away.
        assert!([200, 503].contains(&status), "{status}");
    }
    assert!(server.lets_in(&key));
}

/// What the gate listens on is taken away under it: the process lives, and nobody is answered.
#[test]
fn a_server_that_nobody_reaches_starves_the_watchdog() {
    let database = Database::new();
    let supervisor = Supervisor::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = watched(&supervisor, Start::on(&database).on_socket(&listener)).serving();
    supervisor.expect("READY=1");
    supervisor.expect("WATCHDOG=1");
    SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
    wait_for("a line about it", || server.stderr().contains("does not answer itself").then_some(()));
    supervisor.messages();
    assert_eq!(supervisor.message(SILENCE), None, "there is nothing to feed it for");
    assert!(server.is_running());
}
