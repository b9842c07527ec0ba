//! No process of a task is left when there is an outcome, whatever it did to stay.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::attempt::{As, Attempt, Outcome, Running, both};
use super::task::is_root;
use crate::support::program::{children, send_signal};
use crate::support::{PATIENCE, Seeded, wait_for};

/// Prelude of a task's script: `stay` locks `$HERE/shared/NAME` until its process ends, and says when it has it.
const STAY: &str = "stay() { exec 7>$HERE/shared/$1; flock 7 || exit; echo $1 has it; exec sleep 600; }\n";

/// Nothing holds the file any more.
#[track_caller]
fn expect_free(directory: &Path) {
    let mut files = 0;
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let lock = File::open(entry.path()).unwrap();
        lock.try_lock().unwrap_or_else(|error| panic!("{}: {error}", entry.path().display()));
        files += 1;
    }
    assert!(files > 0, "nothing ever locked a file");
}

/// Runs a script, after the function above.
fn run(attempt: Attempt) -> Outcome {
    let shared = attempt.shared();
    let outcome = attempt.run();
    expect_free(&shared);
    outcome
}

fn staying(supervisor: As, script: &str) -> Attempt {
    let attempt = Attempt::script(supervisor, &format!("{STAY}{script}"));
    attempt.shared();
    attempt
}

fn wait_for_log(running: &Running, text: &str) {
    let log = running.attempt.path().join("log");
    wait_for(text, || fs::read_to_string(&log).unwrap_or_default().contains(text).then_some(()));
}

#[test]
fn what_a_command_leaves_behind_is_ended_with_it() {
    let until = |name: &str| format!("until grep -q '{name} has it' $HOME/said; do sleep 0.02; done");
    for supervisor in both() {
        for script in [
            // In its group, in a session of its own, and without a parent.
            "stay a >$HOME/said & ",
            "(setsid sh -c \"$FUNCTIONS stay a\" >$HOME/said 2>&1 &)",
            "((stay a) >$HOME/said &) &",
            // Deaf to SIGTERM, and stopped.
            "(trap '' TERM HUP INT; stay a) >$HOME/said &",
            "(stay a) >$HOME/said & until grep -q has $HOME/said; do sleep 0.02; done; kill -s STOP $!",
        ] {
            let script = format!("FUNCTIONS='{STAY}'\n{script}\n{}\nexit 5", until("a"));
            run(staying(supervisor, &script)).expect_end(json!({"exited": 5}));
        }
    }
}

#[test]
fn last_words_of_a_pipeline_are_in_the_log() {
    let outcome = Attempt::script(As::Plain, "(sleep 0.3; echo last words) & echo first").run();
    assert_eq!(outcome.expect_end(json!({"exited": 0})).log_text(), "first\nlast words\n");
}

#[test]
fn a_process_that_holds_the_pipe_does_not_hold_the_outcome() {
    // It would sleep for longer than any test waits.
    let outcome =
        run(staying(As::Plain, "(stay a) & until flock -n $HERE/shared/a true; [ $? = 1 ]; do :; done"));
    outcome.expect_end(json!({"exited": 0}));
}

#[test]
fn a_task_is_ended_at_its_timeout() {
    for supervisor in both() {
        // With the signal, and after the grace without.
        let polite = "trap 'echo ended politely; exit 0' TERM; (stay a) & while :; do sleep 0.05; done";
        let outcome = run(staying(supervisor, polite).with("timeout_ms", 1_000)).expect_end("timed_out");
        assert!(outcome.log_text().contains("ended politely"), "{:?}", outcome.log_text());
        let deaf = "trap '' TERM; stay a";
        run(staying(supervisor, deaf).with("timeout_ms", 500).with("grace_ms", 200)).expect_end("timed_out");
        let stopped = "(stay a) & kill -s STOP $$";
        run(staying(supervisor, stopped).with("timeout_ms", 1_000)).expect_end("timed_out");
    }
}

