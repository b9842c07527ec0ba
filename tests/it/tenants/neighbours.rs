//! What a tenant's role makes, sets, holds and listens to while the server works for others: they are served as ever.

use std::process::Command;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator as _;
use postgres::{Client, NoTls};
use serde_json::json;

use super::role::advisory_locks;
use super::same_names::names;
use super::walls::{Walls, change};
use crate::keys_command::{keys_at, worked};
use crate::support::{PATIENCE, wait_for};

/// A role that can do no more than it must has the harder time.
fn walls() -> Walls {
    Walls::of_a_server_that_creates_roles()
}

#[track_caller]
fn refused(outcome: Result<impl Sized, postgres::Error>, code: &SqlState) {
    let error = outcome.err().expect("it should have been refused");
    assert_eq!(error.code(), Some(code), "{error:?}");
}

#[test]
fn objects_with_the_server_s_names_are_nothing_to_it() {
    let mut walls = walls();
    walls.acme.connect().batch_execute(&names()).unwrap();
    walls.expect_well("objects of its names");
    walls = walls.restart();
    walls.expect_well("a start with objects of its names");
    worked(&keys_at(walls.url(), &["list"], ""));
    // All of it goes with the tenant.
    walls.server.delete("/tenants/acme", &walls.admin).expect_status(200);
    wait_for("the schema to be dropped", || {
        let left =
            "SELECT count(*) FROM pg_namespace WHERE nspname = 'acme' OR nspname LIKE 'cloacina_removed%'";
        (walls.database.value::<i64>(left) == 0).then_some(())
    });
}

/// What it sets for itself is for its own sessions.
#[test]
fn settings_of_a_role_are_its_own() {
    let mut walls = walls();
    let mut client = walls.acme.connect();
    client
        .batch_execute(&walls.named(
            "ALTER ROLE {role} SET search_path = '';
             ALTER ROLE {role} IN DATABASE {database} SET search_path = pg_temp, cloacina_views;
             ALTER ROLE {role} SET statement_timeout = 0; ALTER ROLE {role} SET default_transaction_read_only = on;
             ALTER ROLE {role} SET default_transaction_isolation = 'serializable';
             ALTER ROLE {role} SET client_encoding = 'LATIN1'; ALTER ROLE {role} SET DateStyle = 'German'",
        ))
        .unwrap();
    walls.expect_well("settings");
    walls = walls.restart();
    walls.expect_well("a start with settings");
    // One that has no password any more, or has given up what it had, gets in again with a new one.
    let mut client = walls.acme.connect();
    client
        .batch_execute(&walls.named("SET transaction_read_only = off; ALTER ROLE {role} PASSWORD NULL"))
        .unwrap();
    refused(walls.acme.try_connect(), &SqlState::INVALID_PASSWORD);
    let made = walls.server.post("/tenants/acme/password", &walls.admin, "{}").expect_status(200).json();
    walls.acme.connection_string = made["connection_string"].as_str().unwrap().to_owned();
    walls.expect_well("a new password");
}

/// What a connection can ask for when it is opened.
#[test]
fn a_connection_begins_as_no_other_role() {
    let walls = walls();
    for option in ["role", "session_authorization"] {
        let string = format!("{}?options=-c{option}%3D{}", walls.acme.connection_string, walls.server_role);
        refused(Client::connect(&string, NoTls), &SqlState::INSUFFICIENT_PRIVILEGE);
    }
    let mut config: postgres::Config = walls.acme.connection_string.parse().unwrap();
    refused(
        config.user(&walls.server_role).dbname("nowhere").connect(NoTls),
        &SqlState::INVALID_CATALOG_NAME,
    );
    refused(config.user(&walls.other.role).connect(NoTls), &SqlState::INVALID_PASSWORD);
    for replication in ["database", "true"] {
        let string = format!("{}?replication={replication}", walls.acme.connection_string);
        let psql =
            Command::new(walls.program("psql")).args([&string, "-c", "IDENTIFY_SYSTEM"]).output().unwrap();
        assert_eq!(psql.status.code(), Some(2), "{psql:?}");
    }
}

/// PostgreSQL lets every role in where it is not forbidden, and there it is one like any other.
#[test]
fn other_databases_of_the_cluster_are_as_for_any_role() {
    let mut walls = walls();
    let before = walls.state_of_others();
    for database in ["postgres", "template1"] {
        let mut config: postgres::Config = walls.acme.connection_string.parse().unwrap();
        let mut client = config.dbname(database).connect(NoTls).unwrap();
        client.batch_execute("SELECT lo_unlink(lo_create(0))").unwrap();
        let temporary = client.batch_execute("CREATE TEMP TABLE t (n int)");
        assert_eq!(temporary.is_ok(), database == "postgres", "{temporary:?}");
        for statement in [
            "CREATE TABLE public.t (n int)",
            "CREATE SCHEMA s",
            "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE EVENT TRIGGER t ON ddl_command_start EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()",
            "DROP DATABASE {database}",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{server}'",
        ] {
            refused(client.batch_execute(&walls.named(statement)), &SqlState::INSUFFICIENT_PRIVILEGE);
        }
    }
    walls.expect_well("sessions in other databases");
    assert_eq!(walls.state_of_others(), before);
}

