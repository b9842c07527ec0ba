//! Roles that use up what PostgreSQL has for notifications: a change of keys is made all the same, and no server is late.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, NoTls};

use crate::keys_apply::entry;
use crate::keys_command::{keys, worked};
use crate::rotation::rotate;
use crate::servers::{passes, warm};
use crate::support::cluster::Cluster;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

/// Two servers, and a key of an admin.
struct Two {
    servers: [Server; 2],
    admin: String,
}

impl Two {
    fn on(database: &Database) -> Two {
        Two::at(&database.url())
    }

    fn at(url: &str) -> Two {
        let servers = [(); 2].map(|()| Start::without_database().database_url(url).serving());
        let admin = servers[0].bootstrap_key();
        Two { servers, admin }
    }

    /// A key that both have in their memory, and its id.
    fn shared_key(&self) -> (String, String) {
        let made = self.servers[0].create_key(&self.admin, "shared");
        self.servers.iter().for_each(|server| warm(server, &made.1));
        made
    }

    #[track_caller]
    fn refuse(&self, key: &str) {
        assert!(self.servers.iter().all(|server| !passes(server, key)));
    }

    /// Revokes and rotates keys, in every way there is: no server lets an old one in after the answer.
    fn make_changes(&self, database: &Database) {
        let [one, other] = &self.servers;
        for (by, round) in [(one, 1), (other, 2), (one, 3)] {
            let (id, key) = self.shared_key();
            by.delete(&format!("/auth/keys/{id}"), &self.admin).expect_status(200);
            self.refuse(&key);
            let (id, key) = self.shared_key();
            let made = rotate(by, &id, &self.admin, "{}");
            self.refuse(&key);
            assert!(self.servers.iter().all(|server| passes(server, made.key())), "round {round}");
        }
        let (id, key) = self.shared_key();
        worked(&keys(database, &["revoke", &id]));
        self.refuse(&key);
        let (id, key) = self.shared_key();
        worked(&keys(database, &["rotate", &id]));
        self.refuse(&key);
        self.apply(database);
    }

    fn apply(&self, database: &Database) {
        let directory = Directory::new();
        let file = directory.join("keys.toml");
        let apply = |text: &str| {
            fs::write(&file, text).unwrap();
            worked(&keys(database, &["apply", file.to_str().unwrap()]));
        };
        let declared = format!("declared-for-{}-as-an-example", database.name());
        apply(&entry("declared", &declared, "admin", ""));
        self.servers.iter().for_each(|server| warm(server, &declared));
        apply(&entry("another", &format!("another-{declared}"), "read", ""));
        self.refuse(&declared);
    }
}

/// A role of its own that may do no more than log in.
fn mallory(database: &Database) -> impl Fn() -> Client {
    let (url, _) = database.url_of_new_role();
    move || Client::connect(&url, NoTls).unwrap()
}

/// A session that listens and never comes to read, so that all that is sent from now on stays; and all that there is
/// room for.
fn fill(connect: impl Fn() -> Client) -> Client {
    let mut reader = connect();
    reader.batch_execute("LISTEN a_channel").unwrap();
    reader.batch_execute("BEGIN; SELECT 1").unwrap();
    let mut writer = connect();
    let fill = "SELECT pg_notify('a_channel', rpad(n::text, 7000, '-')) FROM generate_series(1, $1) AS n";
    // A transaction that needs more than there is left adds nothing.
    let mut count = 64;
    while count > 0 {
        match writer.execute(fill, &[&count]) {
            Ok(_) => {}
            Err(error) if error.code() == Some(&SqlState::PROGRAM_LIMIT_EXCEEDED) => count /= 2,
            Err(error) => panic!("{error:?}"),
        }
    }
    reader
}

fn with_a_short_queue() -> Cluster {
    let cluster = Cluster::since(17);
    cluster.set("max_notify_queue_pages = 64");
    cluster
}

#[test]
fn a_full_queue_stops_no_change() {
    let cluster = with_a_short_queue();
    let database = Database::in_cluster(&cluster);
    let two = Two::on(&database);
    let reader = fill(mallory(&database));
    let refused = database.client().batch_execute("NOTIFY api_key_changes").unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::PROGRAM_LIMIT_EXCEEDED));
    two.make_changes(&database);
    drop(reader);
    // What has been read makes room again, with the next change.
    wait_for("room in the queue", || {
        let (id, key) = two.shared_key();
        two.servers[1].delete(&format!("/auth/keys/{id}"), &two.admin).expect_status(200);
        two.refuse(&key);
        database.client().batch_execute("NOTIFY api_key_changes").ok()
    });
}

