//! Versions and tenants that are removed while tasks of theirs run.

use std::fs;

use super::{Lab, WAITS};
use crate::support::wait_for;

#[test]
fn a_version_whose_executions_run_is_not_deleted() {
    let lab = Lab::start(2);
    lab.upload("long", "", &[("only", WAITS, "")]);
    let id = lab.execute("long", "");
    lab.written("ledger");
    let delete = || lab.site.server.delete("/tenants/acme/workflows/long/1.0.0", &lab.key);
    delete().expect_status(409);
    lab.allow("go");
    assert_eq!(lab.ended(&id)["status"], "Completed");
    delete().expect_status(200);
    assert_eq!(lab.execution(&id)["status"], "Completed");
}

#[test]
fn a_tenant_whose_tasks_run_is_removed_by_force_alone_with_all_that_they_are() {
    let lab = Lab::start(4);
    let script = format!("setsid sh -c 'echo $$ >$0/child; exec sleep 1000' $shared & {WAITS}");
    lab.upload(
        "long",
        "",
        &[("only", &script, "restart_safe = true"), ("then", "true", "dependencies = [\"only\"]")],
    );
    lab.upload("later", "", &[("only", "true", "")]);
    lab.execute("long", "");
    lab.execute("later", r#"{"run_at":"2199-01-01T00:00:00Z"}"#);
    let first = lab.written("ledger").split_whitespace().last().unwrap().to_owned();
    let child = lab.written("child").trim().to_owned();
    lab.site.delete("acme").expect_status(409);
    assert!([&first, &child].iter().all(|pid| fs::exists(format!("/proc/{pid}")).unwrap()));
    lab.site.delete("acme?force=true").expect_status(200);
    wait_for("its processes to end", || {
        [&first, &child].iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap()).then_some(())
    });
    wait_for("all rows to go", || {
        let left = "SELECT (SELECT count(*) FROM cloacina_tenants WHERE name = 'acme') + (SELECT count(*) FROM cloacina_executions)
             + (SELECT count(*) FROM cloacina_tasks) + (SELECT count(*) FROM cloacina_attempts)
             + (SELECT count(*) FROM cloacina_events) + (SELECT count(*) FROM cloacina_log_pieces)
             + (SELECT count(*) FROM cloacina_queue)";
        (lab.site.database.value::<i64>(left) == 0).then_some(())
    });
    wait_for("its directory to go", || {
        (fs::read_dir(lab.home.join("attempts")).unwrap().count() == 0).then_some(())
    });
    // What is left runs.
    lab.site.tenant("acme");
}
