//! `serve --check`: what a deploy script asks before it restarts a server. It finds all that is wrong, and changes
//! nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::program::{Ended, Process, cloacinactl};
use crate::support::server::Server;
use crate::upgrades::newest_version;

pub fn check(home: &Path, arguments: &[&str]) -> Ended {
    let home = home.to_str().unwrap();
    let words = [&["--home", home, "serve", "--check"], arguments].concat();
    Process::start(cloacinactl(words)).ended()
}

pub fn check_database(home: &Path, database: &Database, arguments: &[&str]) -> Ended {
    let url = database.url();
    let all = [&["--bind", "127.0.0.1:0", "--database-url", &*url], arguments].concat();
    check(home, &all)
}

/// Asserts the exit code, and that each of these is a line of one of the outputs, or a part of one.
#[track_caller]
pub fn says(ended: Ended, code: i32, parts: &[&str]) -> Ended {
    let ended = ended.expect_code(code);
    for part in parts {
        let found = ended.stdout.lines().chain(ended.stderr.lines()).any(|line| line.contains(part));
        assert!(found, "{part:?} is not in {ended:#?}");
    }
    ended
}

/// Names, modes and contents of all there is in a directory.
fn tree(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        let path = entry.path();
        found.push(format!("{} {:o}", path.display(), metadata.permissions().mode()));
        if metadata.is_dir() {
            found.extend(tree(&path));
        } else {
            found.push(String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
        }
    }
    found.sort();
    found
}

#[test]
fn an_empty_database_is_fine_and_stays_empty() {
    let database = Database::new();
    let parent = Directory::new();
    let home = parent.join("new");
    let before = database.contents();
    let ended = says(
        check_database(&home, &database, &[]),
        0,
        &[
            "ok: configuration",
            "ok: home",
            "ok: address",
            "ok: database `",
            "is empty",
            "a bootstrap key is made",
        ],
    );
    assert_eq!(ended.stderr, "");
    assert!(!home.exists(), "nothing is made");
    assert_eq!(database.contents(), before);
}

#[test]
fn a_running_server_is_not_in_the_way() {
    let database = Database::new();
    let server = Server::start(&database);
    let before = database.value::<i64>("SELECT count(*) FROM api_keys");
    let files = tree(server.home());
    let bind = server.address.to_string();
    let url = database.url();
    let ended = check(server.home(), &["--bind", &bind, "--database-url", &url]);
    says(ended, 0, &["ok: address", "is in use now", "its schema is that of this program"]);
    // The server goes on with its own log meanwhile.
    let without_log = |files: Vec<String>| -> Vec<String> {
        files.into_iter().filter(|line| !line.contains("\"timestamp\"")).collect()
    };
    assert_eq!(without_log(tree(server.home())), without_log(files));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), before);
}

#[test]
fn an_older_server_s_table_would_be_adopted() {
    let database = Database::new();
    database.execute(
        "CREATE TABLE api_keys (id uuid PRIMARY KEY, key_hash text NOT NULL UNIQUE, name text NOT NULL,
             permissions text NOT NULL, created_at timestamptz NOT NULL, revoked_at timestamptz)",
    );
    let before = database.contents();
    let home = Directory::new();
    says(
        check_database(home.path(), &database, &[]),
        0,
        &["has a table api_keys of another server, which is adopted"],
    );
    assert_eq!(database.contents(), before);
}

#[test]
fn a_table_that_cannot_be_adopted_is_named() {
    let database = Database::new();
    database.execute("CREATE TABLE api_keys (id uuid PRIMARY KEY, name text)");
    let home = Directory::new();
    let ended =
        says(check_database(home.path(), &database, &[]), 1, &["the table public.api_keys", "key_hash"]);
    assert!(ended.stdout.contains("ok: home"), "{ended:#?}");
}

#[test]
fn an_earlier_schema_would_be_migrated_and_a_newer_one_is_refused() {
    let database = Database::new();
    drop(Server::start(&database));
    database.execute("DELETE FROM refinery_schema_history WHERE version >= 6");
    let home = Directory::new();
    let before = database.contents();
    let newest = newest_version();
    let expected = format!("is migrated from version 5 to {newest}");
    says(check_database(home.path(), &database, &[]), 0, &[&expected]);
    assert_eq!(database.contents(), before);
    database.execute("UPDATE refinery_schema_history SET checksum = '1' WHERE version = 2");
    says(check_database(home.path(), &database, &[]), 1, &["its history has V2__", "not ours"]);
    database.execute(
        "INSERT INTO refinery_schema_history
         SELECT 99, 'of_the_future', applied_on, checksum FROM refinery_schema_history WHERE version = 5",
    );
    says(
        check_database(home.path(), &database, &[]),
        1,
        &["the database is newer than this program", "version 99"],
    );
}

