//! A change whose answer waits for another server, which may be gone, holds its connection and nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::keys::insert_key;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

const ALIVE: &str = r#"{"status":"ok"}"#;

/// A server that was killed long ago, so that every change waits for the end of a lease.
pub fn add_dead_server(database: &Database) {
    database.execute("INSERT INTO auth_caches (server, seen) VALUES (gen_random_uuid(), 0)");
}

/// Keys that no earlier call has made.
fn keys_to_revoke(database: &Database, count: usize) -> Vec<String> {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let key = || format!("to-revoke-{:0>9}", MADE.fetch_add(1, Ordering::Relaxed));
    (0..count).map(|_| insert_key(database, &key(), "old", "read")).collect()
}

/// A DELETE that is under way, and all that goes with it on its connection.
fn delete(server: &Server, admin: &str, id: &str) -> Connection {
    let mut connection = Connection::open(server.address);
    connection.send(&http::request("DELETE", &format!("/auth/keys/{id}"), Some(admin), None));
    connection
}

fn in_flight(server: &Server) -> f64 {
    server.metric("cloacina_http_requests_in_flight", &[])
}

/// Waits until so many requests are under way, and none of them waits for a worker.
fn wait_until_begun(server: &Server, count: usize) {
    wait_for("the changes to wait for the dead server", || {
        let begun =
            in_flight(server) as usize >= count && server.metric("cloacina_http_queue_depth", &[]) == 0.0;
        begun.then_some(())
    });
}

#[track_caller]
fn expect_all_is_served(server: &Server, admin: &str) {
    server.get("/auth/verify", Some(admin)).expect_status(204);
    server.get("/auth/keys?limit=2", Some(admin)).expect_status(200);
    server.create_key(admin, "meanwhile");
}

#[test]
fn eight_and_three_hundred_changes_hold_no_worker() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--workers", "1"]).serving();
    let admin = server.bootstrap_key();
    for count in [8, 300] {
        // A lease ends at its time, however slow the machine is; then the whole is tried again.
        wait_for("others to be served while changes wait", || {
            let ids = keys_to_revoke(&database, count);
            add_dead_server(&database);
            let mut changes = Vec::new();
            // Far fewer at a time than one worker carries out before the last has waited for too long.
            for few in ids.chunks(4) {
                changes.extend(few.iter().map(|id| delete(&server, &admin, id)));
                wait_for("the queue to be empty", || {
                    (server.metric("cloacina_http_queue_depth", &[]) == 0.0).then_some(())
                });
            }
            expect_all_is_served(&server, &admin);
            let waited = in_flight(&server) >= 1.0;
            for (change, id) in changes.iter_mut().zip(&ids) {
                change.receive("DELETE").expect(200, &format!(r#"{{"status":"revoked","id":"{id}"}}"#));
            }
            wait_for("the dead server to be forgotten", || {
                (database.value::<i64>("SELECT count(*) FROM auth_caches") == 1).then_some(())
            });
            waited.then_some(())
        });
    }
}

/// A lease is longer than what the database may take here, and no reason to give a change up.
#[test]
fn a_change_has_the_time_of_a_lease_beside_the_databases() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--database-timeout", "2s"]).serving();
    let admin = server.bootstrap_key();
    let ids = keys_to_revoke(&database, 1);
    add_dead_server(&database);
    server.delete(&format!("/auth/keys/{}", ids[0]), &admin).expect_status(200);
}

#[test]
fn a_drain_waits_for_it() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let ids = keys_to_revoke(&database, 3);
    add_dead_server(&database);
    let mut changes: Vec<_> = ids.iter().map(|id| delete(&server, &admin, id)).collect();
    wait_until_begun(&server, 3);
    server.signal("TERM");
    for change in &mut changes {
        assert!(change.receive("DELETE").expect_status(200).closes());
    }
    let ended = server.ended().expect_code(0);
    assert!(ended.stderr.contains("drained"), "{ended:#?}");
}

