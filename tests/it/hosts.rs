//! Hosts as the database knows them: `cloacinactl hosts`, what `/ready`, log and metrics say of silent ones, and what a check
//! says of one on which no task may run.

use nix::unistd::Uid;
use serde_json::Value;

use crate::check::says;
use crate::keys_command::{remarks, run_at, worked};
use crate::scratch::Outcome;
use crate::support::directory::Directory;
use crate::support::package::{package, upload};
use crate::support::postgres::Database;
use crate::support::program::{Ended, Process, cloacinactl};
use crate::support::secured::{PASSWORD, Secured};
use crate::support::server::Server;
use crate::support::wait_for;

#[track_caller]
fn hosts(database: &Database, arguments: &[&str]) -> Outcome {
    run_at(&database.url(), &[&["hosts"], arguments].concat(), "")
}

/// A host that was last seen so long ago.
fn add_host(database: &Database, name: &str, slots: u32, seconds: u32, obstacle: Option<&str>) {
    let obstacle = obstacle.map_or("NULL".to_owned(), |text| format!("'{text}'"));
    database.execute(&format!(
        "INSERT INTO cloacina_hosts (id, name, slots, obstacle, session, timeline, seen_at)
         VALUES (gen_random_uuid(), '{name}', {slots}, {obstacle}, gen_random_uuid(), 1,
                 clock_timestamp() - interval '{seconds} seconds')"
    ));
}

