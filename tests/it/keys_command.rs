//! `cloacinactl keys …`: straight on the database, beside servers that run.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::keys::{INVALID, hash, insert_key, unknown_key};
use crate::scratch::{Outcome, outcome};
use crate::support::directory::Directory;
use crate::support::http::Connection;
use crate::support::postgres::Database;
use crate::support::program::{binary, cloacinactl};
use crate::support::server::Server;
use crate::support::wait_for;

/// `cloacinactl keys ARGUMENTS` on this database.
#[track_caller]
pub fn keys(database: &Database, arguments: &[&str]) -> Outcome {
    keys_at(&database.url(), arguments, "")
}

pub fn keys_at(url: &str, arguments: &[&str], input: &str) -> Outcome {
    run_at(url, &[&["keys"], arguments].concat(), input)
}

/// A command on the database of this URL.
pub fn run_at(url: &str, arguments: &[&str], input: &str) -> Outcome {
    let home = Directory::new();
    let path = home.join("none");
    let mut command = cloacinactl(["--home", path.to_str().unwrap()]);
    command.args(arguments).env("DATABASE_URL", url);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that does not read it may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let outcome = outcome(child.wait_with_output().unwrap());
    assert!(!path.exists(), "the home directory of a server is not for this command to make");
    assert!(!outcome.stderr.contains("panicked at"), "{outcome:?}");
    outcome
}

/// The lines of a command that worked.
#[track_caller]
pub fn worked(outcome: &Outcome) -> Vec<&str> {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout.lines().collect()
}

/// What is on stderr, but for log lines.
pub fn remarks(outcome: &Outcome) -> Vec<&str> {
    outcome.stderr.lines().filter(|line| !line.contains("[INFO]")).collect()
}

#[track_caller]
pub fn created(outcome: &Outcome) -> String {
    let lines = worked(outcome);
    assert!(lines.len() == 1 && lines[0].starts_with("clk_") && lines[0].len() == 53, "{outcome:?}");
    assert!(!outcome.stderr.contains(lines[0]), "{outcome:?}");
    lines[0].to_owned()
}

pub fn id_of(database: &Database, name: &str) -> String {
    database.value(&format!("SELECT id::text FROM api_keys WHERE name = '{name}'"))
}

fn listed(database: &Database) -> Vec<Value> {
    let outcome = keys(database, &["list", "--json"]);
    worked(&outcome);
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn locked_out_and_back_in() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let path = format!("/auth/keys/{}", id_of(&database, "bootstrap"));
    server.delete(&path, &admin).expect_status(200);
    assert!(!server.lets_in(&admin));

    let outcome = keys(&database, &["create", "--name", "way back in"]);
    let key = created(&outcome);
    let id = id_of(&database, "way back in");
    assert_eq!(remarks(&outcome), [format!("created way back in {id}")]);
    assert!(server.lets_in(&key));
    let row: String = database.value(&format!(
        "SELECT concat_ws('|', key_hash, prefix, permissions, expires_at, declared) FROM api_keys WHERE id = '{id}'"
    ));
    assert_eq!(row, format!("{}|{}|admin|f", hash(&key), &key[..12]));
}

#[test]
fn what_a_new_key_may_do_and_until_when() {
    let database = Database::new();
    Server::migrate(&database);
    let outcome = keys(&database, &["create", "--name=ci", "--permissions", "read", "--expires-in", "90d"]);
    let key = created(&outcome);
    // There was none: no key but this one is made.
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 1);
    assert!(database.value::<bool>(
        "SELECT permissions = 'read' AND expires_at BETWEEN now() + '89 days' AND now() + '91 days' FROM api_keys"
    ));
    let server = Server::start(&database);
    assert!(!server.home().join("bootstrap-key").exists());
    server.get("/auth/whoami", Some(&key)).expect_status(200);
    server.get("/auth/keys", Some(&key)).expect_status(403);

    for (arguments, texts) in [
        (["--permissions", "root"], ["`--permissions`", "admin, write or read"]),
        (["--expires-in", "5 days"], ["`--expires-in`", "90d"]),
        (["--expires-in", "0d"], ["`--expires-in`", "future"]),
        (["--expires-in", "9999999d"], ["`--expires-in`", "year 9999"]),
    ] {
        keys(&database, &[&["create", "--name", "x"], arguments.as_slice()].concat()).failed(2, &texts);
    }
    keys(&database, &["create", "--name", ""]).failed(2, &["`--name`"]);
    keys(&database, &["create", "--name", "a\u{1b}[31m"]).failed(2, &["`--name`", "control characters"]);
    keys(&database, &["create", "--name", &"x".repeat(256)]).failed(2, &["`--name`", "255"]);
    keys(&database, &["create"]).failed(2, &["--name NAME"]);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 1);
}

