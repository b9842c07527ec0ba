//! The life of a key: made, listed, let in, revoked, and from then on refused everywhere.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::http::{self};
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::wait_for;

pub const INVALID: &str = r#"{"error":"invalid or revoked API key"}"#;
pub const MALFORMED: &str = r#"{"error":"missing or malformed Authorization header"}"#;

/// Lowercase hex of the SHA-256 of the whole key: what the table has instead of it.
pub fn hash(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The last six characters of a key: CRC-32 of what comes before, in base62, zero-padded.
pub fn checksum(body: &str) -> String {
    let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc32fast::hash(body.as_bytes()) as usize;
    let mut text = vec![b'0'; 6];
    for place in text.iter_mut().rev() {
        *place = digits[rest % 62];
        rest /= 62;
    }
    String::from_utf8(text).unwrap()
}

fn assert_form(key: &str) {
    assert_eq!(key.len(), 53, "{key}");
    let (body, sum) = key.split_at(47);
    assert!(body.starts_with("clk_"), "{key}");
    let base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    assert!(body.bytes().all(base64url), "{key}");
    assert_eq!(sum, checksum(body), "{key}");
}

fn assert_timestamp(text: &str) {
    assert!(text.ends_with("+00:00"), "{text}");
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|error| panic!("{text}: {error}"));
}

/// A key that has the right form, and that no server has made.
pub fn unknown_key() -> String {
    let body = format!("clk_{}", "0".repeat(43));
    format!("{body}{}", checksum(&body))
}

/// Puts a key into the table that this server did not make.
pub fn insert_key(database: &Database, key: &str, name: &str, permissions: &str) -> String {
    let row = database
        .client()
        .query_one(
            "INSERT INTO api_keys (id, key_hash, name, permissions, created_at)
             VALUES (gen_random_uuid(), $1, $2, $3, now()) RETURNING id::text",
            &[&hash(key), &name, &permissions],
        )
        .unwrap();
    row.get(0)
}

#[test]
fn the_life_of_a_key() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    assert_form(&admin);

    let response = server.post("/auth/keys", &admin, r#"{"name": "ci-deploy"}"#).expect_status(201);
    let made = response.json();
    let field = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("no {name}: {made}")).to_owned();
    let (id, key, created_at) = (field("id"), field("key"), field("created_at"));
    assert_form(&key);
    assert_timestamp(&created_at);
    uuid::Uuid::parse_str(&id).unwrap();
    assert_eq!(
        response.text(),
        format!(
            r#"{{"id":"{id}","name":"ci-deploy","key":"{key}","permissions":"admin","created_at":"{created_at}"}}"#
        )
    );

    assert!(server.lets_in(&key));
    let listed = server.get("/auth/keys", Some(&key)).expect_status(200);
    let expected = format!(
        r#"{{"keys":[{{"id":"{id}","name":"ci-deploy","permissions":"admin","created_at":"{created_at}","revoked":false"#
    );
    assert!(listed.text().starts_with(&expected), "{}", listed.text());
    let keys = listed.json()["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_timestamp(keys[1]["created_at"].as_str().unwrap());
    for entry in &keys {
        for absent in ["key", "key_hash", "hash"] {
            assert!(entry.get(absent).is_none(), "{absent} in {entry}");
        }
    }

    let path = format!("/auth/keys/{id}");
    server.delete(&path, &admin).expect(200, &format!(r#"{{"status":"revoked","id":"{id}"}}"#));
    assert!(!server.lets_in(&key));
    server.delete(&path, &admin).expect(404, r#"{"error":"key not found or already revoked"}"#);
    let keys = server.get("/auth/keys", Some(&admin)).json()["keys"].as_array().unwrap().clone();
    let revoked: Vec<_> = keys.iter().map(|entry| (entry["id"] == id.as_str(), &entry["revoked"])).collect();
    assert_eq!(revoked, [(true, &Value::Bool(true)), (false, &Value::Bool(false))]);
}

#[test]
fn only_hash_and_prefix_are_stored() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "stored");
    for (key, which) in [(&key, format!("id = '{id}'")), (&admin, format!("id <> '{id}'"))] {
        let stored: String = database.value(&format!("SELECT key_hash::text FROM api_keys WHERE {which}"));
        assert_eq!(stored, hash(key));
    }
    let contents = database.contents();
    for key in [&key, &admin] {
        assert!(contents.contains(&key[..12]), "the first 12 characters are stored: {contents}");
        assert!(!contents.contains(&key[..13]), "no more than 12 characters are stored: {contents}");
        assert!(!contents.contains(&key[12..]), "the rest of a key is stored: {contents}");
    }
}

#[test]
fn a_mistyped_key_is_refused_without_asking_the_database() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (_, key) = server.create_key(&admin, "typed");
    let misses = server.metric("cloacina_auth_cache_misses_total", &[]);
    // Nobody can read the table now; only who does not ask it can answer.
    let lock = database.lock_keys();
    let mut mistyped = 0;
    for place in [4, 20, 46, 47, 52] {
        let mut bytes = key.clone().into_bytes();
        bytes[place] = if bytes[place] == b'7' { b'8' } else { b'7' };
        let wrong = String::from_utf8(bytes).unwrap();
        server.get("/auth/keys", Some(&wrong)).expect(401, INVALID);
        mistyped += 1;
    }
    lock.release();
    assert_eq!(server.metric("cloacina_auth_failures_total", &[("reason", "checksum")]), f64::from(mistyped));
    assert_eq!(server.metric("cloacina_auth_cache_misses_total", &[]), misses);
    assert!(server.lets_in(&key));
    assert!(!server.lets_in(&unknown_key()));
}

