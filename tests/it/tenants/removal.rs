//! Removal of tenants: at once neither keys nor role let a client in and both names are free; all that was theirs goes,
//! whatever they do against it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use postgres::error::SqlState;
use serde_json::json;

use super::site::{MadeTenant, Site, guarded, remember};
use crate::support::cluster::Cluster;
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::wait_for;

/// What a removed tenant is called until all is gone.
struct Removed {
    id: String,
}

impl Removed {
    /// Removes a tenant, which has to work.
    #[track_caller]
    fn by(site: &Site, tenant: &str) -> Removed {
        let find =
            format!("SELECT id::text FROM cloacina_tenants WHERE name = '{tenant}' AND removed_at IS NULL");
        let id = site.database.value(&find);
        site.delete(tenant).expect(200, &format!(r#"{{"status":"removed","schema_name":"{tenant}"}}"#));
        Removed { id }
    }

    fn name(&self) -> String {
        format!("cloacina_removed_{}", self.id.replace('-', ""))
    }

    /// What of it is still there.
    fn left(&self, database: &Database) -> String {
        let (id, name) = (&self.id, self.name());
        database.value(&format!(
            "SELECT concat((SELECT 'row ' FROM cloacina_tenants WHERE id = '{id}'),
                           (SELECT count(*) || ' keys ' FROM api_keys WHERE tenant = '{id}' HAVING count(*) > 0),
                           (SELECT 'role ' FROM pg_roles WHERE rolname = '{name}'),
                           (SELECT 'schema' FROM pg_namespace WHERE nspname = '{name}'))"
        ))
    }

    #[track_caller]
    fn wait_until_gone(&self, database: &Database) {
        wait_for("all of a removed tenant to be gone", || self.left(database).is_empty().then_some(()));
    }
}

fn refuses_login(made: &MadeTenant) -> bool {
    let codes = [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION];
    made.login().is_err_and(|error| error.code().is_some_and(|code| codes.contains(code)))
}

#[test]
fn at_once_there_is_no_way_in_and_the_names_are_free() {
    let site = Site::guarded();
    let other = Server::start(&site.database);
    let made = site.tenant_with_role("t");
    let name = made.name();
    let keys = ["read", "admin"].map(|permissions| site.key_of(name, permissions));
    for key in &keys {
        [&site.server, &other].iter().for_each(|server| remember(server, key.key()));
    }
    let mut session = made.session();
    session.batch_execute("CREATE TABLE old (n int); SELECT lo_create(0)").unwrap();
    let removed = Removed::by(&site, name);
    for key in &keys {
        assert!(![&site.server, &other].iter().any(|server| server.knows(key.key())));
    }
    assert!(refuses_login(&made));
    assert!(session.simple_query("SELECT 1").is_err());
    assert_eq!(site.delete(name).expect_status(404).error(), format!("tenant '{name}' not found"));

    let again = site.tenant_with_role("t");
    assert!(refuses_login(&made));
    let mut session = again.session();
    let seen = session
        .query_one("SELECT to_regclass('old')::text, (SELECT count(*) FROM cloacina_views.tenant)", &[])
        .unwrap();
    assert_eq!((seen.get::<_, Option<&str>>(0), seen.get::<_, i64>(1)), (None, 1));
    let listed = site.server.get(&format!("/tenants/{name}/keys"), Some(&site.admin)).expect_status(200);
    assert_eq!(listed.json(), json!({ "keys": [] }));
    assert!(!site.server.knows(keys[0].key()));
    removed.wait_until_gone(&site.database);
    session.batch_execute("CREATE TABLE new (n int)").unwrap();
    assert!(site.server.knows(site.key_of(name, "read").key()));
}

#[test]
fn of_several_removals_at_once_one_does_it() {
    let site = &Site::guarded();
    let made = site.tenant_with_role("t");
    let statuses: Vec<_> = thread::scope(|scope| {
        let name = made.name();
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(move || site.delete(name).status)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 404).count(), 5, "{statuses:?}");
}

/// Whether the server is a superuser or not.
#[test]
fn a_tenant_s_open_transactions_keep_nothing() {
    for site in [Site::guarded(), Site::of_role("CREATEROLE")] {
        for (number, statements) in [
            "BEGIN; LOCK TABLE t; SELECT lo_create(0)",
            "BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'mine'",
            "BEGIN; ALTER ROLE CURRENT_USER SET work_mem = '8MB'; CREATE TABLE u (n int); DECLARE c CURSOR FOR SELECT * FROM t",
            "CREATE TEMPORARY TABLE u (n int); SET statement_timeout = 0; LISTEN x; SELECT pg_advisory_lock(1)",
        ]
        .into_iter()
        .enumerate()
        {
            let made = site.tenant_with_role(&format!("t{number}"));
            let mut session = made.session();
            session.batch_execute("CREATE TABLE t (n int GENERATED ALWAYS AS IDENTITY); SELECT lo_create(0)").unwrap();
            session.batch_execute(statements).unwrap();
            let removed = Removed::by(&site, made.name());
            assert!(refuses_login(&made) && session.simple_query("SELECT 1").is_err(), "{statements}");
            removed.wait_until_gone(&site.database);
        }
        assert_eq!(site.memberships_of_server(), 0);
    }
}

/// Its row in the catalog is locked by one of its sessions nearly always.
#[test]
fn a_tenant_that_comes_back_at_once_is_removed() {
    for site in [Site::guarded(), Site::of_role("CREATEROLE")] {
        let made = site.tenant_with_role("t");
        let (is_over, count) = (AtomicBool::new(false), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Acquire) {
                        let Ok(mut session) = made.login() else { continue };
                        count.fetch_add(1, Ordering::AcqRel);
                        let _ = session.batch_execute(
                            "BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'x'; SELECT pg_sleep(60)",
                        );
                    }
                });
            }
            wait_for("its sessions", || (count.load(Ordering::Acquire) >= 8).then_some(()));
            let response = site.delete(made.name());
            is_over.store(true, Ordering::Release);
            response.expect_status(200);
        });
        assert!(refuses_login(&made));
    }
}

