//! The loop of the thread `scheduler`.

mod claiming;
mod comparing;
mod looking;
mod recording;
mod stopping;
mod unstarted;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::attempts::{Attempts, Event, Found};
use super::store::State;
use crate::app::App;
use crate::config::Settings;
use crate::executions::store::attempt_end::AttemptEnd;
use crate::executions::store::candidates::Candidate;
use crate::executions::store::claim::ClaimingHost;
use crate::hosts::NewHost;
use crate::rate_limit::RateLimit;
use crate::store::StoreError;
use recording::Ended;
use unstarted::Unstarted;

/// Behind all news there is a look, which finds what they missed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the database hears that the host lives, and is asked how many of its attempts run.
const SEEN_EVERY: Duration = Duration::from_secs(10);
/// How often what running tasks have printed is copied.
const COPY_EVERY: Duration = Duration::from_millis(500);
/// After a statement that failed.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Before an end that could not be written down is tried again, at least.
const END_WAIT: Duration = Duration::from_millis(10);
/// How often packages are removed that no task has used for long.
const CLEAR_PACKAGES_EVERY: Duration = Duration::from_secs(3600);
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
    ends: Vec<Ended>,
    /// Ends that a synchronous standby may not have yet: a failover would take them back.
    unconfirmed: HashMap<Uuid, AttemptEnd>,
    candidates: Vec<Candidate>,
    /// Executions of which nothing is claimed before, since a claim has failed.
    put_off: HashMap<Uuid, Instant>,
    /// Tasks that were claimed here and never started, until one of them does.
    unstarted: Unstarted,
    /// The tenant whose task was started last.
    last_tenant: Option<Uuid>,
    /// What the database and this host take to run has to be compared before anything is claimed.
    has_to_compare: bool,
    /// Of the database, when that was done last.
    timeline: Option<i64>,
    /// The last look.
    state: Option<State>,
    next_look: Instant,
    next_count: Instant,
    next_compaction: Instant,
    next_seen: Instant,
    next_copy: Instant,
    next_clearing: Instant,
    /// Nothing is claimed before.
    next_claim: Instant,
    /// Why nothing starts while the disk is nearly full.
    full: Option<String>,
    /// The server was told to stop: nothing starts any more.
    is_draining: bool,
    /// No task has any time left to end by itself.
    has_killed: bool,
    errors: RateLimit,
}

struct Running {
    tenant: Option<Uuid>,
    /// Its execution, and its number there, where this server has claimed it.
    task: Option<(Uuid, usize)>,
    claimed: Instant,
    /// From when it could have started until it was claimed here.
    waited: Option<Duration>,
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
            task: None,
            claimed: Instant::now(),
            waited: None,
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
        (attempts, found): (Attempts, Vec<Found>),
    ) -> Scheduler<'a> {
        let now = Instant::now();
        app.status.metrics.tasks.slots.set(settings.task_slots as i64);
        let mut scheduler = Scheduler {
            app,
            host,
            new,
            settings,
            attempts,
            running: HashMap::new(),
            ends: Vec::new(),
            unconfirmed: HashMap::new(),
            candidates: Vec::new(),
            put_off: HashMap::new(),
            unstarted: Unstarted::default(),
            last_tenant: None,
            has_to_compare: true,
            timeline: None,
            state: None,
            next_look: now,
            next_count: now,
            next_compaction: now,
            next_seen: now,
            next_copy: now,
            next_clearing: now,
            next_claim: now,
            full: None,
            is_draining: false,
            has_killed: false,
            errors: RateLimit::new(1, ERROR_LINE_EVERY),
        };
        scheduler.take_over(found);
        scheduler
    }

    /// Runs until `stop` is set.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            self.turn();
        }
        self.stop();
    }

    /// Waits for something to happen, and does what there is to do then.
    fn turn(&mut self) {
        for event in self.attempts.wait(self.until_next()) {
            self.happened(event);
        }
        if self.app.status.is_draining() {
            self.drain();
        }
        let now = Instant::now();
        if self.app.execution_changes.take_news() {
            self.next_look = now;
        }
        if self.app.execution_changes.take_new()
            && let Some(state) = &mut self.state
        {
            state.has_work = true;
            // It may be another tenant's turn.
            self.candidates.clear();
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
        if self.next_clearing <= now {
            self.next_clearing = now + CLEAR_PACKAGES_EVERY;
            self.attempts.clear_unused();
        }
        self.app.status.metrics.tasks.slots_in_use.set(self.running.len() as i64);
    }

    fn until_next(&self) -> Duration {
        let now = Instant::now();
        let next_end = self.ends.iter().map(|ended| ended.not_before).min();
        let has_work = self.state.as_ref().is_some_and(|state| state.has_work);
        let may_claim = self.may_claim() && (has_work || !self.candidates.is_empty()) && self.free() > 0;
        let next = [
            Some(self.next_look),
            (!self.running.is_empty()).then_some(self.next_copy),
            may_claim.then_some(self.next_claim),
            next_end.filter(|_| self.state.is_some()).map(|next| next.max(now + END_WAIT)),
            self.until_next_of_drain().map(|wait| now + wait),
        ];
        next.into_iter().flatten().min().map_or(LOOK_EVERY, |next| next.saturating_duration_since(now))
    }

    /// By when a statement has to be done.
    fn until(&self) -> Instant {
        Instant::now() + self.app.database_timeout
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Started(attempt) => {
                if let Some(running) = self.running.get_mut(&attempt) {
                    running.started = Some(Instant::now());
                    if let Some(waited) = running.waited {
                        let seconds = (waited + running.claimed.elapsed()).as_secs_f64();
                        self.app.status.metrics.tasks.start_seconds.observe(seconds);
                    }
                }
            }
            Event::Ended(attempt, outcome) if self.is_unstarted(attempt, &outcome.end) => {
                self.ends.push(Ended::new(attempt, AttemptEnd::NeverStarted(Duration::ZERO)));
            }
            Event::Ended(attempt, outcome) => {
                if let Some(task) = self.task_of(attempt) {
                    self.unstarted.started(task);
                }
                self.ends.push(Ended::new(attempt, AttemptEnd::Ended(outcome)));
            }
            Event::Abandoned(attempt, why) => {
                self.ends.push(Ended::new(attempt, AttemptEnd::Abandoned(why)));
            }
            Event::NeverStarted(attempt) => {
                self.look_at_disk();
                let task = self.task_of(attempt);
                let wait = task.map_or(Duration::ZERO, |task| self.unstarted.wait(task, Instant::now()));
                self.ends.push(Ended::new(attempt, AttemptEnd::NeverStarted(wait)));
            }
        }
    }

    fn task_of(&self, attempt: Uuid) -> Option<(Uuid, usize)> {
        self.running.get(&attempt)?.task
    }

    fn failed(&mut self, what: &str, error: &StoreError) {
        if self.errors.allows(Instant::now()) {
            log::warn!("cannot {what}: {error}");
        }
    }
}
