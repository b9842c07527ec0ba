//! Several servers on one database, whose links to it fail in every way: a key that was revoked on one of them is
//! refused by all, from the moment when DELETE has answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::keys_command::keys;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wire::Wire;
use crate::support::{Seeded, wait_for};

/// Whether a key passes the guard. What it asks for needs no database, so that a cache alone decides.
#[track_caller]
pub fn passes(server: &Server, key: &str) -> bool {
    let response = server.get("/auth/keys?limit=nonsense", Some(key));
    match response.status {
        400 => true,
        401 | 503 => false,
        other => panic!("{other}: {}", response.text()),
    }
}

/// Uses the key there until it is let in from memory.
pub fn warm(server: &Server, key: &str) {
    wait_for("the key to be cached", || {
        let before = server.metric("cloacina_auth_cache_hits_total", &[]);
        assert!(passes(server, key));
        (server.metric("cloacina_auth_cache_hits_total", &[]) > before).then_some(())
    });
}

/// What DELETE promises at most while a server is silent, and as much again for a slow machine.
const LEASE_AND_SLACK: Duration = Duration::from_secs(8);

#[test]
fn five_of_them() {
    let database = Database::new();
    let servers: Vec<Server> = (0..5).map(|_| Server::start(&database)).collect();
    let admin =
        servers.iter().find(|server| server.home().join("bootstrap-key").exists()).unwrap().bootstrap_key();
    for round in 0..20 {
        let by = &servers[round % 5];
        let (id, key) = by.create_key(&admin, "shared");
        for server in &servers {
            assert!(passes(server, &key) && passes(server, &key), "round {round}");
        }
        by.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
        for server in &servers {
            assert!(!passes(server, &key), "round {round}: a server lets a revoked key in");
        }
    }
}

/// To hear of a change is no reason to make the link anew, which would take others a quarter of a second.
#[test]
fn a_revocation_leaves_the_link_as_it_is() {
    let database = Database::new();
    let servers = [Server::start(&database), Server::start(&database)];
    let admin = servers[0].bootstrap_key();
    let links = || -> String {
        database.value("SELECT string_agg(server::text || since::text, ' ' ORDER BY server) FROM auth_caches")
    };
    servers.iter().for_each(|server| warm(server, &admin));
    let before = links();
    let seen = || -> i64 { database.value("SELECT min(seen) FROM auth_caches") };
    let seen_before = seen();
    for _ in 0..5 {
        let (id, _) = servers[0].create_key(&admin, "shared");
        servers[0].delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    }
    wait_for("both servers to have caught up", || (seen() >= seen_before + 5).then_some(()));
    assert_eq!(links(), before);
}

/// A notification may be missed by a server that listens, and a number may not.
#[test]
fn a_change_that_is_numbered_and_not_announced_is_found() {
    let database = Database::new();
    let server = Server::start(&database);
    warm(&server, &server.bootstrap_key());
    let number: i64 = database.value("SELECT nextval('api_key_changes')");
    wait_for("the server to have caught up", || {
        (database.value::<i64>("SELECT seen FROM auth_caches") >= number).then_some(())
    });
}

/// Others would wait for it.
#[test]
fn a_server_that_has_stopped_has_no_row() {
    let database = Database::new();
    let servers = [Server::start(&database), Server::start(&database)];
    let rows = || -> i64 { database.value("SELECT count(*) FROM auth_caches") };
    for (server, left) in servers.into_iter().zip([1, 0]) {
        server.terminate().expect_code(0);
        assert_eq!(rows(), left);
    }
}

/// One server of which the link to the database passes a wire of ours, and another.
pub struct Pair {
    pub one: Server,
    pub wired: Server,
    pub wire: Wire,
    pub admin: String,
    pub database: Database,
}

impl Pair {
    pub fn start() -> Pair {
        let database = Database::new();
        let one = Server::start(&database);
        let wire = Wire::start(database.host_and_port());
        let wired = Start::without_database().database_url(&database.url_through(wire.port)).serving();
        let admin = one.bootstrap_key();
        Pair { one, wired, wire, admin, database }
    }

    /// A key that the wired server has in its cache.
    pub fn cached_key(&self) -> (String, String) {
        let (id, key) = self.one.create_key(&self.admin, "shared");
        warm(&self.wired, &key);
        (id, key)
    }

    fn revoke_and_check(&self, id: &str, key: &str) {
        let began = Instant::now();
        self.one.delete(&format!("/auth/keys/{id}"), &self.admin).expect_status(200);
        let took = began.elapsed();
        assert!(!passes(&self.wired, key), "a revoked key is let in");
        assert!(took < LEASE_AND_SLACK, "DELETE took {took:?}");
    }
}

/// What the session that hears of changes has sent.
pub const LISTENS: &str = "LISTEN \"cloacina_";

#[test]
fn a_link_that_is_cut() {
    let pair = Pair::start();
    for round in 0..10 {
        let (id, key) = pair.cached_key();
        pair.wire.cut();
        if round % 2 == 0 {
            // Both before and after it has noticed.
            let _ = passes(&pair.wired, &key);
        }
        pair.revoke_and_check(&id, &key);
    }
    warm(&pair.wired, &pair.admin);
}

