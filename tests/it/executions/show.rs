//! One execution: its tasks, and its context with their outputs over it.

use serde_json::json;

use super::{Idle, NOTHING, text};

#[test]
fn an_id_that_is_none_and_one_of_nothing() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    for (method, rest) in
        [("GET", ""), ("GET", "/events"), ("GET", "/tasks/only/log"), ("POST", "/cancel"), ("POST", "/retry")]
    {
        let ask = |id: &str| match method {
            "GET" => idle.get(&format!("executions/{id}{rest}")),
            _ => idle.post(&format!("executions/{id}{rest}"), None),
        };
        for wrong in ["x", "%00", &id.replace('-', ""), &format!("urn:uuid:{id}")] {
            assert_eq!(ask(wrong).expect_status(400).error(), "invalid execution ID", "{wrong}{rest}");
        }
        assert_eq!(ask(NOTHING).expect_status(404).error(), format!("execution '{NOTHING}' not found"));
    }
    idle.get(&format!("executions/{}", id.to_uppercase())).expect_status(200);
    assert_eq!(
        idle.get(&format!("executions/{id}/tasks/other/log")).expect_status(404).error(),
        "task 'other' not found"
    );
}

/// Also by the keys of another tenant, and of the server.
#[test]
fn an_execution_is_its_tenants_own() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    idle.site.tenant("other");
    let other = idle.site.key_of("other", "admin").key().to_owned();
    let server = &idle.site.server;
    for rest in ["", "/events", "/tasks/only/log"] {
        let ask = |tenant: &str, key: &str| {
            server.get(&format!("/tenants/{tenant}/executions/{id}{rest}"), Some(key))
        };
        ask("other", &other).expect_status(404);
        ask("acme", &other).expect_status(403);
        ask("other", &idle.site.admin).expect_status(404);
        ask("acme", &idle.site.admin).expect_status(200);
    }
    for change in ["cancel", "retry"] {
        let ask = |tenant: &str, key: &str| {
            server.post(&format!("/tenants/{tenant}/executions/{id}/{change}"), key, "")
        };
        ask("other", &other).expect_status(404);
        ask("acme", &other).expect_status(403);
        let reader = idle.site.key_of("acme", "read").key().to_owned();
        ask("acme", &reader).expect_status(403);
    }
    let listed = server.get("/tenants/other/executions", Some(&other)).expect_status(200).json();
    assert_eq!(listed, json!({ "tenant_id": "other", "executions": [] }));
    let shown = idle.get(&format!("executions/{id}")).json();
    assert_eq!(text(&shown, "status"), "Pending");
}

#[test]
fn outputs_lie_over_the_context_in_topological_order() {
    let idle = Idle::start();
    // In the manifest's order the last one comes first.
    idle.upload("graph", "1.0.0", &[("last", "\"middle\""), ("first", ""), ("middle", "\"first\"")]);
    let body = r#"{"context":{"own":1.10,"first":0,"middle":0,"last":0}}"#;
    let made = idle.post("workflows/graph/execute", Some(body)).expect_status(202).json();
    let id = text(&made, "execution_id");
    let output = |number: i32, output: &str| {
        idle.sql(&format!(
            "UPDATE cloacina_tasks SET status = 'Completed', exit_code = 0, attempts = 2, started_at = now(),
                    completed_at = now(), output = '{output}' WHERE execution = '{id}' AND number = {number}"
        ));
    };
    output(1, r#"{"first":1.0000000000000000000001,"middle":1,"last":1}"#);
    let shown = || idle.get(&format!("executions/{id}")).expect_status(200);
    let context = r#""context":{"first":1.0000000000000000000001,"last":1,"middle":1,"own":1.10},"#;
    assert!(shown().text().contains(context), "{}", shown().text());
    output(2, r#"{"middle":{"a":[2]},"\u006cast":2}"#);
    output(0, r#"{ "last" : 3 }"#);
    let context = r#""context":{"first":1.0000000000000000000001,"last":3,"middle":{"a":[2]},"own":1.10},"#;
    assert!(shown().text().contains(context), "{}", shown().text());
    let tasks = &shown().json()["tasks"];
    assert_eq!((text(&tasks[0], "id"), &tasks[0]["dependencies"]), ("last", &json!(["middle"])));
    assert_eq!((&tasks[1]["attempts"], &tasks[1]["exit_code"]), (&json!(2), &json!(0)));
}

#[test]
fn a_context_that_is_too_large_is_shown_without_outputs() {
    let idle = Idle::start();
    let names = ["a", "b", "c", "d", "e"];
    idle.upload("large", "1.0.0", &names.map(|name| (name, "")));
    let made =
        idle.post("workflows/large/execute", Some(r#"{"context":{"own":1}}"#)).expect_status(202).json();
    let id = text(&made, "execution_id");
    let fill = |key: &str| {
        idle.sql(&format!(
            "UPDATE cloacina_tasks SET output = json_build_object({key}, repeat('x', 1048000))::text WHERE execution = '{id}'"
        ));
    };
    let shown = || idle.get(&format!("executions/{id}")).expect_status(200).json();
    fill("id");
    let large = shown();
    assert_eq!((&large["context"], &large["context_truncated"]), (&json!({ "own": 1 }), &json!(true)));
    // Together it is as large as one.
    fill("'same'");
    let small = shown();
    assert_eq!(text(&small["context"], "same").len(), 1_048_000);
    assert!(small.get("context_truncated").is_none());
}
