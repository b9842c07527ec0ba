//! What starts when: turns of tenants, limits, pauses and times.

use super::{Lab, WAITS};
use crate::support::wait_for;

fn running(lab: &Lab) -> i64 {
    lab.site.database.value("SELECT count(*) FROM cloacina_attempts WHERE ended_at IS NULL")
}

#[test]
fn a_workflow_runs_as_often_at_once_as_it_may() {
    let lab = Lab::start(6);
    lab.upload("two", "max_running = 2", &[("only", WAITS, "")]);
    let ids: Vec<_> = (0..5).map(|_| lab.execute("two", "")).collect();
    wait_for("two to run", || (running(&lab) == 2).then_some(()));
    lab.upload("free", "", &[("only", "true", "")]);
    lab.run("free", "");
    assert_eq!(running(&lab), 2);
    lab.allow("go");
    for id in ids {
        assert_eq!(lab.ended(&id)["status"], "Completed");
    }
    // The first ones came first.
    let order = "SELECT string_agg((rank = seen)::text, ' ') FROM (
         SELECT row_number() OVER (ORDER BY created_at) AS rank, row_number() OVER (ORDER BY started_at) AS seen
         FROM cloacina_executions WHERE workflow = 'two') AS ranks";
    assert_eq!(lab.site.database.value::<String>(order), "true true true true true");
}

#[test]
fn no_tenant_waits_for_the_backlog_of_another() {
    let lab = Lab::start(3);
    lab.upload("long", "", &[("only", WAITS, "")]);
    let ids: Vec<_> = (0..20).map(|_| lab.execute("long", "")).collect();
    wait_for("all slots but one to be taken", || (running(&lab) == 2).then_some(()));
    lab.site.tenant("other");
    let key = lab.site.key_of("other", "write").key().to_owned();
    lab.upload_of("other", &key, "short", "", &[("only", "true", "")]);
    let path = "/tenants/other/workflows/short/execute?wait=30";
    let ended = lab.site.server.post(path, &key, "").expect_status(202).json();
    assert_eq!(ended["status"], "Completed", "{ended:#}");
    assert_eq!(running(&lab), 2);
    lab.allow("go");
    ids.iter().for_each(|id| assert_eq!(lab.ended(id)["status"], "Completed"));
}

#[test]
fn a_tenant_runs_no_more_tasks_than_it_may() {
    let lab = Lab::start(6);
    lab.site.server.patch("/tenants/acme", &lab.site.admin, r#"{"max_running_tasks":2}"#).expect_status(200);
    lab.upload("long", "", &[("a", WAITS, ""), ("b", WAITS, ""), ("c", WAITS, ""), ("d", WAITS, "")]);
    let id = lab.execute("long", "");
    wait_for("two to run", || (lab.written("ledger").lines().count() == 2).then_some(()));
    assert_eq!(running(&lab), 2);
    lab.allow("go");
    assert_eq!(lab.ended(&id)["status"], "Completed");
}

#[test]
fn a_paused_workflow_starts_nothing_until_it_is_resumed() {
    let lab = Lab::start(2);
    lab.upload("p", "", &[("a", WAITS, ""), ("b", "touch $shared/b", "dependencies = [\"a\"]")]);
    let id = lab.execute("p", "");
    lab.written("ledger");
    lab.post("workflows/p/pause", "").expect_status(200);
    let second = lab.execute("p", "");
    lab.allow("go");
    lab.wait_for_task(&id, "a", "Completed");
    lab.wait_for_task(&id, "b", "Ready");
    // Something else runs meanwhile, so the scheduler has looked.
    lab.upload("q", "", &[("only", "true", "")]);
    lab.run("q", "");
    assert_eq!(lab.execution(&second)["status"], "Pending");
    assert!(!lab.has_written("b"));
    lab.post("workflows/p/resume", "").expect_status(200);
    for id in [&id, &second] {
        assert_eq!(lab.ended(id)["status"], "Completed");
    }
}

#[test]
fn an_execution_starts_at_its_time() {
    let lab = Lab::start(2);
    lab.upload("later", "", &[("only", "true", "")]);
    let at = time::OffsetDateTime::now_utc() + time::Duration::seconds(2);
    let text = at.format(&time::format_description::well_known::Rfc3339).unwrap();
    let id = lab.execute("later", &format!("{{\"run_at\":\"{text}\"}}"));
    assert_eq!(lab.ended(&id)["status"], "Completed");
    let was_early = format!("SELECT started_at < run_at FROM cloacina_executions WHERE id = '{id}'");
    assert!(!lab.site.database.value::<bool>(&was_early));
}

#[test]
fn the_same_request_makes_one_execution() {
    let lab = Lab::start(2);
    lab.upload("once", "", &[("only", "echo x >>$shared/once", "")]);
    lab.run("once", "");
    let address = lab.site.server.address;
    let request = format!(
        "POST /tenants/acme/workflows/once/execute HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nIdempotency-Key: 2026-01-31\r\nContent-Length: 2\r\n\r\n{{}}",
        lab.key
    );
    let ids: Vec<_> = std::thread::scope(|scope| {
        let ask = || crate::support::http::exchange(address, request.as_bytes()).expect_status(202).json();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()["execution_id"].clone()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    lab.ended(ids[0].as_str().unwrap());
    assert_eq!(lab.written("once"), "x\nx\n");
    let other = request.replace("Content-Length: 2\r\n\r\n{}", "Content-Length: 3\r\n\r\n{ }");
    crate::support::http::exchange(address, other.as_bytes()).expect_status(422);
}
