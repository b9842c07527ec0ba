//! A new key in the place of an old one: at once or with a grace, on one server or on several.

use std::sync::Barrier;

use time::{Duration, OffsetDateTime};

use crate::keys::INVALID;
use crate::support::http::Connection;
use crate::support::made::Made;
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::wait_for;

const ROTATED: &str = r#"{"error":"key was already rotated"}"#;

/// Rotates a key and hands back what was answered.
#[track_caller]
pub fn rotate(server: &Server, id: &str, by: &str, body: &str) -> Made {
    Made(server.post(&format!("/auth/keys/{id}/rotate"), by, body).expect_status(201).json())
}

#[test]
fn at_once() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let old = server
        .make_key(&admin, r#"{"name":"Gr\u00fc\u00dfe \"q\"","permissions":"write","expires_in":"90d"}"#);
    let mut connection = Connection::open(server.address);
    for _ in 0..2 {
        assert_eq!(connection.ask("GET", "/auth/verify", Some(old.key()), None).status, 204);
    }
    let path = format!("/auth/keys/{}/rotate", old.id());
    let before = OffsetDateTime::now_utc() - Duration::seconds(1);
    let response = connection.ask("POST", &path, Some(&admin), Some("{}"));
    // The very next request, by a key that every cache had.
    connection.ask("GET", "/auth/verify", Some(old.key()), None).expect(401, INVALID);
    assert!(!server.knows(old.key()));
    let after = OffsetDateTime::now_utc();

    assert_eq!((response.status, response.header("Cache-Control")), (201, Some("no-store")));
    let new = Made(response.json());
    assert_eq!(
        response.text(),
        format!(
            concat!(
                r#"{{"id":"{}","name":"Grüße \"q\"","key":"{}","permissions":"write","created_at":"{}","#,
                r#""expires_at":"{}","rotated_from":"{}","old_key_expires_at":"{}"}}"#
            ),
            new.id(),
            new.key(),
            new.text("created_at"),
            new.text("expires_at"),
            old.id(),
            new.text("old_key_expires_at"),
        )
    );
    assert_ne!(new.id(), old.id());
    assert_ne!(new.key(), old.key());
    assert_eq!((new.key().len(), &new.key()[..4]), (53, "clk_"));
    for field in ["created_at", "old_key_expires_at"] {
        let moment = new.moment(field);
        assert!(before <= moment && moment <= after, "{field}: {moment}");
    }
    assert_eq!(connection.ask("GET", "/auth/verify?require=write", Some(new.key()), None).status, 204);
    let listed = server.get("/auth/keys", Some(&admin)).json();
    let row =
        |id: &str| listed["keys"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap().clone();
    assert_eq!((&row(old.id())["revoked"], &row(new.id())["revoked"]), (&true.into(), &false.into()));
    assert_eq!(row(new.id())["prefix"], new.key()[..12]);
    assert!(!listed.to_string().contains(&new.key()[12..]));
    server
        .delete(&format!("/auth/keys/{}", old.id()), &admin)
        .expect(404, r#"{"error":"key not found or already revoked"}"#);
}

#[test]
fn with_a_grace_both_work_for_a_while() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let old = server.make_key(&admin, r#"{"name":"patient","role":"read"}"#);
    assert_eq!(server.get("/auth/verify", Some(old.key())).header("X-Auth-Key-Expires"), None);
    let before = OffsetDateTime::now_utc() - Duration::seconds(1);
    let new = rotate(&server, old.id(), old.key(), r#"{"grace":"24h"}"#);
    let after = OffsetDateTime::now_utc();
    let end = new.moment("old_key_expires_at");
    assert!(before + Duration::hours(24) <= end && end <= after + Duration::hours(24), "{end}");
    assert_eq!(new.0.get("expires_at"), None, "the old one never ended");
    assert_eq!(new.text("rotated_from"), old.id());

    assert!(server.knows(new.key()));
    let answer = server.get("/auth/verify", Some(old.key())).expect_status(204);
    assert_eq!(answer.header("X-Auth-Key-Expires"), Some(new.text("old_key_expires_at")));
    let who = server.get("/auth/whoami", Some(old.key())).json();
    assert_eq!(who["expires_at"], new.0["old_key_expires_at"]);
    // How a script sees whether it is safe to let go.
    wait_for("the old key's use in the listing", || {
        let listed = server.get("/auth/keys", Some(&admin)).json();
        let rows = listed["keys"].as_array().unwrap();
        let row = rows.iter().find(|row| row["id"] == old.id()).unwrap();
        assert_eq!((&row["revoked"], &row["expires_at"]), (&false.into(), &new.0["old_key_expires_at"]));
        row["last_used_at"].as_str().map(str::to_owned)
    });
    // Whoever cannot wait for the end of the grace revokes the old one; the new one stays.
    server.delete(&format!("/auth/keys/{}", old.id()), &admin).expect_status(200);
    assert!(!server.knows(old.key()) && server.knows(new.key()));
}

#[test]
fn a_grace_ends_when_it_says() {
    let database = Database::new();
    let server = Server::start(&database);
    let other = Server::start(&database);
    let admin = server.bootstrap_key();
    let old = server.make_key(&admin, r#"{"name":"brief"}"#);
    assert!(server.knows(old.key()) && other.knows(old.key()));
    let new = rotate(&server, old.id(), &admin, r#"{"grace":"3s"}"#);
    let end = new.moment("old_key_expires_at");
    let mut turn = 0;
    wait_for("the grace to end", || {
        turn += 1;
        let server = if turn % 2 == 0 { &server } else { &other };
        let before = OffsetDateTime::now_utc();
        let let_in = server.knows(old.key());
        let after = OffsetDateTime::now_utc();
        assert!(before < end || !let_in, "let in at {before}, after {end}");
        assert!(let_in || after >= end, "refused at {after}, before {end}");
        (!let_in).then_some(())
    });
    assert!(!server.knows(old.key()) && !other.knows(old.key()));
    assert!(server.knows(new.key()) && other.knows(new.key()));
}

#[test]
fn a_grace_never_lengthens_a_life() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let old = server.make_key(&admin, r#"{"name":"n","expires_in":"1h"}"#);
    let first = rotate(&server, old.id(), &admin, r#"{"grace":"24h"}"#);
    assert_eq!(first.0["old_key_expires_at"], old.0["expires_at"]);
    assert!(server.knows(old.key()) && server.knows(first.key()));
    // Its own end counts for the successor's successor as well.
    let second = rotate(&server, first.id(), &admin, r#"{"grace":"24h"}"#);
    assert_eq!(second.0["old_key_expires_at"], first.0["expires_at"]);
}

/// A client with an old key could else make keys that its owner does not know of.
#[test]
fn a_key_has_one_successor() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let old = server.make_key(&admin, r#"{"name":"n","role":"write","expires_in":"1h"}"#);
    let new = rotate(&server, "self", old.key(), r#"{"grace":"10m"}"#);
    let state =
        format!("SELECT rotated_at::text || expires_at::text FROM api_keys WHERE id = '{}'", old.id());
    let before: String = database.value(&state);
    for (by, id) in [(old.key(), "self"), (old.key(), old.id()), (&*admin, old.id()), (new.key(), "self")] {
        for body in ["", "{}", r#"{"grace":"0s"}"#, r#"{"grace":"30m"}"#] {
            let response = server.post(&format!("/auth/keys/{id}/rotate"), by, body);
            match by == new.key() {
                // The successor has a successor of its own; nothing of it is left after this one.
                true => response.expect_status(if body.is_empty() { 201 } else { 401 }),
                false => response.expect(409, ROTATED),
            };
        }
    }
    assert_eq!(database.value::<String>(&state), before, "a refused rotation changes no end");
    let made = format!("SELECT count(*) FROM api_keys WHERE rotated_from = '{}'", old.id());
    assert_eq!(database.value::<i64>(&made), 1);
    // Neither its revocation nor the successor's is a way to another one.
    assert!(server.knows(old.key()));
    for id in [new.id(), old.id()] {
        server.delete(&format!("/auth/keys/{id}"), &admin);
        server.post(&format!("/auth/keys/{}/rotate", old.id()), &admin, "").expect(409, ROTATED);
    }
    assert_eq!(database.value::<i64>(&made), 1);
}

/// There is one winner, with a grace or without; what the others are told depends on whether their own key still works.
#[test]
fn several_rotations_of_one_key_at_once() {
    const THREADS: usize = 12;
    let database = Database::new();
    let one = Server::start(&database);
    let other = Server::start(&database);
    let admin = one.bootstrap_key();
    for round in 0..8 {
        let has_grace = round % 2 == 1;
        let old = one.make_key(&admin, r#"{"name":"contested","role":"write","expires_in":"90d"}"#);
        assert!(one.knows(old.key()) && other.knows(old.key()));
        let start = Barrier::new(THREADS);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|number| {
                    let (old, admin, start) = (&old, &admin, &start);
                    let server = if number % 2 == 0 { &one } else { &other };
                    scope.spawn(move || {
                        let by = if number < THREADS / 2 { old.key() } else { admin };
                        let body = if has_grace { r#"{"grace":"1h"}"# } else { "{}" };
                        start.wait();
                        server.post(&format!("/auth/keys/{}/rotate", old.id()), by, body)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
        assert_eq!(made.len(), 1, "round {round}: {refused:#?}");
        for answer in refused {
            match answer.status {
                // By the old key, which the winner has ended meanwhile.
                401 if !has_grace => answer.expect(401, INVALID),
                _ => answer.expect(409, ROTATED),
            };
        }
        let new = Made(made[0].json());
        assert!(one.knows(new.key()) && other.knows(new.key()), "round {round}");
        assert_eq!((new.text("permissions"), new.text("rotated_from")), ("write", old.id()));
        assert_eq!((one.knows(old.key()), other.knows(old.key())), (has_grace, has_grace), "round {round}");
        let successors = format!("SELECT count(*) FROM api_keys WHERE rotated_from = '{}'", old.id());
        assert_eq!(database.value::<i64>(&successors), 1);
    }
}

#[test]
fn a_rotation_counts_on_every_server_at_once() {
    let database = Database::new();
    let one = Server::start(&database);
    let other = Server::start(&database);
    let admin = one.bootstrap_key();
    let mut key = one.make_key(&admin, r#"{"name":"wanderer","role":"read"}"#);
    for round in 0..12 {
        let (here, there) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        assert!(here.knows(key.key()) && there.knows(key.key()), "round {round}");
        let new = rotate(here, "self", key.key(), "");
        assert!(!there.knows(key.key()), "round {round}: the other server still lets the old key in");
        assert!(!here.knows(key.key()), "round {round}");
        assert!(there.knows(new.key()), "round {round}");
        // The shorter life that a grace gives counts there as well.
        let newer = rotate(there, new.id(), &admin, r#"{"grace":"1h"}"#);
        let answer = here.get("/auth/verify", Some(new.key())).expect_status(204);
        assert_eq!(answer.header("X-Auth-Key-Expires"), Some(newer.text("old_key_expires_at")));
        key = newer;
    }
}