#[test]
fn refusals_are_counted_by_reason() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "gone");
    server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    insert_key(&database, "a-key-that-may-only-read", "reader", "read");
    server.get("/auth/keys", Some(&key)).expect(401, INVALID);
    server.get("/auth/keys", Some(&unknown_key())).expect(401, INVALID);
    server.get("/auth/keys", None).expect(401, MALFORMED);
    server.get("/auth/keys", Some("a-key-that-may-only-read")).expect_status(403);
    for reason in ["revoked", "unknown", "malformed", "permission"] {
        assert_eq!(server.metric("cloacina_auth_failures_total", &[("reason", reason)]), 1.0, "{reason}");
    }
}

#[test]
fn what_is_looked_up_counts_as_a_miss_and_what_is_remembered_as_a_hit() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (_, key) = server.create_key(&admin, "counted");
    let count = |which: &str| server.metric(&format!("cloacina_auth_cache_{which}_total"), &[]);
    let (hits, misses) = (count("hits"), count("misses"));
    assert!(server.lets_in(&key));
    assert_eq!((count("hits"), count("misses")), (hits, misses + 1.0));
    // At the start, and after a disturbance of the link, nothing is remembered for a while.
    wait_for("a use from memory", || {
        let (hits, misses) = (count("hits"), count("misses"));
        assert!(server.lets_in(&key));
        assert_eq!(count("hits") + count("misses"), hits + misses + 1.0);
        (count("hits") > hits).then_some(())
    });
}

#[test]
fn keys_of_other_lengths_go_the_normal_way() {
    let database = Database::new();
    let server = Server::start(&database);
    for key in [
        // An older server's: 47 characters, no checksum.
        "clk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "clk_",
        "clk_short",
        "my-secret-admin-key-here",
        "x",
        &"long".repeat(100),
        // 53 characters, and none of ours.
        &"y".repeat(53),
    ] {
        assert!(!server.lets_in(key), "{key}");
        insert_key(&database, key, "adopted", "admin");
        wait_for("the server to know the new key", || server.lets_in(key).then_some(()));
    }
}

#[test]
fn schemes_and_spaces() {
    let database = Database::new();
    let server = Server::start(&database);
    let key = server.bootstrap_key();
    let status = |authorization: &str| {
        let request = format!("GET /auth/keys HTTP/1.1\r\nHost: a\r\nAuthorization:{authorization}\r\n\r\n");
        http::exchange(server.address, request.as_bytes())
    };
    for prefix in ["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer   ", " Bearer  "] {
        status(&format!("{prefix}{key}")).expect_status(200);
    }
    status(&format!(" Bearer {key} \t ")).expect_status(200);
    for malformed in [
        String::new(),
        " ".to_owned(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer{key}"),
        format!("Basic {key}"),
        format!("Bearers {key}"),
        key.clone(),
        format!("Bearer {key} {key}"),
        format!("Bearer {key},{key}"),
        format!("Bearer {key}\r\nAuthorization: Bearer {key}"),
        "Bearer \u{fc}ml\u{e4}ut".to_owned(),
    ] {
        let response = status(&malformed);
        // A comma may stand in a key that an owner chose, so this one may also be looked up.
        if malformed.contains(',') {
            assert_eq!(response.status, 401);
            continue;
        }
        let challenge = response.header("WWW-Authenticate").map(str::to_owned);
        assert_eq!(response.text(), MALFORMED, "{malformed:?}");
        response.expect_status(401);
        assert_eq!(challenge.as_deref(), Some(r#"Bearer realm="cloacina""#), "{malformed:?}");
    }
}

#[test]
fn names_survive_as_they_are() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let longest = "\u{1f511}".repeat(255);
    for name in [
        "a",
        "Gr\u{fc}\u{df}e \u{1f511}",
        "quo\"te \\ slash / <b>&amp;",
        "'; DROP TABLE api_keys; --",
        &longest,
    ] {
        let (id, _) = server.create_key(&admin, name);
        let listed = server.get("/auth/keys?limit=1", Some(&admin)).json();
        assert_eq!(listed["keys"][0]["id"], id.as_str());
        assert_eq!(listed["keys"][0]["name"], name);
    }
}

#[test]
fn ids_that_are_none() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for id in ["x", "1", "00000000-0000-4000-8000-00000000000", "%00", "'", "null", &"a".repeat(2000)] {
        server
            .delete(&format!("/auth/keys/{id}"), &admin)
            .expect(400, r#"{"error":"invalid key ID format"}"#);
    }
    server
        .delete("/auth/keys/00000000-0000-4000-8000-000000000000", &admin)
        .expect(404, r#"{"error":"key not found or already revoked"}"#);
}
