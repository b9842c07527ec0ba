//! Locks that others hold while a server migrates or makes the first key: it waits for a while, says for whom, holds
//! no other session up meanwhile, and ends.

use std::time::Duration;

use postgres::Client;

use crate::keys::hash;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;
use crate::upgrades::{left_by, newest_version};

/// What earlier releases lock, and what any role can.
const ADVISORY: &str = "SELECT pg_advisory_lock(7164223571309981281)";

const KEY: &str = "a-key-of-the-release-before";

/// A database that the release before left behind, with a key.
fn of_the_release_before() -> Database {
    let database = left_by(6, "");
    database.execute(&format!(
        "INSERT INTO api_keys (id, key_hash, name, permissions) VALUES (gen_random_uuid(), '{}', 'n', 'admin')",
        hash(KEY)
    ));
    database
}

/// A session that has done this, and what names it.
fn holder(database: &Database, statements: &str) -> (Client, String) {
    let mut client = database.client();
    client.batch_execute(&format!("SET application_name = 'the-holder'; {statements}")).unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    (client, format!("pid {pid} (application the-holder, user "))
}

/// Asserts that a start gives up after the time that it is given, having said twice for whom it waited.
#[track_caller]
fn gives_up(database: &Database, statements: &str) {
    let (_client, name) = holder(database, statements);
    let before = database.contents();
    let ended = Start::on(database).arguments(["--database-wait", "3s"]).failing().expect_code(1);
    assert!(
        ended.last_words().contains(&name) && ended.last_words().contains("--database-wait"),
        "{ended:#?}"
    );
    let waiting = ended.stderr.lines().filter(|line| line.contains("waiting up to 3 s"));
    assert_eq!(
        waiting.filter(|line| line.contains(&name) && line.contains(" since 2")).count(),
        1,
        "{ended:#?}"
    );
    assert_eq!(database.contents(), before);
}

/// Any role can take it and keep it, on an empty database too: it is waited for and not needed.
#[test]
fn the_advisory_lock_of_earlier_releases_stops_no_migration() {
    for database in [Database::new(), of_the_release_before()] {
        let (_client, name) = holder(&database, ADVISORY);
        let starting: Vec<_> = (0..4).map(|_| Start::on(&database).starting()).collect();
        for server in starting {
            wait_for("a line about the lock", || server.stderr().contains(&name).then_some(()));
            server.serving().terminate().expect_code(0);
        }
    }
    // Where there is less time than for the whole wait, too.
    for wait in ["1s", "0s"] {
        let database = of_the_release_before();
        let _holder = holder(&database, ADVISORY);
        drop(Start::on(&database).arguments(["--database-wait", wait]).serving());
    }
}

#[test]
fn a_reader_that_does_not_end() {
    gives_up(&of_the_release_before(), "BEGIN; SELECT count(*) FROM api_keys");
}

#[test]
fn another_server_that_migrates() {
    let lock = "BEGIN; LOCK TABLE refinery_schema_history IN SHARE ROW EXCLUSIVE MODE";
    gives_up(&of_the_release_before(), lock);
}

#[test]
fn another_server_that_makes_the_first_key() {
    let database = Database::new();
    drop(Server::start(&database));
    database.execute("DELETE FROM api_keys");
    gives_up(&database, "BEGIN; LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE");
}

/// The lock that every role can take keeps no server from a database that needs no migration.
#[test]
fn an_advisory_lock_stops_no_ordinary_start() {
    let database = Database::new();
    drop(Server::start(&database));
    let _holder = holder(&database, ADVISORY);
    drop(Start::on(&database).arguments(["--database-wait", "1s"]).serving());
    database.execute("DELETE FROM api_keys");
    let server = Start::on(&database).arguments(["--database-wait", "1s"]).serving();
    assert!(server.lets_in(&server.bootstrap_key()));
}

#[test]
fn a_start_goes_on_once_the_lock_is_free() {
    for statements in [ADVISORY, "BEGIN; SELECT count(*) FROM api_keys"] {
        let database = of_the_release_before();
        let (client, name) = holder(&database, statements);
        let starting = Start::on(&database).starting();
        wait_for("a line about the lock", || starting.stderr().contains(&name).then_some(()));
        drop(client);
        let server = starting.serving();
        assert!(server.lets_in(KEY));
        assert_eq!(
            database.value::<i32>("SELECT max(version) FROM refinery_schema_history"),
            newest_version()
        );
    }
}

/// A migration that waits for a long reader would keep all who come after it waiting as well: it gives up first.
#[test]
fn nobody_queues_for_long_behind_a_migration() {
    let database = of_the_release_before();
    let (client, name) = holder(&database, "BEGIN; SELECT count(*) FROM api_keys");
    let starting = Start::on(&database).starting();
    let mut other = database.client();
    other.batch_execute("SET statement_timeout = '5s'").unwrap();
    let mut reads = 0;
    wait_for("a line about the lock", || {
        other.query_one("SELECT count(*) FROM api_keys", &[]).expect("a read beside a waiting migration");
        reads += 1;
        std::thread::sleep(Duration::from_millis(20));
        starting.stderr().contains(&name).then_some(())
    });
    assert!(reads > 1);
    drop(client);
    drop(starting.serving());
}

#[test]
fn several_servers_upgrade_one_database() {
    let database = of_the_release_before();
    let starting: Vec<_> = (0..4).map(|_| Start::on(&database).starting()).collect();
    for server in starting {
        assert!(server.serving().lets_in(KEY));
    }
    let history = "SELECT string_agg(version::text, ' ' ORDER BY version) FROM refinery_schema_history";
    let versions: Vec<String> = (1..=newest_version()).map(|version| version.to_string()).collect();
    assert_eq!(database.value::<String>(history), versions.join(" "));
}

/// A time-out that a database imposes is not meant for a migration: it would end the first wait for a lock.
#[test]
fn a_migration_may_take_its_time() {
    let database = of_the_release_before();
    database.execute(&format!("ALTER DATABASE {} SET statement_timeout = '300ms'", database.name()));
    let (client, name) = holder(&database, ADVISORY);
    let starting = Start::on(&database).starting();
    wait_for("a line about the lock", || starting.stderr().contains(&name).then_some(()));
    drop(client);
    assert!(starting.serving().lets_in(KEY));
}
