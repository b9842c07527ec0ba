//! One deadline for all that is done for a request: waiting for a worker, for a session, for a statement, for a standby.
//! What an answer says of a change is true, and a change that hangs keeps no other request waiting.

use std::fs;
use std::time::Duration;

use crate::keys::insert_key;
use crate::keys_apply::entry;
use crate::keys_command;
use crate::support::cluster::Cluster;
use crate::support::directory::Directory;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::proxy::Proxy;
use crate::support::server::{Server, Start};
use crate::support::wait_for;
use crate::support::wire::Wire;

const UNAVAILABLE: &str = r#"{"error":"database unavailable"}"#;
const OVERLOADED: &str = r#"{"error":"server is overloaded"}"#;
const UNKNOWN: &str = r#"{"error":"the outcome is unknown: look whether it was done before trying again"}"#;

/// From now on every commit waits for a standby that there is not, until this is dropped.
struct StandbyGone<'a>(&'a Database);

impl StandbyGone<'_> {
    fn on(database: &Database) -> StandbyGone<'_> {
        database.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'");
        database.execute("SELECT pg_reload_conf()");
        StandbyGone(database)
    }
}

impl Drop for StandbyGone<'_> {
    fn drop(&mut self) {
        self.0.execute("ALTER SYSTEM RESET synchronous_standby_names");
        self.0.execute("SELECT pg_reload_conf()");
    }
}

/// How many other sessions wait for this kind of thing.
fn waiting_for(database: &Database, what: &str) -> i64 {
    database.value(&format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
         AND '{what}' IN (wait_event_type, wait_event)"
    ))
}

fn wait_until_waiting_for(database: &Database, what: &str, count: i64) {
    wait_for(&format!("{count} sessions to wait for {what}"), || {
        (waiting_for(database, what) >= count).then_some(())
    });
}

fn create(server: &Server, admin: &str, name: &str) -> Connection {
    let mut connection = Connection::open(server.address);
    let body = serde_json::json!({ "name": name }).to_string();
    connection.send(&http::request("POST", "/auth/keys", Some(admin), Some(&body)));
    connection
}

/// Creates keys until a commit hangs: PostgreSQL takes a moment to know that it has to wait for a standby.
fn create_until_one_hangs(database: &Database, server: &Server, admin: &str) -> Vec<Connection> {
    let mut creations = Vec::new();
    wait_for("a commit that hangs", || {
        creations.push(create(server, admin, "hangs"));
        (waiting_for(database, "SyncRep") > 0).then_some(())
    });
    creations
}

fn rows_named(database: &Database, name: &str) -> i64 {
    database.value(&format!("SELECT count(*) FROM api_keys WHERE name = '{name}'"))
}

fn valid_keys_named(database: &Database, name: &str) -> i64 {
    database.value(&format!("SELECT count(*) FROM api_keys WHERE name = '{name}' AND revoked_at IS NULL"))
}

#[test]
fn reads_go_on_while_every_commit_hangs() {
    let cluster = Cluster::start();
    for (workers, sessions) in [("1", "2"), ("8", "8"), ("8", "2")] {
        let database = Database::in_cluster(&cluster);
        let server = Start::on(&database)
            .arguments(["--workers", workers, "--pool-size", sessions, "--database-timeout", "10m"])
            .serving();
        let admin = server.bootstrap_key();
        let strangers: Vec<String> = (0..8).map(|number| format!("a-key-not-seen-yet-{number}")).collect();
        for key in &strangers {
            insert_key(&database, key, "stranger", "read");
        }
        let gone = StandbyGone::on(&database);
        let mut changes = create_until_one_hangs(&database, &server, &admin);
        changes.extend((0..16).map(|_| create(&server, &admin, "hangs")));
        for key in &strangers {
            server.get("/auth/verify", Some(&admin)).expect_status(204);
            server.get("/auth/whoami", Some(key)).expect_status(200);
            server.get("/auth/keys", Some(&admin)).expect_status(200);
            server.get("/ready", None).expect_status(200);
        }
        // None of them is given up for its time, which is far longer than this test.
        assert!(waiting_for(&database, "SyncRep") > 0, "all of that was while commits hung");
        drop(gone);
        let mut made = 0;
        for change in &mut changes {
            let response = change.receive("POST");
            match response.status {
                201 => {
                    made += 1;
                    assert!(server.knows(response.json()["key"].as_str().unwrap()));
                }
                503 => _ = response.expect(503, OVERLOADED),
                other => panic!("{other}: {}", response.text()),
            }
        }
        assert!(made > 0, "a commit that hung was carried out in the end");
        let rows = rows_named(&database, "hangs");
        assert_eq!(rows, made, "{workers} workers: what was answered 503 was not carried out");
    }
}

