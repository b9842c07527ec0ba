//! What this host takes of what may start.

use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

use super::{Running, Scheduler};
use crate::executions::store::candidates::candidates;
use crate::executions::store::claim::{Claim, Wanted, claim};
use crate::scheduler::turn;

/// Where another transaction has an execution that was to be claimed.
const LOCKED_WAIT: Duration = Duration::from_millis(10);
/// Attempts that are being started: each holds its context in memory.
const MOST_STARTING: usize = 8;

impl Scheduler<'_> {
    pub(super) fn free(&self) -> usize {
        let starting = self.running.values().filter(|running| running.started.is_none()).count();
        let free = self.settings.task_slots.saturating_sub(self.running.len());
        free.min(MOST_STARTING.saturating_sub(starting))
    }

    pub(super) fn may_claim(&self) -> bool {
        !self.has_to_compare
            && !self.app.status.is_draining()
            && self.new.obstacle.is_none()
            && self.full.is_none()
            && self.state.as_ref().is_some_and(|state| {
                !state.has_successor && !state.is_forgotten && self.timeline == Some(state.timeline)
            })
    }

    /// Claims what may start, and starts it.
    pub(super) fn claim(&mut self) {
        let free = self.free();
        if !self.may_claim() || free == 0 {
            return;
        }
        if self.candidates.is_empty() {
            let Some(state) = &mut self.state else { return };
            if !mem::take(&mut state.has_work) {
                return;
            }
            let (timeline, all_have_said) = (state.timeline, state.all_have_said);
            match candidates(&self.app.store, timeline, all_have_said, self.settings.task_slots, self.until())
            {
                Ok(found) => self.candidates = found,
                Err(error) => return self.failed("look for tasks that are ready", &error),
            }
        }
        let mut running = HashMap::new();
        for tenant in self.running.values().filter_map(|running| running.tenant) {
            *running.entry(tenant).or_default() += 1;
        }
        let picks = turn::pick(&self.candidates, &running, self.settings.task_slots, free, self.last_tenant);
        if picks.is_empty() {
            self.candidates.clear();
        }
        for pick in picks {
            self.claim_pick(&pick);
        }
    }

    pub(super) fn claim_pick(&mut self, pick: &turn::Pick) {
        self.candidates.retain(|candidate| {
            candidate.execution != pick.execution
                || candidate.task.is_some_and(|task| !pick.tasks.contains(&task))
        });
        let Some(timeline) = self.timeline else { return };
        let most = pick.tasks.len().max(1);
        let wanted = Wanted { execution: pick.execution, tasks: &pick.tasks, most, timeline };
        match claim(&self.app.store, &self.host, &wanted, self.until()) {
            Ok(Claim::Locked) => {
                self.next_claim = Instant::now() + LOCKED_WAIT;
                self.next_look = self.next_look.min(self.next_claim);
            }
            Ok(Claim::Nothing) => {}
            Ok(Claim::Claimed(claimed)) => {
                self.last_tenant = Some(pick.tenant);
                // More of it may be ready since then.
                if let Some(state) = &mut self.state {
                    state.has_work = true;
                }
                for claimed in claimed {
                    let running =
                        Running { waited: Some(claimed.waited), ..Running::new(Some(claimed.tenant)) };
                    self.running.insert(claimed.attempt, running);
                    self.attempts.start(claimed);
                }
                self.app.execution_changes.recorded();
            }
            Err(error) => {
                // It may have been carried out.
                self.has_to_compare = true;
                self.failed("claim a task", &error);
            }
        }
    }
}
