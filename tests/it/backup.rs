//! A backup as the README makes one, brought to another database, and a schema that moves on under a running server.

use std::fs;
use std::process::Command;

use postgres::{Client, NoTls};
use serde_json::Value;

use crate::keys_command::{id_of, keys, worked};
use crate::scratch::mode;
use crate::support::cluster::Cluster;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

const README: &str = include_str!("../../README.md");

/// The shell commands of the README that begin with this line.
fn block(first_line: &str) -> &'static str {
    let blocks = README.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut found = blocks.filter(|block| block.starts_with(first_line));
    found.next().unwrap_or_else(|| panic!("the README has no block that begins with {first_line:?}"))
}

/// Types what is printed, as the user `postgres` of a host whose databases are those of the cluster.
#[track_caller]
fn typed(printed: &str, database: &Database, name: &str, directory: &Directory) {
    let (host, port) =
        database.host_and_port().split_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    let typed = printed
        .replace("sudo -u postgres ", "")
        .replace("--owner=cloacina cloacina", &format!("--owner=cloacina {name}"));
    let typed = typed.replace("'public.*' cloacina ", &format!("'public.*' {name} "));
    let typed = typed.replace("--dbname=cloacina ", &format!("--dbname={name} "));
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &typed])
        .env("PGHOST", host)
        .env("PGPORT", port)
        .env("PGUSER", "postgres")
        .current_dir(directory.path())
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{typed}\n{said}");
}

