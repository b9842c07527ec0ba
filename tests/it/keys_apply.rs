//! `cloacinactl keys apply`: the database as a file declares it, and nothing else in it touched.

use std::fs;
use std::path::PathBuf;

use crate::keys::{INVALID, hash, insert_key};
use crate::keys_command::{id_of, keys, remarks, worked};
use crate::scratch::Outcome;
use crate::support::directory::Directory;
use crate::support::http::Connection;
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::wait_for;

const ONE: &str = "the-first-of-the-declared-keys";
const TWO: &str = "the-second-of-the-declared-keys";

/// A file, and the commands that apply it.
struct Declaration<'a> {
    database: &'a Database,
    path: PathBuf,
    _directory: Directory,
}

impl Declaration<'_> {
    fn of(database: &Database) -> Declaration<'_> {
        let directory = Directory::new();
        Declaration { database, path: directory.join("keys.toml"), _directory: directory }
    }

    /// Applies this text.
    fn apply(&self, text: &str, flags: &[&str]) -> Outcome {
        fs::write(&self.path, text).unwrap();
        keys(self.database, &[&["apply", self.path.to_str().unwrap()], flags].concat())
    }

    /// What of the table such a file may change.
    fn rows(&self) -> Vec<String> {
        let rows = "SELECT concat_ws('|', name, key_hash, permissions, expires_at AT TIME ZONE 'UTC',
                                     CASE WHEN revoked_at IS NOT NULL THEN 'revoked' END, declared)
                    FROM api_keys ORDER BY created_at, name";
        self.database.client().query(rows, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }
}

pub fn entry(name: &str, key: &str, permissions: &str, more: &str) -> String {
    let sha256 = hash(key);
    format!("[[key]]\nname = \"{name}\"\nsha256 = \"{sha256}\"\npermissions = \"{permissions}\"\n{more}\n")
}

#[test]
fn the_database_becomes_what_the_file_says() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let file = Declaration::of(&database);
    let text =
        entry("one", ONE, "admin", "") + &entry("two", TWO, "read", "expires_at = 2999-01-31T12:00:00Z");

    let has_entered = || database.value::<bool>("SELECT EXISTS (SELECT FROM auth_caches)").then_some(());
    wait_for("the server to have a row among those that cache", has_entered);
    let before = database.contents();
    let dry = file.apply(&text, &["--dry-run"]);
    assert_eq!(worked(&dry), ["would create one", "would create two", "unchanged 0"]);
    assert_eq!(database.contents(), before);

    let first = file.apply(&text, &[]);
    let (one, two) = (id_of(&database, "one"), id_of(&database, "two"));
    assert_eq!(
        worked(&first),
        [format!("created one {one}"), format!("created two {two}"), "unchanged 0".to_owned()]
    );
    assert_eq!(remarks(&first), [""; 0]);
    assert_eq!(
        file.rows()[1..],
        [format!("one|{}|admin|t", hash(ONE)), format!("two|{}|read|2999-01-31 12:00:00|t", hash(TWO)),]
    );
    assert!(server.lets_in(ONE));
    server.get("/auth/verify", Some(TWO)).expect_status(204);
    // Newest first, as everywhere; nobody knows how it begins.
    let listed = server.get("/auth/keys", Some(&admin)).json();
    assert_eq!((&listed["keys"][0]["name"], listed["keys"][0]["prefix"].is_null()), (&"two".into(), true));

    let again = database.contents();
    let second = file.apply(&text, &[]);
    assert_eq!(worked(&second), ["unchanged 2"]);
    assert_eq!(worked(&file.apply(&text, &["--dry-run"])), ["unchanged 2"]);
    // In another order and case, with what does not count.
    let same = format!("# ours\n{}", entry("two", TWO, "read", "expires_at = '2999-01-31T13:00:00+01:00'"))
        + &entry("one", ONE, "admin", "").replace(&hash(ONE), &hash(ONE).to_uppercase());
    assert_eq!(worked(&file.apply(&same, &[])), ["unchanged 2"]);
    // The server has written uses meanwhile; nothing else is another.
    let without_uses = |contents: &str| contents.lines().filter(|line| !line.starts_with("a")).count();
    assert_eq!(without_uses(&database.contents()), without_uses(&again));
}

