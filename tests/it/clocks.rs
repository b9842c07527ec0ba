//! The database's clock decides when a key ends. Here it is an hour off, both ways: not the program's, since a static
//! one cannot be shown another time.

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::keys::INVALID;
use crate::keys_command::keys_at;
use crate::rotation::rotate;
use crate::scratch::Scratch;
use crate::support::cluster::Cluster;
use crate::support::http::Connection;
use crate::support::made::Made;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

const OFF: [&str; 2] = ["+1h", "-1h"];
/// Beyond the time that anything here takes, and far below how much the clocks are off.
const HALF: Duration = Duration::minutes(30);

/// A database in a PostgreSQL whose clock is off. The cluster goes last.
struct Off {
    database: Database,
    _cluster: Cluster,
}

impl Off {
    fn new(off: &'static str) -> Off {
        let cluster = Cluster::with_clock(off);
        let this = Off { database: Database::in_cluster(&cluster), _cluster: cluster };
        let difference = (this.now() - OffsetDateTime::now_utc()).abs();
        assert!(difference > HALF, "faketime does not work: the clocks differ by {difference}");
        this
    }

    /// The clock that decides.
    fn now(&self) -> OffsetDateTime {
        self.database.value("SELECT clock_timestamp()")
    }

    /// What this does, and between which times it did it.
    fn bounds<T>(&self, act: impl FnOnce() -> T) -> (Within, T) {
        let from = self.now();
        let done = act();
        (Within { from, to: self.now() }, done)
    }
}

/// Times by the clock that decides.
struct Within {
    from: OffsetDateTime,
    to: OffsetDateTime,
}

impl Within {
    /// Asserts that a life that began between them ends at `end`, which is a whole second.
    #[track_caller]
    fn assert_ends_after(&self, life: Duration, end: OffsetDateTime) {
        let earliest = self.from + life - Duration::seconds(1);
        assert!(earliest <= end && end <= self.to + life, "{earliest} {end} {}", self.to + life);
    }
}

/// Waits for a key that is asked about all the while, and cached, to be refused: in the second in which it ends.
#[track_caller]
fn assert_ends_at(off: &Off, servers: &[&Server], key: &str, end: OffsetDateTime) {
    let mut connections: Vec<_> = servers.iter().map(|server| Connection::open(server.address)).collect();
    let mut clock = off.database.client();
    let mut now = || -> OffsetDateTime { clock.query_one("SELECT clock_timestamp()", &[]).unwrap().get(0) };
    let mut turn = 0;
    wait_for("the key to end", || {
        turn += 1;
        let connection = turn % connections.len();
        let before = now();
        let response = connections[connection].ask("GET", "/auth/verify", Some(key), None);
        let after = now();
        let let_in = response.status == 204;
        assert!(before < end || !let_in, "let in at {before}, after {end}");
        assert!(let_in || after >= end, "refused at {after}, before {end}");
        (!let_in).then(|| response.expect(401, INVALID))
    });
    for connection in &mut connections {
        connection.ask("GET", "/auth/verify", Some(key), None).expect(401, INVALID);
    }
}

fn rfc3339(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap()
}