#[test]
fn the_longest_life_that_is_allowed_counts_here_too() {
    let database = Database::new();
    Server::migrate(&database);
    let limit = ["--max-key-lifetime", "30d"];
    let create = |arguments: &[&str]| {
        keys(&database, &[&["create", "--name", "x"], arguments, limit.as_slice()].concat())
    };
    create(&["--expires-in", "31d"]).failed(2, &["`--expires-in`", "keys live no longer here"]);
    created(&create(&["--expires-in", "29d"]));
    created(&create(&[]));
    let ends = "SELECT bool_and(expires_at < now() + '31 days') FROM api_keys";
    assert!(database.value::<bool>(ends));
}

#[test]
fn a_running_server_refuses_a_revoked_key_at_once() {
    let database = Database::new();
    let servers = [Server::start(&database), Server::start(&database)];
    let admin = servers[0].bootstrap_key();
    for round in 0..5 {
        let (id, key) = servers[0].create_key(&admin, "short-lived");
        let mut connections = servers.each_ref().map(|server| Connection::open(server.address));
        for connection in &mut connections {
            for _ in 0..2 {
                let response = connection.ask("GET", "/auth/keys?limit=1", Some(&key), None);
                assert_eq!(response.status, 200, "round {round}");
            }
        }
        let outcome = keys(&database, &["revoke", &id]);
        assert_eq!(worked(&outcome), [format!("revoked short-lived {id}")]);
        for connection in &mut connections {
            connection.ask("GET", "/auth/keys?limit=1", Some(&key), None).expect(401, INVALID);
        }
    }
    let gone = id_of(&database, "bootstrap");
    worked(&keys(&database, &["revoke", &gone]));
    keys(&database, &["revoke", &gone]).failed(1, &["has been revoked before"]);
    keys(&database, &["revoke", "00000000-0000-4000-8000-000000000000"]).failed(1, &["there is no key"]);
    let wrong = keys(&database, &["revoke", &admin]);
    wrong.failed(2, &["invalid key ID format"]);
    assert!(!wrong.stderr.contains(&admin), "what may be a key is not repeated");
    keys(&database, &["revoke"]).failed(2, &["takes one ID"]);
    keys(&database, &["revoke", &gone, &gone]).failed(2, &["unexpected argument"]);
}

/// A server that is frozen may wake up and trust what it remembers: for so long the command waits.
#[test]
fn no_command_ends_before_every_server_knows() {
    let commands: [fn(&Database, &str) -> Outcome; 3] = [
        |database, id| keys(database, &["revoke", id]),
        |database, id| keys(database, &["rotate", id]),
        |database, _| {
            let directory = Directory::new();
            let file = directory.join("keys.toml");
            fs::write(&file, "key = []").unwrap();
            keys(database, &["apply", file.to_str().unwrap()])
        },
    ];
    thread::scope(|scope| {
        for command in commands {
            scope.spawn(move || {
                let database = Database::new();
                let server = Server::start(&database);
                let admin = server.bootstrap_key();
                let (id, key) = server.create_key(&admin, "cached");
                database.execute("UPDATE api_keys SET declared = true WHERE name = 'cached'");
                // Only a server that remembers keys has to be waited for.
                wait_for("the server to remember the key", || {
                    assert!(server.lets_in(&key));
                    (server.metric("cloacina_auth_cache_hits_total", &[]) > 0.0).then_some(())
                });
                server.signal("STOP");
                let began = Instant::now();
                worked(&command(&database, &id));
                let waited = began.elapsed();
                server.signal("CONT");
                assert!(!server.lets_in(&key));
                assert!(waited >= Duration::from_secs(3), "waited for {waited:?} only");
            });
        }
    });
}

