//! The life of a key: made, listed, let in, revoked, and from then on refused everywhere.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::proxy::Proxy;
use crate::support::server::{Server, Start};
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

        let (answered, answer) = std::sync::mpsc::channel();
        let address = server.address;
        let request = http::request("DELETE", &format!("/auth/keys/{id}"), Some(&admin), None);
        let revocation = std::thread::spawn(move || {
            http::exchange(address, &request).expect_status(200);
            answered.send(()).unwrap();
        });
        // A server may answer at once, or wait for the lookup: either is right, so the time is no assertion.
        let at_once = answer.recv_timeout(std::time::Duration::from_secs(1)).is_ok();
        let late = at_once.then(|| {
            let mut late = Connection::open(server.address);
            late.send(&http::request("GET", "/auth/keys?limit=1", Some(&key), None));
            late
        });
        proxy.release();
        revocation.join().unwrap();
        if let Some(mut late) = late {
            late.receive("GET").expect(401, INVALID);
        }
        // This one began before the revocation was answered; only that it is answered matters.
        let early = early.receive("GET");
        assert!([200, 401].contains(&early.status), "{}", early.text());
        for _ in 0..20 {
            assert!(!server.lets_in(&key), "round {round}: a stale lookup filled the cache");
        }
    }
}

#[test]
fn another_server_learns_of_a_revocation() {
    let database = Database::new();
    let one = Server::start(&database);
    let other = Start::on(&database).arguments(["--auth-cache-ttl", "1s"]).serving();
    let admin = one.bootstrap_key();
    let (id, key) = one.create_key(&admin, "shared");
    assert!(other.lets_in(&key));
    one.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    assert!(!one.lets_in(&key));
    wait_for("the other server to refuse the key", || (!other.lets_in(&key)).then_some(()));
    // And one made there is known here.
    let (_, made_there) = other.create_key(&admin, "made-there");
    assert!(one.lets_in(&made_there));
}

#[test]
fn newest_first_and_in_pages() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let mut expected = vec![id_of_only_key(&database)];
    for number in 0..25 {
        expected.insert(0, server.create_key(&admin, &format!("key-{number}")).0);
    }
    let ids = |page: &Value| -> Vec<String> {
        page["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };
    let whole = server.get("/auth/keys", Some(&admin)).expect_status(200);
    assert_eq!(ids(&whole.json()), expected);
    assert!(whole.json().get("next").is_none());
    assert_eq!(whole.header("Link"), None);

    let mut path = "/auth/keys?limit=10".to_owned();
    let mut seen = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let page = server.get(&path, Some(&admin)).expect_status(200);
        let found = ids(&page.json());
        sizes.push(found.len());
        seen.extend(found);
        let Some(next) = page.json()["next"].as_str().map(str::to_owned) else {
            assert_eq!(page.header("Link"), None, "a link without a next page");
            break;
        };
        let link = page.header("Link").expect("a next page has a Link").to_owned();
        let target = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(r#">; rel="next""#));
        let target = target.unwrap_or_else(|| panic!("not a link to the next page: {link}"));
        assert!(target.starts_with("/auth/keys?") && target.contains("limit=10"), "{link}");
        // Both ways lead to the same page.
        let by_value = format!("/auth/keys?limit=10&after={next}");
        assert_eq!(
            server.get(target, Some(&admin)).text(),
            server.get(&by_value, Some(&admin)).text(),
            "{target} and {by_value}"
        );
        path = target.to_owned();
    }
    assert_eq!(sizes, [10, 10, 6]);
    assert_eq!(seen, expected);

    // A page that is just full has no next.
    let full = server.get("/auth/keys?limit=26", Some(&admin)).expect_status(200);
    assert!(full.json().get("next").is_none());
    assert_eq!(ids(&full.json()).len(), 26);
    server.get("/auth/keys?limit=1000", Some(&admin)).expect_status(200);
}

fn id_of_only_key(database: &Database) -> String {
    database.value("SELECT id::text FROM api_keys")
}

#[test]
fn revoked_keys_can_be_left_out() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (gone, _) = server.create_key(&admin, "gone");
    let (stays, _) = server.create_key(&admin, "stays");
    server.delete(&format!("/auth/keys/{gone}"), &admin).expect_status(200);
    let names = |path: &str| -> Vec<String> {
        let page = server.get(path, Some(&admin)).expect_status(200).json();
        page["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/auth/keys").len(), 3);
    assert_eq!(names("/auth/keys?revoked=true").len(), 3);
    let left = names("/auth/keys?revoked=false");
    assert_eq!((left.len(), &left[0]), (2, &stays));
    // Together with pages: the key that is left out takes no place.
    let page = server.get("/auth/keys?revoked=false&limit=1", Some(&admin)).json();
    let next = page["next"].as_str().expect("there is a second page").to_owned();
    let second = names(&format!("/auth/keys?revoked=false&limit=1&after={next}"));
    assert_eq!(second, left[1..]);
}

#[test]
fn bad_values_in_the_query_are_named() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for (query, named) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit", "limit"),
        ("limit=ten", "limit"),
        ("limit=1.5", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("after=nonsense", "after"),
        ("after=", "after"),
        ("after=%00", "after"),
        ("revoked=maybe", "revoked"),
        ("revoked=", "revoked"),
    ] {
        let response = server.get(&format!("/auth/keys?{query}"), Some(&admin)).expect_status(400);
        let message = response.error();
        assert!(message.contains(named), "{query}: {message}");
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
    let mut locker = database.client();
    let mut lock = locker.transaction().unwrap();
    lock.batch_execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut mistyped = 0;
    for place in [4, 20, 46, 47, 52] {
        let mut bytes = key.clone().into_bytes();
        bytes[place] = if bytes[place] == b'7' { b'8' } else { b'7' };
        let wrong = String::from_utf8(bytes).unwrap();
        server.get("/auth/keys", Some(&wrong)).expect(401, INVALID);
        mistyped += 1;
    }
    lock.rollback().unwrap();
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
fn an_administrator_may_revoke_the_key_it_uses() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "last-act");
    server.delete(&format!("/auth/keys/{id}"), &key).expect_status(200);
    assert!(!server.lets_in(&key));
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
