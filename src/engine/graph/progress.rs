//! How far an execution has come: what has ended, what may start, and how it ends.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Context, Decision, Graph, TaskOutcome, TaskState};

/// The states of all tasks of an execution. After each change `decide_next` is to be called until there is
/// nothing more to decide. A change costs in proportion to the dependents of the tasks that it ends.
#[derive(Debug)]
pub struct Progress {
    graph: Arc<Graph>,
    states: Vec<TaskState>,
    /// Of each task how many dependencies have not ended.
    open_dependencies: Vec<usize>,
    /// Tasks that have not started and whose dependencies have ended, in the order in which that came about.
    undecided: VecDeque<usize>,
    /// How many tasks have not ended.
    open_tasks: usize,
    /// The positions in the topological order of tasks that failed and may not.
    failures: BTreeSet<usize>,
    is_cancelled: bool,
}

/// How the last attempt of a task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The command exited with 0, and its output was taken.
    Completed,
    /// Anything else, and no further attempt follows.
    Failed,
}

/// How an execution has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecutionOutcome {
    /// No task failed that may not.
    Completed,
    /// These tasks failed and may not, in topological order; at least one.
    Failed { tasks: Vec<usize> },
    /// It was cancelled before it had ended, whatever its tasks came to.
    Cancelled,
}

/// A task is not in the state that a change starts from, but in this one. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongState(pub TaskState);

impl Progress {
    /// Of an execution in which nothing has started.
    pub fn new(graph: Arc<Graph>) -> Progress {
        Progress::restore(graph, |_| TaskState::NotStarted, false)
    }

    /// Of an execution whose tasks are in these states, as an earlier `Progress` of it had them.
    /// `is_cancelled` is whether `cancel` was called on it since it began or was last retried.
    pub fn restore(graph: Arc<Graph>, state_of: impl Fn(usize) -> TaskState, is_cancelled: bool) -> Progress {
        let states: Vec<TaskState> = (0..graph.len()).map(state_of).collect();
        let has_ended = |task: &usize| matches!(states[*task], TaskState::Ended(_));
        let is_failure = |task: &usize| graph.is_failure(*task, states[*task]);
        let open_dependencies: Vec<usize> = (0..states.len())
            .map(|task| graph.dependencies(task).iter().filter(|dependency| !has_ended(dependency)).count())
            .collect();
        let is_undecided =
            |task: &usize| states[*task] == TaskState::NotStarted && open_dependencies[*task] == 0;
        Progress {
            undecided: (0..states.len()).filter(is_undecided).collect(),
            open_tasks: (0..states.len()).filter(|task| !has_ended(task)).count(),
            failures: (0..states.len()).filter(is_failure).map(|task| graph.position(task)).collect(),
            is_cancelled,
            open_dependencies,
            states,
            graph,
        }
    }

    /// The state of a task.
    pub fn state(&self, task: usize) -> TaskState {
        self.states[task]
    }

    /// How the execution has ended, once every task has.
    pub fn outcome(&self) -> Option<ExecutionOutcome> {
        if self.open_tasks > 0 {
            return None;
        }
        let failed = || self.failures.iter().map(|position| self.graph.order()[*position]).collect();
        Some(match (self.is_cancelled, self.failures.is_empty()) {
            (true, _) => ExecutionOutcome::Cancelled,
            (false, true) => ExecutionOutcome::Completed,
            (false, false) => ExecutionOutcome::Failed { tasks: failed() },
        })
    }

    /// Decides on the next task whose dependencies have ended; none is left where it gives none. `context_of`
    /// gives what a task would read, and is asked only where that matters.
    ///
    /// # Errors
    /// Those of `context_of`. The task is then the next one still.
    pub fn decide_next<E>(
        &mut self,
        context_of: impl FnOnce(usize) -> Result<Context, E>,
    ) -> Result<Option<(usize, Decision)>, E> {
        let Some(&task) = self.undecided.front() else { return Ok(None) };
        let context = if self.graph.reads_context(task) { context_of(task)? } else { Context::default() };
        let decision = self.graph.decide(task, |task| self.states[task], &context);
        self.undecided.pop_front();
        match decision {
            Decision::Ready => self.states[task] = TaskState::Ready,
            Decision::Skipped(_) => self.end(task, TaskOutcome::Skipped),
        }
        Ok(Some((task, decision)))
    }

