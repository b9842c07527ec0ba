//! `cloacinactl keys …` with keys of tenants: made, listed, explained, and never taken for the server's own.

use std::fs;

use serde_json::Value;

use crate::keys::{hash, insert_key};
use crate::keys_apply::entry;
use crate::keys_command::{created, id_of, keys, keys_at, worked};
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::server::Server;

/// A database with these tenants.
fn with_tenants(names: &[&str]) -> Database {
    let database = Database::new();
    Server::migrate(&database);
    for name in names {
        database.execute(&format!(
            "INSERT INTO cloacina_tenants (id, name) VALUES (gen_random_uuid(), '{name}')"
        ));
    }
    database
}

#[test]
fn a_key_is_made_for_a_tenant() {
    let database = with_tenants(&["acme", "other"]);
    let server = Server::start(&database);
    let key =
        created(&keys(&database, &["create", "--name", "ci", "--tenant", "acme", "--permissions=read"]));
    let who = server.get("/auth/whoami", Some(&key)).expect_status(200).json();
    assert_eq!((&who["tenant"], &who["permissions"]), (&"acme".into(), &"read".into()));
    server.get("/auth/keys", Some(&key)).expect_status(403);
    let admin = created(&keys(&database, &["create", "--name", "boss", "--tenant=acme", "--expires-in=90d"]));
    server.get("/tenants/acme/keys", Some(&admin)).expect_status(200);
    server.get("/tenants/other/keys", Some(&admin)).expect_status(403);

    for name in ["ghost", "ACME", "", "*", "acme ", "' OR true --"] {
        let outcome = keys(&database, &["create", "--name", "x", "--tenant", name]);
        outcome.failed(1, &[&format!("tenant '{name}' not found")]);
        assert_eq!(outcome.stdout, "");
    }
    database.execute("UPDATE cloacina_tenants SET removed_at = now() WHERE name = 'other'");
    keys(&database, &["create", "--name", "x", "--tenant", "other"]).failed(1, &["tenant 'other' not found"]);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys WHERE tenant IS NOT NULL"), 2);
}