#[test]
fn a_rotated_key_ends_at_once_or_after_its_grace() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let made =
        server.post("/auth/keys", &admin, r#"{"name":"ci","permissions":"read","expires_in":"90d"}"#).json();
    let (id, old) = (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned());
    let passes = |key: &str| server.get("/auth/verify", Some(key)).status == 204;
    assert!(passes(&old) && passes(&old));

    let outcome = keys(&database, &["rotate", &id, "--grace", "1h"]);
    let new = created(&outcome);
    assert!(passes(&old) && passes(&new));
    let rows = listed(&database);
    assert_eq!((&rows[0]["name"], &rows[0]["permissions"]), (&"ci".into(), &"read".into()));
    let (new_id, ends) = (rows[0]["id"].as_str().unwrap(), rows[1]["expires_at"].as_str().unwrap());
    assert_eq!(remarks(&outcome), [format!("rotated ci {id} to {new_id}; the old key ends {ends}")]);

    let newest = created(&keys(&database, &["rotate", new_id]));
    assert!(!passes(&new) && passes(&newest));
    for rotated in [&*id, new_id] {
        keys(&database, &["rotate", rotated]).failed(1, &["key was already rotated", rotated]);
        keys(&database, &["rotate", rotated, "--grace", "1h"]).failed(1, &["key was already rotated"]);
    }
    keys(&database, &["rotate", new_id, "--grace", "soon"]).failed(2, &["`--grace`", "24h"]);
    keys(&database, &["rotate", "x"]).failed(2, &["invalid key ID format"]);
}

#[test]
fn explain_says_what_is_the_matter() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "gone");
    server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    insert_key(&database, "a-key-that-has-expired", "old\u{1b}[31m", "read");
    database.execute("UPDATE api_keys SET expires_at = '2020-01-01T00:00:00Z' WHERE name LIKE 'old%'");
    let mut mistyped = key.clone();
    mistyped.replace_range(20..21, if &key[20..21] == "7" { "8" } else { "7" });

    let no_database = "postgresql://nobody@127.0.0.1:1/none";
    let explain = |url: &str, input: &str| {
        let outcome = keys_at(url, &["explain", "--database-wait", "0s"], input);
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(input.trim().is_empty() || !said.contains(input.trim()), "the key is printed: {outcome:?}");
        outcome
    };
    for (input, code, text) in [
        ("", 10, "malformed: "),
        ("\n", 10, "malformed: "),
        ("two\nlines\n", 10, "malformed: stdin has more than one line"),
        (&format!("\"{key}\""), 10, "malformed: it stands in quotes; remove the quotes\n"),
        (&format!("\u{201c}{key}\u{201d}\n"), 10, "malformed: it stands in quotes; remove the quotes\n"),
        (&format!("Bearer {key}"), 10, "malformed: it is a whole header's value; remove `Bearer `"),
        ("with a space", 10, "malformed: "),
        ("caf\u{e9}-caf\u{e9}-caf\u{e9}", 10, "malformed: "),
        (&"x".repeat(513), 10, "malformed: "),
        (&mistyped, 11, "mistyped: "),
    ] {
        for url in [&database.url(), no_database, ""] {
            let outcome = explain(url, input);
            assert_eq!(outcome.code, Some(code), "{outcome:?}");
            assert!(outcome.stdout.starts_with(text) && outcome.stderr.is_empty(), "{outcome:?}");
        }
    }
    for (input, code, lines) in [
        (unknown_key(), 12, vec!["unknown: this database has no such key"]),
        (
            "'a-key-that-has-expired'".to_owned(),
            12,
            vec!["unknown: this database has no such key; it stands in quotes: remove the quotes"],
        ),
        (key.clone(), 13, vec!["revoked: on 20", &format!("id: {id}"), "name: gone", "permissions: admin"]),
        (
            "a-key-that-has-expired".to_owned(),
            14,
            vec![
                "expired: on 2020-01-01T00:00:00+00:00",
                "id: ",
                "name: old\\u{1b}[31m",
                "permissions: read",
            ],
        ),
        (admin.clone(), 0, vec!["valid", "id: ", "name: bootstrap", "permissions: admin", "expires: never"]),
    ] {
        for end in ["", "\n", "\r\n", "\r\n\r\n"] {
            let outcome = explain(&database.url(), &format!("{input}{end}"));
            assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(code), ""), "{outcome:?}");
            for (said, line) in outcome.stdout.lines().zip(&lines) {
                assert!(said.starts_with(line), "{line}: {outcome:?}");
            }
            assert!(outcome.stdout.lines().count() >= lines.len(), "{outcome:?}");
        }
        explain(no_database, &input).failed(1, &["cannot connect"]);
        explain("", &input).failed(2, &["no database URL"]);
    }
    // One that lost its end is unknown, and so long that somebody may see why.
    let cut = explain(&database.url(), &admin[..50]);
    assert_eq!(cut.code, Some(12));
    assert!(cut.stdout.contains("53 characters") && cut.stdout.contains("50"), "{cut:?}");
    let argument = keys(&database, &["explain", &admin]);
    argument.failed(2, &["stdin"]);
    assert!(!argument.stderr.contains(&admin));
    let help = keys(&database, &["explain", "--help"]).stdout;
    for code in ["0  valid", "10  malformed", "11  mistyped", "12  unknown", "13  revoked", "14  expired"] {
        assert!(help.contains(code), "no {code} in {help}");
    }
}

