//! The first start, killed at any moment of it: the key's file and its row agree, and the next start works.

use std::fs;
use std::time::{Duration, Instant};

use crate::keys::hash;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start, Starting};
use crate::support::wire::Wire;
use crate::support::{Seeded, wait_for};

#[test]
fn killed_at_random_points() {
    let mut seeded = Seeded::new(0x0F15_7000);
    // How long a first start takes on this machine, at this moment.
    let began = Instant::now();
    drop(Server::start(&Database::new()));
    let whole = began.elapsed();
    let mut killed = 0;
    for round in 0..8 {
        let database = Database::new();
        let home = Directory::new();
        for _ in 0..2 {
            let starting = Start::on(&database).home(&home).starting();
            let share = u32::try_from(seeded.next() % 100).unwrap();
            std::thread::sleep(whole * share / 100 + Duration::from_millis(1));
            starting.kill();
            killed += 1;
        }
        let server = Start::on(&database).home(&home).serving();
        let key = server.bootstrap_key();
        assert!(server.lets_in(&key), "round {round}");
        let stored: String = database.value("SELECT string_agg(key_hash::text, ' ') FROM api_keys");
        assert_eq!(stored, hash(&key), "round {round}: one key, that of the file");
        server.terminate().expect_code(0);
        // Nothing else that looks like a key lies about.
        for entry in fs::read_dir(home.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.contains("bootstrap-key") || name == "bootstrap-key", "round {round}: {name}");
        }
    }
    assert_eq!(killed, 16);
}

/// A first start that waits, because the row of its key does not reach the database.
fn held_at_the_insertion(database: &Database, home: &Directory) -> (Wire, Starting) {
    let wire = Wire::start(database.host_and_port());
    let start = Start::without_database().database_url(&database.url_through(wire.port)).home(home);
    let starting = wire.hold_when("INSERT INTO api_keys", || start.starting());
    (wire, starting)
}

/// Killed when the row is about to be committed: its key is on disk by then, whole, and becomes the first key.
#[test]
fn killed_just_before_the_commit() {
    let (database, home) = (Database::new(), Directory::new());
    let (wire, starting) = held_at_the_insertion(&database, &home);
    assert!(!home.join("bootstrap-key").exists(), "the row could still be refused");
    wire.hold_when("COMMIT", || wire.let_all_through());
    let written = fs::read_to_string(home.join("bootstrap-key")).unwrap();
    starting.kill();
    wire.cut();
    wait_for("the session to end", || {
        let sessions: i64 = database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
        (sessions == 0).then_some(())
    });
    assert!(!database.has_keys_table());
    let server = Start::on(&database).home(&home).serving();
    assert_eq!(server.bootstrap_key(), written.trim_end());
    assert!(server.lets_in(&server.bootstrap_key()));
}

/// The file cannot be written any more when the row is about to be committed.
#[test]
fn a_home_that_goes_away_meanwhile() {
    let (database, home) = (Database::new(), Directory::new());
    let (wire, starting) = held_at_the_insertion(&database, &home);
    fs::remove_dir_all(home.path()).unwrap();
    wire.let_all_through();
    let ended = starting.ended().expect_code(1);
    assert!(ended.last_words().contains("no key was made, the database is unchanged"), "{ended:#?}");
    let relations = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(database.value::<i64>(relations), 0);
}

/// Each in a home of its own: one of them makes the key, and all of them know it.
#[test]
fn ten_at_once() {
    let database = Database::new();
    let starting: Vec<_> = (0..10).map(|_| Start::on(&database).starting()).collect();
    let servers: Vec<_> = starting.into_iter().map(|server| server.serving()).collect();
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 1);
    let made: Vec<_> = servers.iter().filter(|server| server.home().join("bootstrap-key").exists()).collect();
    assert_eq!(made.len(), 1);
    let key = made[0].bootstrap_key();
    assert!(servers.iter().all(|server| server.lets_in(&key)));
}

/// The same in one home, as where a supervisor starts a service twice.
#[test]
fn two_at_once_in_one_home() {
    for _ in 0..3 {
        let database = Database::new();
        let home = Directory::new();
        let starting: Vec<_> = (0..2).map(|_| Start::on(&database).home(&home).starting()).collect();
        let servers: Vec<_> = starting.into_iter().map(|server| server.serving()).collect();
        let stored: String = database.value("SELECT string_agg(key_hash::text, ' ') FROM api_keys");
        assert_eq!(stored, hash(&servers[0].bootstrap_key()));
        assert!(servers.iter().all(|server| server.lets_in(&servers[0].bootstrap_key())));
    }
}