    /// The task that would be decided on next fails instead, whatever its condition: what it reads cannot be had. Gives it.
    pub fn next_failed(&mut self) -> Option<usize> {
        let task = self.undecided.pop_front()?;
        self.end(task, TaskOutcome::Failed);
        Some(task)
    }

    /// An attempt of a task that was ready runs.
    pub fn started(&mut self, task: usize) -> Result<(), WrongState> {
        self.require(task, TaskState::Ready)?;
        self.states[task] = TaskState::Running;
        Ok(())
    }

    /// The attempt of a running task has ended, and another one is to follow. Gives what the task is now:
    /// ready, or cancelled in an execution that was.
    pub fn retry_scheduled(&mut self, task: usize) -> Result<TaskState, WrongState> {
        self.require(task, TaskState::Running)?;
        if self.is_cancelled {
            self.end(task, TaskOutcome::Cancelled);
        } else {
            self.states[task] = TaskState::Ready;
        }
        Ok(self.states[task])
    }

    /// The last attempt of a running task has ended. Gives how the task has: what did not complete in an
    /// execution that was cancelled is cancelled.
    pub fn ended(&mut self, task: usize, attempt: AttemptOutcome) -> Result<TaskOutcome, WrongState> {
        self.require(task, TaskState::Running)?;
        let outcome = match attempt {
            AttemptOutcome::Completed => TaskOutcome::Completed,
            AttemptOutcome::Failed if self.is_cancelled => TaskOutcome::Cancelled,
            AttemptOutcome::Failed => TaskOutcome::Failed,
        };
        self.end(task, outcome);
        Ok(outcome)
    }

    /// Cancels the execution unless it has ended. Gives the tasks that are cancelled with it, in topological
    /// order; those that run are once their attempts have ended.
    pub fn cancel(&mut self) -> Option<Vec<usize>> {
        if self.open_tasks == 0 {
            return None;
        }
        self.is_cancelled = true;
        let is_waiting =
            |task: &usize| matches!(self.states[*task], TaskState::NotStarted | TaskState::Ready);
        let waiting: Vec<usize> = self.graph.order().iter().copied().filter(is_waiting).collect();
        waiting.iter().for_each(|task| self.end(*task, TaskOutcome::Cancelled));
        self.undecided.clear();
        Some(waiting)
    }

    /// Begins an execution again that has failed or was cancelled; any other stays as it is. What failed, was
    /// skipped or cancelled, and everything downstream of it, has not started then. Gives these tasks, in
    /// topological order.
    pub fn retry(&mut self) -> Option<Vec<usize>> {
        if matches!(self.outcome(), None | Some(ExecutionOutcome::Completed)) {
            return None;
        }
        let mut is_reset = vec![false; self.states.len()];
        let mut reset = Vec::new();
        for &task in self.graph.order() {
            let is_kept = self.states[task] == TaskState::Ended(TaskOutcome::Completed);
            let mut dependencies = self.graph.dependencies(task).iter();
            if !is_kept || dependencies.any(|dependency| is_reset[*dependency]) {
                is_reset[task] = true;
                reset.push(task);
            }
        }
        let state = |task: usize| if is_reset[task] { TaskState::NotStarted } else { self.states[task] };
        *self = Progress::restore(Arc::clone(&self.graph), state, false);
        Some(reset)
    }

    fn require(&self, task: usize, state: TaskState) -> Result<(), WrongState> {
        if self.states[task] == state { Ok(()) } else { Err(WrongState(self.states[task])) }
    }

    fn end(&mut self, task: usize, outcome: TaskOutcome) {
        self.states[task] = TaskState::Ended(outcome);
        self.open_tasks -= 1;
        if self.graph.is_failure(task, self.states[task]) {
            self.failures.insert(self.graph.position(task));
        }
        for &dependent in self.graph.dependents(task) {
            self.open_dependencies[dependent] -= 1;
            if self.open_dependencies[dependent] == 0 && self.states[dependent] == TaskState::NotStarted {
                self.undecided.push_back(dependent);
            }
        }
    }
}