#[test]
fn what_a_command_started_has_the_grace_too() {
    // The shell ends at once; its child, in a group of its own as of timeout(1), puts things in order first.
    let script = "setsid python3 -c '
import signal, sys, time
def end(*_):
    time.sleep(1.5); print(\"in order\", flush=True); sys.exit()
signal.signal(signal.SIGTERM, end); print(\"ready\", flush=True)
while True: time.sleep(60)' & wait";
    let running = Attempt::script(As::Plain, script).start();
    wait_for_log(&running, "ready");
    running.process.signal("TERM");
    assert_eq!(running.ended().expect_end("cancelled").log_text(), "ready\nin order\n");
}

#[test]
fn processes_that_fork_all_the_time_are_ended() {
    // Each forks a successor in a session of its own and ends, so that none of them is there for long. Should one escape, it
    // ends by itself.
    let comet = "import os, fcntl, time; end = time.time() + 20
lock = open(os.environ['HERE'] + '/shared/a', 'w'); fcntl.flock(lock, fcntl.LOCK_EX)
os.set_inheritable(lock.fileno(), True)
for _ in range(4):
    if os.fork() == 0:
        os.close(1); os.close(2)
        while time.time() < end:
            if os.fork(): os._exit(0)
            os.setsid()
        os._exit(0)
print('off they go', flush=True)
time.sleep(0.3)";
    // Some tens of processes that never stop making more.
    let bomb = "import os, fcntl, resource, time; end = time.time() + 20
lock = open(os.environ['HERE'] + '/shared/a', 'w'); fcntl.flock(lock, fcntl.LOCK_EX)
resource.setrlimit(resource.RLIMIT_NPROC, (60, 60))
if os.fork() == 0:
    while time.time() < end:
        try:
            if os.fork() == 0: os.setsid()
        except OSError: pass
    os._exit(0)
time.sleep(0.5)";
    for supervisor in both() {
        for (name, script) in [("comet", comet), ("bomb", bomb)] {
            let attempt = Attempt::python(supervisor, script);
            let shared = attempt.shared();
            let outcome = attempt.run();
            assert_eq!(outcome.outcome["warnings"], json!([]), "{name} {supervisor:?}");
            let [started, ended] =
                ["started_at_ms", "ended_at_ms"].map(|at| outcome.outcome[at].as_u64().unwrap());
            assert!(ended - started < 20_000, "{name} {supervisor:?} ended by itself");
            println!("{name} {supervisor:?}: over after {} ms", ended - started);
            expect_free(&shared);
            outcome.expect_end(json!({"exited": 0}));
        }
    }
}

#[test]
fn exec_task_may_be_killed_before_it_is_the_command() {
    let mut killed = 0;
    // On a quick machine it rarely is slow enough.
    for round in 0..400 {
        if killed == 5 {
            break;
        }
        let running = Attempt::script(As::Plain, "sleep 0.01; exit 3").start();
        // Without a pause: it is the command within a millisecond or two.
        let until = Instant::now() + PATIENCE;
        let child = loop {
            assert!(Instant::now() < until, "waited {PATIENCE:?} in vain for a child");
            if let Some(child) = children(running.process.pid()).first() {
                break *child;
            }
            if running.attempt.path().join("outcome.json").exists() {
                break 0;
            }
        };
        let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        if child != 0 && Path::new(&format!("/proc/{child}")).exists() {
            let _ =
                Command::new("sh").args(["-c", "kill -s KILL $0 2>/dev/null", &child.to_string()]).status();
        }
        let outcome = running.ended();
        let expected = [json!({"signaled": {"signal": 9, "name": "SIGKILL"}}), json!({"exited": 3})];
        assert!(expected.contains(outcome.end()), "round {round}: {}", outcome.outcome);
        // It is started as /proc/self/exe, and the command as `sh`.
        killed += u32::from(outcome.end() == &expected[0] && name.trim() != "sh");
    }
    assert!(killed > 0, "not one was killed before it was the command");
}

/// Each task forks a child twice, which locks a file; the supervisor or a process of the task gets a signal at any
/// time.
#[test]
fn two_hundred_attempts_that_are_killed_leave_nothing() {
    let ends = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for seed in 0..4 {
            let ends = &ends;
            scope.spawn(move || {
                let mut random = Seeded::new(16 + seed);
                for _ in 0..50 {
                    let end = kill_one(&mut random);
                    ends.lock().unwrap().insert(end);
                }
            });
        }
    });
    let ends = ends.into_inner().unwrap();
    assert!(ends.len() >= 3, "they ended in fewer ways than there are: {ends:?}");
}

fn kill_one(random: &mut Seeded) -> String {
    let supervisor = if random.next().is_multiple_of(2) && is_root() { As::Root } else { As::Plain };
    let script =
        "exec >/dev/null 2>&1; (setsid sh -c \"$FUNCTIONS stay a\" &) ; (stay b) & sleep 0.1; exit 6";
    let script = format!("FUNCTIONS='{STAY}'\n{script}");
    let attempt = staying(supervisor, &script).with("grace_ms", random.next() % 50);
    let shared = attempt.shared();
    let mut running = attempt.start();
    running.wait_until_it_works();
    thread::sleep(Duration::from_micros(random.next() % 150_000));
    let tasks = children(running.process.pid());
    match random.next() % 3 {
        0 => running.process.signal_if_running("TERM"),
        1 if !tasks.is_empty() => {
            // A child of the supervisor, which may have ended by now.
            let task = tasks[random.next() as usize % tasks.len()].to_string();
            let _ = Command::new("sh").args(["-c", "kill -s KILL $0 2>/dev/null", &task]).status();
        }
        _ => drop(running.stdin.take()),
    }
    let outcome = running.ended();
    for entry in fs::read_dir(&shared).unwrap().map(Result::unwrap) {
        let lock = File::open(entry.path()).unwrap();
        lock.try_lock().unwrap_or_else(|error| panic!("{error} after {}", outcome.outcome));
    }
    assert_eq!(outcome.outcome["warnings"], json!([]));
    outcome.end().to_string()
}

