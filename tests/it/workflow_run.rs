//! `cloacinactl workflow run`: packages that run here, without server or database, and leave nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};

use crate::engine::task::made_up_user;
use crate::scratch::{Outcome, Scratch};
use crate::support::PATIENCE;
use crate::support::program::{Process, binary};

/// A package of a test, and where its attempts have their directories.
struct Here {
    scratch: Scratch,
}

impl Here {
    /// A package with this manifest behind name and version.
    fn new(manifest: &str) -> Here {
        let scratch = Scratch::new();
        for directory in
            [scratch.path().to_owned(), scratch.path().join("package"), scratch.path().join("tmp")]
        {
            fs::create_dir_all(&directory).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let here = Here { scratch };
        here.write("package.toml", &format!("[package]\nname = \"tried\"\nversion = \"1.0.0\"\n{manifest}"));
        here
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path("package").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A task whose command is a script of this text, and further lines of its table.
    fn with_task(self, id: &str, script: &str, lines: &str) -> Here {
        self.write(&format!("{id}.sh"), &format!("#!/bin/sh\n{script}\n"));
        let path = self.path("package/package.toml");
        let manifest = fs::read_to_string(&path).unwrap();
        fs::write(
            path,
            format!("{manifest}\n[[tasks]]\nid = \"{id}\"\ncommand = [\"./{id}.sh\"]\n{lines}\n"),
        )
        .unwrap();
        self
    }

    fn command(&self, flags: &[&str]) -> Command {
        run(&self.scratch, &self.path("package"), flags, &self.path("tmp"))
    }

    /// Runs it to its end, and looks whether anything is left.
    #[track_caller]
    fn run(&self, flags: &[&str]) -> Outcome {
        let ended = Process::start(self.command(flags)).ended();
        self.is_clean();
        Outcome { code: ended.status.code(), stdout: ended.stdout, stderr: ended.stderr }
    }

    /// No attempt has left a directory.
    #[track_caller]
    fn is_clean(&self) {
        let left: Vec<_> =
            fs::read_dir(self.path("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// A file of the test that its tasks may write, and the flag for that.
    fn shared(&self) -> (PathBuf, String) {
        let path = self.path("shared");
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let flag = format!("{}:rw", path.display());
        (path, flag)
    }
}

/// `workflow run`, by root for another user.
fn run(scratch: &Scratch, package: &Path, flags: &[&str], temporary: &Path) -> Command {
    let package = package.to_str().unwrap();
    let mut arguments = vec!["workflow", "run", package];
    if Uid::effective().is_root() {
        arguments.extend(["--task-user", "nobody"]);
    }
    arguments.extend(flags);
    let mut command = scratch.command(&arguments);
    command.env("TMPDIR", temporary);
    command
}

#[track_caller]
fn expect(outcome: &Outcome, code: i32, texts: &[&str]) {
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(code), ""), "{outcome:?}");
    for text in texts {
        assert!(outcome.stdout.contains(text), "no {text:?} in\n{}", outcome.stdout);
    }
}

/// The processes whose command line has this text in it.
fn processes(mark: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let line = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("cmdline")).ok();
    entries.filter_map(line).filter(|line| line.contains(mark)).collect()
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not so after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn tasks_run_in_their_order_and_hand_on_what_they_found() {
    let here = Here::new("")
        .with_task("first", r#"echo '{"rows":3}' >"$CLOACINA_OUTPUT"; echo one line"#, "")
        .with_task(
            "second",
            "cat; echo",
            "dependencies = [\"first\"]\nrun_if = { context = \"rows\", greater_than = 2 }",
        )
        .with_task(
            "never",
            "echo wrong",
            "dependencies = [\"first\"]\nrun_if = { context = \"rows\", equals = 0 }",
        );
    let outcome = here.run(&["--context", r#"{"day":"2026-01-31"}"#]);
    expect(&outcome, 0, &["first   started", "first   completed", "second  completed", "never   skipped"]);
    expect(&outcome, 0, &["tried completed in ", "(2 completed, 1 skipped)"]);
    let outcome = here.run(&["--task", "second", "--context", r#"{"day":"2026-01-31"}"#]);
    expect(&outcome, 0, &["  | {\"day\":\"2026-01-31\"}", "(1 completed)"]);
}

#[test]
fn what_failed_is_shown_with_what_it_printed_last() {
    let here = Here::new("")
        .with_task("breaks", "seq 1 50; printf '\\033]0;title\\007\\033[2J red\\n' >&2; exit 3", "")
        .with_task("after", "echo no", "dependencies = [\"breaks\"]")
        .with_task("alarm", "echo called", "dependencies = [\"breaks\"]\nrun_if = { failed = \"breaks\" }")
        .with_task("allowed", "kill -SEGV $$", "allow_failure = true");
    let outcome = here.run(&[]);
    expect(&outcome, 1, &["breaks   failed", "exit code 3", "  | 50\n", "after    skipped", "`breaks`"]);
    expect(
        &outcome,
        1,
        &["alarm    completed", "allowed  failed", "SIGSEGV", "tried failed in ", ": breaks ("],
    );
    assert!(
        !outcome.stdout.contains("  | 20\n") && outcome.stdout.contains("  | 32\n"),
        "{}",
        outcome.stdout
    );
    assert!(outcome.stdout.contains("\\u{1b}]0;title\\u{7}"), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains('\u{1b}'), "{}", outcome.stdout);
}

#[test]
fn an_archive_runs_as_its_directory_does() {
    let here = Here::new("").with_task("only", "pwd; ls", "");
    let packed = here.scratch.run(&["workflow", "pack", here.path("package").to_str().unwrap()]);
    packed.printed("tried-1.0.0.tar.gz\n");
    let mut command =
        run(&here.scratch, &here.path("tried-1.0.0.tar.gz"), &["--task", "only"], &here.path("tmp"));
    // A careful user's umask keeps no task out.
    let mut careful = Command::new("sh");
    careful.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    careful.env_clear().env("TMPDIR", here.path("tmp"));
    let _ = command.env_clear();
    let ended = Process::start(careful).ended().expect_code(0);
    assert!(
        ended.stdout.contains("  | only.sh\n") && ended.stdout.contains("  | package.toml\n"),
        "{ended:?}"
    );
    here.is_clean();
}

/// What a task prints is shown below the events while it runs, and the terminal obeys none of it.
#[test]
fn on_a_terminal_the_last_line_of_what_runs_is_shown() {
    let here = Here::new("").with_task(
        "speaks",
        "printf 'first\\n\\033]0;title\\007\\033[2Jsecond\\n'; until [ -e \"$0.over\" ]; do sleep 0.1; done",
        "",
    );
    let command = here.command(&[]);
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &words.join(" "), "/dev/null"]).env_clear();
    terminal.env("PATH", "/usr/bin:/bin").env("COLUMNS", "70").env("TMPDIR", here.path("tmp"));
    let process = Process::start(terminal);
    wait_until("it is shown", || process.stdout.text().contains("second"));
    here.write("speaks.sh.over", "");
    let ended = process.ended().expect_code(0);
    let printed = ended.stdout;
    assert!(printed.contains("\\u{1b}]0;title\\u{7}\\u{1b}[2Jsecond"), "{printed:?}");
    assert!(printed.contains("speaks  completed"), "{printed:?}");
    // Up and away with the lines of before, and lines that are not broken: no other sequence is in it.
    let own = ["\u{1b}[1F", "\u{1b}[J", "\u{1b}[?7l", "\u{1b}[?7h"];
    let rest = own.iter().fold(printed.clone(), |text, sequence| text.replace(sequence, ""));
    assert!(!rest.contains('\u{1b}') && !rest.contains('\u{7}'), "{printed:?}");
    here.is_clean();
}

#[test]
fn a_failed_task_is_tried_again() {
    let here = Here::new("").with_task(
        "flaky",
        r#"echo "attempt $CLOACINA_ATTEMPT"; [ "$CLOACINA_ATTEMPT" = 3 ]"#,
        "retries = { attempts = 4, delay = \"10ms\", jitter = false }",
    );
    let outcome = here.run(&[]);
    expect(&outcome, 0, &["attempt 1 of 4", "attempt 2 of 4", "  | attempt 2\n", "completed"]);
    assert!(!outcome.stdout.contains("attempt 3 of 4"), "{}", outcome.stdout);
}

#[test]
fn a_task_that_takes_too_long_is_ended() {
    let here = Here::new("").with_task("slow", "sleep 600", "timeout = \"1s\"");
    expect(&here.run(&[]), 1, &["slow  failed", " s, timed out"]);
}

/// Each task has a child that left its session and its parent.
#[test]
fn an_interrupt_ends_every_process() {
    let here = Here::new("")
        .with_task("one", "(setsid sleep 600.125 &) ; echo up >\"$SHARED/one\"; sleep 600.125", "")
        .with_task("two", "trap '' TERM; echo up >\"$SHARED/two\"; (setsid sleep 600.125 &); while :; do sleep 600.125; done", "")
        .with_task("three", "true", "dependencies = [\"one\", \"two\"]");
    let (shared, flag) = here.shared();
    let manifest = here.path("package/package.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let env = format!("version = \"1.0.0\"\nenv = {{ SHARED = \"{}\" }}", shared.display());
    fs::write(manifest, text.replace("version = \"1.0.0\"", &env)).unwrap();
    let flags = ["--allow-path", &*flag, "--task-slots", "2"];

    let process = Process::start(here.command(&flags));
    wait_until("both run", || shared.join("one").exists() && shared.join("two").exists());
    process.signal("INT");
    wait_until("the one that listens has ended", || process.stdout.text().contains("one    cancelled"));
    process.signal("INT");
    let told_again = Instant::now();
    let ended = process.ended().expect_code(1);
    assert!(told_again.elapsed().as_secs() < 9, "it had the whole of its grace, which is 10 s");
    assert!(ended.stdout.contains("three  cancelled"), "{}", ended.stdout);
    assert!(ended.stdout.contains("tried cancelled in "), "{}", ended.stdout);
    assert_eq!(processes("600.125"), Vec::<String>::new());
    here.is_clean();

    // Killed, it can say nothing, and its tasks end all the same.
    fs::remove_file(shared.join("one")).unwrap();
    let mut process = Process::start(here.command(&flags));
    wait_until("it runs", || shared.join("one").exists());
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    wait_until("its processes have ended", || processes("600.125").is_empty());
}

#[test]
fn secrets_come_from_variables() {
    let here = Here::new("").with_task("calls", "echo \"$TOKEN\" | rev", "secrets = [\"TOKEN\"]");
    let outcome = here.run(&[]);
    outcome.failed(2, &["secrets", "TOKEN"]);
    let mut command = here.command(&["--task", "calls"]);
    command.env("TOKEN", "top-secret-value").env("OTHER", "top");
    let ended = Process::start(command).ended().expect_code(0);
    assert!(ended.stdout.contains("eulav-terces-pot"), "{}", ended.stdout);
}

#[test]
fn wrong_flags_are_named() {
    let here = Here::new("").with_task("only", "true", "");
    for (flags, texts) in [
        (&["--context", "[1]"][..], &["`--context`", "object"][..]),
        (&["--context", "{"], &["`--context` is no JSON"]),
        (&["--task", "onyl"], &["no task `onyl`", "`only`"]),
        (&["--sandbox", "none"], &["required, partial or off", "`none`"]),
        (&["--allow-path", "/srv"], &["`--allow-path /srv`", ":r or :rw"]),
        (&["--allow-path", "/does/not/exist:r"], &["No such file"]),
        (&["--task-slots", "0"], &["1 to 1000", "`0`"]),
    ] {
        here.run(flags).failed(2, texts);
    }
    let missing = here.scratch.run(&["workflow", "run", "/does/not/exist"]);
    assert_eq!(missing.code, Some(if Uid::effective().is_root() { 2 } else { 1 }), "{missing:?}");
}

#[test]
fn packing_replaces_nothing_but_files() {
    let here = Here::new("").with_task("only", "true", "");
    let package = here.path("package");
    let pack =
        |output: &str| here.scratch.run(&["workflow", "pack", package.to_str().unwrap(), "-o", output]);
    let made = |command: &[&str]| {
        let status = Command::new(command[0]).args(&command[1..]).current_dir(here.scratch.path()).status();
        assert!(status.unwrap().success(), "{command:?}");
    };
    made(&["mkfifo", "fifo"]);
    made(&["ln", "-s", "file", "link"]);
    made(&["ln", "-s", "/dev/full", "full"]);
    for output in ["fifo", "full", "/dev/stdout", "tmp"] {
        pack(output).failed(2, &[output, "is no file", "- is stdout"]);
    }
    pack("file").printed("file\n");
    let first = fs::read(here.path("file")).unwrap();
    fs::write(here.path("file"), "other").unwrap();
    assert_eq!(pack("link").code, Some(0));
    assert!(here.path("link").is_symlink() && fs::read(here.path("file")).unwrap() == first);
    assert_eq!(pack("tried.tar.gz").code, Some(0));
    assert!(fs::read(here.path("tried.tar.gz")).unwrap() == first, "the same tree makes the same bytes");
    let listed = here.scratch.run(&["workflow", "check", here.path("file").to_str().unwrap()]);
    listed.printed("tried 1.0.0: 1 task\n");
}

/// As a terminal does: it reaches all processes of the group at the same time.
#[test]
fn an_interrupt_at_any_time_cancels() {
    let here = Here::new("").with_task("one", "true", "").with_task(
        "alarm",
        "echo ALARM",
        "dependencies = [\"one\"]\nrun_if = { failed = \"one\" }",
    );
    for round in 0..40 {
        let mut command = here.command(&[]);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let process = Process::start(command);
        // Anywhere in what it does, which is over after some twenty of them.
        std::thread::sleep(Duration::from_millis(round));
        send_signal_if_there("INT", process.pid());
        let ended = process.ended();
        let printed = &ended.stdout;
        assert!(!printed.contains("alarm  started") && !printed.contains("could not be run"), "{ended:?}");
    }
    wait_until("no directory is left", || fs::read_dir(here.path("tmp")).unwrap().count() == 0);
}

/// To the whole group, if it has not ended.
fn send_signal_if_there(signal: &str, pid: u32) {
    let _ =
        Command::new("sh").args(["-c", "kill -s $0 -- -$1 2>/dev/null", signal, &pid.to_string()]).status();
}

#[test]
fn root_needs_another_user_for_tasks() {
    if !Uid::effective().is_root() {
        return;
    }
    let here = Here::new("").with_task("who", "id -un; id -G", "");
    let package = here.path("package");
    let package = package.to_str().unwrap();
    here.scratch.run(&["workflow", "run", package]).failed(2, &["root", "--task-user"]);
    for (user, text) in [("root", "never run as root"), ("no-such-user", "no such user")] {
        here.scratch.run(&["workflow", "run", package, "--task-user", user]).failed(2, &[text]);
    }
    let outcome = here.run(&["--task", "who"]);
    let group = User::from_name("nobody").unwrap().unwrap().gid;
    expect(&outcome, 0, &["  | nobody\n", &format!("  | {group}\n")]);
}

/// As large as workflows that scientists have published: 1,000 wide, 25 deep, a fan-in of 1,100.
#[test]
fn large_graphs_end_right() {
    let task = |id: &str, needs: &[String]| {
        let needs = needs.iter().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(", ");
        format!("[[tasks]]\nid = \"{id}\"\ncommand = [\"true\"]\ndependencies = [{needs}]\n")
    };
    let level =
        |level: usize, width: usize| (0..width).map(|at| format!("l{level}-{at}")).collect::<Vec<_>>();
    for widths in [vec![1, 1000, 1], vec![3; 25], vec![1100, 1]] {
        let mut manifest = String::new();
        let mut below = Vec::new();
        for (number, width) in widths.iter().enumerate() {
            let ids = level(number, *width);
            manifest.extend(ids.iter().map(|id| task(id, &below)));
            below = ids;
        }
        let here = Here::new(&manifest);
        let mut process = Process::start(here.command(&["--task-slots", "4"]));
        let count: usize = widths.iter().sum();
        // Thousands of processes, beside those of the other tests.
        let deadline = Instant::now() + PATIENCE * 10;
        while process.is_running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let ended = process.ended().expect_code(0);
        assert!(ended.stdout.contains(&format!("({count} completed)")), "{ended:?}");
        assert_eq!(ended.stdout.matches("  completed  ").count(), count);
        here.is_clean();
    }
}

/// By root for another user, and by a user that is not root, with each sandbox.
#[test]
fn programs_run_as_each_user_with_each_sandbox() {
    let here = Here::new("")
        .with_task("shell", "id -u; touch \"$HOME/a\"; sh -c 'echo \"$0\" | rev' abc", "")
        .with_task("python", "python3 -c 'import os, subprocess; print(os.getuid(), subprocess.check_output([\"echo\", \"child\"]))'", "");
    fs::set_permissions(here.path("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    for mode in ["required", "partial", "off"] {
        let mut runs =
            vec![(here.command(&["--sandbox", mode]), User::from_name("nobody").unwrap().unwrap().uid)];
        if Uid::effective().is_root() {
            let mut command = Command::new("setpriv");
            let user = made_up_user();
            command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
            command
                .arg(binary())
                .args(["workflow", "run"])
                .arg(here.path("package"))
                .args(["--sandbox", mode]);
            command
                .env_clear()
                .env("TMPDIR", here.path("tmp"))
                .env("PATH", std::env::var_os("PATH").unwrap());
            runs.push((command, Uid::from_raw(user)));
        } else {
            runs[0].1 = Uid::effective();
        }
        for (mut command, user) in runs {
            command.current_dir(here.scratch.path());
            let ended = Process::start(command).ended().expect_code(0);
            assert!(ended.stdout.contains("(2 completed)"), "{mode} as {user}: {ended:?}");
            let is_off = ended.stderr.contains("there is no sandbox");
            assert_eq!(is_off, mode == "off", "{ended:?}");
            here.is_clean();
        }
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy/examples").join(name)
}

/// A copy that every user can reach.
fn with_example(name: &str) -> Here {
    let here = Here::new("");
    fs::remove_dir_all(here.path("package")).unwrap();
    let copied = Command::new("cp").arg("-r").arg(example(name)).arg(here.path("package")).status().unwrap();
    assert!(copied.success());
    here
}

#[test]
fn the_examples_run() {
    let here = with_example("fan-out");
    let outcome = here.run(&["--task-slots", "4"]);
    expect(&outcome, 0, &["(5 completed)"]);

    let here = with_example("orders");
    expect(&here.run(&[]), 0, &["(3 completed, 1 skipped)"]);
    fs::write(here.path("package/none.csv"), "customer,amount\n").unwrap();
    let outcome = here.run(&["--context", r#"{"file":"none.csv"}"#]);
    expect(&outcome, 0, &["nothing-to-do  completed", "(2 completed, 2 skipped)"]);
}

#[test]
fn the_example_of_a_backup_keeps_the_newest_and_calls_its_alarm() {
    let here = with_example("nightly-backup");
    let (source, target) = (here.path("source"), here.path("target"));
    for directory in [&source, &target] {
        fs::create_dir(directory).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::write(source.join("file"), "kept").unwrap();
    let manifest = here.path("package/package.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let text = text.replace("\"/srv/data\"", &format!("\"{}\"", source.display()));
    let text =
        text.replace("\"/srv/backup\"", &format!("\"{}\"", target.display())).replace("\"14\"", "\"2\"");
    fs::write(&manifest, text.replace("\"1m\"", "\"10ms\"").replace("\"5s\"", "\"10ms\"")).unwrap();
    let allow = [format!("{}:r", source.display()), format!("{}:rw", target.display())];
    let flags = ["--allow-path", &allow[0], "--allow-path", &allow[1]];
    let run = |code| {
        let mut command = here.command(&flags);
        // Port 9 is that of no server here, so the alarm fails as well.
        command.env("ALARM_URL", "http://127.0.0.1:9/");
        let ended = Process::start(command).ended().expect_code(code);
        here.is_clean();
        ended.stdout
    };
    for day in ["2001-01-01", "2001-01-02"] {
        fs::write(target.join(format!("{day}T030000Z-x.tar.gz")), "").unwrap();
    }
    assert!(run(0).contains("(3 completed, 1 skipped)"));
    let mut kept: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    kept.sort();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(kept[0], "2001-01-02T030000Z-x.tar.gz");
    let list = Command::new("tar").arg("-tzf").arg(target.join(&kept[1])).output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("./file\n"), "{list:?}");

    fs::remove_dir_all(&source).unwrap();
    fs::create_dir(&source).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o555)).unwrap();
    let printed = run(1);
    assert!(printed.contains("pack    failed") && printed.contains("alarm   failed"), "{printed}");
    assert!(!printed.contains("127.0.0.1:9"), "{printed}");
}
