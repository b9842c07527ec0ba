//! The graph of a workflow: which task depends on which, the order of the tasks, and whether one may run.
//! A task is its index in the manifest's order throughout; an index of another graph panics or misleads.

mod build;
mod condition;
mod progress;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

pub use build::{GraphError, GraphErrorKind};
pub use condition::{Condition, ContextTest};
#[cfg(test)]
use progress::WrongState;
pub use progress::{AttemptOutcome, ExecutionOutcome, Progress};
use serde_json::{Map, Value};

/// What a task reads, and what it writes as its output: a JSON object.
pub type Context = Map<String, Value>;

/// A task as its manifest has it.
#[derive(Debug, Clone)]
pub struct Task {
    /// Unique in its workflow.
    pub id: String,
    /// The ids of the tasks that have to end before this one is decided, each once.
    pub dependencies: Vec<String>,
    /// Whether it runs. Without one it does when every dependency counts as a success.
    pub run_if: Option<Condition>,
    /// Its failure counts as a success for the execution and for what depends on it.
    pub allow_failure: bool,
}

/// Tasks and the dependencies between them, without a cycle.
#[derive(Debug)]
pub struct Graph {
    nodes: Vec<Node>,
    /// The tasks in topological order.
    order: Vec<usize>,
    indices: HashMap<String, usize>,
}

#[derive(Debug)]
struct Node {
    id: String,
    dependencies: Vec<usize>,
    dependents: Vec<usize>,
    run_if: Option<Condition>,
    allow_failure: bool,
    /// In the topological order.
    position: usize,
    /// A bit for each position whose task is upstream, up to the last of them.
    upstream: Vec<u64>,
}

/// How far a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// A dependency has not ended, or it is not decided yet whether the task runs.
    NotStarted,
    /// It waits for a slot, for the first attempt or for another one.
    Ready,
    /// An attempt runs.
    Running,
    /// Nothing but a retry of the execution changes it any more.
    Ended(TaskOutcome),
}

/// How a task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskOutcome {
    /// Its last attempt succeeded; what it wrote is its output.
    Completed,
    /// Its last attempt failed, whether or not that is allowed.
    Failed,
    /// It was decided that it does not run.
    Skipped,
    /// The execution was cancelled before the task had ended.
    Cancelled,
}

/// Whether a task runs, now that its dependencies have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may start.
    Ready,
    /// It does not run, and has ended with that.
    Skipped(SkipReason),
}

/// Why a task does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// This dependency, the first of its list to do so, does not count as a success.
    Dependency(usize),
    /// Its `run_if` does not hold.
    Condition,
}

impl Graph {
    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The task with this id.
    pub fn index_of(&self, id: &str) -> Option<usize> {
        self.indices.get(id).copied()
    }

    /// The id of a task.
    pub fn id(&self, task: usize) -> &str {
        &self.nodes[task].id
    }

    /// What a task waits for, in the order of its list.
    pub fn dependencies(&self, task: usize) -> &[usize] {
        &self.nodes[task].dependencies
    }

    /// What waits for a task, in the manifest's order.
    pub fn dependents(&self, task: usize) -> &[usize] {
        &self.nodes[task].dependents
    }

    /// Every task after its dependencies. Of the tasks that could come next, the first one of the manifest
    /// does.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Whether `task` depends on `other`, directly or through further tasks.
    pub fn is_upstream(&self, other: usize, task: usize) -> bool {
        self.nodes[task].is_below(self.nodes[other].position)
    }

    /// What a task depends on, directly or through further tasks, in topological order.
    pub fn upstream(&self, task: usize) -> impl Iterator<Item = usize> {
        let node = &self.nodes[task];
        let before = &self.order[..node.position];
        before.iter().enumerate().filter(|(position, _)| node.is_below(*position)).map(|(_, task)| *task)
    }

    /// The context that a task reads: the execution's, and over it the output of each task upstream that has
    /// one, in topological order.
    pub fn merge_context<'a>(
        &self,
        task: usize,
        execution: &Context,
        output_of: impl Fn(usize) -> Option<&'a Context>,
    ) -> Context {
        let mut context = execution.clone();
        for output in self.upstream(task).filter_map(output_of) {
            context.extend(output.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        context
    }

    /// Whether the context matters to the decision on a task.
    pub fn reads_context(&self, task: usize) -> bool {
        self.nodes[task].run_if.as_ref().is_some_and(Condition::reads_context)
    }

    /// The keys of the context that the decision on a task asks for.
    pub fn context_keys(&self, task: usize) -> Vec<&str> {
        self.nodes[task].run_if.as_ref().map_or(Vec::new(), Condition::context_keys)
    }

    /// Whether a task runs whose dependencies have ended. Where it has a `run_if`, that alone decides; else
    /// every dependency has to count as a success. `context` is what the task would read.
    pub fn decide(&self, task: usize, state_of: impl Fn(usize) -> TaskState, context: &Context) -> Decision {
        let node = &self.nodes[task];
        if let Some(condition) = &node.run_if {
            let has_ended = |id: &str, outcome| {
                self.index_of(id).is_some_and(|task| state_of(task) == TaskState::Ended(outcome))
            };
            return match condition.holds(&has_ended, context) {
                true => Decision::Ready,
                false => Decision::Skipped(SkipReason::Condition),
            };
        }
        let is_success = |task: &usize| match state_of(*task) {
            TaskState::Ended(TaskOutcome::Completed) => true,
            TaskState::Ended(TaskOutcome::Failed) => self.nodes[*task].allow_failure,
            _ => false,
        };
        match node.dependencies.iter().find(|task| !is_success(task)) {
            None => Decision::Ready,
            Some(task) => Decision::Skipped(SkipReason::Dependency(*task)),
        }
    }

    /// Where a task is in the topological order.
    fn position(&self, task: usize) -> usize {
        self.nodes[task].position
    }

    /// Whether a task in this state makes its execution fail.
    fn is_failure(&self, task: usize, state: TaskState) -> bool {
        state == TaskState::Ended(TaskOutcome::Failed) && !self.nodes[task].allow_failure
    }
}

impl Node {
    /// Whether the task at this position is upstream.
    fn is_below(&self, position: usize) -> bool {
        self.upstream.get(position / 64).is_some_and(|word| word >> (position % 64) & 1 == 1)
    }
}
