//! Tables of a later server, whose rows are tenants' too: none of their keys may do more here than there.

use crate::check::{check_database, says};
use crate::keys::hash;
use crate::keys_apply::entry;
use crate::keys_command::{keys, keys_at, worked};
use crate::permissions::forbidden;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::server::Server;

const ADMIN: &str = "an-admin-of-the-later-server";
const READER: &str = "a-reader-of-the-later-server";
const TENANTS: [&str; 4] = [
    "an-admin-without-is_admin-there",
    "an-admin-of-a-tenant-there",
    "a-reader-of-a-tenant-there",
    "an-almighty-one-of-a-tenant-there",
];

/// As text or as a UUID.
const TENANT: &str = "11111111-2222-4333-8444-555555555555";

pub const SIX: &str = "id uuid PRIMARY KEY DEFAULT gen_random_uuid(), key_hash text NOT NULL UNIQUE, name text NOT NULL,
    permissions text NOT NULL DEFAULT 'admin', created_at timestamptz NOT NULL DEFAULT now(), revoked_at timestamptz";

fn later(tenant_id: &str) -> Database {
    let database = Database::new();
    database.execute(&format!(
        "CREATE TABLE api_keys ({SIX}, tenant_id {tenant_id}, is_admin boolean NOT NULL DEFAULT false,
             expires_at timestamptz, issued_via text);
         INSERT INTO api_keys (key_hash, name, permissions, tenant_id, is_admin) VALUES
             ('{}', 'server', 'admin', NULL, true), ('{}', 'reader', 'read', NULL, false),
             ('{}', 'none', 'admin', NULL, false), ('{}', 'tenant', 'admin', '{TENANT}', false),
             ('{}', 'tenant', 'read', '{TENANT}', false), ('{}', 'tenant', 'admin', '{TENANT}', true)",
        hash(ADMIN),
        hash(READER),
        hash(TENANTS[0]),
        hash(TENANTS[1]),
        hash(TENANTS[2]),
        hash(TENANTS[3]),
    ));
    database
}

