//! Pipes and devices where the server looks for plain files: it neither waits for them nor reads without end.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::scratch::Scratch;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::program::{Ended, Process};
use crate::support::server::{Server, Start};

const NOT_PLAIN: &str = "it is not a plain file";
const URL: &str = "postgresql://127.0.0.1:1/d";

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[track_caller]
fn expect_failure(ended: &Ended, code: i32, texts: &[&str]) {
    assert_eq!(ended.status.code(), Some(code), "{ended:#?}");
    for text in texts {
        assert!(ended.stderr.contains(text), "no {text:?} in {ended:#?}");
    }
}

#[test]
fn a_config_file_that_is_not_plain() {
    let scratch = Scratch::new();
    scratch.write_config("");
    let config = scratch.home("config.toml");
    let run = |arguments: &[&str]| Process::start(scratch.command(arguments)).ended();
    let make_link = |path: &Path| symlink("/dev/zero", path).unwrap();
    for make in [make_pipe as fn(&Path), make_link] {
        fs::remove_file(&config).unwrap();
        make(&config);
        for arguments in [
            ["config", "list"].as_slice(),
            &["config", "get", "bind"],
            &["config", "set", "workers", "3"],
            &["serve", "--database-url", URL],
            &["serve", "--check", "--database-url", URL],
            &["keys", "list", "--database-url", URL],
            &["health"],
        ] {
            expect_failure(&run(arguments), 1, &["config.toml", NOT_PLAIN]);
        }
    }
    // A way to say that there is none.
    fs::remove_file(&config).unwrap();
    symlink("/dev/null", &config).unwrap();
    run(&["config", "get", "bind"]).expect_code(0);
    fs::remove_file(&config).unwrap();
    fs::write(&config, "#".repeat(2 << 20)).unwrap();
    expect_failure(&run(&["config", "list"]), 1, &["config.toml", "longer than 1024 KiB"]);
}

/// The thread that reads the configuration again is still there for the next hangup.
#[test]
fn a_config_file_that_becomes_a_pipe() {
    let database = Database::new();
    let server = Start::on(&database).after(r#"set -- env --default-signal=HUP "$@""#).serving();
    let config = server.home().join("config.toml");
    make_pipe(&config);
    server.signal("HUP");
    server.log_line(&["SIGHUP: nothing is changed: ", NOT_PLAIN]);
    fs::remove_file(&config).unwrap();
    fs::write(&config, "access_log = true\n").unwrap();
    server.signal("HUP");
    server.log_line(&["SIGHUP: in force from now on: access_log"]);
    server.terminate().expect_code(0);
}

#[test]
fn secret_files_that_are_not_plain() {
    let scratch = Scratch::new();
    let pipe = scratch.path().join("pipe");
    make_pipe(&pipe);
    let pipe = pipe.to_str().unwrap();
    for arguments in [
        ["serve", "--database-url-file", pipe].as_slice(),
        &["serve", "--check", "--database-url-file", pipe],
        &["keys", "list", "--database-url-file", pipe],
        &["serve", "--database-url", URL, "--bootstrap-key-file", pipe],
    ] {
        let ended = Process::start(scratch.command(arguments)).ended();
        expect_failure(&ended, 2, &[pipe, NOT_PLAIN]);
    }
    let of_client = format!("sslmode=require&sslcert={pipe}&sslkey={pipe}");
    for parameters in [format!("sslmode=verify-full&sslrootcert={pipe}"), of_client] {
        let url = format!("{URL}?{parameters}");
        let ended = Process::start(scratch.command(&["keys", "list", "--database-url", &url])).ended();
        expect_failure(&ended, 2, &[pipe, NOT_PLAIN]);
    }
}

/// What a shell's `<(…)` and `<` hand over is open already, and its writer is there.
#[test]
fn secrets_through_pipes_that_are_handed_over() {
    let databases = [(); 3].map(|()| Database::new());
    let urls = databases.each_ref().map(Database::url);
    let [first, second, third] = &urls;
    for (file, prelude) in [
        ("/dev/fd/7", format!("exec 7<<.\n{first}\n.\n:")),
        ("/dev/stdin", format!("exec <<.\n{second}\n.\n:")),
        ("/proc/self/fd/7", format!("exec 7<<.\n{third}\n.\n:")),
    ] {
        let directory = Directory::new();
        let prelude = format!("cd '{}'; {prelude}", directory.path().display());
        let server =
            Start::without_database().arguments(["--database-url-file", file]).after(&prelude).serving();
        assert!(server.lets_in(&server.bootstrap_key()));
    }
}

#[test]
fn a_bootstrap_key_file_that_is_not_plain() {
    let database = Database::new();
    Server::migrate(&database);
    let home = Directory::new();
    let file = home.join("bootstrap-key");
    let make_link = |path: &Path| symlink("/dev/zero", path).unwrap();
    for make in [make_pipe as fn(&Path), make_link] {
        make(&file);
        let ended = Start::on(&database).home(&home).failing();
        expect_failure(&ended, 1, &["bootstrap-key", NOT_PLAIN, "the database is unchanged"]);
        assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 0);
        fs::remove_file(&file).unwrap();
    }
    let server = Start::on(&database).home(&home).serving();
    assert!(server.lets_in(&server.bootstrap_key()));
}
