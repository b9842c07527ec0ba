//! Servers and supervisors that are killed: what runs goes on or is ended first, and nothing runs twice.

use std::fs;

use serde_json::json;

use super::{Lab, WAITS, find};
use crate::support::program::send_signal;
use crate::support::wait_for;

/// The supervisors of a home's attempts.
pub fn supervisors(lab: &Lab) -> Vec<String> {
    let home = lab.home.path().to_str().unwrap().to_owned();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().into_string().ok());
    ids.filter(|id| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("supervise-task") && line.contains(&home)
    })
    .collect()
}

#[test]
fn tasks_outlive_a_server_that_is_killed() {
    let lab = Lab::start(4);
    lab.upload(
        "long",
        "",
        &[("a", WAITS, ""), ("b", WAITS, ""), ("after", "true", "dependencies = [\"a\", \"b\"]")],
    );
    let id = lab.execute("long", "");
    wait_for("both to run", || (lab.written("ledger").lines().count() == 2).then_some(()));
    let lab = lab.restart(4);
    lab.allow("go");
    let ended = lab.ended(&id);
    assert_eq!(ended["status"], "Completed", "{ended:#}");
    let mut ledger: Vec<_> =
        lab.written("ledger").lines().map(|line| line[..line.len().min(10)].to_owned()).collect();
    ledger.sort();
    assert_eq!(ledger.len(), 4, "{ledger:?}");
    for task in ["a", "b", "after"] {
        assert_eq!(find(&ended, task)["attempts"], 1);
    }
}

#[test]
fn what_ended_without_a_server_is_taken_over() {
    let lab = Lab::start(4);
    lab.upload(
        "long",
        "",
        &[("a", &format!("{WAITS}; echo '{{\"x\":1}}' >$CLOACINA_OUTPUT; echo done"), "")],
    );
    let id = lab.execute("long", "");
    lab.written("ledger");
    let mut lab = lab;
    let pid = lab.site.server.pid().to_string();
    send_signal("KILL", &pid);
    wait_for("the server to be gone", || (!lab.site.server.is_running()).then_some(()));
    lab.allow("go");
    wait_for("the task to end", || supervisors(&lab).is_empty().then_some(()));
    lab.site.server = super::start(&lab.site.database, &lab.home, 4);
    let ended = lab.ended(&id);
    assert_eq!((&ended["status"], &ended["context"]), (&json!("Completed"), &json!({ "x": 1 })));
    assert_eq!(lab.log(&id, "a"), "done\n");
    wait_for("its directory to go", || {
        let left = fs::read_dir(lab.home.join("attempts")).unwrap().count();
        (left == 0).then_some(())
    });
}

#[test]
fn what_a_killed_supervisor_ran_is_gone_before_it_runs_again() {
    let lab = Lab::start(4);
    let script = format!("setsid sh -c 'echo $$ >$0/child; exec sleep 1000' $shared & {WAITS}");
    lab.upload("safe", "", &[("again", &script, "restart_safe = true"), ("lost", WAITS, "")]);
    let id = lab.execute("safe", "");
    wait_for("both to run", || (lab.written("ledger").lines().count() == 2).then_some(()));
    let child = lab.written("child").trim().to_owned();
    for supervisor in supervisors(&lab) {
        send_signal("KILL", &supervisor);
    }
    wait_for("it to run again", || lab.written("ledger").contains("begin again 2").then_some(()));
    assert!(!std::path::Path::new(&format!("/proc/{child}")).exists());
    lab.allow("go");
    let ended = lab.ended(&id);
    assert_eq!(ended["status"], "Failed");
    assert_eq!(find(&ended, "again")["status"], "Completed");
    let lost = find(&ended, "lost");
    assert_eq!((&lost["status"], &lost["attempts"]), (&json!("Failed"), &json!(1)));
    assert!(lab.events(&id).contains(&"task_abandoned lost".to_owned()));
}

#[test]
fn server_and_supervisors_may_die_together() {
    let mut lab = Lab::start(4);
    lab.upload("safe", "", &[("again", WAITS, "restart_safe = true"), ("lost", WAITS, "")]);
    let id = lab.execute("safe", "");
    wait_for("both to run", || (lab.written("ledger").lines().count() == 2).then_some(()));
    let pid = lab.site.server.pid().to_string();
    send_signal("KILL", &pid);
    for supervisor in supervisors(&lab) {
        send_signal("KILL", &supervisor);
    }
    wait_for("the server to be gone", || (!lab.site.server.is_running()).then_some(()));
    lab.site.server = super::start(&lab.site.database, &lab.home, 4);
    wait_for("it to run again", || lab.written("ledger").contains("begin again 2").then_some(()));
    lab.allow("go");
    let ended = lab.ended(&id);
    assert_eq!(find(&ended, "again")["status"], "Completed", "{ended:#}");
    assert_eq!(find(&ended, "lost")["status"], "Failed");
}

