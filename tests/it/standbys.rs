//! A primary and a standby that follows it with a delay, behind one forwarder: what the standby does not know yet must let
//! no client in, and nothing is written where nothing can be.

use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::directory::Directory;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::program::cloacinactl;
use crate::support::server::{Server, Start};
use crate::support::wait_for;
use crate::support::wire::Wire;

const READ_ONLY: &str = r#"{"status":"not ready","reason":"database is read-only"}"#;

fn place(cluster: &Cluster) -> String {
    format!("127.0.0.1:{}", cluster.port())
}

/// Waits until the standby has all that the primary has written; it need not have applied it.
fn wait_for_copy(database: &Database) {
    wait_for("the standby to have everything", || {
        database
            .value::<bool>("SELECT COALESCE(bool_and(flush_lsn >= pg_current_wal_lsn()), false) FROM pg_stat_replication")
            .then_some(())
    });
}

fn wait_until_well(server: &Server, key: &str) {
    wait_for("the server to serve again", || {
        (server.get("/auth/verify", Some(key)).status == 204 && server.get("/ready", None).status == 200)
            .then_some(())
    });
}

fn wait_until_read_only(server: &Server) {
    wait_for("/ready to say that the database is read-only", || {
        let response = server.get("/ready", None);
        // While the sessions go, it may be unreachable for a moment.
        (response.status == 503 && response.text() == READ_ONLY).then_some(())
    });
}

#[test]
fn a_start_on_a_standby() {
    let primary = Cluster::start();
    let database = Database::in_cluster(&primary);
    drop(Server::start(&database));
    let standby = primary.standby("0");
    let url = standby.url(database.name());
    let ended = Start::without_database()
        .database_url(&url)
        .arguments(["--database-wait", "1s"])
        .failing()
        .expect_code(1);
    assert!(ended.last_words().contains("takes no writes: it is a standby"), "{ended:#?}");
    let checked =
        Start::without_database().database_url(&url).arguments(["--check"]).failing().expect_code(1);
    assert!(checked.stderr.contains("takes no writes: it is a standby"), "{checked:#?}");
    let home = Directory::new();
    let home = home.path().to_str().unwrap();
    let list = ["--home", home, "keys", "list", "--database-url", &url, "--database-wait", "1s"];
    let listed = cloacinactl(list).output().unwrap();
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");

    // It may be about to be promoted, as a database may be about to come up.
    let starting = Start::without_database().database_url(&url).starting();
    wait_for("the server to say that it waits", || starting.stderr().contains("waiting up to").then_some(()));
    standby.promote();
    let server = starting.serving();
    server.get("/ready", None).expect_status(200);
}