/// Asserts that this key is valid and opens nothing but itself.
#[track_caller]
pub fn expect_tenants(server: &Server, key: &str) {
    let who = server.get("/auth/whoami", Some(key)).expect_status(200).json();
    let id = who["id"].as_str().unwrap().to_owned();
    // Twice: from the database, and from the cache.
    for _ in 0..2 {
        for query in ["", "?require=read", "?require=write", "?require=admin", "?require=root", "?require="] {
            forbidden(server.get(&format!("/auth/verify{query}"), Some(key)));
        }
        forbidden(server.get("/auth/keys", Some(key)));
        forbidden(server.post("/auth/keys", key, r#"{"name":"x"}"#));
        forbidden(server.post("/auth/keys/self/rotate", key, "{}"));
        forbidden(server.post(&format!("/auth/keys/{id}/rotate"), key, "{}"));
        forbidden(server.delete(&format!("/auth/keys/{id}"), key));
        forbidden(server.delete("/auth/keys/a1b2c3d4-e5f6-7890-abcd-ef1234567890", key));
    }
}

#[test]
fn what_was_no_admin_there_is_none_here() {
    for tenant_id in ["text", "varchar(63)", "uuid"] {
        let database = later(&format!("{tenant_id} NULL"));
        let server = Server::start(&database);
        for key in TENANTS {
            expect_tenants(&server, key);
        }
        server.get("/auth/verify?require=admin", Some(ADMIN)).expect_status(204);
        server.get("/auth/verify?require=read", Some(READER)).expect_status(204);
        forbidden(server.get("/auth/keys", Some(READER)));
        let listed = server.get("/auth/keys", Some(ADMIN)).expect_status(200).json();
        assert_eq!(listed["keys"].as_array().unwrap().len(), 6);
    }
}

#[test]
fn the_server_s_admin_and_they_themselves_can_revoke_them() {
    let database = later("text");
    let server = Server::start(&database);
    server.delete("/auth/keys/self", TENANTS[0]).expect_status(200);
    assert!(!server.knows(TENANTS[0]));
    let id: String =
        database.value(&format!("SELECT id::text FROM api_keys WHERE key_hash = '{}'", hash(TENANTS[1])));
    server.delete(&format!("/auth/keys/{id}"), ADMIN).expect_status(200);
    assert!(!server.knows(TENANTS[1]));
    // A successor is what its predecessor was.
    let id: String =
        database.value(&format!("SELECT id::text FROM api_keys WHERE key_hash = '{}'", hash(TENANTS[2])));
    let made = server.post(&format!("/auth/keys/{id}/rotate"), ADMIN, "{}").expect_status(201).json();
    expect_tenants(&server, made["key"].as_str().unwrap());
    let who = server.get("/auth/whoami", Some(TENANTS[3])).expect_status(200).json();
    let rotated = keys(&database, &["rotate", who["id"].as_str().unwrap()]);
    expect_tenants(&server, worked(&rotated)[0]);
}

#[test]
fn keys_made_here_are_what_they_say_also_for_the_later_server() {
    let database = later("text");
    let server = Server::start(&database);
    let (_, admin) = server.create_key(ADMIN, "made-here");
    let reader = server.make_key(ADMIN, r#"{"name":"reads","role":"read"}"#);
    let by_command = keys(&database, &["create", "--name", "commanded"]);
    let by_command = worked(&by_command)[0];
    let rotated = server.post("/auth/keys/self/rotate", by_command, "{}").expect_status(201).json();
    for key in [&*admin, rotated["key"].as_str().unwrap()] {
        server.get("/auth/verify?require=admin", Some(key)).expect_status(204);
        server.get("/auth/keys", Some(key)).expect_status(200);
    }
    server.get("/auth/verify?require=read", Some(reader.key())).expect_status(204);
    let directory = Directory::new();
    let file = directory.join("keys.toml");
    let apply = |permissions: &str| {
        std::fs::write(&file, entry("declared", "a-key-that-a-file-declares", permissions, "")).unwrap();
        worked(&keys(&database, &["apply", file.to_str().unwrap()]));
    };
    let is_admin = |name: &str| {
        database.value::<String>(&format!(
            "SELECT string_agg(is_admin::text, ' ') FROM api_keys WHERE name = '{name}'"
        ))
    };
    for (permissions, says) in [("admin", "true"), ("read", "false"), ("admin", "true")] {
        apply(permissions);
        assert_eq!(is_admin("declared"), says);
        server.get("/auth/verify", Some("a-key-that-a-file-declares")).expect_status(204);
    }
    server.get("/auth/verify?require=admin", Some("a-key-that-a-file-declares")).expect_status(204);
    assert_eq!(
        [is_admin("made-here"), is_admin("reads"), is_admin("commanded")],
        ["true", "false", "true true"]
    );
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys WHERE tenant_id IS NOT NULL"), 3);
}

#[test]
fn an_adopted_table_without_keys_gets_an_admin() {
    let database = Database::new();
    database.execute(&format!(
        "CREATE TABLE api_keys ({SIX}, tenant_id text NULL, is_admin boolean NOT NULL DEFAULT false)"
    ));
    let server = Server::start(&database);
    assert!(server.lets_in(&server.bootstrap_key()));
    assert!(database.value::<bool>("SELECT is_admin FROM api_keys"));
}

#[test]
fn tables_with_only_one_of_the_columns() {
    let database = Database::new();
    database.execute(&format!("CREATE TABLE api_keys ({SIX}, tenant_id text)"));
    database.execute(&format!(
        "INSERT INTO api_keys (key_hash, name, tenant_id) VALUES ('{}', 'server', NULL), ('{}', 'tenant', 'no name')",
        hash(ADMIN), hash(TENANTS[0])
    ));
    let server = Server::start(&database);
    assert!(server.lets_in(ADMIN));
    expect_tenants(&server, TENANTS[0]);

    let database = Database::new();
    // Null was no admin there.
    database.execute(&format!("CREATE TABLE api_keys ({SIX}, is_admin boolean)"));
    database.execute(&format!(
        "INSERT INTO api_keys (key_hash, name, is_admin) VALUES ('{}', 'server', true), ('{}', 'none', false), ('{}', 'null', NULL)",
        hash(ADMIN), hash(TENANTS[0]), hash(TENANTS[1])
    ));
    let home = Directory::new();
    says(check_database(home.path(), &database, &[]), 0, &["has 2 keys of tenants"]);
    let server = Server::start(&database);
    assert!(server.lets_in(ADMIN));
    expect_tenants(&server, TENANTS[0]);
    expect_tenants(&server, TENANTS[1]);
    says(check_database(home.path(), &database, &[]), 0, &["has 2 keys of tenants"]);
}

#[test]
fn check_and_explain_tell_of_them() {
    let database = later("text");
    let home = Directory::new();
    let before = database.contents();
    says(check_database(home.path(), &database, &[]), 0, &["has 4 keys of tenants", "is adopted"]);
    assert_eq!(database.contents(), before);
    drop(Server::start(&database));
    says(check_database(home.path(), &database, &[]), 0, &["has 4 keys of tenants"]);
    let explained = keys_at(&database.url(), &["explain"], TENANTS[0]);
    assert!(explained.code == Some(0) && explained.stdout.contains("a tenant's key"), "{explained:?}");
    let explained = keys_at(&database.url(), &["explain"], ADMIN);
    assert!(explained.code == Some(0) && !explained.stdout.contains("tenant"), "{explained:?}");
}

/// A release before this one may have adopted such a table and made keys there, without a word on `is_admin`.
#[test]
fn keys_that_an_earlier_release_made_there_stay_admins() {
    let database = later("text");
    drop(Server::start(&database));
    database.execute(
        "DELETE FROM refinery_schema_history WHERE version >= 7;
         UPDATE api_keys SET prefix = 'clk_madehere' WHERE name = 'reader'",
    );
    let old = "an-admin-key-that-an-earlier-release-made";
    let successor = "its-successor-by-an-earlier-release";
    let stolen = "a-tenant-s-successor-by-an-earlier-release";
    database.execute(&format!(
        "INSERT INTO api_keys (key_hash, name, permissions, prefix, rotated_from) VALUES
             ('{}', 'old', 'admin', 'clk_the-old1', NULL), ('{}', 'old', 'admin', 'clk_the-new1', NULL),
             ('{}', 'tenant', 'admin', 'clk_stolen-1', (SELECT id FROM api_keys WHERE name = 'none'));
         UPDATE api_keys SET rotated_from = (SELECT id FROM api_keys WHERE key_hash = '{}') WHERE key_hash = '{}'",
        hash(old), hash(successor), hash(stolen), hash(old), hash(successor)
    ));
    let server = Server::start(&database);
    assert!(server.lets_in(old) && server.lets_in(successor));
    for key in TENANTS.into_iter().chain([stolen]) {
        expect_tenants(&server, key);
    }
}

/// The later server's table may have columns of these names of its own, with whatever it puts there.
#[test]
fn columns_of_the_later_server_s_own_make_no_admins() {
    let own = "prefix text DEFAULT 'clk_theirs00', declared boolean NOT NULL DEFAULT true, rotated_from uuid";
    for columns in [
        format!("{own}, tenant_id text, is_admin boolean NOT NULL DEFAULT false"),
        format!("tenant_id text, is_admin boolean NOT NULL DEFAULT false, {own}"),
        "tenant_id text, is_admin boolean NOT NULL DEFAULT false, prefix text DEFAULT 'theirs_00000'"
            .to_owned(),
    ] {
        let table = format!("CREATE TABLE api_keys ({SIX}, {columns})");
        let database = crate::upgrades::left_by(6, &table);
        database.execute(&format!(
            "INSERT INTO api_keys (key_hash, name, created_at, is_admin) VALUES
                 ('{}', 'server', '2025-01-01', true), ('{}', 'none', '2025-01-01', false);",
            hash(ADMIN),
            hash(TENANTS[0])
        ));
        let server = Server::start(&database);
        assert!(server.lets_in(ADMIN));
        expect_tenants(&server, TENANTS[0]);
    }
}

/// Servers of the release before run on while others are replaced, and make keys without these columns.
#[test]
fn keys_of_a_server_of_the_release_before_are_admins() {
    let database = Database::new();
    let server = Server::start(&database);
    database.execute(&format!(
        "INSERT INTO api_keys (id, key_hash, prefix, name, permissions, created_at)
         VALUES (gen_random_uuid(), '{}', 'x', 'beside', 'admin', now())",
        hash(ADMIN)
    ));
    assert!(server.lets_in(ADMIN));
    server.get("/auth/verify?require=admin", Some(ADMIN)).expect_status(204);
    let rotated = server.post("/auth/keys/self/rotate", ADMIN, "{}").expect_status(201).json();
    assert!(server.lets_in(rotated["key"].as_str().unwrap()));
}