#[test]
fn a_link_that_is_ended_by_the_database() {
    let pair = Pair::start();
    for _ in 0..5 {
        let (id, key) = pair.cached_key();
        let ended: i64 = pair.database.value(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%auth_caches%'",
        );
        assert!(ended >= 1, "no session that listens");
        pair.revoke_and_check(&id, &key);
    }
    warm(&pair.wired, &pair.admin);
}

/// The link hears nothing any more, and does not know. All other sessions go on.
#[test]
fn a_link_that_goes_dead() {
    let pair = Pair::start();
    for _ in 0..2 {
        let (id, key) = pair.cached_key();
        assert!(pair.wire.go_dead(LISTENS) >= 1);
        pair.revoke_and_check(&id, &key);
        // It is made anew, and trusted again.
        warm(&pair.wired, &pair.admin);
    }
}

#[test]
fn a_server_that_is_frozen() {
    let pair = Pair::start();
    for _ in 0..2 {
        let (id, key) = pair.cached_key();
        pair.wired.signal("STOP");
        let began = Instant::now();
        pair.one.delete(&format!("/auth/keys/{id}"), &pair.admin).expect_status(200);
        assert!(began.elapsed() < LEASE_AND_SLACK, "DELETE took {:?}", began.elapsed());
        // A request that waits for it when it wakes up started after DELETE had answered.
        let mut early = Connection::open(pair.wired.address);
        early.send(&http::request("GET", "/auth/keys?limit=nonsense", Some(&key), None));
        pair.wired.signal("CONT");
        assert_eq!(early.receive("GET").status, 401);
        assert!(!passes(&pair.wired, &key));
    }
}

/// Whoever is gone for good holds a revocation up once at most.
#[test]
fn a_server_that_was_killed() {
    let pair = Pair::start();
    let (id, _) = pair.cached_key();
    let (second, _) = pair.cached_key();
    pair.wired.signal("KILL");
    let _ = pair.wired.ended();
    for id in [id, second] {
        let began = Instant::now();
        pair.one.delete(&format!("/auth/keys/{id}"), &pair.admin).expect_status(200);
        assert!(began.elapsed() < LEASE_AND_SLACK, "DELETE took {:?}", began.elapsed());
    }
    wait_for("only the living server to have a row", || {
        (pair.database.value::<i64>("SELECT count(*) FROM auth_caches") == 1).then_some(())
    });
}

/// Nor does it hold up a second command.
#[test]
fn a_server_that_was_killed_is_forgotten_by_a_command_too() {
    let pair = Pair::start();
    let (id, _) = pair.cached_key();
    pair.wired.signal("KILL");
    let _ = pair.wired.ended();
    assert_eq!(keys(&pair.database, &["revoke", &id]).code, Some(0));
    let left: i64 = pair.database.value("SELECT count(*) FROM auth_caches");
    assert_eq!(left, 1, "only the living server has a row");
}

/// Threads that use and revoke the same keys at random, on two servers: what was accepted had started before its
/// DELETE answered.
#[test]
fn use_and_revocation_at_random() {
    let database = Database::new();
    let servers = [Server::start(&database), Server::start(&database)];
    let admin =
        servers.iter().find(|server| server.home().join("bootstrap-key").exists()).unwrap().bootstrap_key();
    let addresses = servers.each_ref().map(|server| server.address);
    let uses = AtomicUsize::new(0);
    for round in 0..4 {
        let keys: Vec<_> = (0..12).map(|number| servers[number % 2].create_key(&admin, "random")).collect();
        let revoked: Vec<AtomicBool> = keys.iter().map(|_| AtomicBool::new(false)).collect();
        let left = AtomicUsize::new(keys.len());
        std::thread::scope(|scope| {
            for thread in 0..16_u64 {
                let (keys, revoked, left, uses, admin) = (&keys, &revoked, &left, &uses, &admin);
                scope.spawn(move || {
                    let mut seeded = Seeded::new(0xFA57_0000 + round * 100 + thread);
                    let mut connections = addresses.map(Connection::open);
                    while left.load(Ordering::Acquire) > 0 {
                        let chosen = usize::try_from(seeded.next() % keys.len() as u64).unwrap();
                        let connection = &mut connections[usize::from(seeded.next().is_multiple_of(2))];
                        let (id, key) = &keys[chosen];
                        if seeded.next().is_multiple_of(50) {
                            let path = format!("/auth/keys/{id}");
                            let response = connection.ask("DELETE", &path, Some(admin), None);
                            assert!([200, 404].contains(&response.status), "{}", response.text());
                            if !revoked[chosen].swap(true, Ordering::AcqRel) {
                                left.fetch_sub(1, Ordering::AcqRel);
                            }
                        } else {
                            let was_revoked = revoked[chosen].load(Ordering::Acquire);
                            let path = "/auth/keys?limit=nonsense";
                            let response = connection.ask("GET", path, Some(key), None);
                            assert!([400, 401].contains(&response.status), "{}", response.text());
                            assert!(!(was_revoked && response.status == 400), "a revoked key was let in");
                            uses.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
    }
    assert!(uses.load(Ordering::Relaxed) > 500, "{uses:?}");
}