#[test]
fn all_its_connections_leave_the_others_theirs() {
    let mut walls = walls();
    let mut held: Vec<_> = (0..10).map(|_| walls.acme.connect()).collect();
    refused(walls.acme.try_connect(), &SqlState::TOO_MANY_CONNECTIONS);
    let (server, admin) = (&walls.server, &walls.admin);
    assert_eq!(walls.other.sees(&mut walls.other.connect()), ["beta"]);
    let another = walls.start().serving();
    assert!(another.lets_in(admin));
    change(server, admin, "/tenants/acme", r#"{"max_running_tasks":null}"#);
    held.iter_mut().for_each(|client| client.batch_execute("SELECT 1").unwrap());
    drop(held.pop());
    wait_for("room for a connection", || walls.acme.try_connect().ok().map(drop));
    held.truncate(5);
    walls.expect_well("all connections");
}

/// A look at the view keeps others from altering what is below it, and nothing else.
#[test]
fn an_open_transaction_is_in_no_one_s_way() {
    let mut walls = walls();
    let mut client = walls.acme.connect();
    client
        .batch_execute(
            "BEGIN ISOLATION LEVEL SERIALIZABLE; DECLARE c CURSOR FOR SELECT * FROM cloacina_views.tenant;
             FETCH c; LOCK TABLE cloacina_views.tenant IN ACCESS SHARE MODE; CREATE TABLE held (n int)",
        )
        .unwrap();
    let began = Instant::now();
    walls.expect_well("an open transaction");
    let another = walls.start().serving();
    let (server, admin) = (&walls.server, &walls.admin);
    assert!(another.lets_in(admin));
    let body = json!({ "schema_name": "gamma", "username": "gamma_role" }).to_string();
    server.post("/tenants", admin, &body).expect_status(201);
    another.delete("/tenants/gamma", admin).expect_status(200);
    client.batch_execute("FETCH c; COMMIT").unwrap();
    // Its own removal does not wait for it either.
    client.batch_execute("BEGIN; ALTER ROLE acme_role SET work_mem = '1MB'; LOCK TABLE held").unwrap();
    server.delete("/tenants/acme", admin).expect_status(200);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(client.batch_execute("SELECT 1").is_err());
}

/// The first creation of a later release brings its views, which takes a lock that no look at them leaves room for.
#[test]
fn an_open_transaction_does_not_keep_views_from_being_renewed() {
    for mut walls in [walls(), Walls::of_a_superuser()] {
        walls.database.execute("COMMENT ON SCHEMA cloacina_views IS 'cloacinactl: views of before'");
        let mut client = walls.acme.connect();
        client.batch_execute("BEGIN; SELECT * FROM cloacina_views.tenant").unwrap();
        let body = r#"{"schema_name":"gamma","username":"gamma_role"}"#;
        walls.server.post("/tenants", &walls.admin, body).expect_status(201);
        assert!(client.batch_execute("SELECT 1").is_err());
        walls.server.delete("/tenants/gamma", &walls.admin).expect_status(200);
        walls.expect_well("views of a later release");
    }
}

#[test]
fn advisory_locks_on_every_number_are_in_no_one_s_way() {
    let mut walls = walls();
    let mut client = walls.acme.connect();
    let locks = advisory_locks();
    for lock in &locks {
        client.batch_execute(&format!("SELECT pg_advisory_lock({lock})")).unwrap();
    }
    walls.expect_well("advisory locks");
    walls = walls.restart();
    walls.expect_well("a start under advisory locks");
    worked(&keys_at(walls.url(), &["create", "--name", "x"], ""));
    let held: i64 =
        client.query_one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", &[]).unwrap().get(0);
    assert_eq!(usize::try_from(held).unwrap(), locks.len());
}

/// Every role may listen and send, where it knows a channel's name.
#[test]
fn notifications_are_not_heard_and_not_heeded() {
    let mut walls = walls();
    let mut client = walls.acme.connect();
    client.batch_execute("LISTEN api_key_changes; LISTEN api_keys; LISTEN cloacina_; LISTEN mine").unwrap();
    let (id, _) = walls.server.create_key(&walls.admin, "x");
    walls.server.delete(&format!("/auth/keys/{id}"), &walls.admin).expect_status(200);
    client.batch_execute("NOTIFY mine").unwrap();
    let first = client.notifications().timeout_iter(PATIENCE).next().unwrap().unwrap();
    assert_eq!(first.channel(), "mine");
    for payload in ["", "x", "DELETE", "{\"id\":null}", &"x".repeat(7000)] {
        client.execute("SELECT pg_notify('api_key_changes', $1)", &[&payload]).unwrap();
    }
    walls.expect_well("notifications of its own");
}

/// A column of a table's type in another table keeps that table from being altered, and a restored dump lets every role
/// make one.
#[test]
fn a_start_closes_the_types_of_its_tables() {
    let mut walls = walls();
    let mine = "CREATE TABLE mine (x public.cloacina_tenants)";
    refused(walls.acme.connect().batch_execute(mine), &SqlState::INSUFFICIENT_PRIVILEGE);
    walls.database.execute("GRANT USAGE ON TYPE cloacina_tenants, api_keys TO PUBLIC");
    walls = walls.restart();
    refused(walls.acme.connect().batch_execute(mine), &SqlState::INSUFFICIENT_PRIVILEGE);
    walls.database.execute("ALTER TABLE cloacina_tenants ADD COLUMN later int DEFAULT 5");
    walls.expect_well("a type that was open");
    // It may be that the server does not own them.
    walls.database.execute(&walls.named(
        "ALTER TABLE cloacina_tenants OWNER TO postgres; GRANT ALL ON cloacina_tenants TO {server};
         GRANT USAGE ON TYPE cloacina_tenants TO PUBLIC",
    ));
    let body = r#"{"schema_name":"gamma","username":"gamma_role"}"#;
    let unable = walls.server.post("/tenants", &walls.admin, body).expect_status(503).error();
    assert!(unable.ends_with("REVOKE USAGE ON TYPE public.cloacina_tenants FROM PUBLIC"), "{unable}");
}

/// The usual search_path of a role begins with the schema of its own name, where a tenant could make what it likes.
#[test]
fn no_schema_has_the_name_of_another_role() {
    let walls = walls();
    walls.database.execute("CREATE ROLE dba LOGIN");
    let ask = |body: &str| walls.server.post("/tenants", &walls.admin, body);
    ask(r#"{"schema_name":"dba","username":"gamma_role"}"#).expect(409, r#"{"error":"role 'dba' exists"}"#);
    ask(r#"{"schema_name":"beta_role","username":"gamma_role"}"#)
        .expect(409, r#"{"error":"role 'beta_role' exists"}"#);
    // Without a role it has no schema, and a role of its own comes to be with it.
    ask(r#"{"schema_name":"dba"}"#).expect_status(201);
    ask(r#"{"schema_name":"delta","username":"delta"}"#).expect_status(201);
}

/// What a role grants to another must be revoked before that one can be dropped, which its grantor need not do.
#[test]
fn a_grant_to_another_tenant_does_not_keep_that_one() {
    for walls in [walls(), Walls::of_a_superuser()] {
        let mut client = walls.acme.connect();
        client
            .batch_execute(&walls.named(
                "CREATE TABLE shared (n int, m int); GRANT ALL ON shared TO {other} WITH GRANT OPTION;
                 CREATE TABLE by_column (n int, m int); GRANT SELECT (n) ON by_column TO {other};
                 CREATE SEQUENCE s; GRANT USAGE ON s TO {other}; CREATE VIEW v AS SELECT 1; GRANT SELECT ON v TO {other};
                 CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; GRANT EXECUTE ON FUNCTION f() TO {other};
                 CREATE TYPE t AS ENUM ('x'); GRANT USAGE ON TYPE t TO {other};
                 CREATE TABLE guarded (n int); CREATE POLICY p ON guarded TO {other};
                 SELECT lo_create(815); GRANT ALL ON LARGE OBJECT 815 TO {other};
                 ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {other};
                 ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT ALL ON TABLES TO {other}",
            ))
            .unwrap();
        walls.server.delete("/tenants/beta", &walls.admin).expect_status(200);
        wait_for("the other role to be dropped", || {
            let left = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'cloacina_removed%'";
            (walls.database.value::<i64>(left) == 0).then_some(())
        });
        // The grantor keeps the rest.
        client.batch_execute("SELECT * FROM shared; SELECT f(); SELECT lo_get(815)").unwrap();
        let members = "SELECT count(*) FROM pg_auth_members WHERE roleid = 'acme_role'::regrole
                           AND (grantor = member OR to_jsonb(pg_auth_members) ->> 'inherit_option' IS DISTINCT FROM 'false')";
        assert_eq!(walls.database.value::<i64>(members), 0);
    }
}
