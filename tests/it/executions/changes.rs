//! Cancellations and retries, and what executions keep from being deleted.

use super::{HOST, Idle, text};
use crate::support::http;
use crate::support::package::{package, upload};
use crate::support::wait_for;

#[test]
fn an_execution_is_cancelled_and_retried() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    let change = |what: &str| idle.post(&format!("executions/{id}/{what}"), None);
    let status = || text(&idle.get(&format!("executions/{id}")).json(), "status").to_owned();
    let refused = change("retry").expect_status(409).error();
    let line =
        format!("execution '{id}' is Pending and cannot be retried: only what is Failed or Cancelled can be");
    assert_eq!(refused, line);
    change("cancel").expect(202, &format!("{{\"execution_id\":\"{id}\",\"status\":\"Cancelled\"}}"));
    assert_eq!(status(), "Cancelled");
    let refused = change("cancel").expect_status(409).error();
    assert_eq!(refused, format!("execution '{id}' is Cancelled and cannot be cancelled: it has ended"));
    let retried = change("retry").expect_status(202).json();
    assert_eq!(text(&retried, "status"), status());
    for what in ["execution cancelled", "execution retried"] {
        let line = idle.site.server.log_line(&[what, &id]);
        assert_eq!((text(&line, "tenant"), text(&line, "by_name")), ("acme", "acme-write"));
    }
    let before = status();
    change("cancel").expect_status(202);
    idle.end(&id, "Completed");
    for what in ["cancel", "retry"] {
        assert!(change(what).expect_status(409).error().contains("is Completed and cannot be"), "{before}");
    }
}

#[test]
fn a_version_that_is_executed_stays() {
    let idle = Idle::start();
    upload(idle.site.server.address, "acme", &idle.key, &package("nightly", "2.0.0")).expect_status(201);
    let id = idle.execute("nightly");
    let delete = |version: &str| {
        idle.site.server.delete(&format!("/tenants/acme/workflows/nightly/{version}"), &idle.key)
    };
    let line = "an execution of version 2.0.0 of workflow 'nightly' has not ended: wait for it, or cancel it";
    assert_eq!(delete("2.0.0").expect_status(409).error(), line);
    idle.sql("UPDATE cloacina_executions SET status = 'Running'");
    delete("2.0.0").expect_status(409);
    delete("1.0.0").expect_status(200);
    idle.end(&id, "Failed");
    delete("2.0.0").expect_status(200);
    // It is read as before.
    let shown = idle.get(&format!("executions/{id}")).expect_status(200).json();
    assert_eq!((text(&shown, "version"), text(&shown["tasks"][0], "id")), ("2.0.0", "only"));
    let refused = idle.post(&format!("executions/{id}/retry"), None).expect_status(409).error();
    assert!(refused.contains("was deleted"), "{refused}");
    idle.post("workflows/nightly/execute", None).expect_status(404);
}

/// Of a deletion and an execution at the same moment one is refused.
#[test]
fn a_version_is_deleted_or_executed() {
    let idle = Idle::start();
    let address = idle.site.server.address;
    for round in 0..20 {
        let name = format!("race-{round}");
        upload(address, "acme", &idle.key, &package(&name, "1.0.0")).expect_status(201);
        let execute = || idle.post(&format!("workflows/{name}/execute"), None).status;
        let delete =
            || idle.site.server.delete(&format!("/tenants/acme/workflows/{name}/1.0.0"), &idle.key).status;
        let statuses = std::thread::scope(|scope| {
            let executed = scope.spawn(execute);
            (delete(), executed.join().unwrap())
        });
        assert!([(200, 404), (409, 202)].contains(&statuses), "{statuses:?}");
    }
}

#[test]
fn a_tenant_counts_its_executions() {
    let idle = Idle::start();
    let ids: Vec<String> = (0..3).map(|_| idle.execute("nightly")).collect();
    idle.end(&ids[0], "Completed");
    let attempt = idle.attempt(&ids[0], 1, true);
    idle.print(&attempt, 0, "printed");
    let shown = idle.site.server.get("/tenants/acme", Some(&idle.key)).expect_status(200).json();
    let expected =
        serde_json::json!({ "Pending": 2, "Running": 0, "Completed": 1, "Failed": 0, "Cancelled": 0 });
    assert_eq!((&shown["executions"], &shown["log_bytes"]), (&expected, &7.into()));
}

