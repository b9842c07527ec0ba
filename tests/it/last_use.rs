//! `last_used_at`: written soon, seldom, never on a request's own path, and not lost by a stop or a broken database.

use time::{Duration, OffsetDateTime};

use crate::support::cluster::Cluster;
use crate::support::http::Connection;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

fn last_used(database: &Database, id: &str) -> Option<OffsetDateTime> {
    database.value(&format!("SELECT last_used_at FROM api_keys WHERE id = '{id}'"))
}

/// The moment of a use, once it is written.
#[track_caller]
fn written(database: &Database, id: &str) -> OffsetDateTime {
    wait_for("the last use to be written", || last_used(database, id))
}

/// Makes a key, uses it, and waits until that is written. Uses are written together and in turn, so whatever was
/// noted before is written by then as well.
#[track_caller]
fn let_a_batch_pass(server: &Server, database: &Database, admin: &str) {
    let (id, key) = server.create_key(admin, "in the next batch");
    assert!(server.knows(&key));
    written(database, &id);
}

#[test]
fn a_key_that_was_never_used_has_none() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "fresh");
    let listed = |id: &str| {
        let keys = server.get("/auth/keys", Some(&admin)).expect_status(200).json();
        keys["keys"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap()["last_used_at"].clone()
    };
    let_a_batch_pass(&server, &database, &admin);
    assert_eq!(listed(&id), serde_json::Value::Null);

    let before = OffsetDateTime::now_utc();
    assert!(server.knows(&key));
    let after = OffsetDateTime::now_utc();
    // Within a microsecond, which is what PostgreSQL keeps.
    let used = written(&database, &id);
    let slack = Duration::microseconds(1);
    assert!(before - slack <= used && used <= after + slack, "{before} {used} {after}");
    let shown = listed(&id);
    assert!(shown.as_str().is_some_and(|text| text.ends_with("+00:00")), "{shown}");
    assert_eq!(server.get("/auth/whoami", Some(&key)).json()["last_used_at"], shown);
}

/// A refusal for want of permission was a use: the key is valid, and somebody has it.
#[test]
fn what_counts_as_a_use() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let reader = server.make_key(&admin, r#"{"name":"reader","role":"read"}"#);
    server.get("/auth/keys", Some(reader.key())).expect_status(403);
    written(&database, reader.id());

    let (revoked_id, revoked) = server.create_key(&admin, "revoked");
    server.delete(&format!("/auth/keys/{revoked_id}"), &admin).expect_status(200);
    let (expired_id, expired) = server.create_key(&admin, "expired");
    database.execute(&format!(
        "UPDATE api_keys SET expires_at = now() - interval '1s' WHERE id = '{expired_id}'"
    ));
    for key in [&revoked, &expired] {
        assert!(!server.knows(key));
    }
    let_a_batch_pass(&server, &database, &admin);
    for id in [&revoked_id, &expired_id] {
        assert_eq!(last_used(&database, id), None, "a refused key was not used");
    }
}

#[test]
fn at_most_once_a_minute() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "busy");
    let mut connection = Connection::open(server.address);
    let mut use_it = || {
        for _ in 0..20 {
            assert_eq!(connection.ask("GET", "/auth/verify", Some(&key), None).status, 204);
        }
    };
    use_it();
    written(&database, &id);
    // A use that was looked up before the write and noted after it comes with the next one.
    let_a_batch_pass(&server, &database, &admin);
    // As if that had been a while ago, though less than a minute: nothing that follows may be written.
    database.execute(&format!("UPDATE api_keys SET last_used_at = now() - interval '10s' WHERE id = '{id}'"));
    let set_back = last_used(&database, &id);
    for _ in 0..3 {
        use_it();
        let_a_batch_pass(&server, &database, &admin);
        if OffsetDateTime::now_utc() - set_back.unwrap() < Duration::seconds(55) {
            assert_eq!(last_used(&database, &id), set_back);
        }
    }
    // As if more than a minute had passed, for a server that looks: any revocation makes it forget what it knows.
    database
        .execute(&format!("UPDATE api_keys SET last_used_at = now() - interval '2min' WHERE id = '{id}'"));
    let set_back = last_used(&database, &id);
    let (other, _) = server.create_key(&admin, "other");
    server.delete(&format!("/auth/keys/{other}"), &admin).expect_status(200);
    use_it();
    wait_for("the next use to be written", || (last_used(&database, &id) > set_back).then_some(()));
}

