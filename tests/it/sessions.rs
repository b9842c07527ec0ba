//! How sessions of the database come and go: ended by PostgreSQL, all in use, not to be had, made with another password.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::directory::Directory;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::program::cloacinactl;
use crate::support::server::{Server, Start};
use crate::support::wait_for;
use crate::support::wire::Wire;

const BUSY: &str = r#"{"status":"not ready","reason":"every database session is busy"}"#;
const UNREACHABLE: &str = r#"{"status":"not ready","reason":"database unreachable"}"#;

/// Asserts what has to be so all the while, several looks at the database long.
fn expect_for<T>(time: Duration, mut look: impl FnMut() -> T) {
    let began = Instant::now();
    while began.elapsed() < time {
        look();
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn end_all_sessions(database: &Database) {
    database.value::<i64>(
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
}

/// All but the session on which the server hears of changes: without that, each request would begin with a lookup.
fn end_sessions_of_pool(database: &Database) {
    database.value::<i64>(
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND query NOT LIKE '%auth_caches%'",
    );
}

/// A session that is dead before a write is sent on it is no reason to refuse the write.
#[test]
fn writes_on_sessions_that_were_ended() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for round in 0..8 {
        server.wait_for_pool();
        wait_for("the key to be served from memory", || {
            let before = server.metric("cloacina_auth_cache_hits_total", &[]);
            server.get("/auth/keys?limit=nonsense", Some(&admin)).expect_status(400);
            (server.metric("cloacina_auth_cache_hits_total", &[]) > before).then_some(())
        });
        end_sessions_of_pool(&database);
        let (id, key) = server.create_key(&admin, &format!("round {round}"));
        end_sessions_of_pool(&database);
        server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
        assert!(!server.knows(&key));
    }
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys WHERE name LIKE 'round %'"), 8);
}

/// DISCARD, which a trigger stands for here, takes away what a session has prepared, and so does a pooler between two of
/// its clients.
#[test]
fn statements_that_postgresql_has_dropped() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--pool-size", "1"]).serving();
    let admin = server.bootstrap_key();
    database.execute(
        "CREATE FUNCTION drop_prepared() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN NULL; END $$;
         CREATE TRIGGER drop_prepared AFTER INSERT OR UPDATE ON api_keys EXECUTE FUNCTION drop_prepared()",
    );
    for round in 0..3 {
        let (id, key) = server.create_key(&admin, &format!("round {round}"));
        assert!(server.knows(&key));
        server.get("/auth/keys", Some(&admin)).expect_status(200);
        server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
        assert!(!server.knows(&key));
    }
}

/// A column gets another type and its own again: what was prepared meanwhile has the other type.
#[test]
fn a_column_that_had_another_type_for_a_while() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--pool-size", "1"]).serving();
    let admin = server.bootstrap_key();
    server.get("/auth/keys", Some(&admin)).expect_status(200);
    database.execute("ALTER TABLE api_keys ALTER last_used_at TYPE timestamp");
    server.get("/auth/keys", Some(&admin)).expect_status(500);
    database.execute("ALTER TABLE api_keys ALTER last_used_at TYPE timestamptz");
    server.get("/auth/keys", Some(&admin)).expect_status(200);
}

/// The pool's only session waits for a lock. The database is well.
#[test]
fn all_in_use() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--pool-size", "1", "--database-timeout", "5m"]).serving();
    let admin = server.bootstrap_key();
    // Where a look takes a second, as on a busy machine, the database counts as away, and reads are given up: once more.
    wait_for("a request to outlast the lock", || {
        let lock = database.lock_keys();
        let mut held = Connection::open(server.address);
        held.send(&http::request("GET", "/auth/keys", Some(&admin), None));
        wait_for("/ready to say that all sessions are busy", || {
            let response = server.get("/ready", None);
            (response.status == 503 && response.text() == BUSY).then_some(())
        });
        lock.release();
        let status = held.receive("GET").status;
        wait_for("/ready to say so", || (server.get("/ready", None).status == 200).then_some(()));
        (status == 200).then_some(())
    });
}

/// PostgreSQL takes no more sessions of the server's role, and those that there are work.
#[test]
fn all_in_use_and_no_more_to_be_had() {
    let database = Database::new();
    let (url, role) = database.url_of_new_role();
    database.execute(&format!("ALTER DATABASE {} OWNER TO {role}", database.name()));
    let server = Start::without_database()
        .database_url(&url)
        .arguments(["--pool-size", "1", "--database-timeout", "5m"])
        .serving();
    let admin = server.bootstrap_key();
    wait_for("the pool's session, the link's and the look's", || {
        let count = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
        (database.value::<i64>(&count) >= 3).then_some(())
    });
    database.execute(&format!("ALTER ROLE {role} CONNECTION LIMIT 1"));
    // New sessions are refused by now, which says nothing of those that there are.
    expect_for(Duration::from_secs(5), || server.get("/ready", None).expect_status(200));
    let lock = database.lock_keys();
    let mut held = Connection::open(server.address);
    held.send(&http::request("GET", "/auth/keys", Some(&admin), None));
    wait_for("/ready to say something else", || (server.get("/ready", None).status != 200).then_some(()));
    expect_for(Duration::from_secs(5), || server.get("/ready", None).expect(503, BUSY));
    lock.release();
    assert_eq!(held.receive("GET").status, 200);
    wait_for("/ready to say so", || (server.get("/ready", None).status == 200).then_some(()));
}