/// What a failover may undo is no success where that would let a key in again; a key that is lost lets no client in.
#[test]
fn a_commit_that_no_standby_confirms_is_told_as_it_is() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Start::on(&database).arguments(["--database-timeout", "2s"]).serving();
    let admin = server.bootstrap_key();
    let [revoked, rotated] = ["revoked", "rotated"].map(|name| server.create_key(&admin, name));
    let gone = StandbyGone::on(&database);
    let hanging = create_until_one_hangs(&database, &server, &admin);
    let path = format!("/auth/keys/{}", revoked.0);
    server.delete(&path, &admin).expect(503, UNKNOWN);
    assert!(!server.knows(&revoked.1));
    // Nor does any standby have it by now.
    server.delete(&path, &admin).expect(503, UNKNOWN);
    for body in ["", r#"{"grace":"1h"}"#] {
        server.post(&format!("/auth/keys/{}/rotate", rotated.0), &admin, body).expect(503, UNKNOWN);
        wait_for("a rotation whose key was not handed out to be undone", || {
            let left = "SELECT count(*) FROM api_keys WHERE rotated_at IS NOT NULL
                        OR rotated_from IS NOT NULL AND revoked_at IS NULL";
            (database.value::<i64>(left) == 0 && server.knows(&rotated.1)).then_some(())
        });
    }
    let (_, created) = server.create_key(&admin, "created");
    assert!(server.knows(&created), "a commit that waits for a standby is done here, and said to be");
    drop(hanging);
    drop(gone);
    wait_for("commits to be confirmed again", || {
        let again = server.delete(&path, &admin);
        (again.status == 404).then(|| again.expect(404, r#"{"error":"key not found or already revoked"}"#))
    });
}

/// The question whether the session takes writes is answered after the request's time: the change is not even tried.
#[test]
fn a_change_whose_time_is_over_before_it_begins_is_not_sent() {
    let database = Database::new();
    let wire = Wire::start(database.host_and_port());
    let server = Start::without_database()
        .database_url(&database.url_through(wire.port))
        .arguments(["--database-timeout", "1s"])
        .serving();
    let admin = server.bootstrap_key();
    server.wait_for_pool();
    let mut made = 0;
    // The server's own looks at the database ask the same: then the creation is not held, and another is tried.
    wait_for("a creation to be held", || {
        let mut creation = wire
            .hold_when("SELECT current_setting('transaction_read_only')", || create(&server, &admin, "late"));
        // Longer than the second that the database may take, and shorter than a session is waited for after that.
        std::thread::sleep(Duration::from_millis(1300));
        wire.let_all_through();
        let response = creation.receive("POST");
        made += i64::from(response.status == 201);
        (response.status != 201).then(|| response.expect(503, UNAVAILABLE))
    });
    assert_eq!(rows_named(&database, "late"), made);
}

/// What is done from time to time takes no session that reads need, and waits for no lock.
#[test]
fn reads_go_on_while_changes_and_the_use_of_keys_wait_for_a_lock() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--pool-size", "2", "--database-timeout", "5s"]).serving();
    let admin = server.bootstrap_key();
    wait_for("the pool to be full", || (server.metric("cloacina_db_pool_size", &[]) >= 2.0).then_some(()));
    let lock = database.hold("LOCK TABLE api_keys IN SHARE MODE");
    let mut creation = create(&server, &admin, "locked");
    wait_until_waiting_for(&database, "Lock", 1);
    // The use of a key, which has not been written yet, with every one of them.
    while waiting_for(&database, "Lock") > 0 {
        server.get("/auth/keys", Some(&admin)).expect_status(200);
    }
    creation.receive("POST").expect(503, UNAVAILABLE);
    lock.release();
}

