//! What a key may do, and for how long.

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::keys::INVALID;
use crate::rotation::rotate;
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::wait_for;

#[test]
fn permissions_are_stored_and_obeyed() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for (body, permissions) in [
        (r#"{"name":"n"}"#, "admin"),
        (r#"{"name":"n","permissions":"admin"}"#, "admin"),
        (r#"{"name":"n","permissions":"write"}"#, "write"),
        (r#"{"name":"n","role":"read"}"#, "read"),
    ] {
        let made = server.post("/auth/keys", &admin, body).expect_status(201).json();
        assert_eq!(made["permissions"], permissions, "{body}");
        let key = made["key"].as_str().unwrap();
        let response = server.get("/auth/keys", Some(key));
        if permissions == "admin" {
            response.expect_status(200);
        } else {
            response.expect(403, r#"{"error":"insufficient permissions"}"#);
            server.delete(&format!("/auth/keys/{}", made["id"].as_str().unwrap()), key).expect_status(403);
        }
        let listed = server.get("/auth/keys?limit=1", Some(&admin)).json();
        assert_eq!(listed["keys"][0]["permissions"], permissions);
    }
}

#[test]
fn an_expired_key_is_refused_in_the_same_second() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let made =
        server.post("/auth/keys", &admin, r#"{"name":"brief","expires_in":"3s"}"#).expect_status(201).json();
    let key = made["key"].as_str().unwrap();
    let expires_at = OffsetDateTime::parse(made["expires_at"].as_str().unwrap(), &Rfc3339).unwrap();
    assert!(server.lets_in(key), "it has some seconds yet");
    let listed = server.get("/auth/keys?limit=1", Some(&admin)).json();
    assert_eq!(listed["keys"][0]["expires_at"], made["expires_at"]);
    assert_eq!(listed["keys"][0]["revoked"], false);
    // Asked all the while, so that every cache knows it.
    wait_for("the key to expire", || {
        let before = OffsetDateTime::now_utc();
        let response = server.get("/auth/keys?limit=1", Some(key));
        assert!(before < expires_at || response.status == 401, "let in after {expires_at}");
        (response.status == 401).then(|| response.expect(401, INVALID))
    });
    assert!(OffsetDateTime::now_utc() >= expires_at, "refused before {expires_at}");
    assert!(!server.lets_in(key));
    wait_for("the refusal in the metrics", || {
        (server.metric("cloacina_auth_failures_total", &[("reason", "expired")]) >= 1.0).then_some(())
    });
}

#[test]
fn ends_are_written_in_utc() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for (asked, answered) in [
        ("2999-12-31T23:59:59Z", "2999-12-31T23:59:59+00:00"),
        ("2999-12-31T23:59:59+02:30", "2999-12-31T21:29:59+00:00"),
    ] {
        let body = format!(r#"{{"name":"n","expires_at":"{asked}"}}"#);
        let response = server.post("/auth/keys", &admin, &body).expect_status(201);
        let made = response.json();
        assert_eq!(made["expires_at"], answered);
        assert!(
            response.text().ends_with(&format!(r#","expires_at":"{answered}"}}"#)),
            "{}",
            response.text()
        );
        let key = made["key"].as_str().unwrap();
        assert!(server.lets_in(key));
    }
    for (asked, length) in
        [("90d", Duration::days(90)), ("12h", Duration::hours(12)), ("30m", Duration::minutes(30))]
    {
        let before = OffsetDateTime::now_utc() - Duration::seconds(1);
        let body = format!(r#"{{"name":"n","expires_in":"{asked}"}}"#);
        let made = server.post("/auth/keys", &admin, &body).expect_status(201).json();
        let end = OffsetDateTime::parse(made["expires_at"].as_str().unwrap(), &Rfc3339).unwrap();
        assert!(before + length <= end && end <= OffsetDateTime::now_utc() + length, "{asked}: {end}");
    }
}

/// An end is the same second everywhere: in the answer, in the listing, and in the table by which a key is let in.
#[test]
fn ends_have_no_fractions() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let mut latest: Option<OffsetDateTime> = None;
    for end in [
        r#""expires_at":"2999-12-31T23:59:59.999999Z""#,
        r#""expires_at":"2999-12-31T23:59:59.5+01:00""#,
        r#""expires_in":"30d""#,
    ] {
        let old = server.make_key(&admin, &format!(r#"{{"name":"n",{end}}}"#));
        let made = format!("SELECT expires_at FROM api_keys WHERE id = '{}'", old.id());
        latest = latest.max(database.value(&made));
        let new = rotate(&server, old.id(), &admin, r#"{"grace":"1h"}"#);
        let newest = rotate(&server, new.id(), &admin, "");
        for id in [old.id(), new.id(), newest.id()] {
            let stored: OffsetDateTime =
                database.value(&format!("SELECT expires_at FROM api_keys WHERE id = '{id}'"));
            assert_eq!(stored.nanosecond(), 0, "{end}: {stored}");
        }
        assert_eq!(new.moment("old_key_expires_at").nanosecond(), 0);
    }
    // As it was made: a successor lives as long from its own beginning.
    assert_eq!(latest.map(|end| end.to_string()).as_deref(), Some("2999-12-31 23:59:59.0 +00:00:00"));
}
