//! What has happened to an execution.

use serde_json::json;

use super::{Idle, text};

#[test]
fn events_come_page_by_page() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    idle.sql(&format!(
        "WITH last AS (SELECT last_event FROM cloacina_executions WHERE id = '{id}'),
              more AS (INSERT INTO cloacina_events (execution, number, event_type, event_data)
                       SELECT '{id}', last_event + n, 'task_failed', '{{\"n\":' || n || '.10}}'
                       FROM last, generate_series(1, 5) AS n)
         UPDATE cloacina_executions SET last_event = last_event + 5 WHERE id = '{id}'"
    ));
    let path = format!("executions/{id}/events");
    let all = idle.get(&path).expect_status(200);
    let events = all.json();
    let events = events.as_array().unwrap();
    let numbers: Vec<i64> = events.iter().map(|event| event["sequence_num"].as_i64().unwrap()).collect();
    let count = events.len() as i64;
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
    assert_eq!(text(&events[0], "event_type"), "task_created");
    assert!(
        all.text().contains(r#""event_data":{"n":5.10}"#) && all.header("Link").is_none(),
        "{}",
        all.text()
    );

    let (mut next, mut found) = (Some(format!("/tenants/acme/{path}?limit=2")), Vec::new());
    while let Some(target) = next {
        let page = idle.site.server.get(&target, Some(&idle.key)).expect_status(200);
        found.extend(page.json().as_array().unwrap().iter().cloned());
        let link = page.header("Link").map(|link| link.strip_suffix(">; rel=\"next\"").unwrap());
        next = link.map(|link| link.strip_prefix('<').unwrap().to_owned());
    }
    assert_eq!(json!(found), all.json());
    idle.get(&format!("{path}?after={count}")).expect(200, "[]");
    idle.get(&format!("{path}?after={}", i32::MAX)).expect(200, "[]");
    for query in [
        "after=-1",
        "after=x",
        "after=2147483648",
        "after=1&after=1",
        "limit=0",
        "limit=1001",
        "wait=-1",
        "wait=61",
        "wait=1.5",
    ] {
        let refused = idle.get(&format!("{path}?{query}")).expect_status(400).error();
        assert!(refused.starts_with(query.split('=').next().unwrap()), "{refused}");
    }
}

#[test]
fn a_page_of_large_events_ends_early() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    idle.sql(&format!(
        "INSERT INTO cloacina_events (execution, number, event_type, event_data)
         SELECT '{id}', n, 'task_failed', json_build_object('error', repeat('x', 400000)) FROM generate_series(100, 109) AS n;
         UPDATE cloacina_executions SET last_event = 109 WHERE id = '{id}'"
    ));
    let page = idle.get(&format!("executions/{id}/events?after=99")).expect_status(200);
    assert_eq!(page.json().as_array().unwrap().len(), 3);
    assert_eq!(
        page.header("Link"),
        Some(&*format!("</tenants/acme/executions/{id}/events?limit=1000&after=102>; rel=\"next\""))
    );
}
