//! Signals to a server that serves, but for those that end it: those are in `shutdown`.

use std::fs;

use crate::support::directory::Directory;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};

/// What the server says of the hangup that follows.
fn hangup(server: &Server, number: usize) -> String {
    server.signal("HUP");
    let line = crate::support::wait_for("a line about the hangup", || {
        let log = server.log();
        log.lines().filter(|line| line.contains("SIGHUP")).nth(number - 1).map(str::to_owned)
    });
    serde_json::from_str::<serde_json::Value>(&line).unwrap()["message"].as_str().unwrap().to_owned()
}

/// Also where the tests themselves were started by `nohup`, which every process below it inherits.
const HEEDS_HANGUPS: &str = r#"set -- env --default-signal=HUP "$@""#;

fn configure(server: &Server, text: &str) {
    fs::write(server.home().join("config.toml"), text).unwrap();
}

#[test]
fn a_hangup_reads_the_configuration_again() {
    let database = Database::new();
    let mut server = Start::on(&database).after(HEEDS_HANGUPS).arguments(["--write-timeout", "9s"]).serving();
    let mut before = Connection::open(server.address);
    before.send(&http::request("GET", "/health", None, None));
    before.receive("GET").expect_status(200);
    assert_eq!(hangup(&server, 1), "SIGHUP: nothing has changed in the configuration");
    configure(&server, "idle_timeout = '2s'\nworkers = 3\nwrite_timeout = '1s'\naccess_log = true\n");
    assert_eq!(
        hangup(&server, 2),
        "SIGHUP: in force from now on: idle_timeout, access_log; after a restart: workers"
    );
    // The flag counts more than the file, so `write_timeout` is as it was. A connection that was there already is held
    // to the new time as well.
    before.expect_end();
    server.get("/health", None).expect_status(200);
    server.log_line(&["cloacinactl::access", "/health"]);
    configure(&server, "idle_timeout = 'soon'\n");
    let refused = hangup(&server, 3);
    assert!(refused.starts_with("SIGHUP: nothing is changed: "), "{refused}");
    assert!(refused.contains("config.toml, line 1") && refused.contains("`soon`"), "{refused}");
    configure(&server, "");
    assert_eq!(
        hangup(&server, 4),
        "SIGHUP: in force from now on: idle_timeout, access_log",
        "the workers are as they were at the start"
    );
    server.expect_well("four hangups");
    server.terminate().expect_code(0);
}

/// The file of the bootstrap key is removed once the key has been made, and a database URL is read again by each session.
#[test]
fn a_hangup_after_secret_files_have_changed() {
    let database = Database::new();
    let secrets = Directory::new();
    let [url, key] = ["url", "key"].map(|name| secrets.path().join(name).to_str().unwrap().to_owned());
    fs::write(&url, database.url()).unwrap();
    fs::write(&key, "a-key-of-the-owners-choice").unwrap();
    let server = Start::without_database()
        .after(HEEDS_HANGUPS)
        .arguments(["--database-url-file", &url, "--bootstrap-key-file", &key])
        .serving();
    fs::remove_file(&key).unwrap();
    assert_eq!(hangup(&server, 1), "SIGHUP: nothing has changed in the configuration");
    fs::write(&url, database.url() + "?application_name=changed").unwrap();
    assert_eq!(hangup(&server, 2), "SIGHUP: in force for new sessions: database_url");
    assert_eq!(hangup(&server, 3), "SIGHUP: nothing has changed in the configuration");
    server.terminate().expect_code(0);
}

/// Other servers open their log anew or end in another way then; ours needs neither, and must not die of it.
#[test]
fn signals_without_a_meaning_change_nothing() {
    let database = Database::new();
    let mut server = Server::start(&database);
    for (signal, number) in [("USR1", 10), ("USR2", 12)] {
        // It comes to a thread at some time after it was sent: so no thread may die of it.
        for thread in fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap() {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let harmless = ["SigBlk:", "SigIgn:", "SigCgt:"].iter().any(|set| {
                let mask = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
                u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (number - 1)) != 0
            });
            assert!(harmless, "SIG{signal} ends this thread: {status}");
        }
        server.signal(signal);
        server.expect_well(signal);
    }
    server.terminate().expect_code(0);
}

/// SIGXFSZ kills a process that does not expect it, at the line of the log that is one too many.
#[test]
fn a_log_that_has_reached_the_limit_of_file_sizes() {
    let database = Database::new();
    let mut server = Start::on(&database).after("ulimit -f 8").serving();
    let admin = server.bootstrap_key();
    crate::support::wait_for("a line on stderr about it", || {
        server.create_key(&admin, &"x".repeat(200));
        server.stderr().contains("File too large").then_some(())
    });
    server.expect_well("the limit of file sizes");
    server.terminate().expect_code(0);
}
