//! Having a workflow executed.

use serde_json::{Value, json};

use super::{HOST, Idle, text};
use crate::support::package::{package, upload};
use crate::workflows::upload::site;

#[test]
fn an_execution_is_scheduled_and_shown() {
    let idle = Idle::start();
    let made = idle.post("workflows/nightly/execute", None).expect_status(202);
    let answer = made.json();
    let id = text(&answer, "execution_id");
    let expected = json!({
        "execution_id": id, "workflow_name": "nightly", "tenant_id": "acme", "status": "scheduled"
    });
    assert_eq!(answer, expected);
    assert_eq!(made.header("Location"), Some(&*format!("/tenants/acme/executions/{id}")));
    let shown = idle.get(&format!("executions/{id}")).expect_status(200).json();
    let created_at = text(&shown, "created_at");
    assert_eq!(
        shown,
        json!({
            "tenant_id": "acme", "execution_id": id, "workflow_name": "nightly", "version": "1.0.0", "status": "Pending",
            "error": null, "created_at": created_at, "run_at": null, "started_at": null, "completed_at": null,
            "tasks": [{
                "id": "only", "dependencies": [], "status": "NotStarted", "attempts": 0, "started_at": null,
                "completed_at": null, "exit_code": null, "error": null
            }],
            "context": {}
        })
    );
    let key = &idle.key;
    let line = idle.site.server.log_line(&["execution scheduled", id]);
    assert_eq!(
        (text(&line, "tenant"), text(&line, "workflow"), text(&line, "by_name")),
        ("acme", "nightly", "acme-write")
    );
    assert!(!idle.site.server.log().contains(key.as_str()));
}

#[test]
fn a_version_and_a_time_may_be_asked_for() {
    let idle = Idle::start();
    for version in ["2.0.0", "3.0.0-rc.1"] {
        upload(idle.site.server.address, "acme", &idle.key, &package("nightly", version)).expect_status(201);
    }
    for (body, version, run_at) in [
        ("{}", "2.0.0", Value::Null),
        (r#"{"version":"1.0.0"}"#, "1.0.0", Value::Null),
        (r#"{"version":"3.0.0-rc.1"}"#, "3.0.0-rc.1", Value::Null),
        (r#"{"run_at":"2999-01-01T02:00:00+02:00"}"#, "2.0.0", json!("2999-01-01T00:00:00+00:00")),
    ] {
        let made = idle.post("workflows/nightly/execute", Some(body)).expect_status(202).json();
        let shown = idle.get(&format!("executions/{}", text(&made, "execution_id"))).json();
        assert_eq!((text(&shown, "version"), &shown["run_at"]), (version, &run_at), "{body}");
    }
    for (path, body, line) in [
        ("nothing", "{}", "workflow 'nothing' not found"),
        ("no%20name", "{}", "workflow 'no%20name' not found"),
        ("nightly", r#"{"version":"9.0.0"}"#, "version '9.0.0' of workflow 'nightly' not found"),
    ] {
        let refused = idle.post(&format!("workflows/{path}/execute"), Some(body)).expect_status(404);
        assert_eq!(refused.error(), line);
    }
}

#[test]
fn without_a_host_nothing_is_executed() {
    let (site, key) = site();
    upload(site.server.address, "acme", &key, &package("nightly", "1.0.0")).expect_status(201);
    let idle = Idle { site, key };
    let refused = || idle.post("workflows/nightly/execute", None).expect_status(503).error();
    assert_eq!(refused(), "no server runs tasks: start one with --task-slots");
    idle.sql(&HOST.replace("'idle', 1", "'stopped', 0"));
    assert_eq!(refused(), "no server runs tasks: start one with --task-slots");
    idle.sql(&HOST.replace("idle", "kept"));
    idle.sql("UPDATE cloacina_hosts SET obstacle = 'the kernel is too old' WHERE name = 'kept'");
    // How the server could be got at is not for tenants.
    let line = "no server runs tasks: something keeps them from it, which the server's admin is told here";
    assert_eq!(refused(), line);
    let path = "/tenants/acme/workflows/nightly/execute";
    let told = idle.site.server.post(path, &idle.site.admin, "").expect_status(503).error();
    assert_eq!(told, "no server runs tasks: the kernel is too old");
    idle.sql(HOST);
    idle.execute("nightly");
}

#[test]
fn a_request_that_is_sent_twice_is_one() {
    let idle = Idle::start();
    idle.upload("other", "1.0.0", &[("a", "")]);
    let ask = |workflow: &str, key: &str, body: &str| {
        let fields = format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n");
        idle.post_with(&format!("workflows/{workflow}/execute"), &fields, body.as_bytes())
    };
    let id = |workflow: &str, key: &str, body: &str| {
        text(&ask(workflow, key, body).expect_status(202).json(), "execution_id").to_owned()
    };
    let first = id("nightly", "one", "{}");
    assert_eq!(id("nightly", "one", "{}"), first);
    assert_ne!(id("nightly", "two", "{}"), first);
    assert_ne!(id("other", "one", "{}"), first);
    let line = "Idempotency-Key: an earlier request for this workflow had the same key and another body";
    assert_eq!(ask("nightly", "one", "{ }").expect_status(422).error(), line);
    // Also to requests at the same moment.
    let ids: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| id("nightly", "many", "{}"))).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    idle.sql("UPDATE cloacina_idempotency_keys SET created_at = now() - interval '25 hours'");
    assert_ne!(id("nightly", "one", "{}"), first, "kept for a day");

    let longest = "k".repeat(255);
    id("nightly", &longest, "{}");
    for key in ["", "a b", "caf\u{e9}", &format!("{longest}k"), "a\r\nIdempotency-Key: a"] {
        let refused = ask("nightly", key, "{}").expect_status(400).error();
        assert_eq!(refused, "Idempotency-Key: expected 1 to 255 visible ASCII characters, once", "{key}");
    }
    assert_eq!(idle.site.database.value::<i64>("SELECT count(*) FROM cloacina_executions"), 6);
}

#[test]
fn no_more_wait_than_may() {
    let idle = Idle::start();
    idle.site
        .server
        .patch("/tenants/acme", &idle.site.admin, r#"{"max_pending_executions":2}"#)
        .expect_status(200);
    let first = idle.execute("nightly");
    idle.execute("nightly");
    let refused = idle.post("workflows/nightly/execute", None).expect_status(429).error();
    assert!(refused.starts_with("2 executions of tenant 'acme' have not started yet"), "{refused}");
    idle.end(&first, "Cancelled");
    idle.execute("nightly");
}