#[test]
fn lives_end_by_the_databases_clock() {
    for off in OFF.map(Off::new) {
        let (server, other) = (Server::start(&off.database), Server::start(&off.database));
        let admin = server.bootstrap_key();
        let made = |field: &str, value: &str| {
            server.make_key(&admin, &format!(r#"{{"name":"n","{field}":"{value}"}}"#))
        };
        let life = Duration::seconds(8);
        let (within, by_expires_in) = off.bounds(|| made("expires_in", "8s"));
        within.assert_ends_after(life, by_expires_in.moment("expires_at"));

        let end = (off.now() + life).replace_nanosecond(0).unwrap();
        let by_expires_at = made("expires_at", &rfc3339(end));
        assert_eq!(by_expires_at.moment("expires_at"), end);

        let rotated = made("expires_in", "1d");
        assert!(server.knows(rotated.key()) && other.knows(rotated.key()));
        let (within, new) = off.bounds(|| rotate(&server, rotated.id(), &admin, r#"{"grace":"8s"}"#));
        within.assert_ends_after(life, new.moment("old_key_expires_at"));
        let ends = [
            (&by_expires_in, by_expires_in.moment("expires_at")),
            (&by_expires_at, end),
            (&rotated, new.moment("old_key_expires_at")),
        ];
        std::thread::scope(|scope| {
            for (key, end) in ends {
                let (off, servers) = (&off, [&server, &other]);
                scope.spawn(move || assert_ends_at(off, &servers, key.key(), end));
            }
        });
        assert!(server.knows(new.key()) && other.knows(new.key()));
    }
}

#[test]
fn ends_are_judged_by_the_databases_clock() {
    for off in OFF.map(Off::new) {
        let server = Start::on(&off.database).arguments(["--max-key-lifetime", "30d"]).serving();
        let admin = server.bootstrap_key();
        let post = |end: OffsetDateTime| {
            server.post("/auth/keys", &admin, &format!(r#"{{"name":"n","expires_at":"{}"}}"#, rfc3339(end)))
        };
        let month = Duration::days(30);
        for (end, message) in [
            (off.now() - HALF, Some("expires_at: must lie in the future")),
            (off.now() + HALF, None),
            (off.now() + month - HALF, None),
            (off.now() + month + HALF, Some("expires_at: must not be later than ")),
        ] {
            let response = post(end);
            match message {
                None => _ = response.expect_status(201),
                Some(start) => {
                    let message = response.expect_status(422).error();
                    assert!(message.starts_with(start), "{end}: {message}");
                }
            }
        }
        let (within, bounded) = off.bounds(|| server.make_key(&admin, r#"{"name":"n"}"#));
        within.assert_ends_after(month, bounded.moment("expires_at"));
        // The warning before the end.
        for (end, is_near) in
            [(off.now() + Duration::days(7) - HALF, true), (off.now() + Duration::days(7) + HALF, false)]
        {
            let key = Made(post(end).expect_status(201).json());
            for _ in 0..2 {
                let response = server.get("/auth/verify", Some(key.key())).expect_status(204);
                assert_eq!(response.header("X-Auth-Key-Expires").is_some(), is_near, "{end}");
            }
        }
    }
}

/// Servers write to one row, and each of them has a clock of its own.
#[test]
fn last_uses_are_written_by_the_databases_clock() {
    for off in OFF.map(Off::new) {
        let server = Server::start(&off.database);
        let (id, key) = server.create_key(&server.bootstrap_key(), "used");
        let before = off.now();
        assert!(server.knows(&key) && server.knows(&key));
        let after = off.now();
        let used: OffsetDateTime = wait_for("the use to be written", || {
            off.database.value(&format!("SELECT last_used_at FROM api_keys WHERE id = '{id}'"))
        });
        assert!(before <= used && used <= after, "{before} {used} {after}");
    }
}

#[test]
fn commands_go_by_the_databases_clock() {
    for off in OFF.map(Off::new) {
        Server::migrate(&off.database);
        let scratch = Scratch::new();
        let url = off.database.url();
        let keys = |arguments: &[&str]| {
            scratch.run_with(&[("DATABASE_URL", &*url)], &[&["keys"], arguments].concat())
        };
        let create = || keys(&["create", "--name", "brief", "--expires-in", "10m"]).stdout;
        let (within, key) = off.bounds(create);
        within
            .assert_ends_after(Duration::minutes(10), off.database.value("SELECT expires_at FROM api_keys"));
        let hash = |digit: &str| digit.repeat(64);
        let declared = |name: &str, digit: &str, end: OffsetDateTime| {
            let (hash, end) = (hash(digit), rfc3339(end));
            format!(
                "[[key]]\nname = '{name}'\nsha256 = '{hash}'\npermissions = 'read'\nexpires_at = '{end}'\n"
            )
        };
        let (live, dead) = (off.now() + HALF, off.now() - HALF);
        let file = scratch.path().join("keys.toml");
        std::fs::write(&file, declared("live", "a", live) + &declared("dead", "b", dead)).unwrap();
        let file = file.to_str().unwrap();
        for arguments in [&["apply", file, "--dry-run"][..], &["apply", file]] {
            let outcome = keys(arguments);
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            assert!(outcome.stderr.contains("`dead` has expired"), "{outcome:?}");
            assert!(!outcome.stderr.contains("`live`"), "{outcome:?}");
        }
        let listed = keys(&["list"]).stdout;
        for (name, state) in [("brief", "valid"), ("live", "valid"), ("dead", "expired")] {
            let line = listed.lines().find(|line| line.contains(name)).unwrap();
            assert!(line.contains(state), "{listed}");
        }
        let explained = keys_at(&url, &["explain"], &key);
        assert!(explained.stdout.starts_with("valid\n"), "{explained:?}");
    }
}