#[test]
fn a_list_has_every_key() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    database.execute(
        "INSERT INTO api_keys (id, key_hash, name, permissions, created_at, expires_at, last_used_at, revoked_at)
         SELECT gen_random_uuid(), lpad(to_hex(i), 64, '0'), 'key ' || i, 'read', now() + i * '1 ms'::interval,
                CASE WHEN i % 3 = 0 THEN '2020-01-01T00:00:00Z'::timestamptz END,
                CASE WHEN i % 5 = 0 THEN '2021-01-01T00:00:00Z'::timestamptz END,
                CASE WHEN i % 7 = 0 THEN now() END
         FROM generate_series(1, 1098) i;
         UPDATE api_keys SET name = E'r\\u001b[31med\\u009b\\u007f\\u202e' WHERE name = 'key 1098';
         UPDATE api_keys SET name = repeat('n', 255) WHERE name = 'key 1097'",
    );
    let outcome = keys(&database, &["list"]);
    let lines = worked(&outcome);
    assert_eq!(remarks(&outcome), [""; 0]);
    assert_eq!(lines.len(), 1100);
    let columns =
        ["STATE", "ID", "NAME", "PERMISSIONS", "TENANT", "EXPIRES", "LAST USED", "CREATED", "PREFIX"];
    assert_eq!(
        lines[0].split("  ").map(str::trim).filter(|word| !word.is_empty()).collect::<Vec<_>>(),
        columns
    );
    let starts = columns.map(|column| lines[0].find(column).unwrap());
    for line in &lines[1..] {
        let characters: Vec<char> = line.chars().collect();
        for start in &starts[1..] {
            assert!(characters[start - 1] == ' ' && characters[*start] != ' ', "not aligned: {line:?}");
        }
    }
    assert!(lines[1].contains(r"r\u{1b}[31med\u{9b}\u{7f}\u{202e}"), "{}", lines[1]);
    assert!(lines[2].contains(&format!(" {} ", "n".repeat(255))), "{}", lines[2]);
    assert!(!outcome.stdout.contains(|c: char| c != '\n' && c.is_control()));
    let begin = |state: &str| lines.iter().filter(|line| line.starts_with(&format!("{state}  "))).count();
    assert_eq!((begin("revoked"), begin("expired"), begin("valid")), (156, 314, 629));
    let outcome_active = keys(&database, &["list", "--active"]);
    let active = worked(&outcome_active);
    assert_eq!(active.len(), 630);
    assert!(active[1..].iter().all(|line| line.starts_with("valid  ")));
    let outcome_active = keys(&database, &["list", "--active", "--json"]);
    let objects: Vec<Value> = serde_json::from_str(&outcome_active.stdout).unwrap();
    assert_eq!(objects.len(), 629);
    assert!(lines[1099].contains("  bootstrap  ") && lines[1099].contains(&admin[..12]));
    assert!(!outcome.stdout.contains(&admin));

    let outcome = keys(&database, &["list", "--json"]);
    assert!(!outcome.stdout.contains(|c: char| c != '\n' && c.is_control()));
    let objects: Vec<Value> = serde_json::from_str(&outcome.stdout).unwrap();
    let mut over_http = Vec::new();
    let mut path = "/auth/keys".to_owned();
    loop {
        let page = server.get(&path, Some(&admin)).expect_status(200).json();
        over_http.extend(page["keys"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/auth/keys?after={next}");
    }
    assert_eq!(objects.len(), 1099);
    // The server writes the admin key's use whenever it comes to it.
    let without_uses = |objects: Vec<Value>| -> Vec<Value> {
        let strip = |mut object: Value| {
            object.as_object_mut().unwrap().remove("last_used_at").unwrap();
            object
        };
        objects.into_iter().map(strip).collect()
    };
    assert_eq!(without_uses(objects), without_uses(over_http));
}

/// Nobody has read it, so nobody may use it.
#[test]
fn a_key_that_cannot_be_shown_is_revoked_again() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (old, key) = server.create_key(&admin, "to be rotated");
    let home = server.home().to_str().unwrap().to_owned();
    for arguments in [vec!["keys", "create", "--name", "unseen"], vec!["keys", "rotate", &old]] {
        let url = database.url();
        let words = ["--home", &home].into_iter().chain(arguments).chain(["--database-url", &url]);
        let mut command = cloacinactl(words);
        command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
        command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("could not be written to stdout") && said.contains("revoked again"), "{said}");
    }
    // The bootstrap key is left, and the one that was to be rotated.
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys WHERE revoked_at IS NULL"), 2);
    assert!(server.knows(&key));
}

