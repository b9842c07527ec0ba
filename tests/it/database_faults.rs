//! A database that is gone, comes back, hangs, or never says a word: no request waits for long, nobody is let in on
//! memory alone, and all is well again without anybody's help.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;
use crate::support::wire::Wire;

const UNAVAILABLE: &str = r#"{"error":"database unavailable"}"#;
const UNREACHABLE: &str = r#"{"status":"not ready","reason":"database unreachable"}"#;
/// Added to each time that is promised: the machine may have other things to do.
const SLACK: Duration = Duration::from_secs(5);

/// Waits for `/ready` to say so, which is promised within two seconds.
fn wait_until_unready(server: &Server, since: Instant) {
    wait_for("/ready to say that the database is unreachable", || {
        let response = server.get("/ready", None);
        (response.status != 200).then(|| response.expect(503, UNREACHABLE))
    });
    assert!(since.elapsed() < Duration::from_secs(2) + SLACK, "/ready took {:?}", since.elapsed());
}

fn wait_until_well(server: &Server, key: &str) {
    wait_for("the server to find its database again", || {
        (server.get("/auth/keys", Some(key)).status == 200).then_some(())
    });
    wait_for("/ready to say so", || (server.get("/ready", None).status == 200).then_some(()));
}

#[test]
fn stopped() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let mut server = Server::start(&database);
    let key = server.bootstrap_key();
    // It is in the cache, and that must not let it in.
    assert!(server.lets_in(&key));
    let refused_before_the_database = "/auth/keys?limit=nonsense";
    server.get(refused_before_the_database, Some(&key)).expect_status(400);
    cluster.stop_immediately();
    let since = Instant::now();
    wait_until_unready(&server, since);
    for path in ["/auth/keys", refused_before_the_database] {
        let asked = Instant::now();
        server.get(path, Some(&key)).expect(503, UNAVAILABLE);
        assert!(asked.elapsed() < Duration::from_secs(5) + SLACK, "{path} took {:?}", asked.elapsed());
    }
    server.expect_well("the end of its database");
    server.get("/metrics", None).expect_status(200);
    cluster.restart();
    wait_until_well(&server, &key);
    wait_for("the link to be back", || {
        server.log().contains("the link to the database is back").then_some(())
    });
    // However often it was tried meanwhile.
    let most = 1 + usize::try_from(since.elapsed().as_secs() / 30).unwrap();
    assert!(server.log().matches("cannot use the database").count() <= most, "{}", server.log());
    assert_eq!(server.log().matches("no link to the database").count(), 1, "{}", server.log());
}

#[test]
fn restarted_under_load() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    let address = server.address;
    let stop = AtomicBool::new(false);
    let last_failed_read = Mutex::new(None);
    let made: Mutex<HashMap<String, u16>> = Mutex::default();
    let accepts = std::thread::scope(|scope| {
        for reader in 0..8 {
            let (key, stop, last_failed_read) = (&key, &stop, &last_failed_read);
            scope.spawn(move || {
                let mut connection = Connection::open(address);
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    let response = connection.ask("GET", "/auth/keys?limit=2", Some(key), None);
                    if response.status != 200 {
                        assert_eq!(response.status, 503, "reader {reader}: {}", response.text());
                        let mut last = last_failed_read.lock().unwrap();
                        *last = Some(last.map_or(asked, |before: Instant| before.max(asked)));
                    }
                    if response.closes() {
                        connection = Connection::open(address);
                    }
                }
            });
        }
        for writer in 0..4 {
            let (key, stop, made) = (&key, &stop, &made);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("{writer}-{number}");
                    let body = serde_json::json!({ "name": name }).to_string();
                    let request = http::request("POST", "/auth/keys", Some(key), Some(&body));
                    let status = http::exchange(address, &request).status;
                    assert!([201, 503].contains(&status), "{name}: {status}");
                    made.lock().unwrap().insert(name, status);
                }
            });
        }
        wait_for("some writes", || (made.lock().unwrap().len() > 20).then_some(()));
        cluster.stop_immediately();
        wait_for("a read that fails", || *last_failed_read.lock().unwrap());
        cluster.restart();
        let accepts = Instant::now();
        let before = made.lock().unwrap().len();
        wait_until_well(&server, &key);
        wait_for("more writes", || (made.lock().unwrap().len() > before + 20).then_some(()));
        // Were reads still failing now and then, some would in this time.
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        accepts
    });
    let last = last_failed_read.lock().unwrap().unwrap();
    let late = last.saturating_duration_since(accepts);
    assert!(late < Duration::from_secs(1) + SLACK, "a read failed {late:?} after the database was back");
    // Whatever was said to be made is there once, and what was not said is there once at most.
    let mut rows: HashMap<String, i64> = HashMap::new();
    for row in database.client().query("SELECT name::text FROM api_keys", &[]).unwrap() {
        *rows.entry(row.get(0)).or_default() += 1;
    }
    for (name, status) in made.lock().unwrap().iter() {
        let count = rows.get(name).copied().unwrap_or(0);
        assert!(count == 1 || (count == 0 && *status == 503), "{name}: answered {status}, rows {count}");
    }
}