#[test]
fn what_a_tenant_prepared_for_a_two_phase_commit_is_rolled_back() {
    let site = Site::guarded();
    let name = site.name("t");
    for statement in ["ALTER ROLE CURRENT_USER PASSWORD 'mine'", "LOCK TABLE t"] {
        let made = site.tenant_with_role("t");
        let mut session = made.session();
        for statement in
            ["CREATE TABLE t (n int)", "BEGIN", statement, &format!("PREPARE TRANSACTION '{name}'''")]
        {
            session.batch_execute(statement).unwrap();
        }
        Removed::by(&site, &name).wait_until_gone(&site.database);
    }
}

/// Objects of every kind, and more of them than one transaction could lock.
#[test]
fn more_than_the_lock_table_holds_is_dropped() {
    let cluster = Cluster::start();
    cluster.set("max_connections = 40\nmax_locks_per_transaction = 10\nautovacuum = off");
    let database = Database::in_cluster(&cluster);
    let site = Site::start_with(database, []);
    let made = site.tenant_with_role("t");
    let mut session = made.session();
    session
        .batch_execute(
            "CREATE TYPE kind AS ENUM ('a'); CREATE DOMAIN number AS int; CREATE TYPE pair AS (a int, b kind);
             CREATE TYPE span AS RANGE (SUBTYPE = int);
             CREATE FUNCTION twice(n number) RETURNS int LANGUAGE sql AS 'SELECT 2 * n';
             CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n';
             CREATE PROCEDURE nothing() LANGUAGE sql AS '';
             CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int);
             CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
             CREATE COLLATION \"my C\" (LOCALE = 'C');
             CREATE TEXT SEARCH DICTIONARY dictionary (TEMPLATE = simple);
             CREATE TEXT SEARCH CONFIGURATION configuration (COPY = simple);
             CREATE TABLE \"it's a \"\"base\" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, k kind, p pair, t text);
             CREATE STATISTICS statistics ON id, t FROM \"it's a \"\"base\";
             CREATE MATERIALIZED VIEW seen AS SELECT * FROM \"it's a \"\"base\";
             CREATE TABLE parent (n int) PARTITION BY LIST (n);
             CREATE SEQUENCE free OWNED BY NONE;
             CREATE RULE none AS ON INSERT TO parent DO INSTEAD NOTHING",
        )
        .unwrap();
    // The owner of the schema may drop what a superuser made there.
    site.database.execute(&format!(
        "CREATE OPERATOR FAMILY {0}.family USING btree; CREATE EXTENSION lo SCHEMA {0}",
        made.name()
    ));
    let loops = [
        "CREATE TABLE t%s (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t text)",
        "CREATE TABLE parent%s PARTITION OF parent FOR VALUES IN (%s)",
        "CREATE VIEW v%s AS SELECT twice(id) FROM \"it''s a \"\"base\"",
        "CREATE TABLE f%s (n int REFERENCES \"it''s a \"\"base\")",
        "CREATE FUNCTION f%s() RETURNS int LANGUAGE sql AS ''SELECT 1''",
    ];
    for statement in loops {
        session
            .batch_execute(&format!(
                "DO $$ BEGIN FOR n IN 1..600 LOOP EXECUTE replace('{statement}', '%s', n::text); COMMIT; END LOOP; END $$"
            ))
            .unwrap();
    }
    session
        .batch_execute("DO $$ BEGIN FOR n IN 1..2000 LOOP PERFORM lo_create(0); COMMIT; END LOOP; END $$")
        .unwrap();
    let error =
        site.database.client().batch_execute(&format!("DROP SCHEMA {} CASCADE", made.name())).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::OUT_OF_MEMORY));
    Removed::by(&site, made.name()).wait_until_gone(&site.database);
    assert_eq!(site.database.value::<i64>("SELECT count(*) FROM pg_largeobject_metadata"), 0);
}

