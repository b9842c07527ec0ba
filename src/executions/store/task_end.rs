//! What becomes of a task by the end of its attempt: it has ended, or runs again.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::locked::LockedExecution;
use crate::engine::graph::AttemptOutcome;

/// How often a task that is `restart_safe` runs again after its host died, whatever its retries.
const MOST_ABANDONED: i32 = 5;
/// Of an error's text.
const MOST_ERROR_BYTES: usize = 4096;

/// Text that PostgreSQL takes: no more of it than is of use, and no zero byte.
pub fn storable(text: &str) -> String {
    text[..text.floor_char_boundary(MOST_ERROR_BYTES)].replace('\0', "\u{fffd}")
}

impl LockedExecution {
    pub(super) fn started(&mut self, task: usize, ago: Duration) {
        let data = json!({ "task": self.id_of(task), "attempt": self.task(task).attempts });
        self.event_ago("task_started", data, ago);
    }

    pub(super) fn completed(&mut self, task: usize, output: Option<Arc<str>>) {
        let row = &mut self.tasks[task];
        (row.exit_code, row.error, row.output) = (Some(0), None, output);
        self.task_ended(task, AttemptOutcome::Completed, "task_completed");
    }

    pub(super) fn failed(&mut self, task: usize, exit_code: Option<i32>, error: String, random: f64) {
        let row = &mut self.tasks[task];
        (row.exit_code, row.error) = (exit_code, Some(error));
        let attempt = row.attempts - row.earlier_attempts;
        let wait = self.manifest.tasks[task].retries.wait_after(attempt.unsigned_abs(), random);
        match wait.filter(|_| !self.row.is_cancelled) {
            Some(wait) => {
                let row = &self.tasks[task];
                let mut data =
                    json!({ "task": self.id_of(task), "attempt": row.attempts, "error": row.error });
                if let Some(exit_code) = exit_code {
                    data["exit_code"] = json!(exit_code);
                }
                self.event("task_failed", data);
                self.runs_again(task, Some(wait));
            }
            None => self.task_ended(task, AttemptOutcome::Failed, "task_failed"),
        }
    }

    pub(super) fn abandoned(&mut self, task: usize, reason: &str, random: f64) {
        let row = &mut self.tasks[task];
        row.abandoned += 1;
        (row.exit_code, row.error) = (None, Some(storable(reason)));
        let (attempt, abandoned) = (row.attempts - row.earlier_attempts, row.abandoned);
        let data =
            json!({ "task": self.id_of(task), "attempt": self.tasks[task].attempts, "reason": reason });
        self.event("task_abandoned", data);
        let manifest = &self.manifest.tasks[task];
        let by_retries = manifest.retries.wait_after(attempt.unsigned_abs(), random);
        let is_again = by_retries.is_some() || manifest.restart_safe && abandoned <= MOST_ABANDONED;
        match is_again && !self.row.is_cancelled {
            true => self.runs_again(task, by_retries),
            false => self.task_ended(task, AttemptOutcome::Failed, "task_failed"),
        }
    }

    fn runs_again(&mut self, task: usize, wait: Option<Duration>) {
        let wait_ms = wait.map_or(0, |wait| wait.as_millis() as u64);
        let data =
            json!({ "task": self.id_of(task), "attempt": self.task(task).attempts + 1, "delay_ms": wait_ms });
        self.event("task_retry_scheduled", data);
        self.task_runs_again(task, wait.filter(|wait| !wait.is_zero()));
    }

    /// It is as if it had never been claimed.
    pub(super) fn never_started(&mut self, task: usize, wait: Duration) {
        let row = &mut self.tasks[task];
        row.attempts -= 1;
        row.attempt = None;
        let wait = Some(wait).filter(|wait| !wait.is_zero());
        if !self.row.is_cancelled {
            let mut data = json!({ "task": self.id_of(task) });
            if let Some(wait) = wait {
                data["delay_ms"] = json!(wait.as_millis() as u64);
            }
            self.event("task_marked_ready", data);
        }
        self.task_runs_again(task, wait);
    }

    /// A task that was taken out of the queue goes back there.
    pub(super) fn stays_ready(&mut self, task: usize) {
        if self.ready.iter().all(|(ready, _)| *ready != task) {
            self.ready.push((task, None));
        }
    }

    /// A task that is ready has failed without an attempt.
    pub(super) fn fail_unclaimed(&mut self, task: usize, why: String) {
        if self.progress.started(task).is_err() {
            return;
        }
        self.ready.retain(|(ready, _)| *ready != task);
        self.tasks[task].error = Some(why);
        self.task_ended(task, AttemptOutcome::Failed, "task_failed");
    }
}
