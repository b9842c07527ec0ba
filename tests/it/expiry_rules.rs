//! The warning before a key expires, and the longest life that a server allows.

use time::{Duration, OffsetDateTime};

use crate::support::http;
use crate::support::made::Made;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

const EXPIRES: &str = "X-Auth-Key-Expires";

/// Every kind of answer that a valid key gets under `/auth`, with the status that an administrator sees and the one
/// that others see. None of them changes anything.
const ANSWERS: [(&str, &str, Option<&str>, u16, u16); 11] = [
    ("GET", "/auth/whoami", None, 200, 200),
    ("GET", "/auth/verify", None, 204, 204),
    ("HEAD", "/auth/verify", None, 204, 204),
    ("GET", "/auth/verify?require=nonsense", None, 403, 403),
    ("GET", "/auth/keys", None, 200, 403),
    ("GET", "/auth/keys?limit=0", None, 400, 403),
    ("POST", "/auth/keys", Some("nonsense"), 400, 403),
    ("POST", "/auth/keys", Some(r#"{"name":""}"#), 422, 403),
    ("DELETE", "/auth/keys/nonsense", None, 400, 403),
    ("DELETE", "/auth/keys/00000000-0000-4000-8000-000000000000", None, 404, 403),
    ("POST", "/auth/keys/self/rotate", Some(r#"{"grace":1}"#), 422, 422),
];

#[test]
fn every_answer_warns_of_a_near_end() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for role in ["admin", "read"] {
        let made = |expires_in: &str| {
            server.make_key(&admin, &format!(r#"{{"name":"n","role":"{role}","expires_in":"{expires_in}"}}"#))
        };
        let endless = server.make_key(&admin, &format!(r#"{{"name":"n","role":"{role}"}}"#));
        for (key, is_near) in [
            (made("7d"), true),
            (made("1h"), true),
            (made("169h"), false),
            (made("90d"), false),
            (endless, false),
        ] {
            for (method, path, body, of_admin, of_others) in ANSWERS {
                let request = http::request(method, path, Some(key.key()), body);
                let response = http::exchange(server.address, &request);
                let status = if role == "admin" { of_admin } else { of_others };
                assert_eq!(response.status, status, "{method} {path}: {}", response.text());
                let expected = is_near.then(|| key.text("expires_at"));
                assert_eq!(response.header(EXPIRES), expected, "{role}: {method} {path}: {status}");
            }
            // Answers that come before anybody looks at the key.
            for (method, path) in [("GET", "/health"), ("GET", "/auth/nowhere"), ("PUT", "/auth/keys")] {
                let request = http::request(method, path, Some(key.key()), None);
                assert_eq!(http::exchange(server.address, &request).header(EXPIRES), None, "{path}");
            }
        }
    }
}

#[test]
fn the_warning_begins_seven_days_before() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let key = server.make_key(&admin, r#"{"name":"n","expires_in":"604803s"}"#);
    let begins = key.moment("expires_at") - Duration::days(7);
    // Asked all the while, so that the cache knows it.
    wait_for("the first warning", || {
        let before = OffsetDateTime::now_utc();
        let response = server.get("/auth/verify", Some(key.key())).expect_status(204);
        let after = OffsetDateTime::now_utc();
        let warned = response.header(EXPIRES).is_some();
        // A cached key's server counts from a lookup, which took its time.
        let slack = Duration::seconds(1);
        assert!(!warned || after + slack >= begins, "warned at {after}, before {begins}");
        assert!(warned || before < begins + slack, "not warned at {before}, after {begins}");
        warned.then_some(())
    });
}

/// A refusal says nothing about the key, not even when it ended.
#[test]
fn an_end_that_has_come_is_the_same_for_every_endpoint() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let key = server.make_key(&admin, r#"{"name":"brief","expires_in":"3s"}"#);
    wait_for("the key to expire", || {
        let before = OffsetDateTime::now_utc();
        let let_in = server.knows(key.key());
        assert!(before < key.moment("expires_at") || !let_in, "let in after its end");
        (!let_in).then_some(())
    });
    for (method, path) in [
        ("GET", "/auth/keys"),
        ("GET", "/auth/whoami"),
        ("GET", "/auth/verify"),
        ("POST", "/auth/keys"),
        ("POST", "/auth/keys/self/rotate"),
        ("DELETE", "/auth/keys/self"),
    ] {
        let ask = |key: &str| {
            let mut response =
                http::exchange(server.address, &http::request(method, path, Some(key), Some("{}")));
            response.headers.retain(|(name, _)| !["Date", "X-Request-Id"].contains(&name.as_str()));
            (response.status, response.headers, response.body)
        };
        assert_eq!(ask(key.key()), ask("never-heard-of"), "{method} {path}");
    }
}

#[test]
fn no_key_lives_longer_than_is_allowed() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--max-key-lifetime", "30d"]).serving();
    let admin = server.bootstrap_key();
    assert!(server.lets_in(&admin), "the first key is the way back in: it has no end");
    let about = |made: &Made, life: Duration| {
        let ends = made.moment("expires_at");
        let now = OffsetDateTime::now_utc();
        let made_at = made.moment("created_at");
        assert!(made_at + life - Duration::seconds(1) <= ends && ends <= now + life, "{ends}");
    };
    about(&server.make_key(&admin, r#"{"name":"n"}"#), Duration::days(30));
    about(&server.make_key(&admin, r#"{"name":"n","expires_in":"10d"}"#), Duration::days(10));
    about(&server.make_key(&admin, r#"{"name":"n","expires_in":"30d"}"#), Duration::days(30));
    let count: i64 = database.value("SELECT count(*) FROM api_keys");
    for (field, value) in [
        ("expires_in", "31d"),
        ("expires_in", "2592060s"),
        ("expires_in", "2900000d"),
        ("expires_at", "2999-12-31T23:59:59Z"),
        ("expires_at", "9999-12-31T23:59:59Z"),
    ] {
        let body = format!(r#"{{"name":"n","{field}":"{value}"}}"#);
        let message = server.post("/auth/keys", &admin, &body).expect_status(422).error();
        assert!(message.starts_with(&format!("{field}: must not be later than 2")), "{body}: {message}");
    }
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), count);
}