/// Executions of a new tenant, so many, whose only tasks run on this host.
fn add_running(database: &Database, server: &Server, host: &str, count: usize) {
    let admin = server.bootstrap_key();
    server.post("/tenants", &admin, r#"{"schema_name":"acme"}"#).expect_status(201);
    upload(server.address, "acme", &admin, &package("nightly", "1.0.0")).expect_status(201);
    for _ in 0..count {
        server.post("/tenants/acme/workflows/nightly/execute", &admin, "{}").expect_status(202);
    }
    database.execute(&format!(
        "DELETE FROM cloacina_queue;
         UPDATE cloacina_executions SET status = 'Running';
         UPDATE cloacina_tasks SET status = 'Running', attempts = 1, attempt = gen_random_uuid();
         INSERT INTO cloacina_attempts (id, tenant, execution, task, number, host, boot)
         SELECT attempt, tenant, execution.id, 0, 1, host.id, gen_random_uuid()
         FROM cloacina_tasks JOIN cloacina_executions AS execution ON execution.id = execution
         JOIN cloacina_hosts AS host ON host.name = '{host}'"
    ));
}

#[test]
fn hosts_are_listed_and_forgotten() {
    let database = Database::new();
    hosts(&database, &["list"]).failed(1, &["has not been set up yet"]);
    Server::migrate(&database);
    assert_eq!(worked(&hosts(&database, &["list"])).len(), 1);
    assert_eq!(hosts(&database, &["list", "--json"]).stdout, "[\n]\n");

    add_host(&database, "alpha", 4, 5, None);
    add_host(&database, "beta", 2, 90, Some("no room"));
    add_host(&database, "delta", 2, 1, Some("no room"));
    add_host(&database, "gamma", 0, 1_000_000, None);
    let server = Server::start(&database);
    add_running(&database, &server, "beta", 3);
    let table = hosts(&database, &["list"]);
    let lines: Vec<Vec<&str>> = worked(&table).iter().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "SLOTS", "RUNNING", "SEEN", "STATE"]);
    let without_time = |line: &[&str]| [&line[..3], &line[4..]].concat().join(" ");
    let states: Vec<_> = lines[1..].iter().map(|line| without_time(line)).collect();
    assert_eq!(
        states,
        ["alpha 4 0 ok", "beta 2 3 silent", "delta 2 0 starts no task: no room", "gamma 0 0 without slots"]
    );
    let listed = hosts(&database, &["list", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let beta = &listed[1];
    assert_eq!(
        (&beta["name"], &beta["slots"], &beta["running_attempts"], &beta["silent"], &beta["obstacle"]),
        (&"beta".into(), &2.into(), &3.into(), &true.into(), &"no room".into())
    );

    hosts(&database, &["forget"]).failed(2, &["`hosts forget` takes one NAME"]);
    hosts(&database, &["forget", "omega"]).failed(1, &["host 'omega' not found"]);
    let gone = hosts(&database, &["forget", "beta"]);
    assert_eq!(worked(&gone), ["{\"forgotten\":\"beta\",\"abandoned_attempts\":3}"]);
    assert_eq!(remarks(&gone), Vec::<&str>::new());
    let failed = "SELECT count(*) FROM cloacina_executions WHERE status = 'Failed' AND error ~ 'its host was forgotten'";
    assert_eq!(database.value::<i64>(failed), 3);
    hosts(&database, &["forget", "beta"]).failed(1, &["host 'beta' not found"]);
    // One that may well be alive.
    let gone = hosts(&database, &["forget", "alpha"]);
    assert!(gone.stderr.contains("host 'alpha' was seen") && gone.code == Some(0), "{gone:?}");
    assert_eq!(worked(&hosts(&database, &["list"])).len(), 3);
}

#[test]
fn silent_hosts_are_counted_and_named() {
    let database = Database::new();
    let server = Server::start(&database);
    assert_eq!(server.get("/ready", None).expect_status(200).body, br#"{"status":"ready"}"#);
    add_host(&database, "alpha", 4, 90, None);
    // One that runs nothing is missed by no one.
    add_host(&database, "gamma", 0, 90, None);
    let ready = || server.get("/ready", None).expect_status(200).json();
    wait_for("a warning", || (ready()["warnings"][0] == "1 host silent").then_some(()));
    assert_eq!(server.metric("cloacina_hosts_silent", &[]), 1.0);
    server.stderr_with("cloacinactl hosts forget alpha");
    worked(&hosts(&database, &["forget", "alpha"]));
    wait_for("no warning", || ready().get("warnings").is_none().then_some(()));
    assert_eq!(server.metric("cloacina_hosts_silent", &[]), 0.0);
}

/// `serve --check` of a server that is to run tasks, with the URL of its database in the environment.
fn check_tasks(url: &str, arguments: &[&str]) -> Ended {
    let home = Directory::new();
    let home = home.path().to_str().unwrap();
    let mut words = vec!["--home", home, "serve", "--check", "--bind", "127.0.0.1:0", "--task-slots", "2"];
    if Uid::effective().is_root() {
        words.extend(["--task-user", "nobody"]);
    }
    words.extend(arguments);
    let mut command = cloacinactl(words);
    command.env("DATABASE_URL", url);
    Process::start(command).ended()
}

#[test]
fn a_check_says_what_keeps_tasks_from_running() {
    let database = Database::new();
    let open = format!("lets the server's user in without a password at {}", database.host_and_port());
    let refused = "no task would run here: the database, which ";
    says(check_tasks(&database.url(), &[]), 1, &[refused, &open, "pg_hba.conf", "--sandbox partial"]);
    let partial = check_tasks(&database.url(), &["--sandbox", "partial"]);
    let listed = format!("open to tasks: the database, which {open}");
    says(partial, 0, &["runs up to 2 tasks at once, which outlive", "sandbox partial", &listed]);
    let off = check_tasks(&database.url(), &["--sandbox", "off", "--stop-tasks"]);
    says(off, 0, &["which end with the server; sandbox off", "everything that its user may do"]);
}

#[test]
fn a_password_opens_nothing_unless_it_is_on_the_command_line() {
    let secured = Secured::shared();
    let database = secured.database();
    let url = format!(
        "host=127.0.0.1 port={} dbname={} user=scram password='{}' sslmode=disable",
        secured.cluster.port(),
        database.name(),
        PASSWORD.replace('\\', r"\\")
    );
    says(check_tasks(&url, &[]), 0, &["runs up to 2 tasks at once", "sandbox required"]);
    let exposed = check_tasks(&url, &["--database-url", &url]);
    let told = "no task would run here: the secret in `--database-url` on the server's command line";
    says(exposed, 1, &[told, "DATABASE_URL"]);
}