fn left(idle: &Idle) -> String {
    idle.site.database.value(
        "SELECT concat_ws(' ', (SELECT count(*) FROM cloacina_executions), (SELECT count(*) FROM cloacina_tasks),
             (SELECT count(*) FROM cloacina_attempts), (SELECT count(*) FROM cloacina_events),
             (SELECT count(*) FROM cloacina_log_pieces), (SELECT count(*) FROM cloacina_queue),
             (SELECT count(*) FROM cloacina_idempotency_keys), (SELECT count(*) FROM cloacina_tenants))",
    )
}

#[test]
fn a_tenant_with_executions_is_removed_by_force_alone() {
    let idle = Idle::start();
    let fields = "Idempotency-Key: a\r\n";
    let made = idle.post_with("workflows/nightly/execute", fields, b"").expect_status(202).json();
    let running = text(&made, "execution_id").to_owned();
    let ended = idle.execute("nightly");
    idle.execute("nightly");
    idle.end(&ended, "Completed");
    let first = idle.attempt(&ended, 1, true);
    idle.print(&first, 0, "one");
    idle.sql(&format!("UPDATE cloacina_executions SET status = 'Running' WHERE id = '{running}'"));
    let attempt = idle.attempt(&running, 1, false);
    idle.print(&attempt, 0, "two");

    let line = "executions of tenant 'acme' have not ended: wait for them, or cancel them with ?force=true";
    assert_eq!(idle.site.delete("acme").expect_status(409).error(), line);
    assert_eq!(idle.site.delete("acme?force=false").expect_status(409).error(), line);
    let refused = idle.site.delete("acme?force=1").expect_status(400).error();
    assert_eq!(refused, "force: `1` is not right: expected true or false");
    idle.get("executions").expect_status(200);
    idle.site.delete("acme?force=true").expect_status(200);
    idle.get("executions").expect_status(401);
    // What its host is to end stays until that has.
    wait_for("all else to go", || (left(&idle) == "1 1 1 1 1 0 0 1").then_some(()));
    let state = "SELECT bool_and(execution.is_cancelled AND attempt.is_cancelled)
        FROM cloacina_executions AS execution JOIN cloacina_attempts AS attempt ON execution = execution.id";
    assert!(idle.site.database.value::<bool>(state));
    // A tenant of the same name has none of it.
    idle.site.tenant("acme");
    let listed =
        idle.site.server.get("/tenants/acme/executions", Some(&idle.site.admin)).expect_status(200).json();
    assert_eq!(listed["executions"], serde_json::json!([]));
    idle.sql(&format!("UPDATE cloacina_attempts SET ended_at = now() WHERE id = '{attempt}'"));
    wait_for("the rest to go", || (left(&idle) == "0 0 0 0 0 0 0 1").then_some(()));
}

#[test]
fn a_tenant_whose_executions_have_ended_is_removed() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    idle.end(&id, "Failed");
    idle.site.remove("acme");
    assert_eq!(left(&idle), "0 0 0 0 0 0 0 0");
    idle.site.database.execute(&HOST.replace("idle", "other"));
}

/// One of the two is refused, or what was executed is gone with the tenant.
#[test]
fn nothing_is_executed_for_a_tenant_that_is_removed() {
    let idle = Idle::start();
    let execute = || {
        let request =
            http::request("POST", "/tenants/acme/workflows/nightly/execute", Some(&idle.site.admin), None);
        http::exchange(idle.site.server.address, &request).status
    };
    for _ in 0..10 {
        let statuses = std::thread::scope(|scope| {
            let executed = scope.spawn(execute);
            (idle.site.delete("acme").status, executed.join().unwrap())
        });
        match statuses {
            (409, 202) => {
                idle.sql("UPDATE cloacina_executions SET status = 'Completed'; DELETE FROM cloacina_queue")
            }
            (200, 404) => {
                idle.site.tenant("acme");
                upload(idle.site.server.address, "acme", &idle.site.admin, &package("nightly", "1.0.0"))
                    .expect_status(201);
            }
            other => panic!("{other:?}"),
        }
    }
}
