//! What a task is started with, and what is said of one that cannot be started.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use serde_json::json;

use super::task::{Task, is_root, made_up_user};
use crate::support::program::{Process, binary};

#[test]
fn a_task_has_nothing_of_the_server() {
    let mut task = Task::script(
        "grep -E '^(SigBlk|CapPrm|CapEff|CapInh|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
         umask; ulimit -Sn; ulimit -c; cat /proc/self/oom_score_adj; ls /proc/$$/fd; env | grep -v ^SHLVL= | sort",
    );
    task.started_by = r#"umask 077; exec 7</dev/null 8>/dev/null; exec "$@""#;
    task.variables =
        vec![("DATABASE_URL", "postgresql://secret"), ("PWD", "/"), ("CLOACINA_HOME", "/secret")];
    let printed = task.succeeds();
    let seen: Vec<_> = printed.split_whitespace().collect();
    let own = task.directory.join("task");
    let (own, package) = (own.display(), task.directory.join("package"));
    let wanted = format!(
        "SigBlk: 0000000000000000 CapInh: 0000000000000000 CapPrm: 0000000000000000 CapEff: 0000000000000000 \
         CapAmb: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 0022 512 0 500 0 1 2 HOME={own} LANG=C.UTF-8 \
         PATH=/usr/local/bin:/usr/bin:/bin PWD={} TMPDIR={own} _=/usr/bin/env",
        package.display()
    );
    assert_eq!(seen.join(" "), wanted);
}

/// Secrets come beside the specification, and mean nothing to the process that is not confined yet: there is no such
/// library to load.
#[test]
fn secrets_are_variables_of_the_task_alone() {
    let mut task = Task::script(r#"echo "$TOKEN $LANG"; env | grep -c task-secret"#);
    task.started_by =
        r#"exec env "task-secret:TOKEN=a = b" task-secret:LANG=de task-secret:LD_PRELOAD=/nowhere.so "$@""#;
    let outcome = task.run();
    assert_eq!(outcome.ended.stdout, "a = b de\n0\n", "{outcome:#?}");
    // It is the task's own programs that look for it.
    assert!(outcome.ended.stderr.contains("/nowhere.so"), "{outcome:#?}");
    assert!(!outcome.ended.stderr.contains("cloacinactl"), "{outcome:#?}");
}

#[test]
fn a_task_is_the_user_that_it_should_be() {
    let mut task = Task::script("id -u; id -g; id -G; echo again >/dev/stdout; echo again >/dev/stderr");
    // One pipe, as from a supervisor.
    task.started_by = r#"exec "$@" 2>&1"#;
    let user = if is_root() { made_up_user() } else { nix::unistd::getuid().as_raw() };
    let printed = task.succeeds();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[0], user.to_string());
    if is_root() {
        assert_eq!(lines[1..3], [user.to_string(), user.to_string()]);
    }
    assert_eq!(lines[3..], ["again", "again"]);
}

#[test]
fn a_task_is_never_root() {
    let of_root = json!({"uid": 0, "gid": 0, "groups": []});
    let other = json!({"uid": 1, "gid": 1, "groups": []});
    for mode in ["required", "partial", "off"] {
        let mut task = Task::new(&["true"]);
        task.spec["sandbox"]["mode"] = json!(mode);
        task.spec["user"] = of_root.clone();
        let never = "tasks never run as root: name a user for them with `--task-user`";
        assert_eq!(task.is_not_started(), never);
        task.spec["user"] = json!(null);
        if is_root() {
            assert_eq!(task.is_not_started(), never);
        } else {
            task.succeeds();
            task.spec["user"] = other.clone();
            let why = task.is_not_started();
            assert_eq!(why, "only root runs tasks as another user, here the one with id 1");
        }
    }
}

#[test]
fn a_task_without_its_supervisor_is_not_started() {
    let mut task = Task::new(&["true"]);
    task.started_by = r#""$@""#;
    assert_eq!(task.is_not_started(), "the supervisor is gone");
}

