//! `cloacinactl tenants …`: straight on the database, beside servers that run.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use serde_json::{Value, json};

use super::site::{Site, remember};
use crate::keys::INVALID;
use crate::keys_command::{created, keys, remarks, run_at, worked};
use crate::scratch::Outcome;
use crate::support::directory::Directory;
use crate::support::http::Response;
use crate::support::postgres::Database;
use crate::support::program::cloacinactl;
use crate::support::server::Server;
use crate::support::wait_for;

/// `cloacinactl tenants ARGUMENTS` on this database.
#[track_caller]
fn tenants(database: &Database, arguments: &[&str]) -> Outcome {
    run_at(&database.url(), &[&["tenants"], arguments].concat(), "")
}

/// The one line of JSON that a command printed.
#[track_caller]
fn printed(outcome: &Outcome) -> Value {
    let lines = worked(outcome);
    assert_eq!(lines.len(), 1, "{outcome:?}");
    serde_json::from_str(lines[0]).unwrap()
}

/// A name that no other test's role has.
fn role_of(database: &Database) -> String {
    format!("{}_acme", database.name())
}

fn exists(database: &Database, kind: &str, name: &str) -> bool {
    let (table, column) = if kind == "role" { ("pg_roles", "rolname") } else { ("pg_namespace", "nspname") };
    database.value(&format!("SELECT EXISTS (SELECT FROM {table} WHERE {column} = '{name}')"))
}

#[test]
fn a_tenant_with_keys_only() {
    let Site { database, server, admin } = Site::start();
    let get = |path: &str| -> Response { server.get(path, Some(&admin)) };
    let made = tenants(&database, &["create", "acme"]);
    assert_eq!(
        made.stdout,
        "{\"schema_name\":\"acme\",\"username\":null,\"password\":null,\"connection_string\":null}\n"
    );
    assert_eq!((made.code, remarks(&made)), (Some(0), vec![]), "{made:?}");
    let shown = printed(&tenants(&database, &["show", "acme"]));
    assert_eq!(shown, get("/tenants/acme").expect_status(200).json());
    assert_eq!(shown["max_pending_executions"], 10_000);
    let key = created(&keys(&database, &["create", "--name", "theirs", "--tenant", "acme"]));
    server.get("/tenants/acme/keys", Some(&key)).expect_status(200);
    assert!(!exists(&database, "schema", "acme"));

    worked(&tenants(&database, &["create", "other"]));
    let table = tenants(&database, &["list"]);
    let lines = worked(&table);
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["NAME", "USERNAME", "CREATED"]);
    assert!(lines[1].starts_with("other  -") && lines[2].starts_with("acme   -"), "{table:?}");
    assert_eq!((lines.len(), remarks(&table)), (3, vec![]), "{table:?}");
    let listed = tenants(&database, &["list", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed, get("/tenants").expect_status(200).json()["tenants"]);

    tenants(&database, &["password", "acme"])
        .failed(1, &["tenant 'acme' has no database role: it was made without username"]);
    tenants(&database, &["create", "acme"]).failed(1, &["tenant 'acme' exists"]);
    tenants(&database, &["create", "ACME"]).failed(1, &["tenant 'acme' exists, which differs only in case"]);
    for action in ["show", "password", "remove"] {
        for name in ["ghost", "ACME", "a b\u{1b}[31m"] {
            let told = format!("tenant '{}' not found", name.replace('\u{1b}', "\\u{1b}"));
            tenants(&database, &[action, name]).failed(1, &[&told]);
        }
    }
}

