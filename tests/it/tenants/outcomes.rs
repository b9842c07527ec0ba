//! What is answered where something else is in the way of a request for tenants.

use std::thread;

use serde_json::json;

use super::site::{MadeTenant, Site, guarded};
use crate::support::cluster::Cluster;
use crate::support::postgres::{Database, MADE_UP_PASSWORD};
use crate::support::server::Start;
use crate::support::wait_for;

/// Also where PostgreSQL would refuse it.
#[test]
fn a_name_that_no_tenant_can_have_is_not_found() {
    let site = Site::start();
    for name in ["%00", "a%00b", "a-b", &"x".repeat(64)] {
        for path in [format!("/tenants/{name}"), format!("/auth/keys?tenant={name}")] {
            let missing = site.server.get(&path, Some(&site.admin)).expect_status(404).error();
            assert!(missing.starts_with("tenant '") && missing.ends_with("' not found"), "{path}: {missing}");
        }
    }
}

/// Also where SQL has to have it in quotes.
#[test]
fn no_role_is_called_like_the_schema_of_the_server() {
    let database = Database::in_cluster(guarded());
    let (url, role) = database.url_of_new_role();
    database.execute(&format!(
        "CREATE SCHEMA \"Order\" AUTHORIZATION {role}; ALTER ROLE {role} CREATEROLE;
         ALTER ROLE {role} SET search_path = \"Order\"; GRANT CREATE ON DATABASE {} TO {role}",
        database.name()
    ));
    let server = Start::without_database().database_url(&url).serving();
    let admin = server.bootstrap_key();
    for name in ["Order", "order"] {
        let body = json!({ "schema_name": "a", "username": name }).to_string();
        let refused = server.post("/tenants", &admin, &body).expect_status(422).error();
        assert_eq!(
            refused,
            format!("username: `{name}` is the name of the schema of the server's own tables")
        );
    }
}