/// Every process of the database stopped where it is: connections stay, answers do not come.
#[test]
fn hung() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let mut server = Server::start(&database);
    let key = server.bootstrap_key();
    assert!(server.lets_in(&key));
    let frozen = cluster.freeze();
    let since = Instant::now();
    let list = http::request("GET", "/auth/keys", Some(&key), None);
    let mut clients: Vec<Connection> = (0..200).map(|_| Connection::open(server.address)).collect();
    clients.iter_mut().for_each(|client| client.send(&list));
    wait_until_unready(&server, since);
    for client in &mut clients {
        let response = client.receive("GET");
        assert_eq!(response.status, 503, "{}", response.text());
        // What needs no database is answered all the while.
        server.expect_well("the database hangs");
    }
    assert!(since.elapsed() < Duration::from_secs(5) + SLACK + SLACK, "{:?}", since.elapsed());
    server.get("/metrics", None).expect_status(200);
    drop(frozen);
    wait_until_well(&server, &key);
    assert!(server.lets_in(&key));
}

/// A URL that leads over the cluster's Unix socket.
fn over_socket(cluster: &Cluster, database: &Database) -> String {
    let (directory, port) = (cluster.socket_directory().display(), cluster.port());
    format!("postgresql:///{}?host={directory}&port={port}&user=postgres", database.name())
}

/// The same over a Unix socket, on which the driver has no limit.
#[test]
fn hung_over_a_unix_socket() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let mut server = Start::without_database()
        .database_url(&over_socket(&cluster, &database))
        .arguments(["--shutdown-timeout", "2s"])
        .serving();
    let key = server.bootstrap_key();
    for _ in 0..2 {
        assert!(server.lets_in(&key));
        let frozen = cluster.freeze();
        let since = Instant::now();
        let mut clients: Vec<Connection> = (0..20).map(|_| Connection::open(server.address)).collect();
        clients
            .iter_mut()
            .for_each(|client| client.send(&http::request("GET", "/auth/keys", Some(&key), None)));
        wait_until_unready(&server, since);
        for client in &mut clients {
            assert_eq!(client.receive("GET").status, 503);
            server.expect_well("the database hangs");
        }
        drop(frozen);
        wait_until_well(&server, &key);
    }
    let _frozen = cluster.freeze();
    wait_until_unready(&server, Instant::now());
    let began = Instant::now();
    server.terminate();
    assert!(began.elapsed() < Duration::from_secs(2) + SLACK, "{:?}", began.elapsed());
}

