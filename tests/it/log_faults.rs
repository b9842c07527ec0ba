//! Logs that cannot be written while the server runs: it goes on, says so in one line, and writes again when it can.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::http;
use crate::support::postgres::Database;
use crate::support::program::FullPipe;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

/// Makes the server log something until this is so.
fn keep_logging(server: &Server, what: &str, is_so: impl Fn() -> bool) {
    let admin = server.bootstrap_key();
    wait_for(what, || {
        server.create_key(&admin, "makes-a-line");
        is_so().then_some(())
    });
}

#[test]
fn a_log_directory_that_is_removed() {
    let database = Database::new();
    let mut server = Server::start(&database);
    keep_logging(&server, "the first lines", || server.log().contains("makes-a-line"));
    fs::remove_dir_all(server.home().join("logs")).unwrap();
    keep_logging(&server, "a new file in a new directory", || server.log().contains("makes-a-line"));
    server.expect_well("the log directory was removed");
}

#[test]
fn a_log_that_is_removed_or_renamed() {
    let database = Database::new();
    let server = Server::start(&database);
    let file = server.home().join("logs/cloacina-server.log");
    keep_logging(&server, "the first lines", || server.log().contains("makes-a-line"));
    fs::rename(&file, server.home().join("logs/renamed")).unwrap();
    keep_logging(&server, "a new file after a rename", || server.log().contains("makes-a-line"));
    fs::remove_file(&file).unwrap();
    keep_logging(&server, "a new file after a removal", || server.log().contains("makes-a-line"));
}

/// `/dev/full` is a disk that has no room for anything.
#[test]
fn a_disk_that_fills_up() {
    let database = Database::new();
    let mut server = Server::start(&database);
    let file = server.home().join("logs/cloacina-server.log");
    keep_logging(&server, "the first lines", || server.log().contains("makes-a-line"));
    fs::remove_file(&file).unwrap();
    symlink("/dev/full", &file).unwrap();
    keep_logging(&server, "a line on stderr about it", || server.stderr().contains("cannot write"));
    for _ in 0..50 {
        server.create_key(&server.bootstrap_key(), "nobody-will-read-of-it");
    }
    assert_eq!(server.stderr().matches("cannot write").count(), 1, "one line, not one for each");
    server.expect_well("a full disk");
    fs::remove_file(&file).unwrap();
    keep_logging(&server, "lines in the file again", || server.log().contains("makes-a-line"));
    keep_logging(&server, "a line on stderr about that", || server.stderr().contains("works again"));
    server.terminate().expect_code(0);
}

/// The last block that there is room for ends in the middle of a line. No reader may find half of one.
#[test]
fn a_disk_that_fills_up_in_the_middle_of_a_line() {
    let database = Database::new();
    let server = Start::on(&database).after("trap '' XFSZ; ulimit -f 16").serving();
    keep_logging(&server, "a line on stderr about it", || server.stderr().contains("cannot write"));
    let log = server.log();
    assert!(log.contains("makes-a-line"), "{log}");
    assert!(log.ends_with('\n'), "{log}");
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

/// Makes keys and hands back their names, in order: each is a line of the log.
fn make_keys(server: &Server, count: usize) -> Vec<String> {
    let admin = server.bootstrap_key();
    let names: Vec<String> = (0..count).map(|number| format!("line-{number:04}")).collect();
    for name in &names {
        server.create_key(&admin, name);
    }
    names
}

/// Whether these names are in the text, in this order.
fn in_order(text: &str, names: &[String]) -> bool {
    let mut rest = text;
    names.iter().all(|name| match rest.split_once(name.as_str()) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}

/// `serve 2>&1 | less`, or a log collector that hangs.
#[test]
fn a_stderr_that_nobody_reads() {
    let database = Database::new();
    let pipe = FullPipe::new();
    let mut server = Start::on(&database).stderr(pipe.end()).serving();
    let names = make_keys(&server, 50);
    server.get("/auth/whoami", Some("wrong")).expect_status(401);
    server.expect_well("stderr was full");
    wait_for("all lines in the file", || in_order(&server.log(), &names).then_some(()));
    server.terminate().expect_code(0);
}

#[test]
fn a_stdout_that_nobody_reads() {
    let database = Database::new();
    let pipe = FullPipe::new();
    let mut server = Start::on(&database).stdout(pipe.end()).serving();
    let names = make_keys(&server, 5);
    server.expect_well("stdout was full");
    wait_for("all lines on stderr", || in_order(&server.stderr(), &names).then_some(()));
    server.terminate().expect_code(0);
}

/// What was waiting is written once it is read, in its order and without a gap.
#[test]
fn outputs_that_are_read_again() {
    let database = Database::new();
    let (stdout, stderr) = (FullPipe::new(), FullPipe::new());
    let server = Start::on(&database).stdout(stdout.end()).stderr(stderr.end()).serving();
    let names = make_keys(&server, 50);
    let (stdout, stderr) = (stdout.read(), stderr.read());
    wait_for("the block", || stdout.text().contains("API server is running on http://").then_some(()));
    wait_for("the lines that waited", || in_order(&stderr.text(), &names).then_some(()));
    server.terminate().expect_code(0);
    assert!(stderr.whole().trim_end().ends_with("drained"), "{}", stderr.text());
}

/// The line with which it gives up waits no longer than any other.
#[test]
fn a_failure_that_nobody_reads() {
    let database = Database::new();
    let pipe = FullPipe::new();
    let server = Start::on(&database)
        .arguments(["--database-timeout", "10m", "--shutdown-timeout", "1s"])
        .stderr(pipe.end())
        .serving();
    let key = server.bootstrap_key();
    server.wait_for_pool();
    let lock = database.lock_keys();
    let mut stuck = http::Connection::open(server.address);
    stuck.send(&http::request("GET", "/auth/keys", Some(&key), None));
    wait_for("the request to be under way", || {
        (server.metric("cloacina_http_requests_in_flight", &[]) >= 1.0).then_some(())
    });
    server.signal("TERM");
    let ended = server.ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    lock.release();
    // A start that fails ends too, though its words are not read.
    let failing = Start::without_database()
        .database_url("postgresql://u@127.0.0.1:1/d?connect_timeout=1")
        .arguments(["--database-wait", "0s"])
        .stderr(pipe.end())
        .failing();
    assert_eq!(failing.status.code(), Some(1), "{failing:#?}");
}
