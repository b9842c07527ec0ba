//! The table of a later original, whose rows name tenants: the migration makes these tenants, and a key may do in its own
//! what it might do there. What no tenant can be called stays shut out.

use serde_json::json;

use super::site::Site;
use crate::keys::hash;
use crate::permissions::forbidden;
use crate::support::made::Made;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::tenants_of_later_servers::{SIX, expect_tenants};
use crate::verify::vouched_of;

const ADMIN: &str = "an-admin-of-the-later-server";

/// Such a table, with the server's admin in it.
fn later(database: &Database, tenant_id: &str) {
    database.execute(&format!(
        "CREATE TABLE api_keys ({SIX}, tenant_id {tenant_id}, is_admin boolean NOT NULL DEFAULT false)"
    ));
    insert(database, ADMIN, None, "admin", true);
}

/// A row of it. Each is a second younger than the one before.
fn insert(database: &Database, key: &str, tenant: Option<&str>, permissions: &str, is_admin: bool) {
    let tenant = tenant.map_or("NULL".to_owned(), |tenant| format!("'{tenant}'"));
    database.execute(&format!(
        "INSERT INTO api_keys (key_hash, name, permissions, tenant_id, is_admin, created_at)
         SELECT '{}', 'adopted', '{permissions}', {tenant}, {is_admin},
                '2025-01-01T00:00:00Z'::timestamptz + make_interval(secs => count(*)) FROM api_keys",
        hash(key)
    ));
}

fn names(database: &Database) -> String {
    let query = "SELECT COALESCE(string_agg(concat(name, username), ' ' ORDER BY name COLLATE \"C\"), '') FROM cloacina_tenants";
    database.value(query)
}

#[track_caller]
fn status(server: &Server, path: &str, key: &str) -> u16 {
    server.get(path, Some(key)).status
}

