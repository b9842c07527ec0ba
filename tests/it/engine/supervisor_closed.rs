//! A task cannot keep its supervisor from its work: not by its own pipe, and not by closing the attempt's directory.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use serde_json::json;

use super::attempt::{As, Attempt, Outcome, both};
use super::task::{is_root, made_up_user};

/// Two processes print, and two take out of the pipe again what was printed.
const DRAINING: &str = "
import os
os.fork(); is_reader = os.fork() == 0
pipe = os.open('/proc/self/fd/1', os.O_RDONLY)
while True:
    os.read(pipe, 1 << 16) if is_reader else os.write(1, b'x' * 10)
";

#[test]
fn a_task_that_reads_what_it_prints_is_ended_at_its_timeout() {
    for supervisor in both() {
        let outcome = Attempt::python(supervisor, DRAINING).with("timeout_ms", 2_000).run();
        assert_eq!(outcome.end(), "timed_out", "{}", outcome.outcome);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Landlock lets a task change modes, so it does not matter that it is off here.
#[test]
fn a_task_that_closes_the_directory_of_its_attempt_has_an_outcome() {
    let script = "cd $HERE/attempt; echo first
until [ -s log ]; do sleep 0.01; done
chmod 0 log outcome.partial spec.json attempt.lock; chmod 0 task/home task .; chmod 0 $HERE 2>/dev/null
# More than the first file takes, and more than is kept.
head -c 100000 /dev/zero";
    let attempt = Attempt::script(As::Plain, script).with("log_limit_bytes", 16 << 10);
    if is_root() {
        chown(attempt.directory.path(), Some(made_up_user()), Some(made_up_user())).unwrap();
    }
    let running = attempt.start();
    let (attempt, ended) = (running.attempt, running.process.ended());
    assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
    assert_eq!(mode(attempt.directory.path()), 0, "the script has not closed everything");
    fs::set_permissions(attempt.directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let outcome = Outcome::of(attempt);
    // What it closed to the supervisor as well is its own loss.
    let why = "output.json cannot be read: Permission denied";
    assert_eq!(outcome.end(), &json!({"failed": why}), "{}", outcome.outcome);
    assert_eq!(outcome.outcome["warnings"], json!([]));
    assert_eq!(outcome.outcome["log_bytes"], 100_006, "{}", outcome.outcome);
    let path = outcome.attempt.path();
    assert_eq!(mode(&path) & 0o700, 0o700);
    let mut files = 0;
    for entry in fs::read_dir(&path).unwrap().map(Result::unwrap) {
        assert_eq!(mode(&entry.path()) & 0o600, 0o600, "{entry:?}");
        files += 1;
    }
    assert!(files >= 5, "{files} files: what was to be told, a lock, an outcome, and a log of two or more");
}

#[test]
fn no_process_of_its_user_looks_into_a_supervisor() {
    let running = Attempt::script(As::Plain, "sleep 600").start();
    running.wait_until_it_works();
    let process = format!("/proc/{}", running.process.child.id());
    // They belong to root once the kernel shows them to no other process.
    assert_eq!(fs::metadata(format!("{process}/environ")).unwrap().uid(), 0);
    assert_eq!(fs::metadata(format!("{process}/mem")).unwrap().uid(), 0);
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let cores: Vec<_> = cores.split_ascii_whitespace().skip(4).take(2).collect();
    assert!(cores == ["1", "1"] || cores == ["0", "0"], "{cores:?}");
    running.process.signal("TERM");
    running.ended().expect_end("cancelled");
}
