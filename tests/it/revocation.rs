//! Revoked means revoked: once `DELETE` has answered, no later request is let in by that key, whoever serves it.

use crate::keys::{INVALID, hash, insert_key};
use crate::keys_command::keys;
use crate::support::cluster::Cluster;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::proxy::Proxy;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

#[test]
fn revoked_means_revoked_on_the_very_next_request() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let mut by_admin = Connection::open(server.address);
    for round in 0..50 {
        let (id, key) = server.create_key(&admin, "short-lived");
        let mut by_key = Connection::open(server.address);
        for _ in 0..2 {
            assert_eq!(
                by_key.ask("GET", "/auth/keys?limit=1", Some(&key), None).status,
                200,
                "round {round}"
            );
        }
        let revoked = by_admin.ask("DELETE", &format!("/auth/keys/{id}"), Some(&admin), None);
        assert_eq!(revoked.status, 200, "round {round}: {}", revoked.text());
        by_key.ask("GET", "/auth/keys?limit=1", Some(&key), None).expect(401, INVALID);
        by_admin.ask("GET", "/auth/keys?limit=1", Some(&key), None).expect(401, INVALID);
    }
}

/// The lookup was answered while the key was still good, and hears of it only after the revocation.
#[test]
fn a_lookup_under_way_does_not_bring_a_revoked_key_back() {
    let database = Database::new();
    let proxy = Proxy::start(database.host_and_port());
    let server = Start::without_database().database_url(&database.url_through(proxy.port)).serving();
    let admin = server.bootstrap_key();
    for round in 0..5 {
        // Of an id and a key that no session and no cache has seen.
        let key = format!("a-key-of-our-own-in-round-{round}");
        let id = insert_key(&database, &key, "watched", "admin");
        assert!(server.lets_in(&admin));
        proxy.hold_answer_to(&hash(&key));
        let mut early = Connection::open(server.address);
        early.send(&http::request("GET", "/auth/keys?limit=1", Some(&key), None));
        proxy.wait_for_answer();

        // It waits for no lookup.
        server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
        let mut late = Connection::open(server.address);
        late.send(&http::request("GET", "/auth/keys?limit=1", Some(&key), None));
        proxy.release();
        late.receive("GET").expect(401, INVALID);
        // This one began before the revocation was answered; only that it is answered matters.
        let early = early.receive("GET");
        assert!([200, 401].contains(&early.status), "{}", early.text());
        for _ in 0..20 {
            assert!(!server.lets_in(&key), "round {round}: a stale lookup filled the cache");
        }
    }
}

#[test]
fn a_revocation_counts_on_every_server_at_once() {
    let database = Database::new();
    let one = Server::start(&database);
    let other = Server::start(&database);
    let admin = one.bootstrap_key();
    for round in 0..20 {
        let (id, key) = one.create_key(&admin, "shared");
        // Both have it in their caches, or will have in a later round.
        for server in [&one, &other, &one, &other] {
            assert!(server.lets_in(&key), "round {round}");
        }
        let (here, there) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        here.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
        assert!(!there.lets_in(&key), "round {round}: the other server still lets the key in");
        assert!(!here.lets_in(&key), "round {round}");
    }
    for server in [&one, &other] {
        let hits = server.metric("cloacina_auth_cache_hits_total", &[]);
        assert!(hits > 0.0, "a server that remembers nothing passes this test for nothing");
    }
}

/// A server that was cut off, as by `kill -STOP`, cannot hold up a revocation for ever, nor let the key in later.
#[test]
fn a_server_that_hears_nothing_lets_nobody_in() {
    let database = Database::new();
    let one = Server::start(&database);
    let other = Server::start(&database);
    let admin = one.bootstrap_key();
    let (id, key) = one.create_key(&admin, "shared");
    // A server remembers keys only once it hears of revocations, and one that remembers none would pass for nothing.
    wait_for("the other server to remember the key", || {
        assert!(other.lets_in(&key));
        (other.metric("cloacina_auth_cache_hits_total", &[]) > 0.0).then_some(())
    });
    other.signal("STOP");
    one.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    assert!(!one.lets_in(&key));
    other.signal("CONT");
    assert!(!other.lets_in(&key), "it had the key in its cache");
    assert!(other.lets_in(&admin));
}