#[test]
fn tenants_are_made_of_the_names_and_their_keys_may_do_what_they_might() {
    for tenant_id in ["text", "varchar", "varchar(36)"] {
        let database = Database::new();
        later(&database, tenant_id);
        for (key, tenant, permissions, is_admin) in [
            ("acme-admin", "acme", "admin", false),
            ("acme-almighty", "acme", "admin", true),
            ("acme-write", "acme", "write", false),
            ("acme-read", "acme", "read", true),
            ("acme-odd", "acme", "root", true),
            ("_2-read", "_2", "read", false),
        ] {
            insert(&database, key, Some(tenant), permissions, is_admin);
        }
        let server = Server::start(&database);
        assert_eq!(names(&database), "_2 acme", "{tenant_id}");
        let shown = server.get("/tenants/acme", Some(ADMIN)).expect_status(200).json();
        assert_eq!((&shown["username"], &shown["max_pending_executions"]), (&json!(null), &json!(10_000)));
        let of_all = server.get("/auth/keys", Some(ADMIN)).expect_status(200).json();
        assert_eq!(of_all["keys"].as_array().unwrap().len(), 1, "the server's alone");

        for (key, own, keys, verified) in [
            ("acme-admin", 200, 200, "admin"),
            ("acme-almighty", 200, 200, "admin"),
            ("acme-write", 200, 403, "write"),
            ("acme-read", 200, 403, "read"),
            ("acme-odd", 403, 403, "root"),
        ] {
            let who = server.get("/auth/whoami", Some(key)).expect_status(200).json();
            assert_eq!(who["tenant"], "acme");
            assert_eq!(status(&server, "/tenants/acme", key), own, "{key}");
            assert_eq!(status(&server, "/tenants/acme/keys", key), keys, "{key}");
            let [.., permissions, tenant] = vouched_of(&server.get("/auth/verify?tenant=acme", Some(key)));
            assert_eq!([&*permissions, &*tenant], [verified, "acme"]);
            for path in
                ["/auth/keys", "/auth/verify", "/tenants", "/tenants/_2", "/tenants/_2/keys", "/tenants/ACME"]
            {
                forbidden(server.get(path, Some(key)));
            }
            forbidden(server.post("/tenants", key, r#"{"schema_name":"b"}"#));
            forbidden(server.delete("/tenants/acme", key));
        }
        assert_eq!(status(&server, "/tenants/_2", "_2-read"), 200);
        // The admin of a tenant can make what an admin of a tenant can make.
        let made = server.post("/tenants/acme/keys", "acme-admin", r#"{"name":"a"}"#).expect_status(201);
        assert_eq!(status(&server, "/tenants/acme/keys", Made(made.json()).key()), 200);
    }
}

#[test]
fn what_no_tenant_can_be_called_stays_shut_out() {
    let database = Database::new();
    // The role of the server and the schema of its tables are no names of tenants either.
    let (url, role) = database.url_of_new_role();
    database.execute(&format!(
        "ALTER DATABASE {} OWNER TO {role}; ALTER SCHEMA public RENAME TO of_the_server;
         ALTER SCHEMA of_the_server OWNER TO {role}; ALTER ROLE {role} SET search_path = of_the_server",
        database.name()
    ));
    let long = "x".repeat(64);
    let refused = [
        "",
        " ",
        "a b",
        "a-b",
        "1a",
        "caf\u{e9}",
        "acme ",
        " acme",
        "acme\n",
        "a.b",
        "*",
        "-",
        &long,
        "11111111-2222-4333-8444-555555555555",
        "public",
        "PUBLIC",
        "information_schema",
        "postgres",
        "Postgres",
        "none",
        "pg_x",
        "PG_X",
        "pg_",
        "cloacina_views",
        "cloacina_removed_x",
        "Cloacina_Removed_",
        &role,
        &role.to_uppercase(),
        "of_the_server",
        "OF_THE_SERVER",
    ];
    let through = |statements: &str| {
        postgres::Client::connect(&url, postgres::NoTls).unwrap().batch_execute(statements).unwrap();
    };
    let row = |key: &str, tenant: &str, is_admin: bool| {
        format!(
            "INSERT INTO api_keys (key_hash, name, tenant_id, is_admin) VALUES ('{}', 'adopted', {tenant}, {is_admin});",
            hash(key)
        )
    };
    through(&format!(
        "CREATE TABLE api_keys ({SIX}, tenant_id text, is_admin boolean NOT NULL DEFAULT false)"
    ));
    through(&row(ADMIN, "NULL", true));
    through(&row("of-acme", "'acme'", false));
    let keys: Vec<_> = (0..refused.len()).map(|number| format!("a-shut-out-key-{number}")).collect();
    for (key, tenant) in keys.iter().zip(refused) {
        through(&row(key, &format!("'{tenant}'"), true));
    }
    let server = Start::without_database().database_url(&url).serving();
    let listed = server.get("/tenants", Some(ADMIN)).expect_status(200).json();
    let listed: Vec<_> =
        listed["tenants"].as_array().unwrap().iter().map(|tenant| tenant["schema_name"].clone()).collect();
    assert_eq!(listed, ["acme"]);
    assert_eq!(status(&server, "/tenants/acme/keys", "of-acme"), 200);
    for (key, tenant) in keys.iter().zip(refused) {
        let who = server.get("/auth/whoami", Some(key)).expect_status(200).json();
        assert_eq!(who["tenant"], json!(null), "{tenant:?}");
        expect_tenants(&server, key);
        for path in ["/tenants/acme", "/tenants", "/auth/verify?tenant=*", "/auth/verify?tenant=acme"] {
            forbidden(server.get(path, Some(key)));
        }
        let path: String = format!("/tenants/{tenant}/keys");
        if !tenant.is_empty() && tenant.bytes().all(|byte| byte.is_ascii_graphic()) {
            forbidden(server.get(&path, Some(key)));
        }
    }
    drop(server);
    database.execute(&format!(
        "ALTER DATABASE {} OWNER TO CURRENT_USER; DROP OWNED BY {role} CASCADE; DROP ROLE {role}",
        database.name()
    ));
}

/// Of names that differ only in case, the one of the oldest key counts.
#[test]
fn one_of_several_spellings_is_the_tenant_s() {
    let database = Database::new();
    later(&database, "text");
    for (key, tenant) in
        [("oldest", "Beta"), ("second", "beta"), ("third", "BETA"), ("fourth", "Beta"), ("fifth", "bEta")]
    {
        insert(&database, key, Some(tenant), "admin", false);
    }
    let server = Server::start(&database);
    assert_eq!(names(&database), "Beta");
    for key in ["oldest", "fourth"] {
        assert_eq!(status(&server, "/tenants/Beta/keys", key), 200);
        forbidden(server.get("/tenants/beta/keys", Some(key)));
    }
    let others = ["second", "third", "fifth"];
    let are_shut_out = || {
        for key in others {
            for path in ["/tenants/Beta", "/tenants/beta/keys", "/tenants/BETA", "/auth/verify?tenant=*"] {
                forbidden(server.get(path, Some(key)));
            }
        }
    };
    are_shut_out();
    others.iter().for_each(|key| expect_tenants(&server, key));
    server.post("/tenants", ADMIN, r#"{"schema_name":"beta"}"#).expect_status(409);
    // Nor is one of them a key of a tenant that is made anew in its spelling.
    let site = Site { admin: ADMIN.to_owned(), server, database };
    site.remove("Beta");
    site.tenant("beta");
    let server = &site.server;
    assert!(!server.knows("oldest") && !server.knows("fourth"));
    for key in others {
        for path in ["/tenants/beta", "/tenants/beta/keys", "/auth/verify?tenant=*"] {
            forbidden(server.get(path, Some(key)));
        }
    }
}

/// The column has to hold every name, whatever it was made for.
#[test]
fn a_column_of_another_type_takes_names() {
    for (tenant_id, adopted) in [("uuid", "aaaaaaaa-2222-4333-8444-555555555555"), ("varchar(63)", "a-b")] {
        let database = Database::new();
        later(&database, tenant_id);
        insert(&database, "shut-out", Some(adopted), "admin", true);
        let server = Server::start(&database);
        assert_eq!(names(&database), "");
        expect_tenants(&server, "shut-out");
        let site = Site { admin: ADMIN.to_owned(), server, database };
        let tenant = "a".repeat(63);
        site.tenant(&tenant);
        let key = site.key_of(&tenant, "admin");
        assert_eq!(status(&site.server, &format!("/tenants/{tenant}/keys"), key.key()), 200);
    }
}

/// A server of an earlier release goes by `tenant_id`, and by `is_admin` of an `admin`; both shut a tenant's key out.
#[test]
fn servers_of_earlier_releases_take_no_tenant_s_key() {
    let database = Database::new();
    later(&database, "text");
    insert(&database, "adopted", Some("acme"), "admin", true);
    let server = Server::start(&database);
    let site = Site { admin: ADMIN.to_owned(), server, database };
    site.tenant("other");
    for tenant in ["acme", "other"] {
        for permissions in super::site::PERMISSIONS {
            let key = site.key_of(tenant, permissions);
            let path = format!("/tenants/{tenant}/keys/{}/rotate", key.id());
            site.server.post(&path, &site.admin, "{}").expect_status(201);
            let key = site.key_of(tenant, permissions);
            site.server.post("/auth/keys/self/rotate", key.key(), "{}").expect_status(201);
        }
    }
    let rows =
        |rule: &str| -> i64 { site.database.value(&format!("SELECT count(*) FROM api_keys WHERE {rule}")) };
    assert_eq!(rows("tenant IS NOT NULL"), 2 * 3 * 4 + 1);
    let named = "tenant_id = (SELECT name FROM cloacina_tenants WHERE id = tenant)";
    assert_eq!(rows(&format!("tenant IS NOT NULL AND NOT COALESCE({named}, false)")), 0);
    assert_eq!(rows("tenant IS NOT NULL AND permissions = 'admin' AND is_admin"), 1, "the adopted one's");
}