/// On a terminal of 80 columns, and of the number that COLUMNS says.
#[test]
fn a_list_fits_the_terminal() {
    let database = Database::new();
    Server::migrate(&database);
    let name = "n".repeat(255);
    worked(&keys(&database, &["create", "--name", &name]));
    let id = id_of(&database, &name);
    let on_terminal = |prepare: &str| {
        let home = Directory::new();
        let list = format!("{prepare}{} --home {} keys list", binary().display(), home.path().display());
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &list, "/dev/null"]);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", database.url());
        let outcome = outcome(command.stdin(Stdio::null()).output().unwrap());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome
            .stdout
            .lines()
            .filter(|line| !line.contains("[INFO]"))
            .map(|line| line.trim_end().to_owned())
            .collect::<Vec<_>>()
    };
    let lines = on_terminal("stty cols 80; ");
    assert!(lines.len() == 2 && lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
    assert!(lines[1].starts_with(&format!("valid  {id}  n")), "the id is whole: {lines:?}");
    assert!(lines[1].contains("n\u{2026}  admin  "), "{lines:?}");
    let lines = on_terminal("stty cols 80; COLUMNS=400 ");
    assert!(lines[1].contains(&name) && lines[1].contains("  clk_"), "{lines:?}");
    // Narrower than what has to be there: no less than that.
    let lines = on_terminal("stty cols 20; ");
    assert!(lines[1].contains(&id), "{lines:?}");
}