#[test]
fn a_server_that_is_killed_again_and_again_runs_nothing_twice() {
    let mut lab = Lab::start(4);
    let script = "echo \"$CLOACINA_EXECUTION_ID $CLOACINA_TASK\" >>$shared/ledger; sleep 0.05";
    let tasks = [
        ("a", script, ""),
        ("b", script, "dependencies = [\"a\"]"),
        ("c", script, "dependencies = [\"a\"]"),
        ("d", script, "dependencies = [\"b\", \"c\"]"),
    ];
    lab.upload("dag", "", &tasks);
    let ids: Vec<_> = (0..20).map(|_| lab.execute("dag", "")).collect();
    for _ in 0..8 {
        // Somewhere between two ends of tasks, each time elsewhere.
        let before = lab.site.database.value::<i64>("SELECT count(*) FROM cloacina_events");
        wait_for("something to happen", || {
            let done = "SELECT NOT EXISTS (SELECT FROM cloacina_executions WHERE completed_at IS NULL)";
            let events = lab.site.database.value::<i64>("SELECT count(*) FROM cloacina_events");
            (events > before || lab.site.database.value::<bool>(done)).then_some(())
        });
        lab = lab.restart(4);
    }
    for id in &ids {
        let ended = lab.ended(id);
        assert_eq!(ended["status"], "Completed", "{ended:#}");
        lab.events(id);
    }
    let ledger = lab.written("ledger");
    let mut lines: Vec<_> = ledger.lines().collect();
    assert_eq!(lines.len(), 80, "{ledger}");
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 80);
}

#[test]
fn a_task_whose_end_the_database_has_lost_does_not_run_again_by_itself() {
    let mut lab = Lab::start(2);
    lab.upload("long", "", &[("only", WAITS, "")]);
    let id = lab.execute("long", "");
    let started = "SELECT count(*) FROM cloacina_attempts WHERE started_at IS NOT NULL";
    wait_for("its start to be written", || (lab.site.database.value::<i64>(started) == 1).then_some(()));
    lab.allow("go");
    assert_eq!(lab.ended(&id)["status"], "Completed");
    lose_the_end(&mut lab, "ended_at = NULL", 2);
    let ended = lab.ended(&id);
    assert_eq!(ended["error"], "task `only` failed: what became of it was lost", "{ended:#}");
    assert_eq!(lab.written("ledger").lines().count(), 2);
    lab.events(&id);
}

#[test]
fn nor_does_a_short_one_whose_start_is_lost_too_by_a_failover() {
    let mut lab = Lab::start(2);
    lab.upload("short", "", &[("only", "echo ran >>$shared/ledger", "")]);
    let id = lab.execute("short", "");
    assert_eq!(lab.ended(&id)["status"], "Completed");
    lab.site.database.execute("UPDATE cloacina_attempts SET timeline = timeline - 1");
    lose_the_end(&mut lab, "ended_at = NULL, started_at = NULL", 3);
    let ended = lab.ended(&id);
    assert_eq!(ended["error"], "task `only` failed: what became of it was lost", "{ended:#}");
    assert_eq!(lab.written("ledger"), "ran\n");
    lab.events(&id);
}

/// Kills the server, takes the end of the only attempt out of the database, and starts a server again.
fn lose_the_end(lab: &mut Lab, attempt: &str, events: u32) {
    send_signal("KILL", &lab.site.server.pid().to_string());
    wait_for("the server to be gone", || (!lab.site.server.is_running()).then_some(()));
    // As an earlier state of the database has it.
    lab.site.database.execute(&format!(
        "UPDATE cloacina_attempts SET {attempt};
         UPDATE cloacina_tasks SET status = 'Running', completed_at = NULL;
         UPDATE cloacina_executions SET status = 'Running', completed_at = NULL, last_event = last_event - {events};
         DELETE FROM cloacina_events USING cloacina_executions WHERE cloacina_executions.id = execution AND number > last_event",
    ));
    lab.site.server = super::start(&lab.site.database, &lab.home, 2);
}