/// Should the database be lost now, no other server would ever hear of it.
#[test]
fn what_others_cannot_be_told_of_is_not_called_done() {
    let cluster = with_a_short_queue();
    let database = Database::in_cluster(&cluster);
    let two = Two::on(&database);
    let (id, key) = two.shared_key();
    let _reader = fill(mallory(&database));
    database.execute(
        "SELECT setval('api_key_changes', nextval('api_key_changes'));
         DO $$ BEGIN EXECUTE format('ALTER SEQUENCE api_key_changes MAXVALUE %s', (SELECT last_value FROM api_key_changes)); END $$",
    );
    let path = format!("/auth/keys/{id}");
    let unknown = two.servers[0].delete(&path, &two.admin).expect_status(503);
    assert!(unknown.text().contains("outcome"), "{}", unknown.text());
    database.execute("ALTER SEQUENCE api_key_changes NO MAXVALUE");
    // It was revoked, and now everyone knows.
    two.servers[0].delete(&path, &two.admin).expect_status(404);
    two.refuse(&key);
}

/// A commit that notifies keeps all others that do from theirs, for as long as it waits for a standby.
#[test]
fn a_locked_queue_stops_no_change() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    // The server's own commits wait for none.
    let two = Two::at(&format!("{}?options=-csynchronous_commit%3Dlocal", database.url()));
    let mut session = mallory(&database)();
    database.execute("ALTER SYSTEM SET synchronous_standby_names = 'nowhere'");
    database.execute("SELECT pg_reload_conf()");
    wait_for("a standby to be needed", || {
        (database.value::<String>("SHOW synchronous_standby_names") == "nowhere").then_some(())
    });
    let (id, key) = two.shared_key();
    thread::scope(|scope| {
        let cancel = session.cancel_token();
        let waiting = scope.spawn(move || session.batch_execute("CREATE TEMP TABLE t (); NOTIFY a_channel"));
        wait_for("the queue to be locked", || {
            let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND granted AND objid = 0
                             AND classid = 'pg_database'::regclass AND mode = 'AccessExclusiveLock'";
            (database.value::<i64>(locks) == 1).then_some(())
        });
        let began = Instant::now();
        two.servers[0].delete(&format!("/auth/keys/{id}"), &two.admin).expect_status(200);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        two.refuse(&key);
        assert!(!waiting.is_finished() && two.servers[0].log().contains("not notified"));
        cancel.cancel_query(NoTls).unwrap();
        let _ = waiting.join().unwrap();
    });
}

/// Neither as many as there can be nor as large as they can be make a server late, slow or large.
#[test]
fn a_flood_of_notifications_is_not_heard() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let two = Two::on(&database);
    let connect = mallory(&database);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Many at once, which PostgreSQL sends in one go, and one after another.
        for count in [10_000, 1] {
            let mut client = connect();
            let is_over = &is_over;
            scope.spawn(move || {
                let flood = "SELECT count(pg_notify('api_key_changes', rpad(n::text || random(), 7990, '-')))
                             FROM generate_series(1, $1) AS n";
                while !is_over.load(Ordering::Acquire) {
                    client.query_one(flood, &[&count]).unwrap();
                }
            });
        }
        let _stop = OnDrop(|| is_over.store(true, Ordering::Release));
        let hits = || two.servers[1].metric("cloacina_auth_cache_hits_total", &[]);
        let mut from_memory = 0.0;
        for _ in 0..20 {
            let (id, key) = two.shared_key();
            let before = hits();
            for _ in 0..50 {
                assert!(passes(&two.servers[1], &key));
            }
            from_memory += hits() - before;
            two.servers[0].delete(&format!("/auth/keys/{id}"), &two.admin).expect_status(200);
            two.refuse(&key);
        }
        assert!(from_memory >= 500.0, "of 1000 requests {from_memory} were answered from memory");
    });
    for server in &two.servers {
        let peak = server.footprint().peak;
        assert!(peak < 60 * 1024, "{peak} KiB, where there were 80 MB of notifications at once");
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}
