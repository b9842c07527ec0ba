//! What a task cannot do, tried: each attempt inside the sandbox and outside it. And what is said where the system has no
//! sandbox to offer.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::json;

use super::task::Task;
use crate::support::program::{Ended, Process, binary};

/// What `table.py` says; its head has more.
fn table(arguments: &[&str]) -> Ended {
    let mut command = Command::new("python3");
    command.args(["-B", "tests/it/engine/sandbox/table.py", "--program"]).arg(binary()).args(arguments);
    Process::start(command).ended()
}

#[track_caller]
fn expect_held(arguments: &[&str]) {
    let ended = table(arguments).expect_code(0);
    let held = ended.stdout.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(held >= 95 && ended.stdout.contains("nothing stays open"), "{ended:#?}");
}

#[test]
fn each_attempt_fails_inside_alone() {
    expect_held(&["--mode", "required"]);
}

#[test]
fn each_attempt_fails_inside_alone_for_a_server_that_is_root() {
    if super::task::is_root() {
        expect_held(&["--mode", "required", "--as-root"]);
    }
}

#[test]
fn a_partial_sandbox_is_whole_where_it_can_be() {
    expect_held(&["--mode", "partial"]);
}

/// Then the table sees that each attempt succeeds, but for those that do not depend on the sandbox.
#[test]
fn without_a_sandbox_each_attempt_succeeds() {
    let ended = table(&["--mode", "off"]).expect_code(1);
    let held: Vec<_> = ended.stdout.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    assert_eq!(
        held,
        ["dump_core: ECANCELED inside, ok outside", "use_left_descriptor: EBADF inside, ok outside"],
        "{ended:#?}"
    );
}

fn probe(mode: &str) -> Command {
    let mut command = Command::new(binary());
    command.args(["exec-task", "--probe", mode]);
    command
}

#[test]
fn a_probe_says_what_stays_open() {
    for (mode, wanted) in [
        ("required", "\n"),
        ("partial", "\n"),
        ("off", "everything that its user may do: there is no sandbox\n"),
    ] {
        assert_eq!(Process::start(probe(mode)).ended().expect_code(0).stdout, wanted);
    }
}

/// Runs a program with one system call that fails.
const WITHOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/engine/sandbox/without.py");

const PARTIAL: &str = ". `--sandbox partial` runs tasks with what is there, and lists what stays open\n";

const WITHOUT_LANDLOCK: &str =
    "reading and writing every file that its user may read and write, also those of the server and of other tasks
memory and environment of the processes of its user, also the server's
signals to the processes of its user, also the server's (before Linux 6.12)
";

const WITHOUT_SECCOMP: &str = "Unix sockets: a database that trusts its user, D-Bus, docker.sock
limits and priorities of the processes of its user, also the server's; its shared memory, message queues and key rings
";

/// A system call that does not work, the error that it fails with, what `required` says and what `partial` leaves open.
const MISSING: [(&str, &str, &str, &str); 6] = [
    (
        "landlock_create_ruleset",
        "ENOSYS",
        "this kernel has no Landlock: Linux 6.12 or later has all of it",
        WITHOUT_LANDLOCK,
    ),
    (
        "landlock_create_ruleset",
        "EOPNOTSUPP",
        "Landlock is built into this kernel and not active: add `landlock` to what `lsm=` lists on its command line",
        WITHOUT_LANDLOCK,
    ),
    (
        "landlock_create_ruleset",
        "EPERM",
        "what started this process refuses the system calls of Landlock: let the container's seccomp profile or the unit's \
         SystemCallFilter allow landlock_create_ruleset, landlock_add_rule and landlock_restrict_self",
        WITHOUT_LANDLOCK,
    ),
    (
        "landlock_restrict_self",
        "EPERM",
        "what started this process refuses the system calls of Landlock: let the container's seccomp profile or the unit's \
         SystemCallFilter allow landlock_create_ruleset, landlock_add_rule and landlock_restrict_self",
        WITHOUT_LANDLOCK,
    ),
    (
        "seccomp",
        "EPERM",
        "system calls cannot be filtered: Operation not permitted (os error 1). Let what started this process allow \
         seccomp, or build the kernel with CONFIG_SECCOMP_FILTER",
        WITHOUT_SECCOMP,
    ),
    (
        "seccomp",
        "ENOSYS",
        "system calls cannot be filtered: Function not implemented (os error 38). Let what started this process allow \
         seccomp, or build the kernel with CONFIG_SECCOMP_FILTER",
        WITHOUT_SECCOMP,
    ),
];

#[test]
fn what_the_system_does_not_have() {
    for (call, error, reason, open) in MISSING {
        let probe = |mode| {
            let mut command = Command::new("python3");
            command.args([WITHOUT, call, error]).arg(binary()).args(["exec-task", "--probe", mode]);
            Process::start(command).ended()
        };
        assert_eq!(probe("required").expect_code(1).stdout, format!("{reason}{PARTIAL}"));
        assert_eq!(probe("partial").expect_code(0).stdout, open);
        probe("off").expect_code(0);
        let mut task = Task::new(&["true"]);
        task.started_by = r#"exec python3 "$WITHOUT" "$CALL" "$ERROR" "$@""#;
        task.variables =
            vec![("WITHOUT", WITHOUT), ("CALL", call), ("ERROR", error), ("PATH", "/usr/bin:/bin")];
        assert_eq!(task.is_not_started() + "\n", format!("{reason}{PARTIAL}"));
        task.spec["sandbox"]["mode"] = json!("partial");
        task.succeeds();
    }
}

/// It had none when it was granted; a task that may write above has made one since then.
#[test]
fn a_granted_path_with_a_link_in_it_is_refused() {
    for (granted, link) in [("shared/tools", "tools"), ("shared/tools/inner", "tools")] {
        for kind in ["readable", "writable"] {
            let mut task = Task::new(&["cat", "../private/inner/key"]);
            for made in ["shared", "private/inner"] {
                fs::create_dir_all(task.directory.join(made)).unwrap();
            }
            fs::write(task.directory.join("private/inner/key"), "secret").unwrap();
            symlink(task.directory.join("private"), task.directory.join("shared/tools")).unwrap();
            let path = task.directory.join(granted);
            task.spec["sandbox"][kind].as_array_mut().unwrap().push(json!(path));
            let wanted = format!(
                "a path that the task may use cannot be opened: {}: `{link}` in it is a link; name what it leads to",
                path.display()
            );
            assert_eq!(task.is_not_started(), wanted);
        }
    }
}

/// Tasks of the server's own user would read there what belongs to other tasks.
#[test]
fn attempts_are_not_kept_where_every_task_reads() {
    if !super::task::is_root() {
        return;
    }
    let mut task = Task::new(&["true"]);
    task.spec["user"] = json!(null);
    task.variables = vec![("PATH", "/usr/bin:/bin")];
    task.started_by = r#"
        at=/opt/cloacinactl-it-${spec##*cloacinactl-it-}; at=${at%/*}; user=$(stat -c %u "${spec%/*}/package")
        mkdir -p -m 755 "$at"; chmod 666 "$report"; cp "$spec" "$at"; trap 'rm -r "$at"' EXIT
        setpriv --reuid=$user --regid=$user --clear-groups sh -c 'exec "$1" exec-task "$2" "$PPID"' sh "$1" "$at/spec.json"
    "#;
    let why = task.is_not_started();
    assert!(
        why.starts_with("/opt/cloacinactl-it-")
            && why.contains(" lies below /opt, which every task can read"),
        "{why}"
    );
    task.spec["sandbox"]["mode"] = json!("partial");
    task.succeeds();
}