/// Neither a server's link, without which it remembers no key, nor what it writes of the use of keys.
#[test]
fn what_no_request_waits_for_waits_for_no_standby() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let first = Server::start(&database);
    let admin = first.bootstrap_key();
    let key = "a-key-that-was-never-used";
    insert_key(&database, key, "used", "read");
    let gone = StandbyGone::on(&database);
    let hanging = create_until_one_hangs(&database, &first, &admin);
    // So that what does wait is not given up while we look.
    let second = Start::on(&database).arguments(["--database-timeout", "10m"]).serving();
    wait_for("the key to be remembered", || {
        assert!(second.knows(key));
        (second.metric("cloacina_auth_cache_hits_total", &[]) > 0.0).then_some(())
    });
    wait_for("its use to be written", || {
        second.get("/auth/whoami", Some(key)).json()["last_used_at"].as_str().map(str::to_owned)
    });
    drop(hanging);
    drop(gone);
}

#[test]
fn commands_have_a_deadline_too() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, _) = server.create_key(&admin, "revoked");
    let gone = StandbyGone::on(&database);
    let _hanging = create_until_one_hangs(&database, &server, &admin);
    std::thread::scope(|scope| {
        let create = scope.spawn(|| keys_command::keys(&database, &["create", "--name", "by-command"]));
        let revoke = scope.spawn(|| keys_command::keys(&database, &["revoke", &id]));
        let created = create.join().unwrap();
        let key = keys_command::worked(&created)[0];
        assert!(created.stderr.contains("no synchronous standby has confirmed it"), "{created:?}");
        assert!(server.knows(key));
        let revoked = revoke.join().unwrap();
        assert_eq!(revoked.code, Some(1), "{revoked:?}");
        assert!(revoked.stderr.contains("no synchronous standby has confirmed"), "{revoked:?}");
    });
    drop(gone);
}

#[test]
fn a_rotation_by_command_that_no_standby_confirms_is_undone() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "rotated");
    let gone = StandbyGone::on(&database);
    let _hanging = create_until_one_hangs(&database, &server, &admin);
    let rotation = keys_command::keys(&database, &["rotate", &id]);
    assert_eq!((rotation.code, rotation.stdout.as_str()), (Some(1), ""), "{rotation:?}");
    assert!(rotation.stderr.contains("no synchronous standby has confirmed the rotation"), "{rotation:?}");
    assert!(rotation.stderr.contains("works as before"), "{rotation:?}");
    assert!(server.knows(&key));
    assert_eq!(valid_keys_named(&database, "rotated"), 1);
    drop(gone);
}

#[test]
fn a_file_whose_changes_no_standby_confirms_is_not_applied_for_sure() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Server::start(&database);
    let directory = Directory::new();
    let file = directory.join("keys.toml");
    fs::write(&file, entry("declared", "a-key-that-a-file-declares", "read", "")).unwrap();
    let gone = StandbyGone::on(&database);
    let _hanging = create_until_one_hangs(&database, &server, &server.bootstrap_key());
    // The second time there is nothing to do, and nothing is confirmed either.
    for says in ["created declared", "unchanged 1"] {
        let applied = keys_command::keys(&database, &["apply", file.to_str().unwrap()]);
        assert_eq!(applied.code, Some(1), "{applied:?}");
        assert!(applied.stdout.contains(says), "{applied:?}");
        assert!(applied.stderr.contains("no synchronous standby has confirmed this"), "{applied:?}");
        assert_eq!(valid_keys_named(&database, "declared"), 1);
    }
    drop(gone);
}

