//! The loop of the thread `scheduler`.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::attempts::{Attempts, Event, Found};
use super::store::{self, Known, State};
use super::turn;
use super::{disk, forgotten};
use crate::app::App;
use crate::config::Settings;
use crate::executions::store::attempt_end::{AttemptEnd, Recorded, record, record_start};
use crate::executions::store::claim::{Candidate, Claim, ClaimingHost, candidates, claim};
use crate::hosts;
use crate::hosts::{NewHost, RunningAttempt};
use crate::rate_limit::RateLimit;
use crate::store::StoreError;

/// Behind all news there is a look, which finds what they missed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the database hears that the host lives.
const SEEN_EVERY: Duration = Duration::from_secs(10);
/// How often what running tasks have printed is copied.
const COPY_EVERY: Duration = Duration::from_millis(500);
/// Where another transaction has an execution that was to be claimed.
const LOCKED_WAIT: Duration = Duration::from_millis(10);
/// After a statement that failed.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A command that has run for so long is written down as started; of shorter ones that comes with their end.
const STARTED_AFTER: Duration = Duration::from_secs(1);
/// Attempts that are being started: each holds its context in memory.
const MOST_STARTING: usize = 8;
/// Attempts of forgotten hosts that are ended at once.
const MOST_OF_FORGOTTEN: usize = 100;
/// Of a log that are copied at once.
const PIECE_BYTES: usize = 256 * 1024;
/// The database can't be reached: one line in so long.
const ERROR_LINE_EVERY: Duration = Duration::from_secs(30);

/// The state of the loop.
pub struct Scheduler<'a> {
    app: &'a App,
    host: ClaimingHost,
    /// As it is registered.
    new: NewHost,
    settings: &'a Settings,
    attempts: Attempts,
    /// Attempts whose end is not written down.
    running: HashMap<Uuid, Running>,
    ends: Vec<(Uuid, AttemptEnd)>,
    candidates: Vec<Candidate>,
    /// The tenant whose task was started last.
    last_tenant: Option<Uuid>,
    /// What the database and this host take to run has to be compared before anything is claimed.
    has_to_compare: bool,
    /// Of the database, when that was done last.
    timeline: Option<i64>,
    /// The last look.
    state: Option<State>,
    next_look: Instant,
    next_seen: Instant,
    next_copy: Instant,
    /// Nothing is claimed before.
    next_claim: Instant,
    /// Why nothing starts while the disk is nearly full.
    full: Option<String>,
    errors: RateLimit,
}

struct Running {
    tenant: Option<Uuid>,
    claimed: Instant,
    started: Option<Instant>,
    start_is_recorded: bool,
    is_cancelled: bool,
    /// The database does not take it for the task's attempt: it is ended, and what comes of it is void.
    is_void: bool,
    /// Of what it printed, so many bytes are in the database.
    log_bytes: u64,
}

impl Running {
    fn new(tenant: Option<Uuid>) -> Running {
        Running {
            tenant,
            claimed: Instant::now(),
            started: None,
            start_is_recorded: false,
            is_cancelled: false,
            is_void: false,
            log_bytes: 0,
        }
    }
}

