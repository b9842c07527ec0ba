//! What becomes of an execution whenever something of it has ended: which tasks are ready, which are skipped, and how it ends.

use std::sync::Arc;

use serde_json::json;

use super::context::{self, NoContext};
use super::locked::LockedExecution;
use crate::engine::graph::{Decision, ExecutionOutcome, SkipReason};
use crate::executions::ExecutionStatus;
use crate::store::Transaction;

impl LockedExecution {
    /// Decides on every task whose dependencies have ended, and whether all of it has ended.
    pub fn decide(&mut self, transaction: &mut Transaction<'_>) -> Result<(), postgres::Error> {
        let (id, manifest) = (self.row.id, Arc::clone(&self.manifest));
        loop {
            let (contexts, tasks) = (&mut self.contexts, &self.tasks);
            let of = context::Of { execution: id, graph: &manifest.graph, tasks };
            let (task, decision) =
                match self.progress.decide_next(|task| contexts.of_decision(transaction, of, task)) {
                    Ok(Some(decided)) => decided,
                    Ok(None) => break,
                    Err(NoContext::Database(error)) => return Err(error),
                    Err(NoContext::TooLarge(why)) => {
                        self.next_failed(why);
                        continue;
                    }
                    // Only attempts are put off.
                    Err(NoContext::Later) => break,
                };
            self.changed.insert(task);
            match decision {
                Decision::Ready => {
                    self.ready.push((task, None));
                    self.task_event("task_marked_ready", task);
                }
                Decision::Skipped(reason) => {
                    let reason = match reason {
                        SkipReason::Condition => "its run_if does not hold".to_owned(),
                        SkipReason::Dependency(on) => format!("`{}` did not succeed", self.id_of(on)),
                    };
                    let data = json!({ "task": self.id_of(task), "reason": reason });
                    self.event("task_skipped", data);
                    self.tasks[task].error = None;
                }
            }
        }
        self.end();
        Ok(())
    }

    fn next_failed(&mut self, why: String) {
        let Some(task) = self.progress.next_failed() else { return };
        self.changed.insert(task);
        let data = json!({ "task": self.id_of(task), "error": why });
        self.event("task_failed", data);
        self.tasks[task].error = Some(why);
    }

    /// Writes down how it has ended, if it has.
    pub(super) fn end(&mut self) {
        if self.row.status.has_ended() {
            return;
        }
        let Some(outcome) = self.progress.outcome() else { return };
        let (status, event_type, data) = match outcome {
            ExecutionOutcome::Completed => (ExecutionStatus::Completed, "pipeline_completed", None),
            ExecutionOutcome::Cancelled => (ExecutionStatus::Cancelled, "pipeline_cancelled", None),
            ExecutionOutcome::Failed { tasks } => {
                let error = self.failure(&tasks);
                self.error = Some(error.clone());
                (ExecutionStatus::Failed, "pipeline_failed", Some(json!({ "error": error })))
            }
        };
        self.row.status = status;
        self.bare_event(event_type, data);
    }

    fn failure(&self, tasks: &[usize]) -> String {
        let ids: Vec<_> = tasks.iter().map(|task| format!("`{}`", self.id_of(*task))).collect();
        match tasks {
            [task] => match &self.tasks[*task].error {
                Some(error) => format!("task {} failed: {error}", ids[0]),
                None => format!("task {} failed", ids[0]),
            },
            _ => format!("tasks {} failed", ids.join(", ")),
        }
    }
}
