//! How tasks fail, are tried again and cancelled, and what becomes of their executions.

use serde_json::json;

use super::{Lab, WAITS, find};
use crate::support::wait_for;

#[test]
fn a_task_is_tried_again_as_often_as_it_may_be() {
    let lab = Lab::start(2);
    let retries = "retries = { attempts = 3, backoff = \"constant\", delay = \"10ms\", jitter = false }";
    lab.upload(
        "again",
        "",
        &[
            ("third", "[ \"$CLOACINA_ATTEMPT\" = 3 ]", retries),
            ("never", "echo \"$CLOACINA_ATTEMPT\"; exit 7", retries),
            ("allowed", "exit 1", "allow_failure = true"),
            ("after", "true", "dependencies = [\"allowed\", \"third\"]"),
        ],
    );
    let id = lab.execute("again", "");
    let ended = lab.ended(&id);
    assert_eq!(ended["status"], "Failed");
    assert_eq!(ended["error"], "task `never` failed: exit code 7");
    for (task, status, attempts) in [
        ("third", "Completed", 3),
        ("never", "Failed", 3),
        ("allowed", "Failed", 1),
        ("after", "Completed", 1),
    ] {
        let found = find(&ended, task);
        assert_eq!((&found["status"], &found["attempts"]), (&json!(status), &json!(attempts)), "{found}");
    }
    assert_eq!(find(&ended, "never")["exit_code"], 7);
    let of_third: Vec<_> = lab.events(&id).into_iter().filter(|event| event.ends_with(" third")).collect();
    let attempt = ["task_claimed third", "task_started third"];
    let fails = ["task_failed third", "task_retry_scheduled third"];
    let expected: Vec<_> = ["task_created third", "task_marked_ready third"]
        .into_iter()
        .chain(attempt)
        .chain(fails)
        .chain(attempt)
        .chain(fails)
        .chain(attempt)
        .chain(["task_completed third"])
        .collect();
    assert_eq!(of_third, expected);
    assert_eq!(lab.log(&id, "never"), "3\n");
    let first = lab.get(&format!("executions/{id}/tasks/never/log?attempt=1")).expect_status(200);
    assert_eq!(first.body, b"1\n");
}

#[test]
fn a_signal_and_a_timeout_are_named() {
    let lab = Lab::start(2);
    lab.upload("ends", "", &[("killed", "kill -SEGV $$", ""), ("slow", "sleep 60", "timeout = \"1s\"")]);
    let ended = lab.run("ends", "");
    assert_eq!(find(&ended, "killed")["error"], "killed by SIGSEGV");
    assert_eq!(find(&ended, "slow")["error"], "timed out");
    assert_eq!(ended["error"], "tasks `killed`, `slow` failed");
}

#[test]
fn a_cancelled_execution_ends_with_its_processes() {
    let lab = Lab::start(2);
    lab.upload(
        "long",
        "",
        &[("runs", WAITS, ""), ("after", "touch $shared/after", "dependencies = [\"runs\"]")],
    );
    let id = lab.execute("long", "");
    let begun = lab.written("ledger");
    let pid = begun.split_whitespace().last().unwrap().to_owned();
    let answer = lab.post(&format!("executions/{id}/cancel"), "").expect_status(202).json();
    assert_eq!(answer["execution_id"], json!(id));
    let ended = lab.ended(&id);
    assert_eq!(ended["status"], "Cancelled", "{ended:#}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    for task in ["runs", "after"] {
        assert_eq!(find(&ended, task)["status"], "Cancelled", "{ended:#}");
    }
    lab.post(&format!("executions/{id}/cancel"), "").expect_status(409);
    assert!(!lab.has_written("after"));
    // What was cancelled can be run again.
    lab.allow("go");
    lab.post(&format!("executions/{id}/retry"), "").expect_status(202);
    let ended = wait_for("the execution to complete", || {
        let execution = lab.execution(&id);
        (execution["status"] == "Completed").then_some(execution)
    });
    assert_eq!(find(&ended, "runs")["attempts"], 2, "{ended:#}");
    assert!(lab.has_written("after"));
    lab.post(&format!("executions/{id}/retry"), "").expect_status(409);
}