/// What a worker waits for has an end also where PostgreSQL says nothing.
#[test]
fn a_worker_is_free_again_while_the_database_hangs() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Start::on(&database).arguments(["--database-timeout", "2s"]).serving();
    let key = server.bootstrap_key();
    server.wait_for_pool();
    let _frozen = cluster.freeze();
    let mut asked = Connection::open(server.address);
    asked.send(&http::request("GET", "/auth/keys", Some(&key), None));
    assert_eq!(asked.receive("GET").status, 503);
    // No thread waits for long, so a stop is a clean one though the database hangs still.
    server.terminate().expect_code(0);
}

/// Whoever asks once it is known that the database hangs need not wait for as long as a slow one may take, though every
/// worker does.
#[test]
fn known_to_hang() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Start::on(&database).arguments(["--workers", "1", "--database-timeout", "10m"]).serving();
    let key = server.bootstrap_key();
    assert!(server.lets_in(&key));
    let frozen = cluster.freeze();
    let list = http::request("GET", "/auth/keys", Some(&key), None);
    let mut held = Connection::open(server.address);
    held.send(&list);
    wait_until_unready(&server, Instant::now());
    for _ in 0..2 {
        server.get("/auth/keys", Some(&key)).expect(503, UNAVAILABLE);
    }
    held.receive("GET").expect(503, UNAVAILABLE);
    drop(frozen);
    wait_until_well(&server, &key);
}

/// What a change of the database's password or a failover does: each session is ended, with or without a word.
#[test]
fn sessions_that_end() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let wire = Wire::start(database.host_and_port());
    let server = Start::without_database().database_url(&database.url_through(wire.port)).serving();
    let key = server.bootstrap_key();
    let mut connection = Connection::open(server.address);
    for round in 0..10 {
        if round % 2 == 0 {
            wire.cut();
        } else {
            database.value::<i64>(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            );
        }
        // The database is there all the while, so not one read may fail.
        for _ in 0..3 {
            let response = connection.ask("GET", "/auth/keys?limit=1", Some(&key), None);
            assert_eq!(response.status, 200, "round {round}: {}", response.text());
        }
    }
}

/// Sessions over which nothing comes any more, though nobody has said that they ended.
#[test]
fn sessions_that_go_dead() {
    let database = Database::new();
    let wire = Wire::start(database.host_and_port());
    let mut server = Start::without_database().database_url(&database.url_through(wire.port)).serving();
    let key = server.bootstrap_key();
    assert!(server.lets_in(&key));
    wait_for("the pool to be full", || (server.metric("cloacina_db_pool_idle", &[]) >= 7.0).then_some(()));
    assert!(wire.go_dead("") >= 8, "the pool and the link should have sessions");
    let asked = Instant::now();
    let first = server.get("/auth/keys", Some(&key));
    assert!([200, 503].contains(&first.status), "{}", first.text());
    assert!(asked.elapsed() < Duration::from_secs(5) + SLACK, "{:?}", asked.elapsed());
    server.expect_well("sessions that went dead");
    // New sessions get through, and are made.
    wait_until_well(&server, &key);
    wait_for("keys to be cached again", || {
        let before = server.metric("cloacina_auth_cache_hits_total", &[]);
        assert!(server.lets_in(&key));
        (server.metric("cloacina_auth_cache_hits_total", &[]) > before).then_some(())
    });
}

/// Whatever listens there takes the connection and says nothing: a start must not wait for ever.
#[test]
fn a_start_on_a_database_that_says_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let ended = Start::without_database()
        .database_url(&format!("postgresql://cloacina@127.0.0.1:{port}/cloacina"))
        .arguments(["--database-wait", "1s"])
        .failing()
        .expect_code(1);
    assert!(ended.last_words().contains("does not answer"), "{ended:#?}");
}

/// PostgreSQL that is up only after the server: as after a power cut of the whole host.
#[test]
fn a_start_before_the_database() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    cluster.stop_immediately();
    let starting = Start::on(&database).starting();
    // Long enough for it to have been refused.
    wait_for("the server to say that it waits", || starting.stderr().contains("waiting").then_some(()));
    cluster.restart();
    let server = starting.serving();
    assert!(server.lets_in(&server.bootstrap_key()));
}