#[test]
fn a_running_server_sees_every_change_at_once() {
    let database = Database::new();
    let server = Server::start(&database);
    let file = Declaration::of(&database);
    worked(&file.apply(&(entry("one", ONE, "admin", "") + &entry("two", TWO, "read", "")), &[]));
    let (one, two) = (id_of(&database, "one"), id_of(&database, "two"));
    let mut connection = Connection::open(server.address);
    let mut whoami = |key: &str| connection.ask("GET", "/auth/whoami", Some(key), None);
    for _ in 0..2 {
        assert_eq!((whoami(ONE).status, whoami(TWO).status), (200, 200));
    }

    let text =
        entry("uno", ONE, "write", "") + &entry("two", TWO, "read", "expires_at = 2999-01-01T00:00:00Z");
    let dry = file.apply(&text, &["--dry-run"]);
    let changes = [
        format!("change uno {one}: name one -> uno, permissions admin -> write"),
        format!("change two {two}: expires_at never -> 2999-01-01T00:00:00+00:00"),
    ];
    assert_eq!(worked(&dry)[..2], changes.clone().map(|change| format!("would {change}")));
    assert_eq!(whoami(ONE).json()["name"], "one");
    let changed = file.apply(&text, &[]);
    assert_eq!(worked(&changed)[..2], changes.map(|change| change.replacen("change", "changed", 1)));
    assert_eq!(whoami(ONE).json()["name"], "uno");
    assert_eq!(whoami(ONE).json()["permissions"], "write");
    assert_eq!(whoami(TWO).json()["expires_at"], "2999-01-01T00:00:00+00:00");
    assert_eq!(id_of(&database, "uno"), one);

    // An end in the past is an end now, and may be taken back: the key was not revoked.
    let text =
        entry("uno", ONE, "write", "expires_at = 2020-01-01T00:00:00Z") + &entry("two", TWO, "read", "");
    let ended = file.apply(&text, &[]);
    assert_eq!((worked(&ended).len(), remarks(&ended).len()), (3, 1), "{ended:?}");
    assert!(remarks(&ended)[0].ends_with("keys.toml, line 1: `uno` has expired"), "{ended:?}");
    whoami(ONE).expect(401, INVALID);
    worked(&file.apply(&(entry("uno", ONE, "write", "") + &entry("two", TWO, "read", "")), &[]));
    assert_eq!(whoami(ONE).status, 200);

    // What vanishes from the file is revoked.
    let gone = file.apply(&entry("uno", ONE, "write", ""), &[]);
    assert_eq!(worked(&gone), [format!("revoked two {two}"), "unchanged 1".to_owned()]);
    whoami(TWO).expect(401, INVALID);
    assert_eq!(whoami(ONE).status, 200);
    assert_eq!(
        worked(&file.apply("key = []", &["--dry-run"])),
        [format!("would revoke uno {one}"), "unchanged 0".to_owned()]
    );
    assert_eq!(
        worked(&file.apply("key = []\n", &[])),
        [format!("revoked uno {one}"), "unchanged 0".to_owned()]
    );
    whoami(ONE).expect(401, INVALID);
}

#[test]
fn keys_that_no_file_declared_are_not_touched() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let adopted = insert_key(&database, "somebody-elses-key", "theirs", "read");
    let file = Declaration::of(&database);
    worked(&file.apply(&entry("one", ONE, "read", ""), &[]));
    worked(&file.apply("key = []", &[]));
    assert!(server.lets_in(&admin));

    let before = file.rows();
    let text = entry("two", TWO, "read", "") + &entry("mine", "somebody-elses-key", "admin", "");
    for flags in [["--dry-run"].as_slice(), &[]] {
        let refused = file.apply(&text, flags);
        refused.failed(
            1,
            &[
                "keys.toml, line 6: `mine` has the hash of the key",
                &adopted,
                "(`theirs`)",
                "nothing was changed",
            ],
        );
        assert_eq!(file.rows(), before);
    }
}

#[test]
fn what_was_revoked_or_rotated_stays_so() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let file = Declaration::of(&database);
    let text = entry("one", ONE, "read", "") + &entry("two", TWO, "read", "");
    worked(&file.apply(&text, &[]));
    let (one, two) = (id_of(&database, "one"), id_of(&database, "two"));
    server.delete(&format!("/auth/keys/{one}"), &admin).expect_status(200);
    let rotated = server.post(&format!("/auth/keys/{two}/rotate"), &admin, r#"{"grace":"1h"}"#);
    let successor = rotated.expect_status(201).json()["key"].as_str().unwrap().to_owned();

    let before = file.rows();
    let text = entry("uno", ONE, "admin", "")
        + &entry("dos", TWO, "admin", "")
        + &entry("three", "3".repeat(16).as_str(), "read", "");
    for flags in [["--dry-run"].as_slice(), &[]] {
        let outcome = file.apply(&text, flags);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        // What can be done is done.
        assert!(outcome.stdout.contains("create") && outcome.stdout.contains(" three"), "{outcome:?}");
        let remarks = remarks(&outcome);
        assert_eq!(remarks.len(), 3, "{outcome:?}");
        assert!(
            remarks[0].ends_with(&format!("line 1: `uno` was revoked and stays so ({one})")),
            "{outcome:?}"
        );
        assert!(
            remarks[1].ends_with(&format!("line 6: `dos` was rotated and stays so ({two})")),
            "{outcome:?}"
        );
        assert!(remarks[2].contains("2 of its keys"), "{outcome:?}");
    }
    assert_eq!(file.rows()[..4], before);
    // Out of the file, the old one goes before its grace is over; its successor is no file's key.
    let outcome = file.apply(&entry("three", "3".repeat(16).as_str(), "read", ""), &[]);
    assert_eq!(worked(&outcome), [format!("revoked two {two}"), "unchanged 1".to_owned()]);
    server.get("/auth/whoami", Some(&successor)).expect_status(200);
    server.get("/auth/whoami", Some(TWO)).expect(401, INVALID);
}

