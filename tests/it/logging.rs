//! Log lines, as `serve` writes them before it finds that there is no database.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use crate::scratch::{Outcome, Scratch, mode};

const LOG: &str = "logs/cloacina-server.log";

/// A server whose database is not there, so that it stops by itself.
const SERVE: &[&str] = &[
    "serve",
    "--bind=127.0.0.1:0",
    "--database-wait=0s",
    "--database-url=postgresql://cloacina:topsecret@127.0.0.1:1/cloacina?connect_timeout=1",
];

fn serve(scratch: &Scratch, variables: &[(&str, &str)], flags: &[&str]) -> Outcome {
    let arguments: Vec<_> = SERVE.iter().chain(flags).copied().collect();
    let outcome = scratch.run_with(variables, &arguments);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(!outcome.stderr.contains("topsecret"), "{outcome:?}");
    outcome
}

fn lines(scratch: &Scratch) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(scratch.home(LOG)).unwrap();
    assert!(!text.contains("topsecret"), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_file_has_one_object_per_line() {
    let scratch = Scratch::new();
    let outcome = serve(&scratch, &[], &[]);
    let text = fs::read_to_string(scratch.home(LOG)).unwrap();
    assert!(text.lines().count() > 0);
    for line in text.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        let timestamp = object["timestamp"].as_str().unwrap();
        assert_eq!(timestamp.len(), "2026-04-02T12:00:00.000000+00:00".len());
        assert!(timestamp.ends_with("+00:00"));
        assert!(line.starts_with("{\"timestamp\":\""), "{line}");
        assert!(["ERROR", "WARN", "INFO"].contains(&object["level"].as_str().unwrap()), "{line}");
        assert!(object["target"].is_string() && object["message"].is_string(), "{line}");
        // People see the same.
        assert!(outcome.stderr.contains(object["message"].as_str().unwrap()), "{line}");
    }
    assert_eq!(mode(&scratch.home("")), 0o700);
    assert_eq!(mode(&scratch.home("logs")), 0o700);
    assert_eq!(mode(&scratch.home(LOG)), 0o600);
}

#[test]
fn verbose_and_rust_log() {
    let debug = |variables: &[(&str, &str)], flags: &[&str]| {
        let scratch = Scratch::new();
        serve(&scratch, variables, flags);
        lines(&scratch).iter().any(|line| line["level"] == "DEBUG")
    };
    assert!(!debug(&[], &[]));
    assert!(debug(&[], &["--verbose"]));
    assert!(debug(&[("RUST_LOG", "cloacinactl=debug")], &[]));
    assert!(debug(&[("RUST_LOG", "error")], &["-v"]));
    let scratch = Scratch::new();
    serve(&scratch, &[("RUST_LOG", "off")], &[]);
    assert_eq!(lines(&scratch).len(), 0);
}

#[test]
fn a_directive_that_is_wrong_is_one_line() {
    let scratch = Scratch::new();
    let outcome = serve(&scratch, &[("RUST_LOG", "info,cloacinactl=loud")], &[]);
    assert_eq!(outcome.stderr.matches("cloacinactl=loud").count(), 1, "{outcome:?}");
    assert!(outcome.stderr.contains("RUST_LOG"));
}

#[test]
fn a_file_of_another_day_is_put_away_at_the_start() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.home("logs")).unwrap();
    fs::write(scratch.home(LOG), "{}\n").unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_775_131_200);
    File::options().append(true).open(scratch.home(LOG)).unwrap().set_modified(then).unwrap();
    serve(&scratch, &[], &[]);
    assert_eq!(fs::read_to_string(scratch.home(&format!("{LOG}.2026-04-02"))).unwrap(), "{}\n");
    assert!(lines(&scratch).iter().all(|line| line["message"].is_string()));
}

#[test]
fn a_log_that_cannot_be_written_is_one_line() {
    let full = Scratch::new();
    fs::create_dir_all(full.home("logs")).unwrap();
    std::os::unix::fs::symlink("/dev/full", full.home(LOG)).unwrap();
    let in_the_way = Scratch::new();
    fs::create_dir_all(in_the_way.home("")).unwrap();
    fs::write(in_the_way.home("logs"), "").unwrap();
    let directory = Scratch::new();
    fs::create_dir_all(directory.home(LOG)).unwrap();
    for scratch in [full, in_the_way, directory] {
        let outcome = serve(&scratch, &[], &["-v"]);
        assert_eq!(outcome.stderr.matches("cannot write").count(), 1, "{outcome:?}");
        assert!(outcome.stderr.contains("logging started"), "{outcome:?}");
    }
}

#[test]
fn nobody_reads_stderr() {
    let scratch = Scratch::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = scratch.command(SERVE).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(!lines(&scratch).is_empty());
}
