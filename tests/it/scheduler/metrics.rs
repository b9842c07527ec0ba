//! What Prometheus is told of executions that run, wait and end.

use serde_json::json;

use super::{Lab, WAITS};
use crate::support::program::send_signal;
use crate::support::server::Server;
use crate::support::wait_for;

#[track_caller]
fn wait_for_metric(server: &Server, name: &str, status: Option<&str>, is_right: impl Fn(f64) -> bool) {
    let labels: Vec<_> = status.map(|status| ("status", status)).into_iter().collect();
    wait_for(&format!("{name} {labels:?}"), || is_right(server.metric(name, &labels)).then_some(()));
}

#[test]
fn ends_are_counted_by_the_server_that_writes_them_down() {
    let lab = Lab::start(4);
    lab.upload("good", "", &[("a", "true", ""), ("b", "true", "dependencies = [\"a\"]")]);
    lab.upload("bad", "", &[("a", "exit 1", ""), ("b", "true", "dependencies = [\"a\"]")]);
    lab.upload("long", "", &[("only", WAITS, "")]);
    lab.run("good", "");
    lab.run("bad", "");
    let later = lab.execute("good", r#"{"run_at":"2199-01-01T00:00:00Z"}"#);
    lab.post(&format!("executions/{later}/cancel"), "").expect_status(202);
    let long = lab.execute("long", "");
    lab.written("ledger");
    let server = &lab.site.server;
    wait_for_metric(server, "cloacina_task_slots", None, |slots| slots == 4.0);
    wait_for_metric(server, "cloacina_task_slots_in_use", None, |slots| slots == 1.0);
    let attempt: String =
        lab.site.database.value("SELECT id::text FROM cloacina_attempts WHERE ended_at IS NULL");
    let lock = lab.home.join("attempts").join(attempt).join("attempt.lock");
    send_signal("KILL", std::fs::read_to_string(lock).unwrap().trim());
    assert_eq!(lab.ended(&long)["status"], json!("Failed"));
    for (name, status, count) in [
        ("cloacina_executions_ended_total", Some("Completed"), 1.0),
        ("cloacina_executions_ended_total", Some("Failed"), 2.0),
        ("cloacina_executions_ended_total", Some("Cancelled"), 1.0),
        ("cloacina_tasks_ended_total", Some("Completed"), 2.0),
        ("cloacina_tasks_ended_total", Some("Failed"), 2.0),
        ("cloacina_tasks_ended_total", Some("Skipped"), 1.0),
        ("cloacina_tasks_ended_total", Some("Cancelled"), 2.0),
        ("cloacina_attempts_abandoned_total", None, 1.0),
        ("cloacina_task_start_seconds_count", None, 4.0),
        ("cloacina_task_slots_in_use", None, 0.0),
    ] {
        wait_for_metric(server, name, status, |value| value == count);
    }
    assert!(server.metric("cloacina_task_start_seconds_sum", &[]) > 0.0);
}

#[test]
fn what_has_not_ended_is_counted() {
    let lab = Lab::start(4);
    lab.site.server.patch("/tenants/acme", &lab.site.admin, r#"{"max_running_tasks":1}"#).expect_status(200);
    let printing = format!("echo x; {WAITS}");
    lab.upload("two", "", &[("a", &printing, ""), ("b", &printing, "")]);
    let first = lab.execute("two", "");
    lab.written("ledger");
    wait_for("its log", || {
        (!lab.get(&format!("executions/{first}/tasks/a/log")).body.is_empty()).then_some(())
    });
    let second = lab.execute("two", "");
    // A server counts when it starts.
    let lab = lab.restart(4);
    let server = &lab.site.server;
    for (name, status, count) in [
        ("cloacina_executions", Some("Pending"), 1.0),
        ("cloacina_executions", Some("Running"), 1.0),
        ("cloacina_tasks", Some("Ready"), 1.0),
        ("cloacina_tasks", Some("Running"), 1.0),
        ("cloacina_queue_length", None, 2.0),
    ] {
        wait_for_metric(server, name, status, |value| value == count);
    }
    assert!(server.metric("cloacina_queue_oldest_seconds", &[]) > 0.0);
    assert!(server.metric("cloacina_task_log_bytes", &[]) > 0.0);
    lab.allow("go");
    [first, second].iter().for_each(|id| assert_eq!(lab.ended(id)["status"], "Completed"));
}
