//! What is no graph.

use std::collections::BTreeSet;

use super::random::{Random, task_named};
use super::task;
use crate::engine::graph::{Condition, Graph, GraphError, GraphErrorKind, Task};

#[test]
fn every_error_is_told_with_its_ids() {
    let run_if =
        |id: &str| Some(Condition::Any(vec![Condition::Failed(id.to_owned()), Condition::All(vec![])]));
    let id = |id: &str| id.to_owned();
    let cycle = |ids: &[&str]| GraphErrorKind::Cycle { ids: ids.iter().copied().map(id).collect() };
    let cases = [
        (
            vec![task("a", &[]), task("b", &["a", "x", "a"]), task("a", &["b"])],
            vec![
                (1, GraphErrorKind::UnknownDependency { id: id("x"), place: 1 }),
                (1, GraphErrorKind::DuplicateDependency { id: id("a"), place: 2 }),
                (2, GraphErrorKind::DuplicateTask { id: id("a"), earlier: 0 }),
            ],
        ),
        (vec![task("a", &["a"])], vec![(0, cycle(&["a", "a"]))]),
        (
            vec![
                task("a", &[]),
                task("b", &["a", "d"]),
                task("c", &["b"]),
                task("d", &["c"]),
                task("e", &["d"]),
            ],
            vec![(1, cycle(&["b", "d", "c", "b"]))],
        ),
        (
            vec![
                task("e", &["b"]),
                task("b", &["c"]),
                task("c", &["b"]),
                task("x", &["y"]),
                task("y", &["x"]),
            ],
            vec![(1, cycle(&["b", "c", "b"])), (3, cycle(&["x", "y", "x"]))],
        ),
        (
            vec![Task { run_if: run_if("x"), ..task("a", &["a"]) }],
            vec![(0, GraphErrorKind::UnknownInRunIf { id: id("x") }), (0, cycle(&["a", "a"]))],
        ),
        (
            vec![
                task("a", &[]),
                task("b", &["a"]),
                Task { run_if: run_if("a"), ..task("c", &["b"]) },
                Task { run_if: run_if("c"), ..task("d", &["b"]) },
                Task { run_if: run_if("e"), ..task("e", &["b"]) },
            ],
            vec![
                (3, GraphErrorKind::NotUpstreamInRunIf { id: id("c") }),
                (4, GraphErrorKind::NotUpstreamInRunIf { id: id("e") }),
            ],
        ),
    ];
    for (tasks, expected) in cases {
        let errors = Graph::new(tasks).unwrap_err();
        let expected = expected.into_iter().map(|(task, kind)| GraphError { task, kind });
        assert_eq!(errors, expected.collect::<Vec<_>>());
    }
}

/// Edges that run anywhere: there is a cycle exactly where a task can be reached from itself, each one that
/// is told is one, and without the tasks of these there is none.
#[test]
fn cycles_are_found_where_there_are_some() {
    let mut cyclic = 0;
    for seed in 0..4_000 {
        let mut random = Random(seed);
        let count = 1 + random.below(9);
        let percent = random.below(30);
        let has_edge: Vec<Vec<bool>> =
            (0..count).map(|_| (0..count).map(|_| random.percent(percent)).collect()).collect();
        let id = |task: usize| format!("t{task}");
        let tasks_without = |left_out: &BTreeSet<String>| -> Vec<Task> {
            let is_kept = |task: &usize| !left_out.contains(&id(*task));
            let depends_on = |task: usize| {
                (0..count).filter(|other| has_edge[task][*other]).filter(is_kept).map(id).collect()
            };
            let kept = (0..count).filter(is_kept);
            kept.map(|task| Task { dependencies: depends_on(task), ..task_named(&id(task)) }).collect()
        };
        let mut reaches = has_edge.clone();
        for over in 0..count {
            for from in 0..count {
                for to in 0..count {
                    reaches[from][to] |= reaches[from][over] && reaches[over][to];
                }
            }
        }
        let is_cyclic = (0..count).any(|task| reaches[task][task]);
        let errors = Graph::new(tasks_without(&BTreeSet::new())).err().unwrap_or_default();
        assert_eq!(!errors.is_empty(), is_cyclic, "seed {seed}");
        cyclic += usize::from(is_cyclic);
        let mut in_cycles = BTreeSet::new();
        for error in errors {
            let GraphErrorKind::Cycle { ids } = error.kind else { panic!("seed {seed}: {error:?}") };
            let tasks: Vec<usize> = ids.iter().map(|id| id[1..].parse().unwrap()).collect();
            assert!(tasks.windows(2).all(|pair| has_edge[pair[0]][pair[1]]), "seed {seed}: {ids:?}");
            assert_eq!((error.task, tasks.last()), (*tasks.iter().min().unwrap(), tasks.first()));
            assert!(ids[1..].iter().all(|id| in_cycles.insert(id.clone())), "seed {seed}: {ids:?}");
        }
        assert!(Graph::new(tasks_without(&in_cycles)).is_ok(), "seed {seed}");
    }
    assert!((1_000..3_000).contains(&cyclic), "{cyclic}");
}