#[test]
fn a_tenant_with_a_role() {
    let Site { database, server, admin } = Site::start();
    let role = role_of(&database);
    let made = printed(&tenants(&database, &["create", "acme", "--username", &role]));
    let text = |object: &Value, field: &str| object[field].as_str().unwrap().to_owned();
    assert_eq!((&made["schema_name"], &made["username"]), (&json!("acme"), &json!(role)));
    assert_eq!(text(&made, "password").len(), 32);
    let verifier =
        || database.value::<String>(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'"));
    let first = verifier();
    assert!(first.starts_with("SCRAM-SHA-256$4096:"), "{first}");
    let log_in = |object: &Value| {
        let mut client = Client::connect(&text(object, "connection_string"), NoTls).unwrap();
        client.batch_execute("CREATE TABLE IF NOT EXISTS mine (); SELECT * FROM acme.mine").unwrap();
        let row = client.query_one("SELECT current_user::text", &[]).unwrap();
        assert_eq!(row.get::<_, String>(0), role);
    };
    log_in(&made);
    assert_eq!(server.get("/tenants/acme", Some(&admin)).json()["username"], *role);
    let listed = tenants(&database, &["list"]);
    assert!(worked(&listed)[1].starts_with(&format!("acme  {role}  20")), "{listed:?}");

    let changed = printed(&tenants(&database, &["password", "acme"]));
    assert_ne!(changed["password"], made["password"]);
    assert_ne!(verifier(), first);
    log_in(&changed);
    let at_host = ["password", "acme", "--tenant-database-host", "db.example:5433"];
    let changed = printed(&tenants(&database, &at_host));
    assert!(text(&changed, "connection_string").contains("@db.example:5433/"), "{changed}");

    // Chosen ones, from a file or stdin, with a line end behind them or without.
    let directory = Directory::new();
    let file = directory.join("password");
    let url = database.url();
    for (password, encoded) in [("p\u{e4}ss/wort", "p%C3%A4ss%2Fwort"), (" two words ", "%20two%20words%20")]
    {
        for end in ["", "\n", "\r\n"] {
            fs::write(&file, format!("{password}{end}")).unwrap();
            let from_file =
                tenants(&database, &["password", "acme", "--password-file", file.to_str().unwrap()]);
            let arguments = ["tenants", "password", "acme", "--password-file=-"];
            let from_stdin = run_at(&url, &arguments, &format!("{password}{end}"));
            for outcome in [from_file, from_stdin] {
                let changed = printed(&outcome);
                assert_eq!(text(&changed, "password"), password);
                assert!(text(&changed, "connection_string").contains(&format!(":{encoded}@")), "{changed}");
                assert!(!outcome.stderr.contains(password), "{outcome:?}");
                log_in(&changed);
            }
        }
    }
    worked(&tenants(&database, &["remove", "acme"]));
    let arguments = ["tenants", "create", "acme", "--username", &role, "--password-file", "-"];
    let again = printed(&run_at(&url, &arguments, "a chosen one"));
    assert_eq!(text(&again, "password"), "a chosen one");
    log_in(&again);
    worked(&tenants(&database, &["remove", "acme"]));
}

#[test]
fn what_cannot_be_is_refused_and_nothing_done() {
    let database = Database::new();
    tenants(&database, &["list"]).failed(1, &["serve"]);
    tenants(&database, &["create", "acme"]).failed(1, &["serve"]);
    Server::migrate(&database);
    let role = role_of(&database);
    database.execute(&format!("CREATE SCHEMA taken; CREATE ROLE {role}"));
    let before = database.contents();
    let directory = Directory::new();
    let file = directory.join("password");
    let create = |name: &str, username: &str| tenants(&database, &["create", name, "--username", username]);
    create("taken", "x_none").failed(1, &["schema 'taken' exists"]);
    create("acme", &role).failed(1, &[&format!("role '{role}' exists")]);
    for (name, username, texts) in [
        ("2x", "x", ["invalid value for `NAME`: `2x` begins with `2`", "must begin with"]),
        ("public", "x", ["invalid value for `NAME`", "`public` is reserved"]),
        ("acme", "pg_x", ["invalid value for `--username`", "`pg_x` is reserved"]),
        ("acme", "a b", ["invalid value for `--username`", "only ASCII letters"]),
    ] {
        create(name, username).failed(2, &texts);
    }
    for (password, text) in [
        (b"".as_slice(), "it is empty"),
        (b"\n\n", "it is empty"),
        (b"two\nlines", "none of them a control character"),
        (b"\xff-secret", "it is not UTF-8"),
        (&[b'x'; 129], "1 to 128 characters"),
        (&[b'x'; 70_000], "KiB"),
    ] {
        fs::write(&file, password).unwrap();
        let path = file.to_str().unwrap();
        let refused = tenants(&database, &["create", "acme", "--username", "x", "--password-file", path]);
        refused.failed(2, &[&format!("cannot take the password in `{path}`: "), text]);
        assert!(!refused.stderr.contains("secret") && !refused.stderr.contains("xxx"), "{refused:?}");
    }
    let arguments = ["tenants", "password", "acme", "--password-file", "-"];
    run_at(&database.url(), &arguments, "").failed(2, &["cannot take the password in `-`: it is empty"]);
    assert_eq!(database.contents(), before);
    database.execute(&format!("DROP ROLE {role}"));
}

#[test]
fn a_server_s_role_that_may_not_make_roles() {
    let database = Database::new();
    Server::migrate(&database);
    let (url, role) = database.url_of_new_role();
    database.execute(&format!(
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
    ));
    let of_role = role_of(&database);
    let refused = run_at(&url, &["tenants", "create", "acme", "--username", &of_role], "");
    refused.failed(1, &["the server's database role cannot create roles: grant it CREATEROLE"]);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM cloacina_tenants"), 0);
    printed(&run_at(&url, &["tenants", "create", "acme"], ""));
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_removal_ends_keys_and_logins_at_once_and_drops_what_there_was() {
    let Site { database, server, admin: _ } = Site::start();
    let role = role_of(&database);
    let made = printed(&tenants(&database, &["create", "acme", "--username", &role]));
    let key = created(&keys(&database, &["create", "--name", "theirs", "--tenant", "acme"]));
    remember(&server, &key);
    let mut session = Client::connect(made["connection_string"].as_str().unwrap(), NoTls).unwrap();
    session.batch_execute("CREATE TABLE mine AS SELECT generate_series(1, 9); SELECT lo_create(0)").unwrap();
    session.batch_execute("BEGIN; SELECT * FROM mine").unwrap();

    let removed = tenants(&database, &["remove", "acme"]);
    assert_eq!(removed.stdout, "{\"status\":\"removed\",\"schema_name\":\"acme\"}\n");
    assert_eq!((removed.code, remarks(&removed)), (Some(0), vec![]), "{removed:?}");
    server.get("/auth/whoami", Some(&key)).expect(401, INVALID);
    assert!(session.batch_execute("SELECT").is_err());
    let left = "SELECT (SELECT count(*) FROM cloacina_tenants) + (SELECT count(*) FROM api_keys WHERE tenant IS NOT NULL)
                     + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'cloacina_removed_%' OR nspname = 'acme')
                     + (SELECT count(*) FROM pg_largeobject_metadata)";
    assert_eq!(database.value::<i64>(left), 0);
    assert!(!exists(&database, "role", &role));
    tenants(&database, &["remove", "acme"]).failed(1, &["tenant 'acme' not found"]);
    printed(&tenants(&database, &["create", "acme", "--username", &role]));
    worked(&tenants(&database, &["remove", "acme"]));
}

/// A server that is frozen may wake up and trust what it remembers: for so long the command waits.
#[test]
fn a_removal_does_not_end_before_every_server_knows() {
    let Site { database, server, admin: _ } = Site::start();
    worked(&tenants(&database, &["create", "acme"]));
    let key = created(&keys(&database, &["create", "--name", "theirs", "--tenant", "acme"]));
    remember(&server, &key);
    server.signal("STOP");
    let began = Instant::now();
    let removed = tenants(&database, &["remove", "acme"]);
    let waited = began.elapsed();
    server.signal("CONT");
    worked(&removed);
    server.get("/auth/whoami", Some(&key)).expect(401, INVALID);
    assert!(waited >= Duration::from_secs(3), "waited for {waited:?} only");
}

#[test]
fn what_is_left_of_a_removed_tenant_is_named() {
    let (database, elsewhere) = (Database::new(), Database::new());
    Server::migrate(&database);
    let role = role_of(&database);
    printed(&tenants(&database, &["create", "acme", "--username", &role]));
    elsewhere.execute(&format!("CREATE TABLE theirs (); ALTER TABLE theirs OWNER TO {role}"));
    let id: String = database.value("SELECT replace(id::text, '-', '') FROM cloacina_tenants");
    let stays = format!("cloacina_removed_{id}");
    let removed = tenants(&database, &["remove", "acme"]);
    let told = json!({
        "status": "removed", "schema_name": "acme", "role": stays, "databases": [elsewhere.name()]
    });
    assert_eq!(printed(&removed), told);
    let why = format!(
        "the role {stays} stays, without login, until `DROP OWNED BY {stays}` has been run in these databases: {}",
        elsewhere.name()
    );
    assert_eq!(remarks(&removed), [format!("cloacinactl: removed tenant 'acme': {why}")]);
    let listed = tenants(&database, &["list"]);
    assert_eq!((worked(&listed).len(), remarks(&listed).len()), (1, 1), "{listed:?}");
    assert!(remarks(&listed)[0].contains(&why), "{listed:?}");
    assert_eq!(tenants(&database, &["list", "--json"]).stdout, "[\n]\n");

    elsewhere.execute(&format!("DROP OWNED BY {stays}"));
    let _server = Server::start(&database);
    wait_for("the role to be dropped", || (!exists(&database, "role", &stays)).then_some(()));
    wait_for("the rest to go", || remarks(&tenants(&database, &["list"])).is_empty().then_some(()));
}

#[test]
fn a_removal_waits_for_no_lock_for_long() {
    let database = Database::new();
    Server::migrate(&database);
    let role = role_of(&database);
    printed(&tenants(&database, &["create", "acme", "--username", &role]));
    database.execute(&format!("SET ROLE {role}; CREATE TABLE acme.mine ()"));
    let lock = database.hold("LOCK TABLE acme.mine");
    let began = Instant::now();
    let removed = tenants(&database, &["remove", "acme"]);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(printed(&removed)["status"], "removed");
    let told = remarks(&removed);
    assert!(told.len() == 1 && told[0].contains("not all that it had is dropped yet"), "{removed:?}");
    assert!(!exists(&database, "role", &role) && !exists(&database, "schema", "acme"));
    let listed = remarks(&tenants(&database, &["list"])).concat();
    assert_eq!(listed, "cloacinactl: removed tenant 'acme': not all that it had is dropped yet");
    lock.release();
    let _server = Server::start(&database);
    let rows = "SELECT count(*) FROM cloacina_tenants";
    wait_for("the rest to be dropped", || (database.value::<i64>(rows) == 0).then_some(()));
}

/// It is stored nowhere: there is a way to another one.
#[test]
fn a_password_that_cannot_be_shown() {
    let database = Database::new();
    Server::migrate(&database);
    let role = role_of(&database);
    let home = Directory::new();
    let onto_full_disk = |arguments: &[&str]| {
        let url = database.url();
        let words =
            ["--home", home.path().to_str().unwrap(), "tenants"].into_iter().chain(arguments.iter().copied());
        let mut command = cloacinactl(words.chain(["--database-url", &*url]));
        command.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    };
    let hint = "its password could not be written to stdout";
    let said = onto_full_disk(&["create", "acme", "--username", &role]);
    assert!(said.contains("tenant 'acme' was made, but") && said.contains(hint), "{said}");
    assert!(said.contains("`cloacinactl tenants password acme` makes another"), "{said}");
    let said = onto_full_disk(&["password", "acme"]);
    assert!(said.contains("tenant 'acme' has another password, but") && said.contains(hint), "{said}");
    printed(&tenants(&database, &["password", "acme"]));
    worked(&tenants(&database, &["remove", "acme"]));
}

/// Whether a server runs or not, by force alone.
#[test]
fn a_tenant_with_executions_is_removed_by_force() {
    let database = Database::new();
    Server::migrate(&database);
    printed(&tenants(&database, &["create", "acme"]));
    database.execute(
        "INSERT INTO cloacina_executions (id, tenant, workflow, version, context)
         SELECT gen_random_uuid(), id, 'nightly', '1.0.0', '{}' FROM cloacina_tenants",
    );
    let refused = tenants(&database, &["remove", "acme"]);
    let line = "executions of tenant 'acme' have not ended: wait for them, or cancel them with --force";
    assert!(refused.code == Some(1) && refused.stderr.contains(line), "{refused:?}");
    let shown = printed(&tenants(&database, &["show", "acme"]));
    assert_eq!(shown["executions"]["Pending"], 1, "{shown}");
    printed(&tenants(&database, &["remove", "acme", "--force"]));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM cloacina_executions"), 0);
}