fn listed(database: &Database) -> Vec<Value> {
    let outcome = keys(database, &["list", "--json"]);
    worked(&outcome);
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// Dumped while a server runs and remembers keys, restored elsewhere, and served there.
#[test]
fn there_and_back_again() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let directory = Directory::new();
    database.execute("CREATE ROLE cloacina LOGIN");
    let old = Server::start(&database);
    let admin = old.bootstrap_key();
    let (_, plain) = old.create_key(&admin, "plain");
    let (revoked_id, revoked) = old.create_key(&admin, "revoked");
    let (rotated_id, rotated) = old.create_key(&admin, "rotated");
    let expiring = old.make_key(&admin, r#"{"name":"expiring","permissions":"read","expires_in":"2h"}"#);
    let expiring = expiring.0["key"].as_str().unwrap().to_owned();
    let short = old.make_key(&admin, r#"{"name":"short","expires_in":"1s"}"#);
    let short = short.0["key"].as_str().unwrap().to_owned();
    old.delete(&format!("/auth/keys/{revoked_id}"), &admin).expect_status(200);
    let made = old.post(&format!("/auth/keys/{rotated_id}/rotate"), &admin, r#"{"grace":"1h"}"#);
    let successor = made.expect_status(201).json()["key"].as_str().unwrap().to_owned();
    let valid = [&admin, &plain, &rotated, &successor, &expiring];
    assert!(valid.iter().all(|key| old.knows(key)));
    wait_for("the end of the short key", || (!old.knows(&short)).then_some(()));
    wait_for("all uses to be written", || {
        let unused: i64 = database.value(
            "SELECT count(*) FROM api_keys WHERE last_used_at IS NULL AND name NOT IN ('revoked', 'short')",
        );
        (unused == 0).then_some(())
    });
    assert_eq!(database.value::<i64>("SELECT count(*) FROM auth_caches"), 1, "the old server remembers keys");

    let name: String = database.value("SELECT current_database()::text");
    typed(block("umask 077"), &database, &name, &directory);
    assert_eq!(mode(&directory.join("cloacina.dump")), 0o600);
    let before = listed(&database);
    assert_eq!(before.len(), 7);
    let history: String =
        database.value("SELECT string_agg(h::text, ' ' ORDER BY version) FROM refinery_schema_history h");

    // `createdb` makes it; the place of one that is dropped at the end of the test is taken.
    let restored = Database::in_cluster(&cluster);
    let name: String = restored.value("SELECT current_database()::text");
    database.execute(&format!("DROP DATABASE {name}"));
    typed(block("sudo -u postgres createdb"), &database, &name, &directory);
    assert_eq!(listed(&restored), before);

    let url = restored.url().replace("postgres@", "cloacina@");
    let new = Start::without_database().database_url(&url).serving();
    assert!(!new.home().join("bootstrap-key").exists(), "there are keys, so none is made");
    let started = new.stderr_with("serving version=");
    assert!(!started.contains("migrated"), "{started}");
    let restored_history = "SELECT string_agg(h::text, ' ' ORDER BY version) FROM refinery_schema_history h";
    assert_eq!(restored.value::<String>(restored_history), history);
    for key in valid {
        assert!(new.knows(key));
    }
    for key in [&revoked, &short] {
        assert!(!new.knows(key));
    }
    let who = new.get("/auth/whoami", Some(&expiring)).expect_status(200).json();
    let row = before.iter().find(|row| row["name"] == "expiring").unwrap();
    assert_eq!((&who["expires_at"], &who["permissions"]), (&row["expires_at"], &row["permissions"]));

    // The old server's row came along. Whoever revokes waits for its lease once, and then it is gone.
    let is_left = "SELECT count(*) FROM auth_caches";
    assert_eq!(restored.value::<i64>(is_left), 2, "the new server's own, and the old one's");
    let path = format!("/auth/keys/{}", id_of(&restored, "plain"));
    assert!(new.knows(&plain), "remembered now");
    new.delete(&path, &admin).expect_status(200);
    assert!(!new.knows(&plain));
    assert_eq!(restored.value::<i64>(is_left), 1);
    let (id, another) = new.create_key(&admin, "another");
    assert!(new.knows(&another));
    let drawn_before = restored.value::<i64>("SELECT last_value FROM api_key_changes");
    new.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    assert!(!new.knows(&another));
    let drawn_after = restored.value::<i64>("SELECT last_value FROM api_key_changes");
    assert_eq!(drawn_after, drawn_before, "nobody else is there to be told, so nobody is waited for");

    // The database that it came from knows nothing of all that.
    assert!(old.knows(&plain) && !old.knows(&another));
}

/// To another cluster, where the tenants' roles are not: each tenant brings its own.
#[test]
fn with_roles_of_tenants() {
    let (here, there) = (Cluster::start(), Cluster::start());
    let directory = Directory::new();
    let [from, to] = [&here, &there].map(Database::in_cluster);
    from.execute("CREATE ROLE cloacina LOGIN CREATEROLE");
    from.execute("CREATE DATABASE cloacina OWNER cloacina");
    to.execute("CREATE ROLE cloacina LOGIN CREATEROLE");
    let [old, new] = [&here, &there].map(|at| at.url("cloacina").replace("postgres@", "cloacina@"));
    let server = Start::without_database().database_url(&old).serving();
    let admin = server.bootstrap_key();
    let made = server.post("/tenants", &admin, r#"{"schema_name":"globex","username":"globex_role"}"#);
    let login = made.expect_status(201).json()["connection_string"].as_str().unwrap().to_owned();
    let mut tenant = Client::connect(&login, NoTls).unwrap();
    // Whoever restores this runs it.
    tenant
        .batch_execute(
            "CREATE FUNCTION mine(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                 CREATE TABLE IF NOT EXISTS globex.ran AS SELECT current_user::text AS role; RETURN true; END $$;
             CREATE TABLE orders (number int CHECK (globex.mine(number))); INSERT INTO orders VALUES (7)",
        )
        .unwrap();
    let key = server.post("/tenants/globex/keys", &admin, r#"{"name":"k"}"#).expect_status(201).json();
    let key = key["key"].as_str().unwrap();

    let with_login = |login: &str, block: &str| format!("export CONNECTION_STRING='{login}'\n{block}");
    typed(block("umask 077"), &from, "cloacina", &directory);
    typed(&with_login(&login, block("pg_dump")), &from, "cloacina", &directory);
    typed(block("sudo -u postgres createdb"), &to, "cloacina", &directory);
    let server = Start::without_database().database_url(&new).serving();
    server.get("/tenants/globex", Some(key)).expect_status(200);
    let again = server.post("/tenants/globex/password", &admin, "{}").expect_status(200).json();
    let login = again["connection_string"].as_str().unwrap();
    typed(&with_login(login, block("pg_restore")), &to, "cloacina", &directory);

    let mut tenant = Client::connect(login, NoTls).unwrap();
    let read = |tenant: &mut Client, sql: &str| -> String { tenant.query_one(sql, &[]).unwrap().get(0) };
    assert_eq!(read(&mut tenant, "SELECT number::text FROM orders"), "7");
    assert_eq!(read(&mut tenant, "SELECT schema_name FROM cloacina_views.tenant"), "globex");
    assert_eq!(read(&mut tenant, "SELECT string_agg(role, ' ') FROM ran"), "globex_role");
    server.delete("/tenants/globex", &admin).expect_status(200);
    assert!(Client::connect(login, NoTls).is_err());
}

/// A plain dump in SQL, which `psql` reads, serves as well.
#[test]
fn a_dump_in_plain_sql() {
    let database = Database::new();
    let restored = Database::new();
    let directory = Directory::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    server.terminate().expect_code(0);
    let script = "pg_dump --no-owner \"$1\" >dump.sql && psql -qX -v ON_ERROR_STOP=1 --single-transaction -f dump.sql \"$2\"";
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script, "bash", &database.url(), &restored.url()])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!fs::read_to_string(directory.join("dump.sql")).unwrap().contains(&admin));
    assert_eq!(restored.contents(), database.contents());
    let server = Server::start(&restored);
    assert!(server.knows(&admin) && !server.home().join("bootstrap-key").exists());
}

/// What a later release's migration does while this one still serves: it adds, so this one goes on, also on sessions
/// that it makes afterwards.
#[test]
fn a_running_server_outlives_a_later_migration() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--pool-size=2"]).serving();
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "before");
    assert!(server.knows(&key));
    database.execute(
        "ALTER TABLE api_keys ADD COLUMN later text NOT NULL DEFAULT 'x';
         ALTER TABLE auth_caches ADD COLUMN later text;
         INSERT INTO refinery_schema_history VALUES (9999, 'later', '2030-01-01T00:00:00Z', '1')",
    );
    for round in ["old sessions", "new sessions"] {
        let (made, other) = server.create_key(&admin, round);
        assert!(server.knows(&other) && server.knows(&key), "{round}");
        server.post(&format!("/auth/keys/{made}/rotate"), &admin, "{}").expect_status(201);
        assert!(!server.knows(&other), "{round}");
        server.get("/auth/keys", Some(&admin)).expect_status(200);
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
        wait_for("sessions to be made anew", || {
            (server.get("/auth/whoami", Some(&admin)).status == 200).then_some(())
        });
    }
    server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    assert!(!server.knows(&key));
    server.terminate().expect_code(0);
    // It does not start again, though: going back takes a backup.
    let ended = Start::on(&database).failing().expect_code(1);
    assert!(ended.last_words().contains("newer than this program"), "{ended:#?}");
}
