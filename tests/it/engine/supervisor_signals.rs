//! A cancelled attempt says so, at whatever time it is cancelled, by a signal or by its parent's end.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::attempt::{As, Attempt, Outcome, both};
use crate::support::program::Process;
use crate::support::{Seeded, wait_for};

#[test]
fn a_signal_before_the_secrets_cancels() {
    let attempt = Attempt::new(As::Plain, &["true"]);
    attempt.make();
    let mut command = attempt.command();
    command.stdin(Stdio::piped());
    let process = Process::start_with_stdin(command);
    let blocked = |status: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & (1 << 14) != 0)
    };
    let status = format!("/proc/{}/status", process.pid());
    wait_for("blocked signals", || blocked(&fs::read_to_string(&status).unwrap()).then_some(()));
    process.signal("TERM");
    assert_eq!(process.ended().status.code(), Some(0));
    Outcome::of(attempt).expect_end("cancelled");
}

#[test]
fn a_parent_that_ends_before_it_has_sent_the_secrets_has_started_nothing() {
    let attempt = Attempt::script(As::Plain, "touch $HERE/shared/ran");
    let shared = attempt.shared();
    attempt.make();
    let mut command = attempt.command();
    command.stdin(Stdio::null());
    let ended = Process::start_with_stdin(command).ended();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("its parent ended before it had sent the secrets"), "{}", ended.stderr);
    // No outcome, and a lock that says that nothing has been started: it is as if there had been no supervisor.
    assert!(!attempt.path().join("outcome.json").exists());
    assert_eq!(fs::read_to_string(attempt.path().join("attempt.lock")).unwrap(), "");
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
}

#[test]
fn secrets_that_are_none_are_refused_and_not_shown() {
    for secrets in
        [json!(["tops3cret"]), json!({"TOPS3CRET": 7}), json!("tops3cret"), json!({"A": "\0tops3cret"})]
    {
        let mut attempt = Attempt::new(As::Plain, &["true"]);
        attempt.secrets = secrets;
        let outcome = attempt.run();
        assert!(!outcome.failed().to_lowercase().contains("tops3cret"), "{}", outcome.outcome);
    }
    // More than all secrets can be.
    let mut attempt = Attempt::new(As::Plain, &["true"]);
    attempt.secrets = json!({"A": "x".repeat(5 << 20)});
    let outcome = attempt.run();
    assert!(outcome.failed().contains("longer than 4194304 bytes"), "{}", outcome.outcome);
}

#[test]
fn a_signal_at_any_time_ends_the_attempt() {
    let mut random = Seeded::new(4);
    let mut cancelled = 0;
    for round in 0..60 {
        let mut running = Attempt::script(As::Plain, "sleep 0.03").start();
        running.wait_until_it_works();
        thread::sleep(Duration::from_micros(random.next() % 60_000));
        running.process.signal_if_running("TERM");
        let outcome = running.ended();
        let end = outcome.end();
        assert!(end == "cancelled" || *end == json!({"exited": 0}), "round {round}: {end}");
        cancelled += usize::from(end == "cancelled");
    }
    assert!((1..60).contains(&cancelled), "{cancelled} of 60 were cancelled");
}

#[test]
fn a_task_ends_with_a_parent_that_is_killed_if_it_is_to() {
    for supervisor in both() {
        for ends in [true, false] {
            let attempt =
                Attempt::script(supervisor, "exec 7>$HERE/shared/a; flock 7; echo runs; sleep 3; exit 9")
                    .with("ends_with_parent", ends);
            let shared = attempt.shared();
            attempt.make();
            let mut command = attempt.command();
            // The parent is a shell that holds the other end of the supervisor's standard input.
            let arguments: Vec<_> = std::iter::once(command.get_program())
                .chain(command.get_args())
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect();
            let fifo = attempt.directory.join("fifo");
            let script = "mkfifo $0; \"$@\" <$0 & exec 8>$0; echo '{}' >&8; exec sleep 600";
            command = Command::new("sh");
            command.args(["-c", script]).arg(&fifo).args(arguments);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut parent = command.spawn().unwrap();
            let log = attempt.path().join("log");
            wait_for("the task", || {
                fs::read_to_string(&log).unwrap_or_default().contains("runs").then_some(())
            });
            parent.kill().unwrap();
            parent.wait().unwrap();
            let outcome = attempt.path().join("outcome.json");
            wait_for("the outcome", || outcome.exists().then_some(()));
            let lock = File::open(attempt.path().join("attempt.lock")).unwrap();
            wait_for("the supervisor's end", || lock.try_lock().ok());
            drop(lock);
            let outcome = Outcome::of(attempt);
            assert_eq!(*outcome.end(), if ends { json!("cancelled") } else { json!({"exited": 9}) });
            File::open(shared.join("a")).unwrap().try_lock().unwrap();
        }
    }
}

#[test]
fn what_a_parent_says_later_means_nothing() {
    use std::io::Write as _;
    let attempt = Attempt::script(As::Plain, "sleep 0.3; exit 9").with("ends_with_parent", true);
    let mut running = attempt.start();
    for _ in 0..50 {
        let _ = running.stdin.as_mut().unwrap().write_all(b"and now?\n");
    }
    running.ended().expect_end(json!({"exited": 9}));
}