impl<'a> Scheduler<'a> {
    pub fn new(
        app: &'a App,
        host: ClaimingHost,
        new: NewHost,
        settings: &'a Settings,
        attempts: Attempts,
    ) -> Scheduler<'a> {
        let now = Instant::now();
        Scheduler {
            app,
            host,
            new,
            settings,
            attempts,
            running: HashMap::new(),
            ends: Vec::new(),
            candidates: Vec::new(),
            last_tenant: None,
            has_to_compare: true,
            timeline: None,
            state: None,
            next_look: now,
            next_seen: now,
            next_copy: now,
            next_claim: now,
            full: None,
            errors: RateLimit::new(1, ERROR_LINE_EVERY),
        }
    }

    /// Runs until `stop` is set.
    pub fn run(mut self, stop: &AtomicBool) {
        self.find();
        while !stop.load(Ordering::Acquire) {
            self.turn();
        }
        if self.settings.stops_tasks() {
            self.stop_tasks();
        }
    }

    /// Takes over what an earlier server of this host has left.
    fn find(&mut self) {
        for found in self.attempts.find() {
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

    /// Waits for something to happen, and does what there is to do then.
    fn turn(&mut self) {
        for event in self.attempts.wait(self.until_next()) {
            self.happened(event);
        }
        let now = Instant::now();
        if self.app.execution_changes.take_news() {
            self.next_look = now;
        }
        if self.next_look <= now {
            self.look();
        }
        if self.next_seen <= now {
            self.next_seen = now + SEEN_EVERY;
            self.seen();
        }
        if self.has_to_compare {
            self.compare();
        }
        self.record_ends();
        if self.next_copy <= now {
            self.next_copy = now + COPY_EVERY;
            self.copy_logs();
        }
        if self.next_claim <= Instant::now() {
            self.claim();
        }
    }

    /// Says that the host lives, and whether anything keeps it from starting tasks now.
    fn seen(&mut self) {
        let full = disk::obstacle(&self.settings.home);
        self.app.warnings.set_disk_nearly_full(full.is_some());
        if full.is_some() != self.full.is_some() {
            match &full {
                Some(why) => log::warn!("no new task starts here: {why}"),
                None => log::info!("tasks start here again: there is room on the disk"),
            }
        }
        self.full = full;
        let obstacle = self.new.obstacle.as_deref().or(self.full.as_deref());
        let seen =
            hosts::store::seen(&self.app.store, self.host.id, self.host.session, obstacle, self.until());
        if let Err(error) = seen {
            self.failed("say that this host lives", &error);
        }
        if let Err(error) = self.end_what_forgotten_hosts_ran() {
            self.failed("end what forgotten hosts ran", &error);
        }
    }

    /// Where the command that forgot one has not got to it.
    fn end_what_forgotten_hosts_ran(&mut self) -> Result<(), StoreError> {
        let left = hosts::store::left_of_forgotten(&self.app.store, MOST_OF_FORGOTTEN, self.until())?;
        for RunningAttempt { attempt, .. } in left {
            record(&self.app.store, attempt, &forgotten::end(), random(), self.until())?;
        }
        Ok(())
    }

    fn until_next(&self) -> Duration {
        let now = Instant::now();
        let has_ends = !self.ends.is_empty();
        let has_work = self.state.as_ref().is_some_and(|state| state.has_work);
        let may_claim = self.may_claim() && (has_work || !self.candidates.is_empty()) && self.free() > 0;
        let next = [
            Some(self.next_look),
            (!self.running.is_empty()).then_some(self.next_copy),
            may_claim.then_some(self.next_claim),
            has_ends.then_some(now + TRY_AGAIN_AFTER),
        ];
        next.into_iter().flatten().min().map_or(LOOK_EVERY, |next| next.saturating_duration_since(now))
    }

    /// By when a statement has to be done.
    fn until(&self) -> Instant {
        Instant::now() + self.app.database_timeout
    }

    fn free(&self) -> usize {
        let starting = self.running.values().filter(|running| running.started.is_none()).count();
        let free = self.settings.task_slots.saturating_sub(self.running.len());
        free.min(MOST_STARTING.saturating_sub(starting))
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Started(attempt) => {
                if let Some(running) = self.running.get_mut(&attempt) {
                    running.started = Some(Instant::now());
                }
            }
            Event::Ended(attempt, outcome) => self.ends.push((attempt, AttemptEnd::Ended(outcome))),
            Event::Abandoned(attempt, why) => self.ends.push((attempt, AttemptEnd::Abandoned(why))),
            Event::NeverStarted(attempt) => self.ends.push((attempt, AttemptEnd::NeverStarted)),
        }
    }

    fn failed(&mut self, what: &str, error: &StoreError) {
        if self.errors.allows(Instant::now()) {
            log::warn!("cannot {what}: {error}");
        }
    }

    fn look(&mut self) {
        self.next_look = Instant::now() + LOOK_EVERY;
        let state = match store::look(&self.app.store, &self.host, self.until()) {
            Ok(state) => state,
            Err(error) => {
                self.state = None;
                self.candidates.clear();
                self.next_look = Instant::now() + TRY_AGAIN_AFTER;
                return self.failed("look for tasks", &error);
            }
        };
        if self.timeline != Some(state.timeline) {
            self.has_to_compare = true;
        }
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
                Ok(()) => self.next_look = Instant::now(),
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

    /// Compares what runs here with what the database takes to run here. After it, claims may go on.
    fn compare(&mut self) {
        let Some(state) = &self.state else { return };
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
            let abandoned = |why: &str| AttemptEnd::Abandoned(why.to_owned());
            let end = match known.boot == self.host.boot {
                false => abandoned("its host was restarted while it ran"),
                // It may have ended, and have been removed since that was written down.
                true if known.timeline != timeline => {
                    abandoned("the database that knew what became of it was replaced by one that does not")
                }
                true => AttemptEnd::NeverStarted,
            };
            self.running.insert(known.attempt, Running::new(Some(known.tenant)));
            self.ends.push((known.attempt, end));
        }
        // Results of void ones are void.
        if self.running.values().any(|running| running.is_void) {
            self.record_ends();
            return;
        }
        if self.state.as_ref().is_some_and(|state| state.is_forgotten) {
            match hosts::store::come_back(&self.app.store, &self.new, self.host.session, self.until()) {
                Ok(_) => {
                    log::info!(host = &*self.host.name; "nothing of what this forgotten host ran is left: it is back")
                }
                Err(error) => return self.failed("register this host again", &error),
            }
        }
        match store::said(&self.app.store, &self.host, timeline, self.until()) {
            Ok(true) => {
                self.timeline = Some(timeline);
                self.has_to_compare = false;
                self.next_look = Instant::now();
            }
            Ok(false) => {}
            Err(error) => self.failed("say what runs here", &error),
        }
    }

    /// Writes down how attempts ended, each with the rest of its log before.
    fn record_ends(&mut self) {
        if self.ends.is_empty() || self.state.is_none() {
            return;
        }
        let mut left = Vec::new();
        for (attempt, end) in mem::take(&mut self.ends) {
            match self.record_end(attempt, &end) {
                Ok(_) => {
                    self.running.remove(&attempt);
                    self.attempts.remove(attempt);
                }
                Err(error) => {
                    self.failed("write down how a task ended", &error);
                    left.push((attempt, end));
                    // What is wrong with the database is so for the others too.
                    if matches!(error, StoreError::Unavailable(_) | StoreError::Unknown(_)) {
                        self.state = None;
                        self.next_look = Instant::now() + TRY_AGAIN_AFTER;
                    }
                }
            }
        }
        self.ends.extend(left);
        // What was ready may have waited for a slot, and more may be ready.
        if let Some(state) = &mut self.state {
            state.has_work = true;
        }
        self.app.execution_changes.recorded();
    }

    fn record_end(&mut self, attempt: Uuid, end: &AttemptEnd) -> Result<Recorded, StoreError> {
        if self.running.get(&attempt).is_some_and(|running| running.is_void) {
            return Ok(Recorded::Void);
        }
        if let AttemptEnd::Ended(outcome) = end {
            self.copy_log(attempt, Some(outcome.log_bytes))?;
        }
        record(&self.app.store, attempt, end, random(), self.until())
    }

    fn copy_logs(&mut self) {
        let attempts: Vec<Uuid> = self
            .running
            .iter()
            .filter(|(_, running)| !running.is_void && running.tenant.is_some())
            .map(|(id, _)| *id)
            .collect();
        let mut has_news = false;
        for attempt in attempts {
            match self.copy_log(attempt, None) {
                Ok(has_more) => has_news |= has_more,
                Err(error) => return self.failed("copy what a task has printed", &error),
            }
            if let Err(error) = self.record_start(attempt) {
                return self.failed("write down that a task has started", &error);
            }
        }
        if has_news {
            self.app.execution_changes.recorded();
        }
    }

    fn record_start(&mut self, attempt: Uuid) -> Result<(), StoreError> {
        let until = self.until();
        let Some(running) = self.running.get_mut(&attempt) else { return Ok(()) };
        let Some(ago) = running.started.map(|started| started.elapsed()) else { return Ok(()) };
        if running.start_is_recorded || ago < STARTED_AFTER {
            return Ok(());
        }
        record_start(&self.app.store, attempt, ago, until)?;
        running.start_is_recorded = true;
        Ok(())
    }

    /// Copies what was printed since the last time: whether it was anything. To its end, where that is known; else one piece.
    fn copy_log(&mut self, attempt: Uuid, end: Option<u64>) -> Result<bool, StoreError> {
        let limit = self.settings.task_log_limit as u64;
        let mut has_news = false;
        loop {
            let (until, Some(running)) = (self.until(), self.running.get_mut(&attempt)) else {
                return Ok(has_news);
            };
            // What cannot be read is missing in the log, and keeps nothing else from being written.
            let Ok(piece) = self.attempts.log(attempt, running.log_bytes, PIECE_BYTES) else {
                return Ok(has_news);
            };
            if piece.bytes.is_empty() {
                return Ok(has_news);
            }
            let at = piece.next - piece.bytes.len() as u64;
            store::copy_log(&self.app.store, attempt, at, &piece.bytes, limit, until)?;
            running.log_bytes = piece.next;
            has_news = true;
            if end.is_none_or(|end| running.log_bytes >= end) {
                return Ok(has_news);
            }
        }
    }

    fn may_claim(&self) -> bool {
        !self.has_to_compare
            && self.new.obstacle.is_none()
            && self.full.is_none()
            && self.state.as_ref().is_some_and(|state| {
                !state.has_successor && !state.is_forgotten && self.timeline == Some(state.timeline)
            })
    }

    /// Claims what may start, and starts it.
    fn claim(&mut self) {
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
            match candidates(&self.app.store, timeline, all_have_said, self.until()) {
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

    fn claim_pick(&mut self, pick: &turn::Pick) {
        self.candidates.retain(|candidate| {
            candidate.execution != pick.execution
                || candidate.task.is_some_and(|task| !pick.tasks.contains(&task))
        });
        let most = pick.tasks.len().max(1);
        match claim(&self.app.store, &self.host, pick.execution, &pick.tasks, most, self.until()) {
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
                    self.running.insert(claimed.attempt, Running::new(Some(claimed.tenant)));
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

    /// Ends all tasks, with the grace, and waits for that.
    fn stop_tasks(&mut self) {
        let running: Vec<Uuid> = self.running.keys().copied().collect();
        running.iter().for_each(|attempt| self.attempts.cancel(*attempt));
        let until = Instant::now() + Duration::from_secs(15);
        while self.ends.len() < self.running.len() && Instant::now() < until {
            for event in self.attempts.wait(until.saturating_duration_since(Instant::now())) {
                self.happened(event);
            }
        }
        self.record_ends();
    }
}

/// At least 0 and below 1; 0 where the system has no random numbers.
pub fn random() -> f64 {
    f64::from(getrandom::u32().unwrap_or(0)) / 2_f64.powi(32)
}
