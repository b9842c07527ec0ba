//! Who may rotate which key, by which request, and how long the new one lives.

use crate::keys::insert_key;
use crate::permissions::forbidden;
use crate::rotation::rotate;
use crate::support::cluster::Cluster;
use crate::support::http::{self, Response};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

const NO_KEY: &str = r#"{"error":"key not found or already revoked"}"#;

#[test]
fn a_key_may_rotate_itself_whatever_it_may_do() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for role in ["admin", "write", "read"] {
        let first = server.make_key(&admin, &format!(r#"{{"name":"n","role":"{role}"}}"#));
        let second = rotate(&server, "self", first.key(), "");
        let third = rotate(&server, second.id(), second.key(), "{}");
        let fourth = rotate(&server, &third.id().to_uppercase(), third.key(), r#"{"grace":"0m"}"#);
        assert_eq!(
            [&second, &third, &fourth].map(|made| made.text("rotated_from")),
            [first.id(), second.id(), third.id()]
        );
        assert_eq!(fourth.text("permissions"), role);
        assert_eq!(
            [&first, &second, &third, &fourth].map(|made| server.knows(made.key())),
            [false, false, false, true]
        );
    }
    for (number, permissions) in ["", "root", "Admin"].iter().enumerate() {
        let key = format!("an-odd-key-of-an-older-server-{number}");
        let id = insert_key(&database, &key, "odd", permissions);
        let new = rotate(&server, "self", &key, "");
        assert_eq!((new.text("rotated_from"), new.text("permissions")), (&*id, *permissions));
        forbidden(server.get("/auth/keys", Some(new.key())));
    }
}

/// What the answer says is what is kept.
#[test]
fn ends_are_whole_seconds() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let old = server.make_key(&admin, r#"{"name":"n","role":"read","expires_in":"30d"}"#);
    let body = r#"{"grace":"1h"}"#;
    server.post(&format!("/auth/keys/{}/rotate", old.id()), &admin, body).expect_status(201);
    let ends: i64 =
        database.value("SELECT count(*) FROM api_keys WHERE expires_at = date_trunc('second', expires_at)");
    assert_eq!(ends, 2, "the old key's and the new one's");
}

#[test]
fn others_may_not() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let victim = server.make_key(&admin, r#"{"name":"victim","role":"read"}"#);
    for role in ["write", "read"] {
        let other = server.make_key(&admin, &format!(r#"{{"name":"other","role":"{role}"}}"#));
        for id in [victim.id(), "00000000-0000-4000-8000-000000000000"] {
            for body in ["", "{}", "nonsense", r#"{"grace":"1h"}"#] {
                forbidden(server.post(&format!("/auth/keys/{id}/rotate"), other.key(), body));
            }
        }
    }
    assert!(server.knows(victim.key()));
    assert_eq!(database.value::<i64>("SELECT count(rotated_from) FROM api_keys"), 0);
    assert_eq!(rotate(&server, victim.id(), &admin, "").text("permissions"), "read");
    assert!(!server.knows(victim.key()));
}

#[test]
fn ids_that_cannot_be_rotated() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (revoked, _) = server.create_key(&admin, "revoked");
    server.delete(&format!("/auth/keys/{revoked}"), &admin).expect_status(200);
    let (expired, _) = server.create_key(&admin, "expired");
    database.execute(&format!("UPDATE api_keys SET expires_at = now() WHERE id = '{expired}'"));
    let post = |id: &str| server.post(&format!("/auth/keys/{id}/rotate"), &admin, "{}");
    for id in [&*revoked, &*expired, "00000000-0000-4000-8000-000000000000"] {
        post(id).expect(404, NO_KEY);
    }
    for id in ["x", "%00", "Self", "SELF", "self%20", "00000000-0000-4000-8000-00000000000", &"a".repeat(999)]
    {
        post(id).expect(400, r#"{"error":"invalid key ID format"}"#);
    }
    let keyless = http::request("POST", "/auth/keys/self/rotate", None, Some("{}"));
    http::exchange(server.address, &keyless).expect_status(401);
    assert_eq!(database.value::<i64>("SELECT count(rotated_from) + count(rotated_at) FROM api_keys"), 0);
}

/// Another program may write any end. What has ended has no successor, whatever the grace.
#[test]
fn ends_that_no_calendar_shows() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for (end, is_over) in [
        ("-infinity", true),
        ("4714-11-24 00:00:00+00 BC", true),
        ("0001-01-01 00:00:00+00", true),
        ("1969-12-31 23:59:59+00", true),
        ("9999-12-31 23:59:59.999999+00", false),
        ("10000-01-01 00:00:00+00", false),
        ("294276-12-31 23:59:59.999999+00", false),
        ("infinity", false),
    ] {
        for created in ["now()", "'-infinity'", "'infinity'", "'4714-11-24 00:00:00+00 BC'", "'294276-12-31'"]
        {
            for body in ["{}", r#"{"grace":"3650d"}"#] {
                let (id, _) = server.create_key(&admin, "odd");
                database.execute(&format!(
                    "UPDATE api_keys SET expires_at = '{end}', created_at = {created} WHERE id = '{id}'"
                ));
                let response = server.post(&format!("/auth/keys/{id}/rotate"), &admin, body);
                match is_over {
                    true => drop(response.expect(404, NO_KEY)),
                    false => drop(response.expect_status(201)),
                }
            }
        }
    }
}

#[test]
fn bodies_that_are_not_right() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let send = |content_type: &str, body: &str| -> Response {
        let request = format!(
            "POST /auth/keys/self/rotate HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {admin}\r\n{content_type}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        http::exchange(server.address, request.as_bytes())
    };
    for content_type in
        ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"]
    {
        send(content_type, r#"{"grace":"1h"}"#)
            .expect(415, r#"{"error":"expected Content-Type: application/json"}"#);
    }
    let json = "Content-Type: application/json\r\n";
    for body in ["{", "nonsense", " ", r#"{"grace":"1h"} x"#, r#"{"grace":1h}"#] {
        let response = send(json, body).expect_status(400);
        assert!(response.error().starts_with("request body is not valid JSON: "), "{}", response.text());
    }
    for (body, start) in [
        (r#"{"grace":"soon"}"#, "grace: "),
        (r#"{"grace":""}"#, "grace: "),
        (r#"{"grace":"-1h"}"#, "grace: "),
        (r#"{"grace":"1.5h"}"#, "grace: "),
        (r#"{"grace":"1w"}"#, "grace: "),
        (r#"{"grace":"3651d"}"#, "grace: "),
        (r#"{"grace":"99999999999999999999d"}"#, "grace: "),
        (r#"{"grace":24}"#, "grace: expected a string, not a number"),
        (r#"{"grace":null}"#, "grace: expected a string, not null"),
        (r#"{"grace":["1h"]}"#, "grace: expected a string, not an array"),
        (r#"{"grace":"1h","grace":"2h"}"#, "grace: stands more than once"),
        (r#"{"grcae":"1h"}"#, "grcae: unknown field"),
        (r#"{"grace":"1h","name":"new"}"#, "name: unknown field"),
        ("[]", "invalid type: sequence"),
        ("null", "invalid type: null"),
        ("\"1h\"", "invalid type: string"),
    ] {
        let response = send(json, body).expect_status(422);
        assert!(response.error().starts_with(start), "{body}: {}", response.text());
    }
    assert!(server.lets_in(&admin), "nothing of it was carried out");
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 1);
    // Neither a body nor a type is needed.
    let new = send("", "").expect_status(201).json();
    assert!(!server.knows(&admin) && server.knows(new["key"].as_str().unwrap()));
}

/// In seconds, as the table has it.
fn lifetime(database: &Database, id: &str) -> f64 {
    database.value(&format!(
        "SELECT extract(epoch FROM expires_at - created_at)::float8 FROM api_keys WHERE id = '{id}'"
    ))
}

#[test]
fn the_new_key_lives_as_long_as_the_old_one_was_made_for() {
    let database = Database::new();
    // Days are not all of one length where clocks are put forward and back; a lifetime is.
    database.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone TO %L', current_database(), 'Europe/Berlin');
         END $$",
    );
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    // Of these, one at least ends on the other side of a change of the clock, whatever today is.
    for days in [90, 180, 270] {
        let first = server.make_key(&admin, &format!(r#"{{"name":"n","expires_in":"{days}d"}}"#));
        // It is not new any more; what is left of its life is no measure for its successor.
        database.execute(&format!(
            "UPDATE api_keys SET created_at = created_at - interval '240 hours',
                    expires_at = expires_at - interval '240 hours' WHERE id = '{}'",
            first.id()
        ));
        let expected = f64::from(days) * 86_400.0;
        let mut key = first;
        for body in [r#"{"grace":"24h"}"#, r#"{"grace":"1m"}"#, "{}", "{}"] {
            let new = rotate(&server, key.id(), &admin, body);
            let lives = lifetime(&database, new.id());
            assert!((expected - 2.0..=expected).contains(&lives), "{days} days, {body}: {lives}");
            key = new;
        }
        // Of a rotation with grace, which has brought that one's own end near.
        let graced = rotate(&server, key.id(), &admin, r#"{"grace":"1h"}"#);
        assert!((lifetime(&database, graced.id()) - expected).abs() <= 2.0, "{days} days");
    }
}

/// A second lost with every rotation would end a key that is rotated every hour within months.
#[test]
fn lifetimes_do_not_wear_off() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let mut key = server.make_key(&admin, r#"{"name":"n","expires_in":"1h"}"#);
    for round in 0..3 {
        // Made at the end of a second, as it may happen.
        database.execute(&format!(
            "UPDATE api_keys SET created_at = expires_at - interval '3599.001s' WHERE id = '{}'",
            key.id()
        ));
        key = rotate(&server, key.id(), &admin, "");
        assert_eq!(lifetime(&database, key.id()).ceil(), 3600.0, "round {round}");
    }
}

#[test]
fn ends_that_cannot_be_written() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    // The last second that RFC 3339 can write, for a key that was made a while ago.
    let last = server.make_key(&admin, r#"{"name":"last","expires_at":"9999-12-31T23:59:59Z"}"#);
    database.execute(&format!(
        "UPDATE api_keys SET created_at = now() - interval '30 days' WHERE id = '{}'",
        last.id()
    ));
    let new = rotate(&server, last.id(), &admin, "");
    assert_eq!(new.text("expires_at"), "9999-12-31T23:59:59+00:00");
    assert!(server.knows(new.key()));
    // Never, as PostgreSQL can say it.
    for body in [r#"{"grace":"1h"}"#, "{}"] {
        let endless = server.make_key(&admin, r#"{"name":"endless"}"#);
        database
            .execute(&format!("UPDATE api_keys SET expires_at = 'infinity' WHERE id = '{}'", endless.id()));
        let new = rotate(&server, endless.id(), &admin, body);
        assert_eq!(new.0.get("expires_at"), None);
        assert!(server.knows(new.key()));
    }
}

#[test]
fn the_longest_lifetime_bounds_rotations() {
    let database = Database::new();
    let lax = Server::start(&database);
    let admin = lax.bootstrap_key();
    let strict = Start::on(&database).arguments(["--max-key-lifetime", "30d"]).serving();
    let month = 30.0 * 86_400.0;
    for (body, expected) in [
        (r#"{"name":"never"}"#, month),
        (r#"{"name":"long","expires_in":"90d"}"#, month),
        (r#"{"name":"short","expires_in":"10d"}"#, month / 3.0),
    ] {
        for grace in [r#"{"grace":"1h"}"#, "{}"] {
            let old = lax.make_key(&admin, body);
            let new = rotate(&strict, old.id(), &admin, grace);
            let lives = lifetime(&database, new.id());
            assert!((expected - 2.0..=expected).contains(&lives), "{body} {grace}: {lives}");
        }
    }
}

/// The row is committed and the new key is shown nowhere else: whatever happens to the database then, the caller gets it.
#[test]
fn a_database_that_goes_away_after_the_commit_loses_no_key() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Start::on(&database).arguments(["--database-timeout", "25s"]).serving();
    let admin = server.bootstrap_key();
    let (id, old) = server.create_key(&admin, "renewed");
    assert!(server.lets_in(&old));

    // Whoever changes a key asks here who else has to know; from now on there is no answer.
    let mut holder = database.client();
    holder.batch_execute("BEGIN; LOCK TABLE auth_caches IN ACCESS EXCLUSIVE MODE").unwrap();
    let request = http::request("POST", &format!("/auth/keys/{id}/rotate"), Some(&admin), None);
    let address = server.address;
    let rotation = std::thread::spawn(move || http::exchange(address, &request));
    wait_for("the rotation to be committed and to ask who else has to know", || {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%nextval%'";
        (database.value::<i64>(waiting) > 0).then_some(())
    });
    cluster.stop_immediately();
    let made = rotation.join().unwrap().expect_status(201).json();

    cluster.restart();
    wait_for("the database to be found again", || {
        (server.get("/auth/whoami", Some(&admin)).status == 200).then_some(())
    });
    assert!(server.lets_in(made["key"].as_str().unwrap()), "the key that was shown is the one that was made");
    assert!(!server.lets_in(&old));
}