/// A supervisor that is killed takes the command with it; what is further down is left for its parent to find.
#[test]
fn a_command_ends_with_its_supervisor() {
    for supervisor in both() {
        let attempt = staying(supervisor, "stay a");
        let shared = attempt.shared();
        let running = attempt.start();
        wait_for_log(&running, "a has it");
        running.process.signal("KILL");
        wait_for("the end of the command", || File::open(shared.join("a")).unwrap().try_lock().ok());
        assert!(!running.attempt.path().join("outcome.json").exists());
        wait_for("the end of the supervisor", || {
            File::open(running.attempt.path().join("attempt.lock")).unwrap().try_lock().ok()
        });
    }
}

#[test]
fn a_tree_that_a_task_made_to_stay_is_removed() {
    let script = "
import os
home = os.environ['HOME']; os.chdir(home)
os.symlink(os.environ['HERE'] + '/shared', 'link')
os.mkdir('closed'); os.mkdir('closed/inner'); open('closed/inner/file', 'w').close()
for name in ['moved-up-%d' % n for n in range(1, 50)]:
    os.mkdir(name); open(name + '/file', 'w').close()
for name in ['moved-up-%d' % n for n in range(50, 60)]: open(name, 'w').close()
os.mkfifo('pipe'); os.mkdir(b'\\xff\\n'); open(b'\\xff\\n/x', 'w').close()
for name in ['a', 'b']:
    os.chdir(home)
    for n in range(400):
        os.mkdir(name * 200); os.symlink('/', 'root-' + name)
        os.chdir(name * 200)
        if n % 7 == 0: os.chmod('.', 0o300)
    os.chmod('.', 0)
os.chmod(home + '/closed/inner', 0); os.chmod(home + '/closed', 0); os.chmod(home, 0)
";
    for supervisor in both() {
        let attempt = Attempt::python(supervisor, script);
        fs::write(attempt.shared().join("file"), "stays").unwrap();
        let shared = attempt.shared();
        let outcome = attempt.run().expect_end(json!({"exited": 0}));
        assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "stays");
        drop(outcome);
    }
}

#[test]
fn an_attempt_has_one_supervisor() {
    let running = Attempt::script(As::Plain, "echo runs; sleep 600").start();
    wait_for_log(&running, "runs");
    // It waits for a moment, in case the first one only looked.
    let second = running.attempt.command().output().unwrap();
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && told.contains("another supervisor runs it"), "{told}");
    send_signal("TERM", &running.process.pid().to_string());
    let outcome = running.ended().expect_end("cancelled");
    let before: Value = outcome.outcome.clone();
    // Once there is an outcome, another supervisor changes nothing.
    assert!(outcome.attempt.command().output().unwrap().status.success());
    assert_eq!(Outcome::of(outcome.attempt).outcome, before);
}

/// By what is in the lock's file a server knows whether anything has been started, and which process to follow.
#[test]
fn a_supervisor_says_which_process_it_is_before_the_command_starts() {
    for supervisor in both() {
        let running = Attempt::script(supervisor, "echo runs; cat >/dev/null; sleep 600").start();
        wait_for_log(&running, "runs");
        let lock = running.attempt.path().join("attempt.lock");
        let said: u32 = fs::read_to_string(&lock).unwrap().parse().unwrap();
        let line = fs::read(format!("/proc/{said}/cmdline")).unwrap();
        assert!(line.split(|byte| *byte == 0).any(|argument| argument == b"supervise-task"), "{line:?}");
        // Killed, it leaves that behind, and no other one starts the task again.
        running.process.signal("KILL");
        let free = || File::open(&lock).unwrap().try_lock().ok();
        wait_for("the end of the supervisor", free);
        let second = running.attempt.command().output().unwrap();
        let told = String::from_utf8(second.stderr).unwrap();
        assert!(!second.status.success() && told.contains("it has been supervised before"), "{told}");
        assert_eq!(fs::read_to_string(&lock).unwrap(), said.to_string());
        assert!(!running.attempt.path().join("outcome.json").exists());
    }
}

#[test]
fn a_supervisor_starts_nothing_where_it_is_not_to() {
    let attempt = Attempt::script(As::Plain, "touch $HERE/shared/ran");
    let shared = attempt.shared();
    attempt.make();
    fs::write(attempt.path().join("attempt.lock"), "never").unwrap();
    let output = attempt.command().output().unwrap();
    assert!(!output.status.success() && !attempt.path().join("outcome.json").exists(), "{output:?}");
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
}
