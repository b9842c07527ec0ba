//! What this host says of itself, and what it has to have in common with the database before anything starts.

use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::recording::Ended;
use super::{Running, Scheduler};
use crate::engine::retry::random;
use crate::executions::store::attempt_end::{AttemptEnd, record_forgotten};
use crate::hosts;
use crate::hosts::{Registered, RunningAttempt};
use crate::scheduler::attempts::{Event, Found};
use crate::scheduler::disk;
use crate::scheduler::store::{self, Known};
use crate::store::StoreError;

/// Attempts of forgotten hosts that are ended at once.
const MOST_OF_FORGOTTEN: usize = 100;
/// Of them, those that cannot be ended: each may take all the time that a statement has.
const MOST_FAILED: usize = 2;

impl Scheduler<'_> {
    /// Takes over what an earlier server of this host has left.
    pub(super) fn take_over(&mut self, found: Vec<Found>) {
        for found in found {
            match found {
                Found::Running(attempt) => {
                    let running = Running { started: Some(Instant::now()), ..Running::new(None) };
                    self.running.insert(attempt, running);
                }
                Found::Over(event) => {
                    let (Event::Started(attempt)
                    | Event::Ended(attempt, _)
                    | Event::Abandoned(attempt, _)
                    | Event::NeverStarted(attempt)) = &event;
                    self.running.insert(*attempt, Running::new(None));
                    self.happened(event);
                }
            }
        }
    }

    /// Compares what runs here with what the database takes to run here. After it, claims may go on.
    pub(super) fn compare(&mut self) {
        let Some(state) = &self.state else { return };
        self.app.warnings.set_replaced(state.has_successor);
        if state.has_successor {
            if self.errors.allows(Instant::now()) {
                log::error!(host = &*self.host.name; "another server speaks for this host: nothing starts here any more");
            }
            return;
        }
        let timeline = state.timeline;
        let known = match store::known(&self.app.store, self.host.id, self.until()) {
            Ok(known) => known,
            Err(error) => return self.failed("compare what runs here", &error),
        };
        let known: HashMap<Uuid, Known> = known.into_iter().map(|known| (known.attempt, known)).collect();
        for (attempt, running) in &mut self.running {
            match known.get(attempt) {
                Some(known) => {
                    running.tenant = Some(known.tenant);
                    running.log_bytes = running.log_bytes.max(known.log_bytes);
                    running.start_is_recorded |= known.was_started;
                }
                None if !mem::replace(&mut running.is_void, true) => {
                    log::warn!(attempt:% = attempt; "an attempt that the database does not know is ended");
                    self.attempts.cancel(*attempt);
                }
                None => {}
            }
        }
        for known in known.into_values() {
            if self.running.contains_key(&known.attempt) {
                continue;
            }
            let end = match self.unconfirmed.remove(&known.attempt) {
                // The server that had it written down is not the one that there is now.
                Some(end) => end,
                None if known.boot != self.host.boot => {
                    AttemptEnd::Abandoned("its host was restarted while it ran".to_owned())
                }
                // The database has lost its end, by a failover or since it was restored.
                None if known.was_started || known.timeline != timeline => {
                    AttemptEnd::Abandoned("what became of it was lost".to_owned())
                }
                None => AttemptEnd::NeverStarted(Duration::ZERO),
            };
            self.running.insert(known.attempt, Running::new(Some(known.tenant)));
            self.ends.push(Ended::new(known.attempt, end));
        }
        // Results of void ones are void.
        if self.running.values().any(|running| running.is_void) {
            self.record_ends();
            return;
        }
        if self.state.as_ref().is_some_and(|state| state.is_forgotten) {
            match hosts::store::come_back(&self.app.store, &self.new, self.host.session, self.until()) {
                Ok(registered) => {
                    if let Registered::As(name) = registered.value {
                        self.host.name = name;
                    }
                    log::info!(host = &*self.host.name; "nothing of what this forgotten host ran is left: it is back")
                }
                Err(error) => return self.failed("register this host again", &error),
            }
        }
        match store::said(&self.app.store, &self.host, timeline, self.until()) {
            Ok(said) if said.value => {
                self.timeline = Some(timeline);
                self.has_to_compare = false;
                self.next_look = Instant::now();
                if said.is_confirmed {
                    self.forget_unconfirmed();
                }
            }
            Ok(_) => {}
            Err(error) => self.failed("say what runs here", &error),
        }
    }

    /// Whether there is room on the disk for what would start now.
    pub(super) fn look_at_disk(&mut self) {
        let full = disk::obstacle(&self.settings.home);
        self.app.warnings.set_disk_nearly_full(full.is_some());
        if full.is_some() != self.full.is_some() {
            match &full {
                Some(why) => log::warn!("no new task starts here: {why}"),
                None => log::info!("tasks start here again: there is room on the disk"),
            }
        }
        self.full = full;
    }

    /// Says that the host lives, and whether anything keeps it from starting tasks now.
    pub(super) fn seen(&mut self) {
        self.look_at_disk();
        // A disk that is full now keeps no execution from being accepted.
        let obstacle = self.new.obstacle.as_deref();
        let seen =
            hosts::store::seen(&self.app.store, self.host.id, self.host.session, obstacle, self.until());
        if let Err(error) = seen {
            self.failed("say that this host lives", &error);
        }
        if !self.unconfirmed.is_empty() {
            self.has_to_compare = true;
        }
        if let Err(error) = self.end_what_forgotten_hosts_ran() {
            self.failed("end what forgotten hosts ran", &error);
        }
    }

    /// Where the command that forgot one has not got to it.
    pub(super) fn end_what_forgotten_hosts_ran(&mut self) -> Result<(), StoreError> {
        let mut failed = Vec::new();
        let left = hosts::store::left_of_forgotten(&self.app.store, MOST_OF_FORGOTTEN, self.until())?;
        for RunningAttempt { attempt, .. } in left {
            match record_forgotten(&self.app.store, attempt, random(), self.until()) {
                Ok(_) => {}
                // One bad end keeps the others from nothing, and a few of them not for long.
                Err(error) if failed.len() < MOST_FAILED && !error.is_away() => failed.push(error),
                Err(error) => return Err(error),
            }
        }
        failed.pop().map_or(Ok(()), Err)
    }
}
