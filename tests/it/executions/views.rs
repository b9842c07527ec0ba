//! What the database role of a tenant reads of its executions.

use super::Idle;
use crate::support::http;
use crate::support::package::{package, upload};
use crate::support::server::Server;
use crate::support::wait_for;
use crate::tenants::site::Site;

const VIEWS: [&str; 6] = ["workflows", "executions", "tasks", "attempts", "events", "logs"];

#[test]
fn a_role_reads_what_is_its_tenants_own() {
    let site = Site::guarded();
    let (one, other, quiet) =
        (site.tenant_with_role("one"), site.tenant_with_role("other"), site.tenant_with_role("quiet"));
    site.tenant("acme");
    let key = site.key_of("acme", "write").key().to_owned();
    let idle = Idle::of(site, key);
    for tenant in [one.name(), other.name(), "acme"] {
        let server = &idle.site.server;
        upload(server.address, tenant, &idle.site.admin, &package("flow", "1.0.0")).expect_status(201);
        let path = format!("/tenants/{tenant}/workflows/flow/execute");
        let made =
            http::exchange(server.address, &http::request("POST", &path, Some(&idle.site.admin), None));
        let id = made.expect_status(202).json()["execution_id"].as_str().unwrap().to_owned();
        let attempt = idle.attempt(&id, 1, false);
        idle.print(&attempt, 0, tenant);
    }
    for tenant in [&one, &other] {
        let mut session = tenant.session();
        for view in VIEWS {
            let count: i64 = session
                .query_one(&format!("SELECT count(*) FROM cloacina_views.{view}"), &[])
                .unwrap()
                .get(0);
            assert_eq!(count, 1, "{view}");
            let denied = session.batch_execute(&format!("DELETE FROM cloacina_views.{view}"));
            assert!(denied.is_err(), "{view}");
        }
        let read = "SELECT convert_from(bytes, 'UTF8'), workflow_name, task.id, event_type, package_name
            FROM cloacina_views.executions AS execution JOIN cloacina_views.tasks AS task ON task.execution_id = execution.id
            JOIN cloacina_views.attempts AS attempt ON attempt.execution_id = execution.id AND task_id = task.id
            JOIN cloacina_views.logs AS log ON log.attempt_id = attempt.id
            JOIN cloacina_views.events AS event ON event.execution_id = execution.id
            JOIN cloacina_views.workflows ON package_name = workflow_name";
        let row = session.query_one(read, &[]).unwrap();
        let texts: Vec<String> = (0..5).map(|place| row.get(place)).collect();
        assert_eq!(texts, [tenant.name(), "flow", "only", "task_created", "flow"]);
        // A function of the role's that would be asked before the view's own condition.
        let spy = "CREATE FUNCTION spy(text) RETURNS bool COST 0.0000001 LANGUAGE plpgsql
                AS $$ BEGIN RAISE NOTICE 'seen %', $1; RETURN true; END $$;
            DO $$ DECLARE n int; BEGIN SELECT count(*) INTO n FROM cloacina_views.executions WHERE spy(id::text);
                ASSERT n = 1; END $$";
        session.batch_execute(spy).unwrap();
        assert!(session.batch_execute("SELECT FROM public.cloacina_executions").is_err());
    }
    let mut session = quiet.session();
    for view in VIEWS {
        let rows = session.query(&format!("SELECT FROM cloacina_views.{view}"), &[]).unwrap();
        assert!(rows.is_empty(), "{view}");
    }
}

#[test]
fn a_new_server_renews_the_views_of_an_earlier_release() {
    let site = Site::guarded();
    let tenant = site.tenant_with_role("one");
    let Site { database, server, .. } = site;
    server.terminate();
    let of_release = |version: u32| {
        database.execute(&format!(
            "DROP VIEW IF EXISTS cloacina_views.logs; COMMENT ON SCHEMA cloacina_views IS 'cloacinactl: views of V{version}'"
        ));
    };
    let mut session = tenant.session();
    let mut sees = || session.query("SELECT FROM cloacina_views.logs", &[]).is_ok();
    of_release(9);
    // One that has looked at a view and keeps its transaction open is in the way, and is ended.
    let mut looker = tenant.session();
    looker.batch_execute("BEGIN; SELECT FROM cloacina_views.tenant").unwrap();
    assert!(!sees());
    let _server = Server::start(&database);
    wait_for("the views to be renewed", || sees().then_some(()));
    assert!(looker.batch_execute("SELECT 1").is_err());
}