/// That the dead server is forgotten is for the next change's sake: no answer waits for it.
#[test]
fn an_answer_does_not_wait_until_the_dead_server_is_forgotten() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--access-log"]).serving();
    let admin = server.bootstrap_key();
    let ids = keys_to_revoke(&database, 1);
    add_dead_server(&database);
    let lock = database.hold("SELECT FROM auth_caches WHERE seen = 0 FOR UPDATE");
    server.delete(&format!("/auth/keys/{}", ids[0]), &admin).expect_status(200);
    let log = wait_for("the server to give up forgetting the other", || {
        Some(server.log()).filter(|log| log.contains("could not ask whether other servers know"))
    });
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text}: {log}"));
    assert!(at("DELETE") < at("could not ask"), "{log}");
    lock.release();
}

#[test]
fn requests_behind_it_keep_their_order() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let ids = keys_to_revoke(&database, 2);
    add_dead_server(&database);
    let mut connection = delete(&server, &admin, &ids[0]);
    connection.send(&http::request("GET", "/health", None, None));
    wait_until_begun(&server, 1);
    connection.send(&http::request("GET", "/auth/verify", Some(&admin), None));
    connection.send(&http::request("DELETE", &format!("/auth/keys/{}", ids[1]), Some(&admin), None));
    connection.receive("DELETE").expect(200, &format!(r#"{{"status":"revoked","id":"{}"}}"#, ids[0]));
    connection.receive("GET").expect(200, ALIVE);
    connection.receive("GET").expect_status(204);
    connection.receive("DELETE").expect(200, &format!(r#"{{"status":"revoked","id":"{}"}}"#, ids[1]));
}

/// One that is gone altogether, and one that has only said that nothing more will come: it may be gone or not.
#[test]
fn a_client_that_went_away_frees_its_place() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--max-connections", "8"]).serving();
    let admin = server.bootstrap_key();
    // A lease ends at its time, however slow the machine is; then the whole is tried again.
    wait_for("changes to go on whose clients are gone", || {
        let ids = keys_to_revoke(&database, 6);
        add_dead_server(&database);
        let reset = ids.iter().map(|id| {
            let mut connection = Connection::open(server.address);
            // An answer that is not read makes the end of this connection a reset.
            connection.send(&http::request("GET", "/health", None, None));
            connection.send(&http::request("DELETE", &format!("/auth/keys/{id}"), Some(&admin), None));
            connection
        });
        let reset: Vec<_> = reset.collect();
        wait_until_begun(&server, reset.len());
        drop(reset);
        wait_for("their places to be free", || {
            (server.metric("cloacina_http_connections_open", &[]) <= 1.0).then_some(())
        });
        let go_on = in_flight(&server) >= 1.0;
        wait_until_revoked(&database, &ids);
        go_on.then_some(())
    });
    wait_for("a place for others while changes of the half-closed wait", || {
        let ids = keys_to_revoke(&database, 8);
        add_dead_server(&database);
        let mut half_closed: Vec<_> = ids.iter().map(|id| delete(&server, &admin, id)).collect();
        half_closed.iter_mut().for_each(Connection::finish_sending);
        wait_for("a place for others", || {
            let mut other = Connection::open(server.address);
            other.send_what_goes(&http::request("GET", "/auth/verify", Some(&admin), None));
            other.receive_or_end("GET").map(|response| response.expect_status(204))
        });
        let still_wait = in_flight(&server) >= 1.0;
        wait_until_revoked(&database, &ids);
        still_wait.then_some(())
    });
}

fn wait_until_revoked(database: &Database, ids: &[String]) {
    let ids = ids.join("','");
    wait_for("every change to be made", || {
        let query = format!("SELECT bool_and(revoked_at IS NOT NULL) FROM api_keys WHERE id IN ('{ids}')");
        database.value::<bool>(&query).then_some(())
    });
}
