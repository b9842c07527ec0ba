//! Pages of executions.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Idle, text};

/// Writes executions of all statuses and of two workflows, some of the same moment.
fn fill(idle: &Idle, count: usize) {
    idle.sql(&format!(
        "INSERT INTO cloacina_executions (id, tenant, workflow, version, status, context, created_at)
         SELECT gen_random_uuid(), tenant.id, (ARRAY['nightly', 'other'])[n % 2 + 1], '1.0.0',
                (ARRAY['Pending', 'Running', 'Completed', 'Failed', 'Cancelled'])[n % 5 + 1], '{{}}',
                '2026-01-01T00:00:00Z'::timestamptz + n / 3 * interval '1 second'
         FROM cloacina_tenants AS tenant, generate_series(0, {count} - 1) AS n"
    ));
}

/// The ids of all pages of a listing, in their order.
#[track_caller]
fn all(idle: &Idle, query: &str) -> Vec<String> {
    let (mut next, mut found) = (format!("/tenants/acme/executions?limit=7{query}"), Vec::new());
    loop {
        let page = idle.site.server.get(&next, Some(&idle.key)).expect_status(200);
        let body = page.json();
        found.extend(body["executions"].as_array().unwrap().iter().map(|item| text(item, "id").to_owned()));
        let Some(cursor) = body.get("next") else {
            assert_eq!(page.header("Link"), None);
            return found;
        };
        let link = page.header("Link").unwrap().strip_prefix('<').unwrap();
        next = link.strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        assert!(next.contains(cursor.as_str().unwrap()), "{next}");
    }
}

#[test]
fn every_page_of_every_filter() {
    let idle = Idle::start();
    fill(&idle, 100);
    let rows = idle.site.database.client().query(
        "SELECT id::text, status, workflow FROM cloacina_executions ORDER BY created_at DESC, id DESC",
        &[],
    );
    let rows: Vec<(String, String, String)> =
        rows.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    for status in
        [None, Some("Pending"), Some("Running"), Some("Completed"), Some("Failed"), Some("Cancelled")]
    {
        for workflow in [None, Some("nightly"), Some("other"), Some("nothing")] {
            let is_asked_for = |row: &&(String, String, String)| {
                status.is_none_or(|status| row.1 == status)
                    && workflow.is_none_or(|workflow| row.2 == workflow)
            };
            let expected: Vec<String> = rows.iter().filter(is_asked_for).map(|row| row.0.clone()).collect();
            let of_status = status.map_or(String::new(), |status| format!("&status={status}"));
            let of_workflow = workflow.map_or(String::new(), |workflow| format!("&workflow={workflow}"));
            assert_eq!(all(&idle, &format!("{of_status}{of_workflow}")), expected, "{status:?} {workflow:?}");
        }
    }
    let page = idle.get("executions?limit=1&status=Failed").expect_status(200).json();
    let item = &page["executions"][0];
    let names: BTreeSet<&str> = item.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = "id pipeline_name version status created_at started_at completed_at error";
    assert_eq!(names, expected.split(' ').collect());
    assert_eq!((text(item, "pipeline_name"), &item["error"]), ("nightly", &json!(null)));
    for (query, start) in [
        (
            "status=failed",
            "status: `failed` is not right: expected one of Pending, Running, Completed, Failed, Cancelled",
        ),
        ("workflow=a%20b", "workflow: `a b` is not right: expected the name of a workflow"),
        ("status=Failed&status=Failed", "status: stands more than once"),
        ("limit=0", "limit: "),
        ("after=x", "after: "),
    ] {
        let refused = idle.get(&format!("executions?{query}")).expect_status(400).error();
        assert!(refused.starts_with(start), "{refused}");
    }
}