/// Hosts that take connections and say nothing come before the one that works: that takes time, and changes nothing.
#[test]
fn silent_hosts_before_the_one_that_works() {
    let database = Database::new();
    let fronts = [Wire::start(database.host_and_port()), Wire::start(database.host_and_port())];
    let (_, port) = database
        .host_and_port()
        .rsplit_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .unwrap();
    let url = format!(
        "postgresql://postgres@127.0.0.1:{},127.0.0.1:{},127.0.0.1:{port}/{}",
        fronts[0].port,
        fronts[1].port,
        database.name()
    );
    let server = Start::without_database().database_url(&url).serving();
    server.wait_for_pool();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    fronts.iter().for_each(|front| front.switch(silent.local_addr().unwrap().to_string()));
    expect_for(Duration::from_secs(7), || server.get("/ready", None).expect_status(200));
}

/// `/ready` knows what a request that was refused has found out.
#[test]
fn a_refused_request_is_known_to_ready() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    server.wait_for_pool();
    for _ in 0..3 {
        cluster.stop_immediately();
        server.get("/auth/keys", Some(&admin)).expect_status(503);
        server.get("/ready", None).expect(503, UNREACHABLE);
        let health =
            cloacinactl(["health", "--url", &format!("http://{}", server.address)]).output().unwrap();
        assert_eq!(health.status.code(), Some(1));
        cluster.restart();
        wait_for("the database to be found again", || {
            (server.get("/ready", None).status == 200 && server.get("/auth/keys", Some(&admin)).status == 200)
                .then_some(())
        });
    }
}

/// A host that takes connections and says nothing: each attempt ends and lets go of its connection, so that a database
/// that answers again is found.
#[test]
fn connections_that_nothing_comes_on() {
    let database = Database::new();
    let wire = Wire::start(database.host_and_port());
    let url = format!("{}?connect_timeout=1", database.url_through(wire.port));
    let server = Start::without_database().database_url(&url).serving();
    let admin = server.bootstrap_key();
    server.wait_for_pool();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let before = descriptors();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    wire.switch(silent.local_addr().unwrap().to_string());
    wire.cut();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    // The thread ends with the process.
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for connection in silent.incoming() {
            open.push(connection.unwrap());
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    // The pool makes three at once, the link and the look one each; that many again, and again.
    wait_for("attempts to connect", || (taken.load(Ordering::Relaxed) >= 5).then_some(()));
    server.get("/ready", None).expect_status(503);
    server.get("/auth/keys", Some(&admin)).expect_status(503);
    // Were connections kept, there would be more and more of them; some are always under way.
    wait_for("more attempts", || (taken.load(Ordering::Relaxed) >= 40).then_some(()));
    wait_for("connections to be let go of", || (descriptors() < before + 10).then_some(()));
    wire.switch(database.host_and_port());
    wait_for("the server to find its database again", || {
        (server.get("/auth/keys", Some(&admin)).status == 200).then_some(())
    });
    server.wait_for_pool();
}

/// A password that is changed while the server runs, in the file that has it.
fn rotated(place: &str, start: impl Fn(&Path) -> Start) {
    let cluster = Cluster::start();
    cluster
        .configure("", "local all all trust\nhost all postgres all trust\nhost all all all scram-sha-256\n");
    let database = Database::in_cluster(&cluster);
    database.execute(&format!(
        "CREATE ROLE keeper LOGIN PASSWORD 'first'; ALTER DATABASE {} OWNER TO keeper",
        database.name()
    ));
    let home = Directory::new();
    let path = home.path().join("secret");
    let url = |password: &str| format!("{password}@127.0.0.1:{}/{}", cluster.port(), database.name());
    let write = |password: &str| {
        let content = match place {
            "url" => format!("postgresql://keeper:{}\n", url(password)),
            _ => format!("*:*:*:keeper:{password}\n"),
        };
        // Whole from one moment to the next, as whoever rotates passwords should do it.
        let fresh = path.with_extension("new");
        fs::write(&fresh, content).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&fresh, &path).unwrap();
    };
    write("first");
    let start = start(&path);
    let start = match place {
        "url" => start,
        _ => start.database_url(&format!("postgresql://keeper@{}", url("").trim_start_matches('@'))),
    };
    let server = start.serving();
    let admin = server.bootstrap_key();
    for password in ["second-password", "third-password"] {
        database.execute(&format!("ALTER ROLE keeper PASSWORD '{password}'"));
        write(password);
        end_all_sessions(&database);
        server.create_key(&admin, "with another password");
    }
    // What was in it counts while it is gone, and that is said once.
    fs::remove_file(&path).unwrap();
    for _ in 0..2 {
        end_all_sessions(&database);
        server.create_key(&admin, "without a file");
    }
    wait_for("the log to say so", || server.stderr().contains("again").then_some(()));
    server.wait_for_pool();
    let said = server.stderr().lines().filter(|line| line.contains("before is used")).count();
    assert_eq!(said, 1, "{}", server.stderr());
    assert!(!server.stderr().contains("third-password"), "{}", server.stderr());
}

#[test]
fn a_password_that_changes_in_the_file_of_the_url() {
    rotated("url", |path| {
        Start::without_database().arguments(["--database-url-file", path.to_str().unwrap()])
    });
}

#[test]
fn a_password_that_changes_in_a_password_file() {
    rotated("passfile", |path| Start::without_database().environment("PGPASSFILE", path));
}