/// Nothing comes from the database any more, and nothing has said that the session ended.
#[test]
fn a_command_whose_database_falls_silent_says_that_the_outcome_is_unknown() {
    let database = Database::new();
    drop(Server::start(&database));
    let wire = Wire::start(database.host_and_port());
    let lock = database.hold("LOCK TABLE api_keys, cloacina_tenants IN SHARE MODE");
    let url = database.url_through(wire.port);
    let directory = Directory::new();
    let file = directory.join("keys.toml");
    fs::write(&file, entry("declared", "a-key-that-a-file-declares", "read", "")).unwrap();
    let create = ["keys", "create", "--name", "by-command", "--database-wait", "1s"];
    let apply = ["keys", "apply", file.to_str().unwrap(), "--database-wait", "1s"];
    let tenant = ["tenants", "create", "acme", "--database-wait", "1s"];
    let outcomes = std::thread::scope(|scope| {
        let commands = [&create[..], &apply, &tenant];
        let commands = commands.map(|arguments| scope.spawn(|| keys_command::run_at(&url, arguments, "")));
        wait_until_waiting_for(&database, "Lock", 3);
        assert!(wire.go_dead("") >= 3);
        lock.release();
        commands.map(|command| command.join().unwrap())
    });
    let said =
        "the database does not answer; the outcome is unknown: look whether it was done before trying again";
    for outcome in outcomes {
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
        assert!(outcome.stderr.contains(said), "{outcome:?}");
    }
}

