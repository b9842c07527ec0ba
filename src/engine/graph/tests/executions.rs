//! Executions of random workflows beside the model.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use super::graph;
use super::model::Model;
use super::random::Random;
use crate::engine::graph::{
    AttemptOutcome, ExecutionOutcome, Graph, Progress, TaskOutcome, TaskState, WrongState,
};

/// Both at once: a random workflow, random ends of its attempts, and now and then a cancel, a retry or a
/// restart.
struct Pair {
    random: Random,
    graph: Arc<Graph>,
    progress: Progress,
    model: Model,
    retries: usize,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut random = Random(seed);
        let tasks = random.tasks(8);
        let graph = graph(&tasks);
        let model = Model::new(tasks, random.context());
        Pair { random, progress: Progress::new(Arc::clone(&graph)), graph, model, retries: 0 }
    }

    fn settle(&mut self) {
        let before = self.model.clone();
        let decided = self.model.settle();
        let context = |task| {
            let outputs = &before.outputs;
            let context = self.graph.merge_context(task, &before.context, |task| outputs[task].as_ref());
            assert_eq!(context, before.merged_context(task));
            Ok::<_, Infallible>(context)
        };
        let mut found = BTreeSet::new();
        while let Some((task, decision)) = self.progress.decide_next(context).unwrap() {
            assert!(found.insert((task, format!("{decision:?}"))), "{task} is decided twice");
        }
        assert_eq!(found, decided);
        for task in 0..self.graph.len() {
            assert_eq!(self.progress.state(task), self.model.states[task], "t{task}");
        }
        assert_eq!(self.progress.outcome(), self.model.outcome());
    }

    /// Whether there is a further one.
    fn step(&mut self) -> bool {
        if self.model.outcome().is_some() {
            assert_eq!(self.progress.cancel(), None);
            return self.retry();
        }
        assert_eq!(self.progress.retry(), None);
        match self.random.below(100) {
            0..2 => assert_eq!(self.progress.cancel(), Some(self.model.cancel())),
            2..12 => {
                let states = &self.model.states;
                let graph = Arc::clone(&self.graph);
                self.progress = Progress::restore(graph, |task| states[task], self.model.is_cancelled);
            }
            12..20 => self.refuse(),
            20..55 => self.start(),
            _ => self.end(),
        }
        true
    }

    fn retry(&mut self) -> bool {
        let is_possible = self.model.outcome() != Some(ExecutionOutcome::Completed);
        if !is_possible {
            assert_eq!(self.progress.retry(), None);
        }
        self.retries += 1;
        if !is_possible || self.retries > 3 {
            return false;
        }
        assert_eq!(self.progress.retry(), Some(self.model.retry()));
        true
    }

    /// What no task in such a state can do changes nothing.
    fn refuse(&mut self) {
        let Some(task) = self.random.of(self.graph.order()) else { return };
        let state = self.model.states[task];
        if state != TaskState::Ready {
            assert_eq!(self.progress.started(task), Err(WrongState(state)));
        }
        if state != TaskState::Running {
            assert_eq!(self.progress.ended(task, AttemptOutcome::Completed), Err(WrongState(state)));
            assert_eq!(self.progress.ended(task, AttemptOutcome::Failed), Err(WrongState(state)));
            assert_eq!(self.progress.retry_scheduled(task), Err(WrongState(state)));
        }
    }

    fn start(&mut self) {
        let Some(task) = self.random.of(&self.model.in_state(TaskState::Ready)) else { return };
        self.progress.started(task).unwrap();
        self.model.states[task] = TaskState::Running;
    }

    fn end(&mut self) {
        let Some(task) = self.random.of(&self.model.in_state(TaskState::Running)) else { return };
        let choice = self.random.below(10);
        let unsuccessful = if self.model.is_cancelled { TaskOutcome::Cancelled } else { TaskOutcome::Failed };
        self.model.states[task] = match choice {
            0 if self.model.is_cancelled => TaskState::Ended(TaskOutcome::Cancelled),
            0 => TaskState::Ready,
            1..4 => TaskState::Ended(unsuccessful),
            _ => {
                self.model.outputs[task] = Some(self.random.context());
                TaskState::Ended(TaskOutcome::Completed)
            }
        };
        let state = match choice {
            0 => self.progress.retry_scheduled(task).unwrap(),
            1..4 => TaskState::Ended(self.progress.ended(task, AttemptOutcome::Failed).unwrap()),
            _ => TaskState::Ended(self.progress.ended(task, AttemptOutcome::Completed).unwrap()),
        };
        assert_eq!(state, self.model.states[task]);
    }
}

#[test]
fn executions_go_as_in_the_model() {
    let mut outcomes = BTreeMap::<_, usize>::new();
    for seed in 0..3_000 {
        // Shown only when this seed fails.
        println!("seed {seed}");
        let mut pair = Pair::new(seed);
        pair.settle();
        let mut steps = 0;
        while pair.step() {
            pair.settle();
            steps += 1;
            assert!(steps < 2_000, "it does not end");
        }
        let outcome = format!("{:?}", pair.model.outcome());
        *outcomes.entry(outcome.split([' ', ')']).next().unwrap().to_owned()).or_default() += 1;
    }
    assert!(outcomes.len() == 3 && outcomes.values().all(|count| *count > 50), "{outcomes:?}");
}
