//! What executions do while nothing goes wrong.

use serde_json::json;

use super::{Lab, find};

#[test]
fn a_workflow_runs_and_everything_of_it_can_be_seen() {
    let lab = Lab::start(4);
    lab.upload(
        "etl",
        "env = { GREETING = \"hello\" }",
        &[
            ("extract", "echo \"$GREETING $CLOACINA_TENANT $CLOACINA_WORKFLOW $CLOACINA_VERSION\"; cat; echo '{\"rows\":3}' >\"$CLOACINA_OUTPUT\"", ""),
            ("load", "cat >&2; echo '{\"loaded\":true}' >\"$CLOACINA_OUTPUT\"", "dependencies = [\"extract\"]\nrun_if = { context = \"rows\", greater_than = 2 }"),
            ("alarm", "true", "dependencies = [\"extract\", \"load\"]\nrun_if = { any = [{ failed = \"extract\" }, { failed = \"load\" }] }"),
        ],
    );
    let id = lab.execute("etl", r#"{"context":{"day":"2026-01-31","rows":0}}"#);
    let ended = lab.ended(&id);
    assert_eq!(ended["status"], "Completed", "{ended:#}");
    assert_eq!(ended["error"], json!(null));
    assert_eq!((&ended["workflow_name"], &ended["version"]), (&json!("etl"), &json!("1.0.0")));
    assert_eq!(ended["context"], json!({ "day": "2026-01-31", "rows": 3, "loaded": true }));
    let expected = [("extract", "Completed", 1), ("load", "Completed", 1), ("alarm", "Skipped", 0)];
    for (task, status, attempts) in expected {
        let found = find(&ended, task);
        assert_eq!((&found["status"], &found["attempts"]), (&json!(status), &json!(attempts)), "{found}");
    }
    assert_eq!(find(&ended, "load")["dependencies"], json!(["extract"]));
    assert_eq!(find(&ended, "extract")["exit_code"], 0);
    assert_eq!(lab.log(&id, "extract"), "hello acme etl 1.0.0\n{\"day\":\"2026-01-31\",\"rows\":0}");
    assert_eq!(lab.log(&id, "load"), "{\"day\":\"2026-01-31\",\"rows\":3}");
    let expected = [
        "task_created extract",
        "task_created load",
        "task_created alarm",
        "pipeline_started",
        "task_marked_ready extract",
        "task_claimed extract",
        "task_started extract",
        "task_completed extract",
        "task_marked_ready load",
        "task_claimed load",
        "task_started load",
        "task_completed load",
        "task_skipped alarm",
        "pipeline_completed",
    ];
    assert_eq!(lab.events(&id), expected);
    // Nothing of it is left on the host.
    assert_eq!(lab.site.database.value::<i64>("SELECT count(*) FROM cloacina_queue"), 0);
}

#[test]
fn many_executions_of_a_wide_workflow_end() {
    let lab = Lab::start(4);
    let tasks: Vec<(String, String)> = (0..12).map(|n| (format!("t{n}"), "true".to_owned())).collect();
    let first = [("first", "true", "")];
    let wide = tasks.iter().map(|(id, script)| (id.as_str(), script.as_str(), "dependencies = [\"first\"]"));
    let all: Vec<_> = first.into_iter().chain(wide).collect();
    lab.upload("wide", "", &all);
    let ids: Vec<_> = (0..5).map(|_| lab.execute("wide", "")).collect();
    for id in ids {
        assert_eq!(lab.ended(&id)["status"], "Completed");
        assert_eq!(lab.events(&id).len(), 13 * 5 + 2);
    }
    let unfinished = "SELECT count(*) FROM cloacina_attempts WHERE ended_at IS NULL OR started_at IS NULL";
    assert_eq!(lab.site.database.value::<i64>(unfinished), 0);
}

#[test]
fn an_output_that_is_none_fails_the_task() {
    let lab = Lab::start(2);
    lab.upload(
        "out",
        "",
        &[("bad", "echo '[1]' >\"$CLOACINA_OUTPUT\"", ""), ("after", "true", "dependencies = [\"bad\"]")],
    );
    let ended = lab.run("out", "");
    assert_eq!(ended["status"], "Failed", "{ended:#}");
    assert!(find(&ended, "bad")["error"].as_str().unwrap().contains("object"), "{ended:#}");
    assert_eq!(find(&ended, "after")["status"], "Skipped");
}

#[test]
fn a_context_that_grows_too_large_fails_its_task() {
    let lab = Lab::start(4);
    let script = "head -c 1000000 /dev/zero | tr '\\0' x | sed \"s/.*/{\\\"$CLOACINA_TASK\\\":\\\"&\\\"}/\" >\"$CLOACINA_OUTPUT\"";
    let parts = ["a", "b", "c", "d", "e"].map(|id| (id, script, ""));
    let all: Vec<_> = parts
        .into_iter()
        .chain([
            ("few", "true", "dependencies = [\"a\", \"b\", \"c\", \"d\"]"),
            ("all", "true", "dependencies = [\"a\", \"b\", \"c\", \"d\", \"e\"]"),
        ])
        .collect();
    lab.upload("large", "", &all);
    let ended = lab.run("large", "");
    assert_eq!(find(&ended, "few")["status"], "Completed", "{}", ended["tasks"]);
    let failed = find(&ended, "all");
    assert_eq!((&failed["status"], &failed["attempts"]), (&json!("Failed"), &json!(0)));
    assert!(failed["error"].as_str().unwrap().contains("4194304"), "{failed}");
    assert_eq!(ended["context_truncated"], true);
}

#[test]
fn a_large_output_is_kept_as_it_was_written() {
    let lab = Lab::start(2);
    // In the database in pieces, at whose ends stands one byte of a character; the second one follows on the same sessions.
    let script = |times: u32| {
        format!(
            "printf '{{\"%s\":\"a%s\"}}' $CLOACINA_TASK $(yes é | head -n {times} | tr -d '\\n') >\"$CLOACINA_OUTPUT\""
        )
    };
    let (first, second) = (script(60_000), script(40_000));
    lab.upload("large", "", &[("one", &first, ""), ("two", &second, "dependencies = [\"one\"]")]);
    let ended = lab.run("large", "");
    assert_eq!(ended["status"], "Completed", "{}", ended["tasks"]);
    for (task, times) in [("one", 60_000), ("two", 40_000)] {
        let expected = format!("a{}", "é".repeat(times));
        assert!(ended["context"][task] == expected, "the output of {task} is another one");
    }
}