#[test]
fn what_was_given_up_in_the_queue_is_never_carried_out() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Start::on(&database).arguments(["--workers", "1", "--database-timeout", "1s"]).serving();
    let admin = server.bootstrap_key();
    assert!(server.lets_in(&admin));
    let frozen = cluster.freeze();
    let mut first = create(&server, &admin, "first");
    wait_for("the first to have the worker", || {
        let in_flight = server.metric("cloacina_http_requests_in_flight", &[]);
        (in_flight >= 1.0 && server.metric("cloacina_http_queue_depth", &[]) == 0.0).then_some(())
    });
    let mut second = create(&server, &admin, "second");
    second.receive("POST").expect(503, UNAVAILABLE);
    // It is given up before anything is changed, by the worker or for it.
    let said = first.receive("POST").expect_status(503);
    assert!([UNAVAILABLE, UNKNOWN].contains(&said.text()), "{}", said.text());
    drop(frozen);
    // By the same worker, once it has come to it.
    wait_for("changes to be made again", || {
        (server.post("/auth/keys", &admin, r#"{"name":"third"}"#).status == 201).then_some(())
    });
    assert_eq!(rows_named(&database, "second"), 0);
}

/// The database made it, and took longer to say so than a client waits.
#[test]
fn a_key_whose_answer_came_too_late_is_revoked_again() {
    let database = Database::new();
    let proxy = Proxy::start(database.host_and_port());
    let server = Start::without_database()
        .database_url(&database.url_through(proxy.port))
        .arguments(["--database-timeout", "5s"])
        .serving();
    let admin = server.bootstrap_key();
    proxy.hold_answer_to("held-creation");
    let mut creation = create(&server, &admin, "held-creation");
    proxy.wait_for_answer();
    creation.receive("POST").expect(503, UNKNOWN);
    assert_eq!(rows_named(&database, "held-creation"), 1, "the database made it");
    proxy.release();
    wait_for("the key that nobody has to be revoked", || {
        (valid_keys_named(&database, "held-creation") == 0).then_some(())
    });
    wait_for("a line of the log about it", || {
        server.log().contains("the answer with it could not be given").then_some(())
    });
}

/// The session ended between the commit and the word of it.
#[test]
fn a_key_of_which_nobody_knows_whether_it_was_made_is_revoked_again() {
    let database = Database::new();
    let wire = Wire::start(database.host_and_port());
    let server = Start::without_database().database_url(&database.url_through(wire.port)).serving();
    let admin = server.bootstrap_key();
    assert!(server.lets_in(&admin));
    // A lock of the table would keep the statement from being prepared.
    database.execute(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
         CREATE TRIGGER holding BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION hold()",
    );
    let lock = database.hold("SELECT pg_advisory_xact_lock(1)");
    let mut creation = create(&server, &admin, "cut-creation");
    // Once the statement has been sent. Others may wait for the lock too, such as the writing of last uses.
    wait_for("the creation to be under way", || (wire.go_dead("cut-creation") == 1).then_some(()));
    lock.release();
    wait_for("the key to be made", || (rows_named(&database, "cut-creation") == 1).then_some(()));
    wire.cut();
    creation.receive("POST").expect(503, UNKNOWN);
    wait_for("the key that nobody has to be revoked", || {
        (valid_keys_named(&database, "cut-creation") == 0).then_some(())
    });
}

/// The session ended before the statement could be prepared on it: nothing was begun, so another one makes the key.
#[test]
fn a_change_that_was_not_begun_is_made_on_another_session() {
    let database = Database::new();
    let wire = Wire::start(database.host_and_port());
    let server = Start::without_database()
        .database_url(&database.url_through(wire.port))
        .arguments(["--pool-size", "1", "--database-timeout", "20s"])
        .serving();
    let admin = server.bootstrap_key();
    // On the first session it was prepared at the start.
    wire.cut();
    wait_for("another session", || server.lets_in(&admin).then_some(()));
    let lock = database.hold("LOCK TABLE api_keys IN SHARE MODE");
    let mut creation = create(&server, &admin, "unprepared");
    wait_for("the statement to be under way", || {
        let waits = "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()
                     AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO api_keys%'";
        database.value::<bool>(waits).then_some(())
    });
    wire.cut();
    drop(lock);
    creation.receive("POST").expect_status(201);
    assert_eq!(valid_keys_named(&database, "unprepared"), 1);
}

/// Locks that another session holds keep changes waiting, each for its time, and no read; what was refused was not done.
#[test]
fn changes_that_wait_for_a_lock() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--database-timeout", "2s"]).serving();
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "locked");
    let lock = database.hold(&format!("SELECT FROM api_keys WHERE id::text = '{id}' FOR UPDATE"));
    let mut changes: Vec<_> = (0..8)
        .map(|_| {
            let mut change = Connection::open(server.address);
            change.send(&http::request("DELETE", &format!("/auth/keys/{id}"), Some(&admin), None));
            change
        })
        .collect();
    wait_until_waiting_for(&database, "Lock", 2);
    server.get("/auth/keys", Some(&admin)).expect_status(200);
    server.get("/auth/whoami", Some(&key)).expect_status(200);
    assert!(waiting_for(&database, "Lock") > 0);
    for change in &mut changes {
        let response = change.receive("DELETE");
        assert!([UNAVAILABLE, OVERLOADED].contains(&response.text()), "{}", response.text());
    }
    assert_eq!(waiting_for(&database, "Lock"), 0, "no session waits for an answer that nobody wants");
    lock.release();
    assert!(server.knows(&key), "a change that was refused was not made");
}

/// Turned away for having waited, with others behind it: a request that comes now is served soon.
#[test]
fn a_request_that_waited_too_long_gives_way() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--workers", "1", "--database-timeout", "1m"]).serving();
    let admin = server.bootstrap_key();
    server.wait_for_pool();
    let lock = database.lock_keys();
    let list = http::request("GET", "/auth/keys", Some(&admin), None);
    let mut clients: Vec<_> = (0..4).map(|_| Connection::open(server.address)).collect();
    clients[0].send(&list);
    wait_until_waiting_for(&database, "Lock", 1);
    clients[1..].iter_mut().for_each(|client| client.send(&list));
    wait_for("the others to be in the queue", || {
        (server.metric("cloacina_http_queue_depth", &[]) == 3.0).then_some(())
    });
    // Longer than half a second, which they have to have waited.
    std::thread::sleep(Duration::from_millis(700));
    lock.release();
    clients[0].receive("GET").expect_status(200);
    clients[1].receive("GET").expect(503, OVERLOADED);
    clients[2].receive("GET").expect(503, OVERLOADED);
    clients[3].receive("GET").expect_status(200);
}
