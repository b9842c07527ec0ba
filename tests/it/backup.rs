//! Backup and move: what pg_dump wrote, restored elsewhere, is the same set of keys to a server that was never there.

use std::path::Path;
use std::process::Command;

use crate::rotation::rotate;
use crate::support::cluster::client_program;
use crate::support::directory::Directory;
use crate::support::made::Made;
use crate::support::postgres::Database;
use crate::support::program::{Process, cloacinactl};
use crate::support::server::{Server, Start};
use crate::support::wait_for;

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn dump(database: &Database, file: &Path) {
    run(client_program("pg_dump")
        .args(["--format=custom", "--no-owner", "--no-privileges", "--file"])
        .arg(file)
        .arg(database.url()));
}

/// Into a fresh database.
fn restore(file: &Path) -> Database {
    let database = Database::new();
    run(client_program("pg_restore")
        .args(["--no-owner", "--no-privileges", "--exit-on-error", "--dbname"])
        .arg(database.url())
        .arg(file));
    database
}

struct Left {
    admin: String,
    valid: Made,
    revoked: Made,
    rotated: Made,
    successor: Made,
    declared: &'static str,
    listing: String,
}

/// A server with keys of every kind, one of them used, that has just been stopped.
fn left_behind(database: &Database) -> Left {
    let declared = "declared-by-a-file-and-seen-by-nobody";
    let server = Server::start(database);
    let admin = server.bootstrap_key();
    let valid = server.make_key(&admin, r#"{"name":"expires","permissions":"write","expires_in":"90d"}"#);
    let revoked = server.make_key(&admin, r#"{"name":"revoked"}"#);
    let rotated = server.make_key(&admin, r#"{"name":"rotated","permissions":"read"}"#);
    let successor = rotate(&server, rotated.id(), &admin, r#"{"grace":"24h"}"#);
    server.delete(&format!("/auth/keys/{}", revoked.id()), &admin).expect_status(200);
    let directory = Directory::new();
    let file = directory.join("keys.toml");
    let text = format!(
        "[[key]]\nname = \"declared\"\npermissions = \"read\"\nsha256 = \"{}\"\n",
        crate::keys::hash(declared)
    );
    std::fs::write(&file, text).unwrap();
    let url = database.url();
    let home = directory.path().to_str().unwrap();
    let apply = ["--home", home, "keys", "apply", file.to_str().unwrap(), "--database-url", &url];
    Process::start(cloacinactl(apply)).ended().expect_code(0);
    assert!(server.knows(valid.key()));
    server.terminate().expect_code(0);
    // When keys were used is written at the end, so the listing is taken from the next server.
    let server = Server::start(database);
    let listing = server.get("/auth/keys", Some(&admin)).expect_status(200).text().to_owned();
    let rows = || database.value::<i64>("SELECT count(*) FROM auth_caches");
    wait_for("the server's row among those that cache", || (rows() == 1).then_some(()));
    // Killed, as a host that is lost: its row among those that cache stays in the dump.
    drop(server);
    Left { admin, valid, revoked, rotated, successor, declared, listing }
}

#[test]
fn a_dump_restored_elsewhere_has_every_key() {
    let old = Database::new();
    let left = left_behind(&old);
    let directory = Directory::new();
    let file = directory.join("cloacina.dump");
    dump(&old, &file);
    let new = restore(&file);
    assert_eq!(new.value::<i64>("SELECT count(*) FROM auth_caches"), 1, "the lost server's row came along");

    let home = Directory::new();
    let server = Start::on(&new).home(&home).serving();
    assert!(!home.join("bootstrap-key").exists(), "there are keys, so none is made");
    assert!(!server.stderr().contains("migrated"), "{}", server.stderr());
    let listing = server.get("/auth/keys", Some(&left.admin)).expect_status(200).text().to_owned();
    assert_eq!(listing, left.listing);
    for key in [left.valid.key(), left.rotated.key(), left.successor.key()] {
        assert!(server.knows(key));
    }
    assert!(server.knows(left.declared));
    let rows = || new.value::<i64>("SELECT count(*) FROM auth_caches");
    wait_for("the new server's row beside that", || (rows() == 2).then_some(()));
    assert!(!server.knows(left.revoked.key()));

    // The first revocation waits for the lost server's lease, and then nobody waits for it any more.
    for made in [&left.valid, &left.successor] {
        server.delete(&format!("/auth/keys/{}", made.id()), &left.admin).expect_status(200);
        assert!(!server.knows(made.key()));
        assert_eq!(rows(), 1, "this server's own row alone");
    }
    // What the dump carries is enough to go on with: ids, sequences and defaults.
    let (_, key) = server.create_key(&left.admin, "made after the move");
    assert!(server.knows(&key));
    let old_server = Server::start(&old);
    assert!(old_server.knows(left.valid.key()), "what is revoked in the copy is not revoked in the original");
}

/// Down to a database of an earlier release, restored and served by this one.
#[test]
fn a_dump_of_an_earlier_release_is_migrated() {
    let old = crate::upgrades::left_by(1, "");
    let key = "a-key-from-before-the-backup";
    old.execute(&format!(
        "INSERT INTO api_keys (id, key_hash, name, permissions) VALUES (gen_random_uuid(), '{}', 'old', 'admin')",
        crate::keys::hash(key)
    ));
    let directory = Directory::new();
    let file = directory.join("cloacina.dump");
    dump(&old, &file);
    let new = restore(&file);
    let server = Server::start(&new);
    assert!(server.lets_in(key));
    assert_eq!(new.value::<i64>("SELECT count(*) FROM api_keys"), 1);
}