/// The database's own default leaves the last commits in memory for a while, and then it crashes.
#[test]
fn what_was_answered_for_survives_a_crash_of_the_database() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    cluster.set("wal_writer_delay = 10s\nwal_writer_flush_after = 0");
    database.execute(&format!("ALTER DATABASE {} SET synchronous_commit = off", database.name()));
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let made: Vec<_> = (0..4).map(|_| server.create_key(&admin, "short-lived")).collect();
    let (kept_id, kept) = server.create_key(&admin, "kept");
    let mut gone = Vec::new();
    for (round, (id, key)) in made.iter().enumerate() {
        database.execute("CHECKPOINT");
        match round {
            0 => drop(server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200)),
            1 => drop(server.post(&format!("/auth/keys/{id}/rotate"), &admin, "{}").expect_status(201)),
            2 => drop(server.delete("/auth/keys/self", key).expect_status(200)),
            _ => assert_eq!(keys(&database, &["revoke", id]).code, Some(0)),
        }
        gone.push(key);
        cluster.stop_immediately();
        cluster.restart();
        wait_for("the server to find its database again", || {
            (server.get("/auth/whoami", Some(&kept)).status == 200).then_some(())
        });
        for key in &gone {
            assert!(!server.knows(key), "round {round}: a crash has brought a revoked key back");
        }
    }
    assert_eq!(server.get("/auth/whoami", Some(&kept)).json()["id"], kept_id.as_str());
}

#[test]
fn an_administrator_may_revoke_the_key_it_uses() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "last-act");
    server.delete(&format!("/auth/keys/{id}"), &key).expect_status(200);
    assert!(!server.lets_in(&key));
}

/// Whoever finds a key can kill it, whatever it may do.
#[test]
fn any_key_may_revoke_itself() {
    let database = Database::new();
    let one = Server::start(&database);
    let other = Server::start(&database);
    let admin = one.bootstrap_key();
    for round in 0..12 {
        let role = ["read", "write", "admin"][round % 3];
        let made = one.make_key(&admin, &format!(r#"{{"name":"found","role":"{role}"}}"#));
        // Both have it in their caches.
        assert!(one.knows(made.key()) && other.knows(made.key()), "round {round}");
        let (here, there) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let answer = here.delete("/auth/keys/self", made.key());
        assert!(!there.knows(made.key()), "round {round}: the other server still lets the key in");
        assert!(!here.knows(made.key()), "round {round}");
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
        answer.expect(200, &format!(r#"{{"status":"revoked","id":"{}"}}"#, made.id()));
        here.delete("/auth/keys/self", made.key()).expect(401, INVALID);
    }
    assert!(one.lets_in(&admin) && other.lets_in(&admin), "nobody else was meant");
    let refused = one.get("/auth/keys/self", Some(&admin)).expect_status(405);
    assert_eq!(refused.header("Allow"), Some("DELETE"));
}

/// A trigger that came after the start: a revocation that it undoes or skips is not called one.
#[test]
fn a_revocation_that_the_table_does_not_take() {
    for (name, instead) in [("undone", "NEW.revoked_at = NULL; RETURN NEW"), ("skipped", "RETURN NULL")] {
        let database = Database::new();
        let server = Server::start(&database);
        let admin = server.bootstrap_key();
        let (id, key) = server.create_key(&admin, name);
        database.execute(&format!(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {instead}; END $$;
             CREATE TRIGGER keeping BEFORE UPDATE ON api_keys FOR EACH ROW EXECUTE FUNCTION keep()"
        ));
        let path = format!("/auth/keys/{id}");
        server.delete(&path, &admin).expect(500, r#"{"error":"internal error"}"#);
        wait_for("a line of the log about it", || {
            server.log().contains("did not take the revocation").then_some(())
        });
        database.execute("DROP TRIGGER keeping ON api_keys");
        server.delete(&path, &admin).expect_status(200);
        assert!(!server.knows(&key), "{name}");
        server.delete(&path, &admin).expect_status(404);
    }
}
