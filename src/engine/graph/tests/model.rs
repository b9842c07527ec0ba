//! An execution as slowly and obviously as it can be computed: all of it anew at each step. Tasks are named
//! `t` and their index.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::engine::graph::{
    Condition, Context, ContextTest, Decision, ExecutionOutcome, SkipReason, Task, TaskOutcome, TaskState,
};

pub fn dependencies(tasks: &[Task], task: usize) -> Vec<usize> {
    tasks[task].dependencies.iter().map(|id| id[1..].parse().unwrap()).collect()
}

pub fn upstream(tasks: &[Task], task: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut left = dependencies(tasks, task);
    while let Some(other) = left.pop() {
        if found.insert(other) {
            left.extend(dependencies(tasks, other));
        }
    }
    found
}

pub fn order(tasks: &[Task]) -> Vec<usize> {
    let mut order = Vec::new();
    let can_be_next = |order: &[usize], task: usize| {
        !order.contains(&task) && dependencies(tasks, task).iter().all(|other| order.contains(other))
    };
    while let Some(task) = (0..tasks.len()).find(|task| can_be_next(&order, *task)) {
        order.push(task);
    }
    order
}

#[derive(Clone)]
pub struct Model {
    pub tasks: Vec<Task>,
    pub states: Vec<TaskState>,
    pub is_cancelled: bool,
    pub context: Context,
    pub outputs: Vec<Option<Context>>,
}

impl Model {
    pub fn new(tasks: Vec<Task>, context: Context) -> Model {
        let (states, outputs) = (vec![TaskState::NotStarted; tasks.len()], vec![None; tasks.len()]);
        Model { tasks, states, is_cancelled: false, context, outputs }
    }

    pub fn merged_context(&self, task: usize) -> Context {
        let mut context = self.context.clone();
        let upstream = upstream(&self.tasks, task);
        for other in order(&self.tasks) {
            if upstream.contains(&other) {
                context.extend(self.outputs[other].clone().into_iter().flatten());
            }
        }
        context
    }

    pub fn in_state(&self, state: TaskState) -> Vec<usize> {
        (0..self.tasks.len()).filter(|task| self.states[*task] == state).collect()
    }

    fn has_ended(&self, task: usize, outcome: TaskOutcome) -> bool {
        self.states[task] == TaskState::Ended(outcome)
    }

    /// Decides on all that can be decided.
    pub fn settle(&mut self) -> BTreeSet<(usize, String)> {
        let mut decisions = BTreeSet::new();
        let can_be_decided = |model: &Model, task: usize| {
            let mut dependencies = dependencies(&model.tasks, task).into_iter();
            model.states[task] == TaskState::NotStarted
                && dependencies.all(|dependency| matches!(model.states[dependency], TaskState::Ended(_)))
        };
        while let Some(task) = (0..self.tasks.len()).find(|task| can_be_decided(self, *task)) {
            let decision = self.decide(task);
            self.states[task] = match decision {
                Decision::Ready => TaskState::Ready,
                Decision::Skipped(_) => TaskState::Ended(TaskOutcome::Skipped),
            };
            decisions.insert((task, format!("{decision:?}")));
        }
        decisions
    }

    pub fn decide(&self, task: usize) -> Decision {
        if let Some(condition) = &self.tasks[task].run_if {
            let context = self.merged_context(task);
            return if self.holds(condition, &context) {
                Decision::Ready
            } else {
                Decision::Skipped(SkipReason::Condition)
            };
        }
        for dependency in dependencies(&self.tasks, task) {
            let is_allowed =
                self.has_ended(dependency, TaskOutcome::Failed) && self.tasks[dependency].allow_failure;
            if !self.has_ended(dependency, TaskOutcome::Completed) && !is_allowed {
                return Decision::Skipped(SkipReason::Dependency(dependency));
            }
        }
        Decision::Ready
    }

    fn holds(&self, condition: &Condition, context: &Context) -> bool {
        let index = |id: &str| id[1..].parse::<usize>().unwrap();
        let count = |list: &[Condition]| list.iter().filter(|one| self.holds(one, context)).count();
        match condition {
            Condition::All(list) => count(list) == list.len(),
            Condition::Any(list) => count(list) > 0,
            Condition::None(list) => count(list) == 0,
            Condition::Succeeded(id) => self.has_ended(index(id), TaskOutcome::Completed),
            Condition::Failed(id) => self.has_ended(index(id), TaskOutcome::Failed),
            Condition::Skipped(id) => self.has_ended(index(id), TaskOutcome::Skipped),
            Condition::Context { key, test } => context.get(key).is_some_and(|value| passes(value, test)),
        }
    }

    pub fn outcome(&self) -> Option<ExecutionOutcome> {
        if !self.states.iter().all(|state| matches!(state, TaskState::Ended(_))) {
            return None;
        }
        let mut failed = order(&self.tasks);
        failed.retain(|task| self.has_ended(*task, TaskOutcome::Failed) && !self.tasks[*task].allow_failure);
        Some(if self.is_cancelled {
            ExecutionOutcome::Cancelled
        } else if failed.is_empty() {
            ExecutionOutcome::Completed
        } else {
            ExecutionOutcome::Failed { tasks: failed }
        })
    }

    pub fn cancel(&mut self) -> Vec<usize> {
        let mut cancelled = order(&self.tasks);
        cancelled.retain(|task| matches!(self.states[*task], TaskState::NotStarted | TaskState::Ready));
        cancelled.iter().for_each(|task| self.states[*task] = TaskState::Ended(TaskOutcome::Cancelled));
        self.is_cancelled = true;
        cancelled
    }

    pub fn retry(&mut self) -> Vec<usize> {
        let is_kept = |task: usize| self.has_ended(task, TaskOutcome::Completed);
        let mut reset = order(&self.tasks);
        reset.retain(|task| {
            !is_kept(*task) || upstream(&self.tasks, *task).into_iter().any(|other| !is_kept(other))
        });
        for task in &reset {
            self.states[*task] = TaskState::NotStarted;
            self.outputs[*task] = None;
        }
        self.is_cancelled = false;
        reset
    }
}

/// The values that occur are small integers, strings, arrays of them, and null.
fn passes(value: &Value, test: &ContextTest) -> bool {
    let kind = |value: &Value| (value.is_i64(), value.is_string(), value.is_array(), value.is_null());
    match test {
        ContextTest::Exists => true,
        ContextTest::Equals(other) => value == other,
        ContextTest::NotEquals(other) => kind(value) == kind(other) && value != other,
        ContextTest::GreaterThan(number) => {
            value.as_i64().is_some_and(|value| value > number.as_i64().unwrap())
        }
        ContextTest::LessThan(number) => value.as_i64().is_some_and(|value| value < number.as_i64().unwrap()),
        ContextTest::Contains(part) => {
            let is_element = value.as_array().is_some_and(|elements| elements.contains(part));
            let is_part = value.as_str().zip(part.as_str()).is_some_and(|(value, part)| value.contains(part));
            is_element || is_part
        }
    }
}