/// Also without any cache, when every request reads the row.
#[test]
fn a_server_without_a_cache_notes_uses_too() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--auth-cache-size", "0"]).serving();
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "uncached");
    for _ in 0..5 {
        assert!(server.knows(&key));
    }
    written(&database, &id);
    // A use that was looked up before the write and noted after it comes with the next one.
    let_a_batch_pass(&server, &database, &admin);
    let first = last_used(&database, &id).unwrap();
    assert!(server.knows(&key));
    let_a_batch_pass(&server, &database, &admin);
    if OffsetDateTime::now_utc() - first < Duration::seconds(55) {
        assert_eq!(last_used(&database, &id), Some(first));
    }
}

/// Somebody holds the row: its key is let in all the same, and other keys' uses are written meanwhile.
#[test]
fn a_locked_row_holds_up_nothing() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "locked");
    let lock = database.hold(&format!("SELECT FROM api_keys WHERE id = '{id}' FOR UPDATE"));
    for _ in 0..5 {
        assert!(server.knows(&key));
        let_a_batch_pass(&server, &database, &admin);
    }
    assert_eq!(last_used(&database, &id), None);
    lock.release();
    written(&database, &id);
}

/// A key is used while its row is held; then another server writes a use of it, so far from now, and the row is free. The
/// use that was written by that, and the one that stands once this server has written what it had.
fn uses_beside_another_server(from_now: &str) -> (OffsetDateTime, Option<OffsetDateTime>) {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "shared");
    let mut locker = database.client();
    let mut lock = locker.transaction().unwrap();
    lock.batch_execute(&format!("SELECT FROM api_keys WHERE id = '{id}' FOR UPDATE")).unwrap();
    assert!(server.knows(&key));
    let_a_batch_pass(&server, &database, &admin);
    let theirs = format!(
        "UPDATE api_keys SET last_used_at = now() + interval '{from_now}' WHERE id = '{id}' RETURNING last_used_at"
    );
    let theirs = lock.query_one(&theirs, &[]).unwrap().get(0);
    lock.commit().unwrap();
    // What is left from before is in the first of these.
    for _ in 0..2 {
        let_a_batch_pass(&server, &database, &admin);
    }
    (theirs, last_used(&database, &id))
}

/// What one server could not write for a while is older than what another has written meanwhile.
#[test]
fn an_older_use_never_replaces_a_newer_one() {
    let (newer, last) = uses_beside_another_server("5min");
    assert_eq!(last, Some(newer));
}

/// Several servers note the uses of one key, each once a minute; no two of them are written in one minute.
#[test]
fn at_most_once_a_minute_by_all_servers_together() {
    let (earlier, last) = uses_beside_another_server("-30s");
    assert_eq!(last, Some(earlier));
}

#[test]
fn a_clean_stop_writes_what_was_noted() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let keys: Vec<_> = (0..20).map(|number| server.create_key(&admin, &format!("key {number}"))).collect();
    let mut connection = Connection::open(server.address);
    for (_, key) in &keys {
        assert_eq!(connection.ask("GET", "/auth/verify", Some(key), None).status, 204);
    }
    drop(connection);
    server.terminate().expect_code(0);
    for (id, _) in &keys {
        assert!(last_used(&database, id).is_some(), "the use just before the stop was lost");
    }
}

#[test]
fn a_database_that_was_down_hears_of_it_later() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "patient");
    // Keeps it from being written until the database goes down, and the lock with it.
    let mut locker = database.client();
    locker.batch_execute(&format!("BEGIN; SELECT FROM api_keys WHERE id = '{id}' FOR UPDATE")).unwrap();
    assert!(server.knows(&key));
    let after = OffsetDateTime::now_utc();
    cluster.stop_immediately();
    wait_for("the server to notice", || (server.get("/ready", None).status == 503).then_some(()));
    cluster.restart();
    // Nobody has used it since.
    assert!(written(&database, &id) <= after + Duration::microseconds(1));
}
