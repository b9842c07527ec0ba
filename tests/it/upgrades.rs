//! Databases that earlier releases of this server left behind: rows are kept, keys go on working.

use crate::keys::hash;
use crate::support::postgres::Database;
use crate::support::server::Server;

/// The schema's history, with the checksums that earlier releases have written: a migration that was changed after
/// it was released would be refused by every database that has it.
const RELEASED: [(i32, &str, &str, &str); 6] = [
    (1, "api_keys", "7921703056539843872", include_str!("../../migrations/V1__api_keys.sql")),
    (2, "key_life", "1657772359568096442", include_str!("../../migrations/V2__key_life.sql")),
    (3, "auth_caches", "17698532064302762509", include_str!("../../migrations/V3__auth_caches.sql")),
    (4, "rotation", "3709399483899882923", include_str!("../../migrations/V4__rotation.sql")),
    (5, "declared_keys", "17860426221740138723", include_str!("../../migrations/V5__declared_keys.sql")),
    (6, "old_rows", "7487484675932704559", include_str!("../../migrations/V6__old_rows.sql")),
];

/// The version that a start migrates to.
pub fn newest_version() -> i32 {
    i32::try_from(std::fs::read_dir("migrations").unwrap().count()).unwrap()
}

/// A database as the release with this many migrations left it.
pub fn left_by(version: usize, table: &str) -> Database {
    let database = Database::new();
    let mut client = database.client();
    client.batch_execute(table).unwrap();
    client
        .batch_execute(
            "CREATE TABLE refinery_schema_history (
                 version INT4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255))",
        )
        .unwrap();
    for (number, name, checksum, statements) in &RELEASED[..version] {
        client.batch_execute(statements).unwrap();
        client
            .execute(
                "INSERT INTO refinery_schema_history VALUES ($1, $2, '2026-01-01T00:00:00.5Z', $3)",
                &[number, name, checksum],
            )
            .unwrap();
    }
    database
}

const VALID: &str = "a-valid-key-of-the-release-before";
const ENDLESS: &str = "an-endless-key-of-the-release-before";
const READER: &str = "a-reading-key-of-the-release-before";
const REVOKED: &str = "a-revoked-key-of-the-release-before";
const EXPIRED: &str = "an-expired-key-of-the-release-before";

fn insert_rows(database: &Database, has_expiry: bool) {
    let mut client = database.client();
    for (key, name, permissions, revoked_at, expires_at) in [
        (VALID, "valid", "admin", None, Some("2999-12-31T23:59:59Z")),
        (ENDLESS, "endless", "admin", None, Some("infinity")),
        (READER, "reader", "read", None, None),
        (REVOKED, "revoked", "admin", Some("2025-03-01T12:00:00Z"), None),
        (EXPIRED, "expired", "admin", None, Some("2025-03-01T12:00:00Z")),
    ] {
        client
            .execute(
                "INSERT INTO api_keys (id, key_hash, name, permissions, created_at, revoked_at)
                 VALUES (gen_random_uuid(), $1, $2, $3, '2024-02-29T12:00:00.123456Z', $4::text::timestamptz)",
                &[&hash(key), &name, &permissions, &revoked_at],
            )
            .unwrap();
        if has_expiry {
            client
                .execute(
                    "UPDATE api_keys SET expires_at = $2::text::timestamptz WHERE key_hash = $1",
                    &[&hash(key), &expires_at],
                )
                .unwrap();
        }
    }
}

const ROWS: &str =
    "SELECT string_agg(concat_ws('|', id, key_hash, name, permissions, created_at, revoked_at), E'\\n'
                    ORDER BY name) FROM api_keys";

fn assert_goes_on(database: &Database, has_expiry: bool) {
    insert_rows(database, has_expiry);
    let before: String = database.value(ROWS);
    let server = Server::start(database);
    assert!(!server.home().join("bootstrap-key").exists(), "there are keys, so none is made");
    assert_eq!(database.value::<String>(ROWS), before);
    for (key, valid) in
        [(VALID, true), (ENDLESS, true), (READER, true), (REVOKED, false), (EXPIRED, !has_expiry)]
    {
        assert_eq!(server.knows(key), valid, "{key}");
    }
    let listed = server.get("/auth/keys", Some(VALID)).expect_status(200).json();
    for row in listed["keys"].as_array().unwrap() {
        let expires_at = match row["name"].as_str().unwrap() {
            "valid" if has_expiry => "2999-12-31T23:59:59+00:00".into(),
            "expired" if has_expiry => "2025-03-01T12:00:00+00:00".into(),
            // Never is written as null, in whichever way the table says it.
            _ => serde_json::Value::Null,
        };
        assert_eq!(row["expires_at"], expires_at, "{row}");
        assert_eq!(row["prefix"], serde_json::Value::Null, "{row}");
        assert_eq!(row["revoked"], row["name"] == "revoked", "{row}");
    }
    // What the release before did not know works on its rows as well.
    for key in [ENDLESS, READER] {
        let who = server.get("/auth/whoami", Some(key)).expect_status(200).json();
        let made = server.post("/auth/keys/self/rotate", key, r#"{"grace":"1h"}"#).expect_status(201).json();
        assert_eq!(made["name"], who["name"]);
        assert_eq!(made["permissions"], who["permissions"]);
        assert_eq!(made.get("expires_at"), None, "it never ended, so its successor does not: {made}");
        assert!(server.knows(key) && server.knows(made["key"].as_str().unwrap()));
    }
    server.delete("/auth/keys/self", READER).expect_status(200);
    assert!(!server.knows(READER));
    server.terminate().expect_code(0);
    let again = Server::start(database);
    assert!(again.knows(VALID) && !again.knows(READER));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 7);
}

/// Adopted by an earlier release, and kept as it was by that one.
const ADOPTED: &str = "CREATE TABLE api_keys (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), key_hash varchar(64) NOT NULL UNIQUE, name varchar(255) NOT NULL,
    permissions varchar(50) DEFAULT 'admin', created_at timestamptz NOT NULL DEFAULT now(), revoked_at timestamptz)";

/// Moments that PostgreSQL can store and RFC 3339 cannot write, as somebody may have put them there by hand.
#[test]
fn ends_beyond_all_calendars() {
    let database = left_by(3, "");
    insert_rows(&database, true);
    database.execute(
        "UPDATE api_keys SET expires_at = '-infinity' WHERE name = 'expired';
         UPDATE api_keys SET expires_at = '20000-01-01T00:00:00Z' WHERE name = 'endless'",
    );
    let server = Server::start(&database);
    assert!(server.knows(ENDLESS) && !server.knows(EXPIRED));
    let listed = server.get("/auth/keys", Some(VALID)).expect_status(200).json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 5);
    let made = server.post("/auth/keys/self/rotate", ENDLESS, "{}").expect_status(201).json();
    assert!(server.knows(made["key"].as_str().unwrap()));
}

#[test]
fn a_database_of_the_first_migration() {
    assert_goes_on(&left_by(1, ""), false);
}

#[test]
fn a_database_of_two_migrations() {
    assert_goes_on(&left_by(2, ""), true);
}

#[test]
fn a_database_of_three_migrations() {
    assert_goes_on(&left_by(3, ""), true);
}

#[test]
fn databases_of_more_migrations() {
    for version in 4..=6 {
        assert_goes_on(&left_by(version, ""), true);
    }
}

#[test]
fn a_table_that_an_earlier_release_had_adopted() {
    assert_goes_on(&left_by(2, ADOPTED), true);
    assert_goes_on(&left_by(3, ADOPTED), true);
}