#[test]
fn a_mistake_in_the_file_changes_nothing() {
    let database = Database::new();
    drop(Server::start(&database));
    let file = Declaration::of(&database);
    worked(&file.apply(&entry("one", ONE, "read", ""), &[]));
    let before = file.rows();
    let good = entry("two", TWO, "read", "");
    for (text, texts) in [
        (String::new(), ["line 1, column 1", "no `[[key]]`"]),
        (good.clone() + "[[key]]\nname = oops\n", ["line 7, column 8", "string"]),
        (good.clone() + &entry("three", TWO, "read", ""), ["line 8, column 10: `three`", "key in line 1"]),
        (
            entry("two", TWO, "root", ""),
            ["line 4, column 15: `two`", "permissions: expected admin, write or read"],
        ),
        (
            good.clone() + "[[key]]\nname = 'x'\nsha256 = 'a-key'\n",
            ["line 8, column 10: `x`", "64 hex digits"],
        ),
        (entry("two", TWO, "read", "expires_at = 'soon'"), ["line 5, column 14: `two`", "RFC 3339"]),
        (entry("two", TWO, "read", "expiry = 'x'"), ["line 5, column 1", "unknown field `expiry`"]),
        (entry("two\\u001b", TWO, "read", ""), ["line 2, column 8", "control characters"]),
    ] {
        for flags in [["--dry-run"].as_slice(), &[]] {
            let outcome = file.apply(&text, flags);
            outcome.failed(2, &texts);
            assert!(outcome.stderr.contains("keys.toml, line ") && !outcome.stderr.contains("a-key"));
        }
    }
    fs::write(&file.path, b"# \xff").unwrap();
    let path = file.path.to_str().unwrap();
    keys(&database, &["apply", path]).failed(2, &["line 1, column 3: not UTF-8"]);
    keys(&database, &["apply", "/nowhere/keys.toml"]).failed(2, &["cannot read /nowhere/keys.toml"]);
    keys(&database, &["apply"]).failed(2, &["takes one FILE"]);
    assert_eq!(file.rows(), before);
}

#[test]
fn a_key_may_not_be_declared_to_live_too_long() {
    let database = Database::new();
    let file = Declaration::of(&database);
    let limit = ["--max-key-lifetime", "30d"];
    drop(Server::start(&database));
    let refused = file.apply(&entry("one", ONE, "read", ""), &limit);
    refused.failed(1, &["line 1: `one`: expires_at: missing", "nothing was changed"]);
    let far = entry("one", ONE, "read", "expires_at = 2999-01-01T00:00:00Z");
    file.apply(&far, &limit)
        .failed(1, &["line 1: `one`: expires_at: must not be later than", "nothing was changed"]);
    assert_eq!(file.rows().len(), 1);
    // One that lives already may go on as it is, and be called something else.
    worked(&file.apply(&far, &[]));
    worked(&file.apply(&far.replace("one", "uno"), &limit));
}

#[test]
fn two_at_once_do_each_thing_once() {
    let database = Database::new();
    drop(Server::start(&database));
    let file = Declaration::of(&database);
    let text: String = (0..50)
        .map(|number| entry(&format!("k{number}"), &format!("key-{number:020}"), "read", ""))
        .collect();
    fs::write(&file.path, &text).unwrap();
    let path = file.path.to_str().unwrap();
    let outcomes = std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(|| keys(&database, &["apply", path])));
        threads.map(|thread| thread.join().unwrap())
    });
    let created = outcomes.iter().map(|outcome| worked(outcome).len() - 1);
    assert_eq!(created.sum::<usize>(), 50);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys WHERE declared"), 50);
}