#[test]
fn a_list_says_whose_keys_they_are() {
    let database = with_tenants(&["acme", "other", "gone"]);
    worked(&keys(&database, &["create", "--name", "ours"]));
    for (name, tenant) in [("theirs", "acme"), ("theirs too", "acme"), ("others", "other"), ("late", "gone")]
    {
        worked(&keys(&database, &["create", "--name", name, "--tenant", tenant]));
    }
    insert_key(&database, "a-key-of-an-unknown-tenant", "shut out", "read");
    database.execute(
        "UPDATE api_keys SET tenant_id = 'no name' WHERE name = 'shut out';
         UPDATE cloacina_tenants SET removed_at = now() WHERE name = 'gone'",
    );
    let table = keys(&database, &["list"]);
    let lines = worked(&table);
    let tenant_of = |name: &str| {
        let line = lines.iter().find(|line| line.contains(&format!("  {name}  "))).unwrap();
        let start = lines[0].find("TENANT").unwrap();
        line[start..].split("  ").next().unwrap().to_owned()
    };
    for (name, tenant) in [
        ("ours", "-"),
        ("theirs", "acme"),
        ("theirs too", "acme"),
        ("others", "other"),
        ("late", "(none here)"),
        ("shut out", "(none here)"),
    ] {
        assert_eq!(tenant_of(name), tenant, "{table:?}");
    }

    let of = |arguments: &[&str]| {
        let outcome = keys(&database, &[&["list", "--json"], arguments].concat());
        worked(&outcome);
        let listed: Vec<Value> = serde_json::from_str(&outcome.stdout).unwrap();
        let shown = |key: &Value| format!("{} {}", key["name"].as_str().unwrap(), key["tenant"]);
        listed.iter().map(shown).collect::<Vec<_>>()
    };
    assert_eq!(of(&["--tenant", "acme"]), [r#"theirs too "acme""#, r#"theirs "acme""#]);
    assert_eq!(of(&["--tenant=other"]), [r#"others "other""#]);
    assert!(of(&[]).contains(&"ours null".to_owned()) && of(&[]).len() == 6);
    worked(&keys(&database, &["revoke", &id_of(&database, "theirs")]));
    assert_eq!(of(&["--tenant", "acme", "--active"]), [r#"theirs too "acme""#]);
    assert_eq!(worked(&keys(&database, &["list", "--tenant", "acme"])).len(), 3);
    for tenant in ["gone", "ghost", "ACME"] {
        let outcome = keys(&database, &["list", "--tenant", tenant]);
        outcome.failed(1, &[&format!("tenant '{tenant}' not found")]);
    }
}

#[test]
fn a_tenant_s_key_is_rotated_explained_and_revoked_as_any_other() {
    let database = with_tenants(&["acme"]);
    let server = Server::start(&database);
    let old = created(&keys(&database, &["create", "--name", "ci", "--tenant", "acme"]));
    server.get("/tenants/acme/keys", Some(&old)).expect_status(200);
    let new = created(&keys(&database, &["rotate", &id_of(&database, "ci")]));
    assert!(!server.knows(&old));
    server.get("/tenants/acme/keys", Some(&new)).expect_status(200);
    server.get("/auth/keys", Some(&new)).expect_status(403);
    let explained = keys_at(&database.url(), &["explain"], &new);
    assert!(worked(&explained).contains(&"tenant: acme"), "{explained:?}");
    let id: String =
        database.value("SELECT id::text FROM api_keys WHERE tenant IS NOT NULL AND revoked_at IS NULL");
    worked(&keys(&database, &["revoke", &id]));
    assert!(!server.knows(&new));
}

/// The rows of tenants, all of each, as far as no use of a key changes them.
fn rows_of_tenants(database: &Database) -> String {
    database.value(
        "SELECT string_agg((to_jsonb(api_keys) - 'last_used_at')::text, E'\\n' ORDER BY id) FROM api_keys
         WHERE tenant_id IS NOT NULL OR permissions = 'admin' AND NOT is_admin",
    )
}

#[test]
fn a_file_never_takes_a_tenant_s_key() {
    let database = with_tenants(&["acme", "gone"]);
    let server = Server::start(&database);
    let of_acme = created(&keys(&database, &["create", "--name", "theirs", "--tenant", "acme"]));
    let of_gone = created(&keys(&database, &["create", "--name", "late", "--tenant", "gone"]));
    for (key, name) in [
        ("a-key-of-an-unknown-tenant", "stranger"),
        ("an-admin-elsewhere-not-here", "no admin"),
        ("a-key-that-a-file-declared-before", "declared before"),
        ("one-that-a-file-declared-before-and-was-none", "declared admin"),
    ] {
        insert_key(&database, key, name, "admin");
    }
    // What another program may have written: rows that a file made, and that are a tenant's since.
    database.execute(
        "UPDATE api_keys SET tenant_id = 'no name' WHERE name = 'stranger';
         UPDATE api_keys SET is_admin = false WHERE name IN ('no admin', 'declared admin');
         UPDATE api_keys SET declared = true WHERE name LIKE 'declared %';
         UPDATE api_keys SET tenant_id = 'acme', tenant = (SELECT id FROM cloacina_tenants WHERE name = 'acme')
         WHERE name = 'declared before';
         UPDATE cloacina_tenants SET removed_at = now() WHERE name = 'gone'",
    );
    let before = rows_of_tenants(&database);
    assert_eq!(before.lines().count(), 6);
    let directory = Directory::new();
    let file = directory.join("keys.toml");
    let apply = |text: &str, flags: &[&str]| {
        fs::write(&file, text).unwrap();
        keys(&database, &[&["apply", file.to_str().unwrap()], flags].concat())
    };
    let own = entry("own", "the-server-s-own-declared-key", "admin", "");
    for (key, name, whose) in [
        (&*of_acme, "theirs", "which is a key of the tenant `acme`"),
        (&of_gone, "late", "which is a key of the tenant `gone`"),
        ("a-key-of-an-unknown-tenant", "stranger", "which is a key of the tenant `no name`"),
        ("an-admin-elsewhere-not-here", "no admin", "which is a tenant's"),
        ("a-key-that-a-file-declared-before", "declared before", "which is a key of the tenant `acme`"),
        ("one-that-a-file-declared-before-and-was-none", "declared admin", "which is a tenant's"),
    ] {
        let id = id_of(&database, name);
        for (flags, permissions) in [(["--dry-run"].as_slice(), "admin"), (&[], "admin"), (&[], "read")] {
            let refused = apply(&(own.clone() + &entry(name, key, permissions, "")), flags);
            let told = format!("line 6: `{name}` has the hash of the key {id} (`{name}`), {whose}");
            refused.failed(1, &[&told, "nothing was changed"]);
            assert_eq!(refused.stdout, "");
        }
    }
    assert_eq!(worked(&apply(&own, &["--dry-run"])), ["would create own", "unchanged 0"]);
    assert_eq!(worked(&apply(&own, &[])).len(), 2);
    assert_eq!(worked(&apply(&own, &[])), ["unchanged 1"]);
    assert_eq!(worked(&apply("key = []", &[]))[1..], ["unchanged 0"]);
    assert_eq!(rows_of_tenants(&database), before);
    assert_eq!(server.get("/auth/whoami", Some(&of_acme)).expect_status(200).json()["tenant"], "acme");
    let hash = hash("the-server-s-own-declared-key");
    let gone = format!("SELECT revoked_at IS NOT NULL FROM api_keys WHERE key_hash = '{hash}'");
    assert!(database.value::<bool>(&gone));
}