/// For longer than a statement of it waits for a lock.
#[test]
fn a_removal_waits_for_another_change_of_the_tenant() {
    let site = &Site::start();
    site.tenant("acme");
    let mut other = site.database.client();
    let mut change = other.transaction().unwrap();
    change.batch_execute("SELECT FROM cloacina_tenants FOR SHARE").unwrap();
    thread::scope(|scope| {
        let removal = scope.spawn(|| site.delete("acme"));
        change.batch_execute("SELECT pg_sleep(2)").unwrap();
        change.commit().unwrap();
        removal.join().unwrap().expect(200, r#"{"status":"removed","schema_name":"acme"}"#);
    });
}

/// Its role is not let in, and another session is in the way of what would undo it.
#[test]
fn a_tenant_that_cannot_be_removed_again_is_not_said_to_be_unmade() {
    let cluster = Cluster::start();
    cluster.configure("", "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\n");
    let site = Site::start_with(Database::in_cluster(&cluster), ["--database-timeout", "2s"]);
    let name = site.name("t");
    let body = json!({ "schema_name": name, "username": name });
    let lock = site.database.hold("LOCK TABLE api_keys IN EXCLUSIVE MODE");
    let refused = site.create(&body).expect_status(503).error();
    assert_eq!(refused, "the outcome is unknown: look whether it was done before trying again");
    lock.release();
    wait_for("the tenant to be removed", || {
        let status = site.delete(&name).status;
        assert!([200, 503].contains(&status), "{status}");
        (status == 200).then_some(())
    });
}

/// Otherwise it could be that of a role which has got the same name meanwhile.
#[test]
fn a_removed_tenant_s_role_gets_no_password() {
    let site = &Site::guarded();
    let made = site.tenant_with_role("t");
    let name = made.name();
    let set_password = move || site.server.post(&format!("/tenants/{name}/password"), &site.admin, "{}");
    let mut other = site.database.client();
    // In the way of the new password until the tenant is removed, and another has its role.
    let mut removal = other.transaction().unwrap();
    removal.batch_execute(&format!("ALTER ROLE \"{name}\" CONNECTION LIMIT 9")).unwrap();
    removal.batch_execute("UPDATE cloacina_tenants SET removed_at = now()").unwrap();
    thread::scope(|scope| {
        let asked = scope.spawn(set_password);
        removal.batch_execute("SELECT pg_sleep(2)").unwrap();
        removal.commit().unwrap();
        let missing = asked.join().unwrap().expect_status(404);
        assert_eq!(missing.error(), format!("tenant '{name}' not found"));
    });
    made.session();
}

/// As after a restore in another cluster, where neither the role is nor the schema.
#[test]
fn what_was_dropped_is_made_again_with_a_new_password() {
    let site = Site::guarded();
    let made = site.tenant_with_role("t");
    let name = made.name();
    let drop_role = format!("DROP OWNED BY {name}; DROP ROLE {name}");
    let drop_schema = format!("DROP SCHEMA {name} CASCADE");
    for dropped in [drop_role.clone(), drop_schema.clone(), format!("{drop_schema}; {drop_role}")] {
        site.database.execute(&dropped);
        let path = format!("/tenants/{name}/password");
        let again = MadeTenant(site.server.post(&path, &site.admin, "{}").expect_status(200).json());
        let mut session = again.session();
        session.batch_execute("CREATE TABLE mine (); DROP TABLE mine").unwrap();
        let row = session.query_one("SELECT schema_name FROM cloacina_views.tenant", &[]).unwrap();
        assert_eq!(row.get::<_, &str>(0), name, "{dropped}");
    }
    site.remove(name);
}

/// A role that only has the name of a tenant's is another program's.
#[test]
fn the_role_of_another_program_is_left_alone() {
    let site = Site::guarded();
    let made = site.tenant_with_role("t");
    let name = made.name();
    site.database.execute(&format!(
        "DROP OWNED BY {name}; DROP ROLE {name}; CREATE ROLE {name} LOGIN PASSWORD '{MADE_UP_PASSWORD}'"
    ));
    let refused =
        site.server.post(&format!("/tenants/{name}/password"), &site.admin, "{}").expect_status(409);
    assert_eq!(refused.error(), format!("role '{name}' exists"));
    site.remove(name);
    let is_left = format!("SELECT rolcanlogin FROM pg_roles WHERE rolname = '{name}'");
    assert!(site.database.value::<bool>(&is_left));
    site.database.execute(&format!("DROP ROLE {name}"));
}

/// A role and a schema that got other names by hand are the tenant's still.
#[test]
fn what_was_renamed_is_removed_too() {
    let site = Site::guarded();
    let made = site.tenant_with_role("t");
    let name = made.name();
    site.database
        .execute(&format!("ALTER ROLE {name} RENAME TO {name}_x; ALTER SCHEMA {name} RENAME TO {name}_y"));
    site.remove(name);
    let left = format!(
        "SELECT (SELECT count(*) FROM pg_roles WHERE rolname LIKE '{name}%' AND rolcanlogin)
              + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE '{name}%')"
    );
    assert_eq!(site.database.value::<i64>(&left), 0);
}

#[test]
fn a_key_that_a_rotation_makes_meanwhile_is_revoked_too() {
    let site = &Site::start();
    site.tenant("acme");
    site.key_of("acme", "admin");
    // So that what is dropped later can be looked at.
    site.database.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER keep BEFORE DELETE ON api_keys FOR EACH ROW EXECUTE FUNCTION keep()",
    );
    let mut other = site.database.client();
    let mut rotation = other.transaction().unwrap();
    let make = "INSERT INTO api_keys (id, key_hash, prefix, name, permissions, created_at, tenant, tenant_id)
                SELECT gen_random_uuid(), 'h', 'p', 'made', 'admin', now(), tenant, tenant_id FROM api_keys
                WHERE tenant IS NOT NULL";
    rotation.batch_execute(make).unwrap();
    thread::scope(|scope| {
        let removal = scope.spawn(|| site.delete("acme"));
        rotation.batch_execute("SELECT pg_sleep(1)").unwrap();
        rotation.commit().unwrap();
        removal.join().unwrap().expect_status(200);
    });
    let revoked =
        "SELECT string_agg((revoked_at IS NOT NULL)::text, ' ') FROM api_keys WHERE tenant IS NOT NULL";
    assert_eq!(site.database.value::<String>(revoked), "true true");
}