#[test]
fn what_has_not_begun_is_cancelled_at_once() {
    let lab = Lab::start(1);
    lab.upload("one", "max_running = 1", &[("only", WAITS, "")]);
    let first = lab.execute("one", "");
    lab.written("ledger");
    let second = lab.execute("one", "");
    let later = lab.execute("one", r#"{"run_at":"2099-01-01T00:00:00Z"}"#);
    for id in [&second, &later] {
        assert_eq!(lab.execution(id)["status"], "Pending");
        let answer = lab.post(&format!("executions/{id}/cancel"), "").expect_status(202).json();
        assert_eq!(answer["status"], "Cancelled");
        assert_eq!(lab.execution(id)["status"], "Cancelled");
    }
    lab.allow("go");
    assert_eq!(lab.ended(&first)["status"], "Completed");
    assert_eq!(lab.written("ledger").lines().count(), 2);
}

#[test]
fn a_retry_runs_what_failed_and_what_is_behind_it() {
    let lab = Lab::start(2);
    lab.upload(
        "fix",
        "",
        &[
            ("good", "echo x >>$shared/good; echo '{\"from\":\"good\"}' >$CLOACINA_OUTPUT", ""),
            ("bad", "[ -e $shared/fixed ]", "dependencies = [\"good\"]"),
            ("last", "cat >$shared/context; echo >>$shared/context", "dependencies = [\"bad\"]"),
        ],
    );
    let id = lab.execute("fix", "");
    let ended = lab.ended(&id);
    assert_eq!((&ended["status"], &find(&ended, "last")["status"]), (&json!("Failed"), &json!("Skipped")));
    lab.allow("fixed");
    lab.post(&format!("executions/{id}/retry"), "").expect_status(202);
    wait_for("it to complete", || (lab.execution(&id)["status"] == "Completed").then_some(()));
    let ended = lab.execution(&id);
    let attempts: Vec<_> =
        ["good", "bad", "last"].iter().map(|id| find(&ended, id)["attempts"].clone()).collect();
    assert_eq!(attempts, [1, 2, 1]);
    assert_eq!(lab.written("context"), "{\"from\":\"good\"}\n");
    assert_eq!(lab.written("good"), "x\n");
    assert_eq!(ended["error"], json!(null));
}

#[test]
fn what_could_not_be_started_has_no_start() {
    let lab = Lab::start(2);
    lab.upload("broken", "", &[("only", "true", "")]);
    lab.site.database.execute("UPDATE cloacina_package_pieces SET bytes = 'x'");
    let ended = lab.run("broken", "");
    let id = ended["execution_id"].as_str().unwrap();
    assert_eq!(ended["status"], "Failed", "{ended:#}");
    let events = lab.events(id);
    assert!(events.contains(&"task_failed only".to_owned()), "{events:?}");
    assert!(!events.contains(&"task_started only".to_owned()), "{events:?}");
    assert!(lab.site.database.value::<bool>("SELECT bool_and(started_at IS NULL) FROM cloacina_attempts"));
}

#[test]
fn an_execution_that_ends_as_it_starts_has_both_times() {
    let lab = Lab::start(2);
    lab.upload("skips", "", &[("only", "true", "run_if = { context = \"rows\", greater_than = 2 }")]);
    let ended = lab.run("skips", r#"{"context":{"rows":1}}"#);
    assert_eq!(ended["status"], "Completed", "{ended:#}");
    let is_set = "SELECT started_at <= completed_at FROM cloacina_executions";
    assert_eq!(lab.site.database.value::<Option<bool>>(is_set), Some(true));
}

/// As where the session broke while it was written, and more was printed since.
#[test]
fn a_piece_of_a_log_that_was_written_before_is_made_whole() {
    let lab = Lab::start(2);
    let script = "while [ ! -e \"$shared/go\" ]; do sleep 0.02; done; echo 'all of it'";
    lab.upload("prints", "", &[("only", script, "")]);
    let id = lab.execute("prints", "");
    lab.wait_for_task(&id, "only", "Running");
    lab.site.database.execute(
        "INSERT INTO cloacina_log_pieces (attempt, at, bytes) SELECT id, 0, 'all' FROM cloacina_attempts",
    );
    lab.allow("go");
    lab.ended(&id);
    assert_eq!(lab.log(&id, "only"), "all of it\n");
}
