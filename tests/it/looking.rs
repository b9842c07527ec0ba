//! What only looks at a database changes nothing there, not even its schema, and only `serve` migrates.

use std::fs;

use crate::keys_apply::entry;
use crate::keys_command::{keys, keys_at, run_at, worked};
use crate::scratch::Outcome;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::upgrades::left_by;

const KEY: &str = "a-key-that-a-file-declares";
const ID: &str = "a1b2c3d4-e5f6-7890-abcd-ef1234567890";

/// Every action of `keys` and `tenants`, of each those that only look first.
fn all(database: &Database) -> Vec<Outcome> {
    let directory = Directory::new();
    let file = directory.join("keys.toml");
    fs::write(&file, entry("declared", KEY, "read", "")).unwrap();
    let file = file.to_str().unwrap();
    let tenants = |arguments: &[&str]| run_at(&database.url(), &[&["tenants"], arguments].concat(), "");
    vec![
        keys(database, &["list"]),
        keys(database, &["list", "--json"]),
        keys_at(&database.url(), &["explain"], KEY),
        keys(database, &["apply", file, "--dry-run"]),
        keys(database, &["apply", file]),
        keys(database, &["create", "--name", "x"]),
        keys(database, &["revoke", ID]),
        keys(database, &["rotate", ID]),
        tenants(&["list"]),
        tenants(&["list", "--json"]),
        tenants(&["show", "acme"]),
        tenants(&["create", "acme"]),
        tenants(&["password", "acme"]),
        tenants(&["remove", "acme"]),
    ]
}

#[track_caller]
fn expect_refusals(database: &Database, parts: &[&str]) {
    let before = database.contents();
    for outcome in all(database) {
        outcome.failed(1, parts);
        assert_eq!(outcome.stdout, "", "{outcome:?}");
    }
    assert_eq!(database.contents(), before);
}

#[test]
fn a_database_that_no_server_has_set_up() {
    expect_refusals(
        &Database::new(),
        &["has not been set up yet", "`cloacinactl serve`", "nothing was changed"],
    );
}

#[test]
fn a_table_that_no_server_has_adopted() {
    let database = Database::new();
    database.execute(
        "CREATE TABLE api_keys (id uuid PRIMARY KEY, key_hash text NOT NULL UNIQUE, name text NOT NULL,
             permissions text NOT NULL, created_at timestamptz NOT NULL, revoked_at timestamptz)",
    );
    expect_refusals(&database, &["has not been set up yet", "`cloacinactl serve`"]);
}

#[test]
fn a_database_of_an_earlier_release() {
    for version in 1..=6 {
        let from = format!("has version {version} of the schema");
        expect_refusals(&left_by(version, ""), &[&from, "`cloacinactl serve`", "nothing was changed"]);
    }
}

#[test]
fn a_database_of_a_later_release() {
    let database = Database::new();
    drop(Server::start(&database));
    database
        .execute("INSERT INTO refinery_schema_history VALUES (9999, 'later', '2030-01-01T00:00:00Z', '1')");
    expect_refusals(&database, &["newer than this program", "version 9999"]);
}

#[test]
fn a_database_of_another_program() {
    let database = Database::new();
    database.execute("CREATE TABLE api_keys (id bigserial PRIMARY KEY, token text)");
    expect_refusals(&database, &["public.api_keys", "id", "bigint", "uuid"]);
}

/// Beside a running server, which would have to be told of a change.
#[test]
fn looking_at_a_database_in_use() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (_, key) = server.create_key(&admin, "seen");
    server.terminate().expect_code(0);
    database.execute("INSERT INTO auth_caches VALUES (gen_random_uuid(), 0)");
    let numbers = "SELECT last_value FROM api_key_changes";
    let before = (database.contents(), database.value::<i64>(numbers));
    assert_eq!(worked(&keys(&database, &["list"])).len(), 3);
    assert_eq!(keys_at(&database.url(), &["explain"], &key).code, Some(0));
    let directory = Directory::new();
    let file = directory.join("keys.toml");
    fs::write(&file, entry("declared", KEY, "read", "")).unwrap();
    let planned = keys(&database, &["apply", file.to_str().unwrap(), "--dry-run"]);
    assert_eq!(worked(&planned), ["would create declared", "unchanged 0"]);
    assert_eq!((database.contents(), database.value::<i64>(numbers)), before);
}
