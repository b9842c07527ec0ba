//! How attempts are started, and how they end.

use super::*;
use crate::engine::attempt::{LOCK_NAME, NEVER, OUTCOME_NAME};

#[test]
fn one_is_started_ends_and_is_removed() {
    let home = Home::new();
    let mut attempts = home.open("end '{\"exited\":3}'");
    assert!(attempts.find().unwrap().is_empty());
    let claimed = home.claimed();
    let id = claimed.attempt;
    attempts.start(claimed);
    expect_end(&end_of(&mut attempts), id, &End::Exited(3));
    assert_eq!(attempts.attempts.len(), 0);
    assert!(home.attempt(id).join(OUTCOME_NAME).exists());
    attempts.remove(id);
    let directory = home.0.join("attempts");
    wait_for("an empty directory", || fs::read_dir(&directory).unwrap().count() == 0);
    attempts.remove(id);
    // Nothing happens, and `wait` returns when it is told to.
    attempts.waker().wake();
    assert!(attempts.wait(PATIENCE).is_empty());
    assert!(attempts.wait(Duration::ZERO).is_empty());
}

#[test]
fn a_cancelled_one_is_told_once() {
    let home = Home::new();
    let script = r#"trap 'echo x >>"$dir/told"' TERM; touch "$dir/ready"
        for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; [ -e "$dir/told" ] && sleep 0.3 && end '"cancelled"'; done"#;
    let mut attempts = home.open(script);
    let claimed = home.claimed();
    let id = claimed.attempt;
    attempts.start(claimed);
    wait_for("the supervisor", || home.attempt(id).join("ready").exists());
    for _ in 0..5 {
        attempts.wait(Duration::from_millis(1));
        attempts.cancel(id);
    }
    expect_end(&end_of(&mut attempts), id, &End::Cancelled);
    assert_eq!(fs::read_to_string(home.attempt(id).join("told")).unwrap(), "x\n");
}

#[test]
fn one_that_is_cancelled_at_once_is_not_started_or_told() {
    let home = Home::new();
    let mut attempts = home.open("trap 'end \"\\\"cancelled\\\"\"' TERM; while :; do sleep 0.05; done");
    for _ in 0..10 {
        let claimed = home.claimed();
        let id = claimed.attempt;
        attempts.start(claimed);
        attempts.cancel(id);
        match end_of(&mut attempts) {
            Event::Ended(its, outcome) => assert_eq!((its, outcome.end), (id, End::Cancelled)),
            // A signal comes before the script has its trap; the real supervisor starts with signals blocked.
            Event::Abandoned(its, _) | Event::NeverStarted(its) => assert_eq!(its, id),
            event => panic!("{event:?}"),
        }
    }
    assert!(attempts.starter.cancelled.lock().is_empty());
}

#[test]
fn one_that_cannot_be_started_leaves_nothing() {
    let home = Home::new();
    let mut attempts = home.open("");
    // The package is not there, and cannot be read.
    let missing = claimed();
    let id = missing.attempt;
    attempts.start(missing);
    assert!(matches!(end_of(&mut attempts), Event::NeverStarted(its) if its == id));
    // What is no hash would be a path.
    let wrong = Claimed { package_sha256: "../../../etc".to_owned(), ..claimed() };
    attempts.start(wrong);
    let Event::Ended(_, Outcome { end: End::Failed(why), .. }) = end_of(&mut attempts) else { panic!() };
    assert_eq!(why, "it could not be started: `../../../etc` is no SHA-256 of a package");
    // The supervisor is not there.
    let claimed = home.claimed();
    fs::remove_file(&attempts.starter.settings.program).unwrap();
    attempts.start(claimed);
    let Event::Ended(_, Outcome { end: End::Failed(why), .. }) = end_of(&mut attempts) else { panic!() };
    assert!(why.starts_with("it could not be started: No such file"), "{why}");
    assert_eq!(fs::read_dir(home.0.join("attempts")).unwrap().count(), 0);
    assert_eq!(attempts.attempts.len(), 0);
}

#[test]
fn one_that_was_killed_is_abandoned_once_nothing_of_it_is_left() {
    let home = Home::new();
    // Its process goes on with the mark, and a child without.
    let script = r#"CLOACINA_OUTPUT=$dir/task/output.json sh -c '(env -i sh -c "exec 8>$0/a; flock 8; sleep 600" "$0" &
            sleep 600) & exec 8>$0/b; flock 8; sleep 600' "$dir" 9>&- &
        until [ -e "$dir/a" ] && [ -e "$dir/b" ]; do sleep 0.01; done; sleep 0.1; kill -9 $$"#;
    let mut attempts = home.open(script);
    let claimed = home.claimed();
    let id = claimed.attempt;
    attempts.start(claimed);
    match end_of(&mut attempts) {
        Event::Abandoned(its, why) => assert_eq!((its, why.as_str()), (id, "its supervisor was killed")),
        event => panic!("{event:?}"),
    }
    for name in ["a", "b"] {
        File::open(home.attempt(id).join(name)).unwrap().try_lock().unwrap();
    }
}

#[test]
fn one_whose_supervisor_never_began_is_known() {
    let home = Home::new();
    let mut attempts = home.open("");
    // As if it were killed before it has written its id.
    let program = attempts.starter.settings.program.clone();
    for (script, is_failure) in [("#!/bin/sh\nkill -9 $$\n", false), ("#!/bin/sh\nexit 1\n", true)] {
        write_program(&program, script);
        let claimed = home.claimed();
        let id = claimed.attempt;
        attempts.start(claimed);
        match end_of(&mut attempts) {
            Event::NeverStarted(its) if !is_failure => assert_eq!(its, id),
            Event::Ended(its, Outcome { end: End::Failed(why), .. }) if is_failure => {
                assert_eq!(its, id);
                assert_eq!(why, "its supervisor could not begin, and ended with exit code 1");
            }
            event => panic!("{event:?}"),
        }
        // One that comes late starts nothing.
        assert_eq!(fs::read_to_string(home.attempt(id).join(LOCK_NAME)).unwrap(), NEVER);
    }
}
