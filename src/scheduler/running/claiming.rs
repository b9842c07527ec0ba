//! What this host takes of what may start.

use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Running, Scheduler, TRY_AGAIN_AFTER};
use crate::executions::store::candidates::{Found, Sought, candidates};
use crate::executions::store::claim::{Claim, Claimed, Wanted, claim};
use crate::executions::store::queue;
use crate::scheduler::turn;
use crate::store::StoreError;

/// Where another transaction has an execution that was to be claimed.
const LOCKED_WAIT: Duration = Duration::from_millis(10);
/// For how long nothing is claimed of an execution after a claim that failed.
const PUT_OFF_FOR: Duration = Duration::from_secs(10);
/// Such executions.
const MOST_PUT_OFF: usize = 1000;
/// Attempts that are being started: each holds its context in memory.
const MOST_STARTING: usize = 8;

/// Between two times that the queue's dead rows are taken away.
const COMPACT_EVERY: Duration = Duration::from_secs(10);

impl Scheduler<'_> {
    /// Its dead rows go, where they make up most of so many bytes.
    pub(super) fn keep_queue_small(&mut self, bytes: u64) {
        let now = Instant::now();
        if self.next_compaction > now || bytes <= queue::LARGE_BYTES {
            return;
        }
        self.next_compaction = now + COMPACT_EVERY;
        if let Err(error) = queue::compact(&self.app.store, self.until()) {
            log::debug!("the queue's dead rows stay: {error}");
        }
    }

    pub(super) fn free(&self) -> usize {
        let free = self.settings.task_slots.saturating_sub(self.running.len());
        free.min(MOST_STARTING.saturating_sub(self.starting()))
    }

    /// Whether another one may start in the place of one that has ended and is still counted.
    pub(super) fn may_replace(&self) -> bool {
        self.running.len() <= self.settings.task_slots && self.starting() < MOST_STARTING
    }

    fn starting(&self) -> usize {
        self.running.values().filter(|running| running.started.is_none()).count()
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
        let mut running = HashMap::new();
        for tenant in self.running.values().filter_map(|running| running.tenant) {
            *running.entry(tenant).or_default() += 1;
        }
        let mut is_all = true;
        if self.candidates.is_empty() {
            let Some(state) = &mut self.state else { return };
            if !mem::take(&mut state.has_work) {
                return;
            }
            let (timeline, all_have_said) = (state.timeline, state.all_have_said);
            match self.find_candidates(&running, timeline, all_have_said) {
                Ok(found) => (self.candidates, is_all) = (found.candidates, found.is_all),
                Err(error) => {
                    self.next_claim = Instant::now() + TRY_AGAIN_AFTER;
                    return self.failed("look for tasks that are ready", &error);
                }
            }
        }
        let picks = turn::pick(&self.candidates, &running, self.settings.task_slots, free, self.last_tenant);
        let has_picks = !picks.is_empty();
        for pick in picks {
            if !self.claim_pick(&pick) {
                break;
            }
        }
        // Of more tenants those that come after them are next.
        if !has_picks || !is_all {
            self.candidates.clear();
        }
        if has_picks
            && !is_all
            && let Some(state) = &mut self.state
        {
            state.has_work = true;
        }
    }

    /// Starts what this server has claimed.
    pub(super) fn start(&mut self, claimed: Claimed) {
        let running = Running {
            waited: Some(claimed.waited),
            task: Some((claimed.execution, claimed.task)),
            ..Running::new(Some(claimed.tenant))
        };
        self.running.insert(claimed.attempt, running);
        self.attempts.start(claimed);
    }

    fn find_candidates(
        &mut self,
        running: &HashMap<Uuid, usize>,
        timeline: i64,
        all_have_said: bool,
    ) -> Result<Found, StoreError> {
        let now = Instant::now();
        self.put_off.retain(|_, until| *until > now);
        let most = turn::most_of_tenant(self.settings.task_slots);
        let full = running.iter().filter(|(_, running)| **running >= most).map(|(tenant, _)| *tenant);
        let sought = Sought {
            timeline,
            all_have_said,
            last_tenant: self.last_tenant.unwrap_or_default(),
            full_tenants: full.collect(),
            put_off: self.put_off.keys().copied().collect(),
            most_of_tenant: most.min(MOST_STARTING),
        };
        candidates(&self.app.store, &sought, self.until())
    }

    /// Whether the others of the same turn may be claimed now.
    pub(super) fn claim_pick(&mut self, pick: &turn::Pick) -> bool {
        self.candidates.retain(|candidate| {
            candidate.execution != pick.execution
                || candidate.task.is_some_and(|task| !pick.tasks.contains(&task))
        });
        let Some(timeline) = self.timeline else { return false };
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
                claimed.into_iter().for_each(|claimed| self.start(claimed));
                self.app.execution_changes.recorded();
            }
            Err(error) => {
                let now = Instant::now();
                // Others come first now, whatever it is about this one.
                self.next_claim = now + TRY_AGAIN_AFTER;
                self.last_tenant = Some(pick.tenant);
                if self.put_off.len() < MOST_PUT_OFF {
                    self.put_off.insert(pick.execution, now + PUT_OFF_FOR);
                }
                self.candidates.retain(|candidate| candidate.execution != pick.execution);
                // It may have been carried out.
                self.has_to_compare |= matches!(error, StoreError::Unknown(_));
                self.failed("claim a task", &error);
                return false;
            }
        }
        true
    }
}
