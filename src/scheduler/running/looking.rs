//! What this host asks the database about itself, time and again.

use std::mem;
use std::time::Instant;

use uuid::Uuid;

use super::{LOOK_EVERY, SEEN_EVERY, Scheduler, TRY_AGAIN_AFTER};
use crate::scheduler::store;

impl Scheduler<'_> {
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        self.next_look = now + LOOK_EVERY;
        let attempts: Vec<Uuid> = self.running.keys().copied().collect();
        let counts = self.next_count <= now;
        self.next_count = if counts { now + SEEN_EVERY } else { self.next_count };
        let state = match store::look(&self.app.store, &self.host, &attempts, counts, self.until()) {
            Ok(state) => state,
            Err(error) => {
                self.state = None;
                self.candidates.clear();
                self.next_look = Instant::now() + TRY_AGAIN_AFTER;
                return self.failed("look for tasks", &error);
            }
        };
        // A claim whose outcome was not known may have been committed since.
        if state.has_successor
            || self.timeline != Some(state.timeline)
            || state.running.is_some_and(|running| running != self.running.len())
        {
            self.has_to_compare = true;
        }
        self.keep_queue_small(state.queue_bytes);
        if state.is_forgotten && !self.has_to_compare {
            self.has_to_compare = true;
            log::warn!(host = &*self.host.name; "this host was forgotten: what it runs is ended before anything starts");
        }
        for attempt in &state.cancelled {
            if let Some(running) = self.running.get_mut(attempt)
                && !mem::replace(&mut running.is_cancelled, true)
            {
                self.attempts.cancel(*attempt);
            }
        }
        if state.until_due.is_some_and(|wait| wait.is_zero()) {
            match store::make_due_ready(&self.app.store, self.until()) {
                // Another transaction is at it.
                Ok(0) => self.next_look = Instant::now() + TRY_AGAIN_AFTER,
                Ok(_) => self.next_look = Instant::now(),
                Err(error) => self.failed("make ready what is due", &error),
            }
        } else if let Some(wait) = state.until_due {
            self.next_look = self.next_look.min(Instant::now() + wait);
        }
        if state.has_work {
            self.candidates.clear();
        }
        self.state = Some(state);
    }
}