/// The forwarder's new connections lead to the standby, and its old ones end. The standby still has every key.
#[test]
fn switched_over_and_back() {
    let primary = Cluster::start();
    let database = Database::in_cluster(&primary);
    let wire = Wire::start(place(&primary));
    let server = Start::without_database().database_url(&database.url_through(wire.port)).serving();
    let admin = server.bootstrap_key();
    let keys: Vec<_> = (0..3).map(|round| server.create_key(&admin, &format!("round {round}"))).collect();
    let standby = primary.standby("10min");
    let mut revoked = Vec::new();
    for (round, (id, key)) in keys.iter().enumerate() {
        server.get("/auth/verify", Some(key)).expect_status(204);
        server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
        revoked.push(key);
        wire.switch(place(&standby));
        wire.cut();
        // As long as it takes for all sessions to be made anew, and again once they would be.
        let mut asked = 0;
        let mut is_read_only = false;
        wait_for("/ready to say that the database is read-only", || {
            for key in &revoked {
                let status = server.get("/auth/verify", Some(key)).status;
                assert_ne!(status, 204, "round {round}: a revoked key was let in after {asked} requests");
                asked += 1;
            }
            let response = server.get("/ready", None);
            is_read_only |= response.status == 503 && response.text() == READ_ONLY;
            (is_read_only && asked > 20).then_some(())
        });
        server.get("/auth/verify", Some(&admin)).expect_status(503);
        server.post("/auth/keys", &admin, r#"{"name":"x"}"#).expect_status(503);
        wire.switch(place(&primary));
        wait_until_well(&server, &admin);
        assert_ne!(server.get("/auth/verify", Some(key)).status, 204);
    }
    // And at last the standby takes over for good.
    wait_for_copy(&database);
    primary.stop_immediately();
    wire.switch(place(&standby));
    wire.cut();
    standby.promote();
    wait_until_well(&server, &admin);
    for key in revoked {
        server.get("/auth/verify", Some(key)).expect_status(401);
    }
    let (id, key) = server.create_key(&admin, "after");
    server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    server.get("/auth/verify", Some(&key)).expect_status(401);
}

/// The old primary is cut off from all but one server, whose sessions stay: another server revokes on the new one.
#[test]
fn a_failover_that_leaves_old_sessions() {
    let primary = Cluster::start();
    let database = Database::in_cluster(&primary);
    let wire = Wire::start(place(&primary));
    let url = database.url_through(wire.port);
    let left_behind = Start::without_database().database_url(&url).serving();
    let admin = left_behind.bootstrap_key();
    let (id, key) = left_behind.create_key(&admin, "shared");
    let standby = primary.standby("0");
    wait_for("the key to be served from memory", || {
        left_behind.get("/auth/verify", Some(&key)).expect_status(204);
        (left_behind.metric("cloacina_auth_cache_hits_total", &[]) > 1.0).then_some(())
    });
    wait_for_copy(&database);
    wire.switch(place(&standby));
    standby.promote();
    let other = Start::without_database().database_url(&url).serving();
    other.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    for _ in 0..50 {
        assert_ne!(left_behind.get("/auth/verify", Some(&key)).status, 204, "a revoked key is let in");
    }
    wait_until_well(&left_behind, &admin);
    left_behind.get("/auth/verify", Some(&key)).expect_status(401);
}

/// The same while every session of the pool is in use, and with another server that serves from the new primary by then.
#[test]
fn a_failover_while_the_pool_is_busy() {
    let primary = Cluster::start();
    let database = Database::in_cluster(&primary);
    let wire = Wire::start(place(&primary));
    let left_behind = Start::without_database()
        .database_url(&database.url_through(wire.port))
        .arguments(["--pool-size", "1", "--database-timeout", "5m"])
        .serving();
    let admin = left_behind.bootstrap_key();
    let (id, key) = left_behind.create_key(&admin, "shared");
    let standby = primary.standby("0");
    wait_for_copy(&database);
    standby.promote();
    let other = Start::without_database().database_url(&standby.url(database.name())).serving();
    wait_for("the keys to be served from memory", || {
        left_behind.get("/auth/verify", Some(&key)).expect_status(204);
        left_behind.get("/auth/verify", Some(&admin)).expect_status(204);
        (left_behind.metric("cloacina_auth_cache_hits_total", &[]) > 4.0).then_some(())
    });
    let lock = database.lock_keys();
    let mut held = Connection::open(left_behind.address);
    held.send(&http::request("GET", "/auth/keys", Some(&admin), None));
    wait_for("the pool to be busy", || (left_behind.get("/ready", None).status == 503).then_some(()));
    left_behind.get("/auth/verify", Some(&key)).expect_status(204);
    wire.switch(place(&standby));
    other.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    assert_ne!(left_behind.get("/auth/verify", Some(&key)).status, 204, "a revoked key is let in");
    lock.release();
    wait_until_well(&left_behind, &admin);
    left_behind.get("/auth/verify", Some(&key)).expect_status(401);
}

/// What an administrator does before a switchover: the sessions stay, and are read-only from one moment on.
#[test]
fn made_read_only() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    server.wait_for_pool();
    database.execute("ALTER SYSTEM SET default_transaction_read_only = on");
    database.value::<bool>("SELECT pg_reload_conf()");
    wait_until_read_only(&server);
    server.post("/auth/keys", &admin, r#"{"name":"x"}"#).expect_status(503);
    server.get("/ready", None).expect(503, READ_ONLY);
    let mut administrator = database.client();
    administrator.batch_execute("SET default_transaction_read_only = off").unwrap();
    administrator.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").unwrap();
    database.value::<bool>("SELECT pg_reload_conf()");
    wait_until_well(&server, &admin);
    server.create_key(&admin, "again");
}

/// Two hosts of which the first is a standby, and one name for both: the primary is found.
#[test]
fn a_standby_among_the_hosts() {
    let primary = Cluster::start();
    let database = Database::in_cluster(&primary);
    let standby = primary.standby("0");
    let url = format!(
        "postgresql://postgres@127.0.0.1:{},127.0.0.1:{}/{}?target_session_attrs=any",
        standby.port(),
        primary.port(),
        database.name()
    );
    let server = Start::without_database().database_url(&url).serving();
    server.create_key(&server.bootstrap_key(), "made");
    // Both are standbys, as far as the server can see.
    let began = Instant::now();
    primary.stop_immediately();
    wait_until_read_only(&server);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
