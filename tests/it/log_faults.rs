//! Logs that cannot be written while the server runs: it goes on, says so in one line, and writes again when it can.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::postgres::Database;
use crate::support::server::Server;
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
