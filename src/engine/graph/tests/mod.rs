//! Random graphs beside a slow model, and large shapes.

mod errors;
mod executions;
mod model;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use serde_json::json;

use super::*;
use model::Model;
use random::{Random, task_named};

fn task(id: &str, dependencies: &[&str]) -> Task {
    let dependencies = dependencies.iter().map(|id| (*id).to_owned()).collect();
    Task { dependencies, ..task_named(id) }
}

fn graph(tasks: &[Task]) -> Arc<Graph> {
    Arc::new(Graph::new(tasks.to_vec()).unwrap())
}

/// Decides on all that can be decided.
fn settle(progress: &mut Progress) -> Vec<(usize, Decision)> {
    let mut next = || progress.decide_next(|_| Ok::<_, Infallible>(Context::new())).unwrap();
    std::iter::from_fn(&mut next).collect()
}

#[test]
fn order_and_upstream_are_the_models() {
    for seed in 0..2_010 {
        // Few have more tasks than a word has bits.
        let tasks = Random(seed).tasks(if seed < 2_000 { 8 } else { 150 });
        let graph = graph(&tasks);
        let order = model::order(&tasks);
        assert_eq!(graph.order(), order, "seed {seed}");
        for task in 0..tasks.len() {
            let upstream = model::upstream(&tasks, task);
            let is_upstream = |other: &usize| graph.is_upstream(*other, task);
            assert_eq!(
                (0..tasks.len()).filter(is_upstream).collect::<BTreeSet<_>>(),
                upstream,
                "seed {seed}"
            );
            let in_order = order.iter().copied().filter(|other| upstream.contains(other));
            assert!(graph.upstream(task).eq(in_order), "seed {seed}");
            assert_eq!(graph.dependencies(task), model::dependencies(&tasks, task), "seed {seed}");
            assert_eq!(graph.index_of(graph.id(task)), Some(task));
        }
    }
}

#[test]
fn decisions_are_the_models_for_any_outcome() {
    let outcomes =
        [TaskOutcome::Completed, TaskOutcome::Failed, TaskOutcome::Skipped, TaskOutcome::Cancelled];
    let mut found = BTreeMap::<_, usize>::new();
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let tasks = random.tasks(8);
        let graph = graph(&tasks);
        let mut model = Model::new(tasks, random.context());
        for task in 0..graph.len() {
            model.states[task] = TaskState::Ended(random.of(&outcomes).unwrap());
            model.outputs[task] = random.percent(50).then(|| random.context());
        }
        for task in 0..graph.len() {
            let decision = graph.decide(task, |task| model.states[task], &model.merged_context(task));
            assert_eq!(decision, model.decide(task), "seed {seed}, t{task}");
            *found.entry(format!("{decision:?}").split('(').next().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert!(found.values().all(|count| *count > 1_000), "{found:?}");
}

#[test]
fn a_context_is_asked_for_where_it_matters() {
    let run_if = |id: &str| Some(Condition::None(vec![Condition::Failed(id.to_owned())]));
    let mut progress =
        Progress::new(graph(&[task("a", &[]), Task { run_if: run_if("a"), ..task("b", &["a"]) }]));
    for task in 0..2 {
        assert_eq!(progress.decide_next(|_| Err("away")), Ok(Some((task, Decision::Ready))));
        progress.started(task).unwrap();
        progress.ended(task, AttemptOutcome::Completed).unwrap();
    }
}

#[test]
fn a_context_that_cannot_be_had_leaves_the_task_to_be_decided() {
    let test = ContextTest::Equals(json!(1));
    let run_if = Condition::Context { key: "n".to_owned(), test };
    let mut progress = Progress::new(graph(&[Task { run_if: Some(run_if), ..task("a", &[]) }]));
    assert_eq!(progress.decide_next(|_| Err("away")), Err("away"));
    let context = Context::from_iter([("n".to_owned(), json!(1))]);
    assert_eq!(progress.decide_next(|_| Ok::<_, Infallible>(context)), Ok(Some((0, Decision::Ready))));
    assert_eq!(settle(&mut progress), []);
}

/// Runs all that is ready, one level after the other; gives the sizes of the levels.
fn run(graph: &Arc<Graph>, fails: impl Fn(usize) -> bool) -> (Vec<usize>, Option<ExecutionOutcome>) {
    let mut progress = Progress::new(Arc::clone(graph));
    let mut levels = Vec::new();
    loop {
        let mut ready = settle(&mut progress);
        ready.retain(|(_, decision)| *decision == Decision::Ready);
        if ready.is_empty() {
            return (levels, progress.outcome());
        }
        levels.push(ready.len());
        for (task, _) in ready {
            progress.started(task).unwrap();
            let outcome = if fails(task) { AttemptOutcome::Failed } else { AttemptOutcome::Completed };
            progress.ended(task, outcome).unwrap();
        }
    }
}

#[test]
fn large_shapes_run_to_their_end() {
    let level = |level: usize, width: usize, below: &[String]| -> Vec<Task> {
        let named = (0..width).map(|place| task_named(&format!("l{level}-{place}")));
        named.map(|task| Task { dependencies: below.to_vec(), ..task }).collect()
    };
    let ids = |tasks: &[Task]| -> Vec<String> { tasks.iter().map(|task| task.id.clone()).collect() };
    let shape = |widths: &[usize]| {
        let (mut tasks, mut below) = (Vec::new(), Vec::new());
        for (number, width) in widths.iter().enumerate() {
            let more = level(number, *width, &below);
            below = ids(&more);
            tasks.extend(more);
        }
        graph(&tasks)
    };
    for widths in [&[1_000][..], &[1; 25], &[10; 25], &[1, 1_100, 1]] {
        let graph = shape(widths);
        let first_of_last = graph.len() - widths[widths.len() - 1];
        assert_eq!(run(&graph, |_| false), (widths.to_vec(), Some(ExecutionOutcome::Completed)));
        let failed = ExecutionOutcome::Failed { tasks: vec![first_of_last] };
        assert_eq!(run(&graph, |task| task == first_of_last), (widths.to_vec(), Some(failed)));
        let failed = ExecutionOutcome::Failed { tasks: vec![0] };
        assert_eq!(run(&graph, |task| task == 0), (widths[..1].to_vec(), Some(failed)));
    }
}
