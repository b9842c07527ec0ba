//! What becomes of tasks when their server stops: they end with it, or go on without it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use uuid::Uuid;

use super::{Running, Scheduler};
use crate::engine::attempt::End;

/// So long before the server's time is over no task has any left: what is left goes to killing, and to writing that down.
const LAST: Duration = Duration::from_secs(2);
/// Between two looks at whether it is that time.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Scheduler<'_> {
    /// Called over and over while the server drains: at the first time all tasks are told to end, and shortly before the
    /// server's time is over they are killed.
    pub(super) fn drain(&mut self) {
        if !self.is_draining {
            self.is_draining = true;
            self.candidates.clear();
            let tasks = self.running.len();
            match self.settings.stops_tasks() {
                true if tasks > 0 => log::info!(tasks; "the tasks that run here are ended with this server"),
                false if tasks > 0 => log::info!(
                    tasks;
                    "the tasks that run here outlive this server; the next one with this home takes them over"
                ),
                _ => {}
            }
            if self.settings.stops_tasks() {
                self.app.tasks_are_stopping.store(true, Ordering::Release);
                for attempt in self.running.keys() {
                    self.attempts.cancel(*attempt);
                }
            }
        }
        if self.settings.stops_tasks()
            && !self.has_killed
            && self.left() <= LAST.min(self.settings.shutdown_timeout / 2)
        {
            self.has_killed = true;
            for attempt in self.unended() {
                self.attempts.kill(attempt);
            }
        }
    }

    /// The server ends once this returns. Waits for tasks that end with it, within its time.
    pub(super) fn stop(&mut self) {
        self.drain();
        if self.settings.stops_tasks() {
            while !self.unended().is_empty() && !self.left().is_zero() {
                self.turn();
            }
            match self.unended().len() {
                0 => {}
                tasks => {
                    log::error!(tasks; "tasks had not ended when the time of --shutdown-timeout was over")
                }
            }
            self.app.tasks_are_stopping.store(false, Ordering::Release);
        }
        // What cannot be written down now is found by the next server with this home.
        self.record_last_ends();
        self.app.status.metrics.tasks.slots_in_use.set(0);
    }

    /// How soon the loop has to look again, while the server drains.
    pub(super) fn until_next_of_drain(&self) -> Option<Duration> {
        (self.is_draining && self.settings.stops_tasks()).then_some(LOOK_EVERY)
    }

    /// Of the time that the server has to end in.
    fn left(&self) -> Duration {
        self.settings.shutdown_timeout.saturating_sub(self.app.status.drained_for())
    }

    /// Attempts of which processes may still run.
    fn unended(&self) -> Vec<Uuid> {
        let has_ended = |attempt: &Uuid| self.ends.iter().any(|ended| ended.attempt == *attempt);
        self.running.keys().filter(|attempt| !has_ended(attempt)).copied().collect()
    }

    /// How an attempt has ended of which the supervisor says that it was cancelled: one that the stop of this server has kept
    /// from starting has never run.
    pub(super) fn is_unstarted(&self, attempt: Uuid, end: &End) -> bool {
        let is_ours = |running: &Running| running.started.is_none() && !running.is_cancelled;
        self.is_draining && *end == End::Cancelled && self.running.get(&attempt).is_some_and(is_ours)
    }
}