/// A command, files of the package with their mode and text, and what is said where it cannot be executed.
type Refused = (&'static str, &'static [(&'static str, u32, &'static str)], &'static str);

const REFUSED: [Refused; 15] = [
    ("./run.sh", &[], "./run.sh: is not there"),
    ("./run.sh", &[("run.sh", 0o644, "#!/bin/sh\n")], "./run.sh: is not executable"),
    ("./run.sh", &[("run.sh", 0o755, "echo\n")], "./run.sh: has no #! line and is no program"),
    ("./run.sh", &[("run.sh", 0o755, "")], "./run.sh: has no #! line and is no program"),
    (
        "./run.sh",
        &[("run.sh", 0o755, "#! /usr/bin/python2 -u\n")],
        "./run.sh: its interpreter /usr/bin/python2 is missing",
    ),
    (
        "./run.sh",
        &[("run.sh", 0o755, "#!/bin/ba\u{1b}[2Jsh\n")],
        r"./run.sh: its interpreter /bin/ba\u{1b}[2Jsh is missing",
    ),
    (
        "./run.sh",
        &[("run.sh", 0o755, "#!/bin/sh\r\necho\r\n")],
        "./run.sh: its first line ends in a carriage return, as lines of Windows do: use lines that end in a line feed alone",
    ),
    (
        "./run.sh",
        &[("run.sh", 0o755, "#!./other.sh\n"), ("other.sh", 0o644, "")],
        "./run.sh: its interpreter ./other.sh is not executable",
    ),
    ("./run.sh", &[("run.sh", 0o755, "\u{7f}ELFnothing more")], "./run.sh: is no program for this machine"),
    ("./", &[], "./: is a directory"),
    ("no-such-program", &[], "no-such-program: no directory of PATH has it"),
    ("", &[], ": no directory of PATH has it"),
    ("/no/such/program", &[], "/no/such/program: is not there"),
    ("./run.sh/x", &[("run.sh", 0o755, "")], "./run.sh/x: cannot be executed: Not a directory (os error 20)"),
    ("nsswitch.conf", &[], "nsswitch.conf: /etc/nsswitch.conf is not executable"),
];

#[test]
fn a_command_that_cannot_be_executed() {
    for (command, files, wanted) in REFUSED {
        let mut task = Task::new(&[command]);
        for (name, mode, text) in files {
            task = task.with(name, *mode, text);
        }
        task.spec["environment"]["PATH"] = json!("/nowhere:/etc:/usr/bin:/bin");
        // Not what bash would say.
        assert_eq!(task.is_not_started(), wanted, "{files:?}");
    }
    let mut task = Task::new(&[]);
    assert_eq!(task.is_not_started(), "the command is empty");
    task.spec["command"] = json!(["true"]);
    task.spec["working_directory"] = json!("/no/such/directory");
    let why = task.is_not_started();
    assert_eq!(
        why,
        "the task's working directory /no/such/directory cannot be entered: No such file or directory (os error 2)"
    );
}

#[test]
fn a_program_outside_the_sandbox() {
    let task = Task::new(&["./run.sh"]);
    let outside = task.directory.join("outside");
    fs::write(&outside, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&outside, PermissionsExt::from_mode(0o755)).unwrap();
    symlink(&outside, task.directory.join("package/run.sh")).unwrap();
    assert_eq!(task.is_not_started(), "./run.sh: lies where the sandbox lets no task execute anything");
    fs::remove_file(task.directory.join("package/run.sh")).unwrap();
    let mut task = task.with("run.sh", 0o755, format!("#!{}\n", outside.display()));
    let why = task.is_not_started();
    let wanted = format!(
        "./run.sh: its interpreter {} lies where the sandbox lets no task execute anything",
        outside.display()
    );
    assert_eq!(why, wanted);
    fs::copy("/bin/true", &outside).unwrap();
    task.spec["sandbox"]["readable"].as_array_mut().unwrap().push(json!(outside));
    task.succeeds();
}

#[test]
fn a_path_that_is_not_there() {
    for kind in ["readable", "writable"] {
        let mut task = Task::new(&["true"]);
        task.spec["sandbox"][kind].as_array_mut().unwrap().push(json!("/srv/no-such-directory"));
        let why = task.is_not_started();
        assert_eq!(
            why,
            "a path that the task may use cannot be opened: /srv/no-such-directory: No such file or directory (os error 2)"
        );
        task.spec["sandbox"]["mode"] = json!("off");
        task.succeeds();
    }
}

/// No mistake of a person should look like one of a supervisor's.
#[test]
fn typed_by_a_person() {
    for arguments in [&["exec-task"][..], &["exec-task", "--probe", "much"], &["exec-task", "a", "b", "c"]] {
        let mut command = Command::new(binary());
        command.args(arguments);
        Process::start(command).ended().expect_code(2);
    }
}
