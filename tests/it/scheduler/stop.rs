//! A server that is told to stop: its tasks go on without it, or end with it.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{Lab, WAITS, find, runs, start, start_with};
use crate::support::directory::Directory;
use crate::support::http::Connection;
use crate::support::image::done_as_root;
use crate::support::postgres::Database;
use crate::support::program::{children, send_signal};
use crate::support::server::{Server, Start};
use crate::support::wait_for;

/// Says when it is told to end, and does.
const ENDS: &str = r#"trap 'echo "told $CLOACINA_TASK" >>"$shared/told"; exit 0' TERM
echo "begin $CLOACINA_TASK $CLOACINA_ATTEMPT $$" >>"$shared/ledger"
while [ ! -e "$shared/go" ]; do sleep 0.02; done
echo "end $CLOACINA_TASK $CLOACINA_ATTEMPT" >>"$shared/ledger""#;

/// Hears nothing.
const STAYS: &str = r#"trap '' TERM
echo "begin $CLOACINA_TASK $CLOACINA_ATTEMPT $$" >>"$shared/ledger"
while [ ! -e "$shared/go" ]; do sleep 0.02; done"#;

fn lab<const N: usize>(arguments: [&str; N]) -> Lab {
    let (database, home) = (Database::new(), Directory::new());
    let server = start_with(&database, &home, 4, arguments);
    Lab::of(database, server, home)
}

/// Process ids of all that have written that they begin.
fn begun(lab: &Lab) -> Vec<String> {
    let ledger = lab.written("ledger");
    let begun = ledger.lines().filter(|line| line.starts_with("begin"));
    begun.map(|line| line.split_whitespace().last().unwrap().to_owned()).collect()
}

/// Tells the server to stop, and starts another one in its place once it has.
fn stop_and_start(lab: &mut Lab, slots: usize) -> String {
    let next = |lab: &Lab| start(&lab.site.database, &lab.home, slots);
    send_signal("TERM", &lab.site.server.pid().to_string());
    wait_for("the server to end", || (!lab.site.server.is_running()).then_some(()));
    let said = lab.site.server.stderr();
    lab.site.server = next(lab);
    said
}

fn left_running(lab: &Lab) -> i64 {
    lab.site.database.value("SELECT count(*) FROM cloacina_attempts WHERE ended_at IS NULL")
}

#[test]
fn tasks_end_with_a_server_that_is_to_stop_them() {
    let mut lab = lab(["--stop-tasks"]);
    lab.upload("two", "", &[("again", ENDS, "restart_safe = true"), ("lost", ENDS, "")]);
    let id = lab.execute("two", "");
    wait_for("both to run", || (lab.written("ledger").lines().count() == 2).then_some(()));
    let pids = begun(&lab);
    send_signal("TERM", &lab.site.server.pid().to_string());
    wait_for("the server to end", || (!lab.site.server.is_running()).then_some(()));
    // All that is known before it ends.
    assert!(pids.iter().all(|pid| !runs(pid)));
    let mut told: Vec<_> = lab.written("told").lines().map(str::to_owned).collect();
    told.sort();
    assert_eq!(told, ["told again", "told lost"]);
    assert_eq!(left_running(&lab), 0);
    let of_attempts = "SELECT string_agg(DISTINCT error, '|') FROM cloacina_attempts";
    assert_eq!(lab.site.database.value::<String>(of_attempts), "its server was stopped");
    let said = lab.site.server.stderr();
    assert!(said.contains("the tasks that run here are ended with this server"), "{said}");
    assert!(said.contains("drained"), "{said}");

    lab.site.server = start(&lab.site.database, &lab.home, 4);
    wait_for("it to run again", || lab.written("ledger").contains("begin again 2").then_some(()));
    lab.allow("go");
    let ended = lab.ended(&id);
    assert_eq!(ended["status"], "Failed", "{ended:#}");
    assert_eq!(ended["error"], "task `lost` failed: its server was stopped");
    assert_eq!(find(&ended, "again")["status"], "Completed");
    assert_eq!(find(&ended, "again")["attempts"], 2);
    let events = lab.events(&id);
    assert!(events.contains(&"task_abandoned lost".to_owned()), "{events:?}");
    assert!(!lab.written("ledger").contains("begin lost 2"));
}

#[test]
fn a_task_that_does_not_end_is_killed_within_the_time_of_its_server() {
    let mut lab = lab(["--stop-tasks", "--shutdown-timeout", "4s"]);
    lab.upload("deaf", "", &[("only", STAYS, "")]);
    let id = lab.execute("deaf", "");
    let pids = begun(&lab);
    let said = stop_and_start(&mut lab, 4);
    assert!(pids.iter().all(|pid| !runs(pid)));
    assert!(!said.contains("had not ended"), "{said}");
    let ended = lab.ended(&id);
    assert_eq!(ended["error"], "task `only` failed: its server was stopped", "{ended:#}");
}

