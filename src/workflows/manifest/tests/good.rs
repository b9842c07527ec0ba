//! Manifests that are right.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::engine::graph::{Context, Decision, SkipReason, TaskOutcome, TaskState};
use crate::engine::retry::Backoff;

const EXAMPLE: &str = include_str!("example.toml");

#[test]
fn the_example_says_what_it_says() {
    let manifest = parse(EXAMPLE).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.version.to_string().as_str()), ("nightly", "1.2.0"));
    assert_eq!(manifest.description.as_deref(), Some("Loads the orders of the day"));
    assert_eq!(manifest.max_running, Some(1));
    assert_eq!(manifest.env, BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]));
    let [extract, load, alarm] = manifest.tasks.as_slice() else { panic!("{:?}", manifest.tasks) };
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let retries = |attempts| Retries {
        attempts,
        backoff: Backoff::Exponential,
        delay: second,
        max_delay: minute,
        jitter: true,
    };
    let expected = Task {
        id: TaskId::parse("extract").unwrap(),
        command: vec!["./extract.sh".to_owned(), "--all".to_owned()],
        timeout: 10 * minute,
        retries: retries(3),
        restart_safe: true,
        max_memory: Some(512 << 20),
        secrets: vec!["SHOP_TOKEN".to_owned()],
    };
    assert_eq!(*extract, expected);
    let expected = Task {
        id: TaskId::parse("load").unwrap(),
        command: vec!["./load".to_owned()],
        timeout: 60 * minute,
        retries: retries(1),
        restart_safe: false,
        max_memory: None,
        secrets: Vec::new(),
    };
    assert_eq!(*load, expected);
    assert_eq!((alarm.id.as_str(), alarm.secrets.as_slice()), ("alarm", ["ALARM_URL".to_owned()].as_slice()));
    let expected = Schedule {
        name: TriggerName::parse("every-night").unwrap(),
        cron: "0 3 * * *".to_owned(),
        timezone: "Europe/Zurich".to_owned(),
        catch_up: CatchUp::Latest,
        overlap: Overlap::Skip,
        context: json!({ "full": false }).as_object().unwrap().clone(),
    };
    assert_eq!(manifest.schedules, [expected]);
    let expected = Trigger {
        name: TriggerName::parse("new-file").unwrap(),
        command: vec!["./is-there-a-file.sh".to_owned()],
        poll_interval: Duration::from_secs(30),
    };
    assert_eq!(manifest.triggers, [expected]);
}

#[test]
fn the_graph_of_the_example_has_its_dependencies_and_conditions() {
    let graph = parse(EXAMPLE).unwrap().graph;
    let ids: Vec<_> = graph.order().iter().map(|task| graph.id(*task)).collect();
    assert_eq!(ids, ["extract", "load", "alarm"]);
    assert_eq!(graph.dependencies(2), [0, 1]);
    let decide = |task, outcome, rows| {
        let context = Context::from_iter([("rows".to_owned(), json!(rows))]);
        graph.decide(task, |_| TaskState::Ended(outcome), &context)
    };
    let skipped = Decision::Skipped(SkipReason::Condition);
    assert_eq!(decide(1, TaskOutcome::Completed, 1), Decision::Ready);
    assert_eq!(decide(1, TaskOutcome::Completed, 0), skipped);
    assert_eq!(decide(2, TaskOutcome::Completed, 1), skipped);
    assert_eq!(decide(2, TaskOutcome::Failed, 1), Decision::Ready);
}

#[test]
fn a_manifest_may_be_written_in_several_ways() {
    for text in [
        "package = { name = 'a', version = '1.0.0' }\ntasks = [{ id = 'x', command = ['true'] }]\n",
        "package.name = 'a'\npackage.version = '1.0.0-rc.1'\n[[tasks]]\nid = 'x'\ncommand = ['/bin/sh', '-c', 'a | b']\n",
        "\u{feff}[package]\r\nname = \"a\"\r\nversion = \"1.0.0\"\r\n\r\n[[tasks]]\r\n\tid = \"x\"\r\n\tcommand = [\r\n\t\"./bin/../bin/tool\",\r\n]\r\n",
        "[[tasks]]\nid = 'x'\ncommand = ['./extract.sh']\n[tasks.retries]\nattempts = 2\ndelay = '2m'\n\
         [package.env]\nA = ''\n[package]\nname = 'a'\nversion = '1.0.0'\n",
    ] {
        let manifest = parse(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
        assert_eq!((manifest.name.as_str(), manifest.tasks[0].id.as_str()), ("a", "x"), "{text}");
        let Retries { delay, max_delay, .. } = manifest.tasks[0].retries;
        assert!(delay <= max_delay, "{text}");
    }
}

#[test]
fn thousands_of_tasks_are_read() {
    let mut text = "package = { name = 'a', version = '1.0.0' }\n".to_owned();
    for task in 0..5_000_usize {
        let dependencies: Vec<_> =
            (task.saturating_sub(20)..task).map(|before| format!("'t{before}'")).collect();
        text += &format!(
            "[[tasks]]\nid='t{task}'\ncommand=['true']\ndependencies=[{}]\n",
            dependencies.join(",")
        );
    }
    let start = std::time::Instant::now();
    let manifest = parse(&text).unwrap();
    println!("{} bytes with 5,000 tasks and 100,000 edges: {:?}", text.len(), start.elapsed());
    assert_eq!((manifest.tasks.len(), manifest.graph.dependencies(4_999).len()), (5_000, 20));
    text += "[[tasks]]\nid='one-too-many'\ncommand=['true']\n";
    let problems = parse(&text).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].message.contains("there are 5001 tasks; expected 1 to 5000"), "{problems:?}");
}