#[test]
fn a_role_that_may_not_do_what_is_needed() {
    let database = Database::new();
    let (url, role) = database.url_of_new_role();
    let home = Directory::new();
    let arguments = ["--bind", "127.0.0.1:0", "--database-url", &*url];
    // Where anybody may create, as before PostgreSQL 15, this is taken away first.
    database.execute("REVOKE CREATE ON SCHEMA public FROM public");
    says(check(home.path(), &arguments), 1, &["may not create tables in schema public", &role]);
    drop(Server::start(&database));
    says(check(home.path(), &arguments), 1, &["refinery_schema_history", &role]);
    database.execute(&format!("GRANT SELECT ON refinery_schema_history TO {role}"));
    says(check(home.path(), &arguments), 1, &["INSERT on api_keys", &role]);
    database.execute(&format!("GRANT SELECT, INSERT, UPDATE ON api_keys TO {role}"));
    says(check(home.path(), &arguments), 1, &["DELETE on auth_caches", &role]);
    database.execute(&format!(
        "GRANT ALL ON auth_caches, cloacina_tenants, cloacina_notifications, cloacina_workflows, cloacina_packages, \
         cloacina_package_pieces, cloacina_hosts, cloacina_executions, cloacina_tasks, cloacina_attempts, \
         cloacina_events, cloacina_log_pieces, cloacina_queue, cloacina_idempotency_keys TO {role}; GRANT ALL ON SEQUENCE api_key_changes TO {role}"
    ));
    says(check(home.path(), &arguments), 0, &["ok: database `"]);
    database.execute(&format!("ALTER ROLE {role} SET default_transaction_read_only = on"));
    says(check(home.path(), &arguments), 1, &["takes no writes"]);
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_soon() {
    let home = Directory::new();
    let locked = home.join("bootstrap-key");
    fs::create_dir(&locked).unwrap();
    let began = Instant::now();
    let ended = check(
        home.path(),
        &[
            "--bind",
            "nonsense",
            "--workers",
            "0",
            "--database-url",
            "postgresql://nobody:very-secret-word@127.0.0.1:1/none",
        ],
    );
    let ended = says(ended, 2, &["`--bind`", "`--workers`", "bootstrap-key", "127.0.0.1:1"]);
    assert!(began.elapsed() < Duration::from_secs(20), "it does not wait as a start does");
    assert!(!format!("{ended:?}").contains("very-secret-word"));
    let none = check(home.path(), &[]);
    says(none, 2, &["DATABASE_URL", "--database-url", "database_url"]);
}

#[test]
fn a_home_that_cannot_be_used() {
    let database = Database::new();
    let directory = Directory::new();
    let file = directory.join("file");
    fs::write(&file, "").unwrap();
    says(check_database(&file, &database, &[]), 1, &["home", "not a directory"]);
    says(check_database(&file.join("below"), &database, &[]), 1, &["home"]);
    let open = directory.join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    says(check_database(&open, &database, &[]), 0, &["others may", "chmod 700"]);
    let secret = directory.join("absent");
    let ended = check_database(
        &directory.join("new"),
        &database,
        &["--bootstrap-key-file", secret.to_str().unwrap()],
    );
    says(ended, 2, &["absent", "--bootstrap-key-file"]);
}

/// In a container each check has the same process id.
#[test]
fn what_an_interrupted_check_left_is_not_in_the_way() {
    let database = Database::new();
    let home = Directory::new();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", r#"mkdir "$1/.cloacinactl-check-$$" && exec "$0" --home "$1" serve --check --database-url "$2" --bind 127.0.0.1:0"#]);
    command.arg(cloacinactl(["serve"]).get_program()).arg(home.path()).arg(database.url());
    says(Process::start(command).ended(), 0, &["home"]);
}

#[test]
fn a_warning_of_a_start_is_one_here_too() {
    let database = Database::new();
    let home = Directory::new();
    let passwords = home.join("passwords");
    fs::write(&passwords, "*:*:*:*:word\n").unwrap();
    fs::set_permissions(&passwords, fs::Permissions::from_mode(0o644)).unwrap();
    let url = database.url();
    let mark = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{mark}passfile={}", passwords.display());
    says(check(home.path(), &["--bind", "127.0.0.1:0", "--database-url", &url]), 0, &["is ignored"]);
}

#[test]
fn an_address_of_another_host() {
    let database = Database::new();
    let home = Directory::new();
    let url = database.url();
    let ended = check(home.path(), &["--bind", "192.0.2.1:8080", "--database-url", &url]);
    says(ended, 1, &["192.0.2.1:8080", "no interface of this host"]);
}

/// Where permissions would allow it, and nothing can be made all the same.
#[test]
fn a_home_on_a_file_system_that_takes_nothing() {
    let database = Database::new();
    for home in ["/proc/home", "/sys/home", "/proc/self/home/below"] {
        says(check_database(Path::new(home), &database, &[]), 1, &["as the home directory", home]);
    }
    let parent = Directory::new();
    says(check_database(&parent.join("a/b"), &database, &[]), 0, &["is made by a start"]);
    says(check_database(parent.path(), &database, &[]), 0, &["ok: home"]);
    assert_eq!(tree(parent.path()), Vec::<String>::new(), "nothing is left behind");
}
