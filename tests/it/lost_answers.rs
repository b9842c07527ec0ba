//! New keys whose answers reach no client: they are revoked, and a key that was to be replaced works on.

use crate::support::http::{self, Connection};
use crate::support::made::Made;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;
use crate::waiting::add_dead_server;

/// Sends this rotation and waits until it is committed; its answer waits for a server that is dead.
fn rotation_under_way(database: &Database, server: &Server, old: &Made, body: &str) -> Connection {
    let mut client = Connection::open(server.address);
    // An answer that is not read makes the end of this connection a reset.
    client.send(&http::request("GET", "/health", None, None));
    client.send(&http::request("POST", "/auth/keys/self/rotate", Some(old.key()), Some(body)));
    wait_for("the rotation to be committed", || (successors(database, "true") == 1).then_some(()));
    client
}

/// How many keys that took another's place are in this state.
fn successors(database: &Database, state: &str) -> i64 {
    database.value(&format!("SELECT count(*) FROM api_keys WHERE rotated_from IS NOT NULL AND {state}"))
}

/// All that a rotation changes of the old key.
fn state(database: &Database, id: &str) -> String {
    database.value(&format!(
        "SELECT concat_ws('|', coalesce(revoked_at::text, '-'), coalesce(rotated_at::text, '-'),
                coalesce(lifetime::text, '-'), coalesce(expires_at::text, '-')) FROM api_keys WHERE id = '{id}'"
    ))
}

#[test]
fn a_rotation_whose_client_is_gone_is_undone() {
    let database = Database::new();
    let server = Server::start(&database);
    let other = Server::start(&database);
    let admin = server.bootstrap_key();
    for (made, body) in [
        (r#"{"name":"n","role":"read"}"#, "{}"),
        (r#"{"name":"n","role":"read","expires_in":"90d"}"#, "{}"),
        (r#"{"name":"n","role":"read","expires_in":"90d"}"#, r#"{"grace":"1h"}"#),
    ] {
        let old = server.make_key(&admin, made);
        let before = state(&database, old.id());
        add_dead_server(&database);
        drop(rotation_under_way(&database, &server, &old, body));
        wait_for("the old key to be what it was", || (state(&database, old.id()) == before).then_some(()));
        assert_eq!(
            successors(&database, "revoked_at IS NULL"),
            0,
            "the new key is valid, and no client has it"
        );
        for server in [&server, &other] {
            wait_for("the old key to work", || server.knows(old.key()).then_some(()));
        }
        // It has no successor, so it can be rotated.
        server.post("/auth/keys/self/rotate", old.key(), "{}").expect_status(201);
        database.execute("DELETE FROM api_keys WHERE rotated_from IS NOT NULL");
    }
}

/// Whether or not the key was dead already: a DELETE that has answered is never taken back.
#[test]
fn a_key_that_was_revoked_meanwhile_stays_revoked() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for (body, status) in [("{}", 404), (r#"{"grace":"1h"}"#, 200)] {
        let old = server.make_key(&admin, r#"{"name":"n","role":"read"}"#);
        add_dead_server(&database);
        drop(rotation_under_way(&database, &server, &old, body));
        server.delete(&format!("/auth/keys/{}", old.id()), &admin).expect_status(status);
        wait_for("the new key to be revoked", || {
            (successors(&database, "revoked_at IS NULL") == 0).then_some(())
        });
        assert!(!server.knows(old.key()));
        database.execute("DELETE FROM api_keys WHERE rotated_from IS NOT NULL");
    }
}

/// The answer waits for longer than the server has to end in, for a client that is gone and for one that is there.
#[test]
fn a_server_that_ends_leaves_no_key_that_no_client_has() {
    for is_there in [false, true] {
        let database = Database::new();
        let server = Start::on(&database).arguments(["--shutdown-timeout", "1s"]).serving();
        let old = server.make_key(&server.bootstrap_key(), r#"{"name":"n","role":"read"}"#);
        let before = state(&database, old.id());
        add_dead_server(&database);
        let client = rotation_under_way(&database, &server, &old, "{}");
        let client = is_there.then_some(client);
        server.signal("TERM");
        let ended = server.ended();
        drop(client);
        assert_eq!(
            successors(&database, "revoked_at IS NULL"),
            0,
            "a client is there: {is_there}; {ended:#?}"
        );
        assert_eq!(state(&database, old.id()), before);
    }
}