#[test]
fn what_is_in_another_database_leaves_a_role_without_login() {
    let site = Site::guarded();
    let other = Database::in_cluster(guarded());
    let made = site.tenant_with_role("t");
    let name = made.name();
    other.execute(&format!("GRANT CREATE ON SCHEMA public TO {name}"));
    let id: String =
        site.database.value(&format!("SELECT id::text FROM cloacina_tenants WHERE name = '{name}'"));
    let removed = Removed { id };
    let role = removed.name();
    site.delete(name).expect(
        200,
        &format!(
            r#"{{"status":"removed","schema_name":"{name}","role":"{role}","databases":["{}"]}}"#,
            other.name()
        ),
    );
    assert!(refuses_login(&made));
    let line = site.server.log_line(&["the role of a removed tenant stays, without login", &role]);
    assert!(line["why"].as_str().unwrap().contains(other.name()), "{line}");
    assert_eq!(removed.left(&site.database), "row role ");
    // Its names are free, and others are finished all the same.
    let again = site.tenant_with_role("t");
    Removed::by(&site, again.name()).wait_until_gone(&site.database);
    assert_eq!(removed.left(&site.database), "row role ");
    other.execute(&format!("DROP OWNED BY {role}"));
    // What wakes the server.
    site.create(&json!({ "schema_name": name })).expect_status(201);
    site.delete(name).expect_status(200);
    removed.wait_until_gone(&site.database);
}

#[test]
fn what_was_dropped_or_renamed_by_hand_is_no_hindrance() {
    for site in [Site::guarded(), Site::of_role("CREATEROLE")] {
        for (number, statements) in [
            "DROP OWNED BY TENANT; DROP ROLE TENANT",
            "DROP SCHEMA TENANT",
            "DROP SCHEMA TENANT; DROP OWNED BY TENANT; DROP ROLE TENANT",
            "ALTER SCHEMA TENANT RENAME TO TENANT_renamed",
            "ALTER ROLE TENANT RENAME TO TENANT_renamed",
            "CREATE SCHEMA TENANT_more AUTHORIZATION TENANT",
        ]
        .into_iter()
        .enumerate()
        {
            let made = site.tenant_with_role(&format!("t{number}"));
            site.database.execute(&statements.replace("TENANT", made.name()));
            let removed = Removed::by(&site, made.name());
            removed.wait_until_gone(&site.database);
            assert!(refuses_login(&made), "{statements}");
        }
    }
}

/// Nothing is done then.
#[test]
fn what_was_taken_from_the_server_by_hand_is_said() {
    let site = Site::of_role("CREATEROLE");
    let made = site.tenant_with_role("t");
    let (name, server) = (made.name(), site.name("role"));
    let statements = [
        "ALTER SCHEMA TENANT OWNER TO postgres",
        "ALTER SCHEMA TENANT OWNER TO SERVER",
        "ALTER ROLE SERVER NOCREATEROLE",
        "ALTER ROLE SERVER CREATEROLE",
    ];
    let [take_schema, give_schema, take_role, give_role] =
        statements.map(|statement| statement.replace("TENANT", name).replace("SERVER", &server));
    let key = site.key_of(name, "read");
    for (take, give) in [(take_schema, give_schema), (take_role, give_role)] {
        site.database.execute(&take);
        let refused = site.delete(name).expect_status(503).error();
        assert!(
            refused.starts_with("the database does not let the server change what the tenant has there: "),
            "{refused}"
        );
        assert!(site.server.knows(key.key()), "{take}");
        made.session();
        site.database.execute(&give);
    }
    Removed::by(&site, name).wait_until_gone(&site.database);
}

/// A lock that is not the tenant's own is waited for, and keeps no other tenant. The server that removed it is killed.
#[test]
fn another_server_goes_on() {
    let site = Site::guarded();
    let other = Server::start(&site.database);
    let [held, free] = ["held", "free"].map(|short| site.tenant_with_role(short));
    held.session().batch_execute("CREATE TABLE t (n int)").unwrap();
    let lock = site.database.hold(&format!("LOCK TABLE {}.t IN ACCESS SHARE MODE", held.name()));
    let removed = Removed::by(&site, held.name());
    Removed::by(&site, free.name()).wait_until_gone(&site.database);
    assert_eq!(removed.left(&site.database), "row role schema");
    site.server.signal("KILL");
    lock.release();
    removed.wait_until_gone(&site.database);
    drop(other);
}

#[test]
fn a_restart_of_the_database_does_not_end_it() {
    let cluster = Cluster::start();
    let site = Site::start_with(Database::in_cluster(&cluster), []);
    let made = site.tenant_with_role("t");
    made.session().batch_execute("CREATE TABLE t (n int)").unwrap();
    let _lock = site.database.hold(&format!("LOCK TABLE {}.t", made.name()));
    let removed = Removed::by(&site, made.name());
    cluster.stop_immediately();
    cluster.restart();
    removed.wait_until_gone(&site.database);
    let again = site.tenant_with_role("t");
    again.session();
}