#[test]
fn tasks_outlive_a_server_that_is_not_to_stop_them_and_nothing_starts_meanwhile() {
    let mut lab = lab([]);
    let next = ("next", "echo next >>$shared/next", "dependencies = [\"only\"]");
    lab.upload("long", "", &[("only", WAITS, ""), next]);
    let id = lab.execute("long", "");
    let pids = begun(&lab);
    // A request under way keeps the server draining: its connection is known by its first answer.
    let mut slow = Connection::open(lab.site.server.address);
    slow.ask("GET", "/health", None, None);
    slow.send(b"GET /health HTTP/1.1\r\nHost: a\r\n");
    send_signal("TERM", &lab.site.server.pid().to_string());
    lab.site.server.stderr_with("the tasks that run here outlive this server");
    lab.allow("go");
    let completed = "SELECT count(*) FROM cloacina_tasks WHERE status = 'Completed'";
    wait_for("its end to be written down", || (lab.site.database.value::<i64>(completed) == 1).then_some(()));
    let waits = "SELECT count(*) FROM cloacina_queue";
    assert_eq!(lab.site.database.value::<i64>(waits), 1);
    slow.send(b"\r\n");
    wait_for("the server to end", || (!lab.site.server.is_running()).then_some(()));
    assert!(!lab.has_written("next"));
    lab.site.server = start(&lab.site.database, &lab.home, 4);
    assert_eq!(lab.ended(&id)["status"], "Completed");
    assert!(pids.iter().all(|pid| !runs(pid)));
    assert_eq!(lab.written("next"), "next\n");
}

#[test]
fn what_a_stop_ends_while_the_database_is_away_is_written_down_later() {
    let mut lab = lab(["--stop-tasks"]);
    lab.upload("one", "", &[("only", ENDS, "")]);
    let id = lab.execute("one", "");
    let pids = begun(&lab);
    // Nothing about an execution can be written meanwhile.
    let lock = lab.site.database.hold("LOCK TABLE cloacina_attempts IN ACCESS EXCLUSIVE MODE");
    send_signal("TERM", &lab.site.server.pid().to_string());
    wait_for("the server to end", || (!lab.site.server.is_running()).then_some(()));
    assert!(pids.iter().all(|pid| !runs(pid)));
    lock.release();
    lab.site.server = start(&lab.site.database, &lab.home, 4);
    let ended = lab.ended(&id);
    assert_eq!(ended["error"], "task `only` failed: its server was stopped", "{ended:#}");
}

/// A server that is the first process of a container.
fn first_process(database: &Database, home: &Directory, slots: &str) -> Server {
    Start::on(database)
        .home(home)
        .arguments(["--task-slots", slots, "--sandbox", "partial", "--task-user", "nobody"])
        .after("exec unshare --pid --fork --kill-child --mount-proc \"$@\"")
        .serving()
}

/// Has a person start something in the container, and leave it behind: it becomes a child of the first process, which is to
/// wait for it. `over` is a file that has it end.
fn expect_strangers_reaped(first: u32, over: &Path) {
    let script = "setsid sh -c 'while [ ! -e \"$0\" ]; do sleep 0.02; done' \"$0\" & echo done";
    let entered = std::process::Command::new("nsenter")
        .args(["--target", &first.to_string(), "--pid", "--mount", "sh", "-c", script])
        .arg(over)
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(entered.success());
    let strangers = || -> Vec<u32> {
        let is_stranger = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            !String::from_utf8_lossy(&line).contains("supervise-task")
        };
        children(first).into_iter().filter(is_stranger).collect()
    };
    let stranger = wait_for("it to have a new parent", || strangers().first().copied());
    fs::write(over, "").unwrap();
    wait_for("it to be waited for", || (!fs::exists(format!("/proc/{stranger}")).unwrap()).then_some(()));
}

#[test]
fn the_first_process_of_a_container_reaps_strangers_without_slots_too() {
    if done_as_root("scheduler::stop::the_first_process_of_a_container_reaps_strangers_without_slots_too") {
        return;
    }
    let (database, home) = (Database::new(), Directory::new());
    let server = first_process(&database, &home, "0");
    expect_strangers_reaped(children(server.pid())[0], &home.join("over"));
}

#[test]
fn the_first_process_of_a_container_ends_its_tasks_and_reaps_strangers() {
    if done_as_root("scheduler::stop::the_first_process_of_a_container_ends_its_tasks_and_reaps_strangers") {
        return;
    }
    let (database, home) = (Database::new(), Directory::new());
    let server = first_process(&database, &home, "4");
    let mut lab = Lab::of(database, server, home);
    lab.upload("one", "", &[("only", ENDS, "restart_safe = true")]);
    let id = lab.execute("one", "");
    lab.written("ledger");
    let first = children(lab.site.server.pid())[0];
    expect_strangers_reaped(first, &lab.shared.join("over"));
    assert_eq!(lab.execution(&id)["status"], "Running");

    send_signal("TERM", &first.to_string());
    wait_for("the server to end", || (!lab.site.server.is_running()).then_some(()));
    assert_eq!(lab.written("told"), "told only\n");
    assert_eq!(left_running(&lab), 0);
    lab.site.server = first_process(&lab.site.database, &lab.home, "4");
    wait_for("it to run again", || lab.written("ledger").contains("begin only 2").then_some(()));
    lab.allow("go");
    let ended = lab.ended(&id);
    assert_eq!((&ended["status"], &find(&ended, "only")["attempts"]), (&json!("Completed"), &json!(2)));
}
