//! Following attempts to their ends: one poll over descriptors of all supervisors, whether this server has started them or
//! an earlier one.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uuid::Uuid;

use super::{Attempts, Event, Known, State, terminate};
use crate::engine::attempt::{End, FORMAT, Outcome, Supervised};
use crate::scheduler::disk;
use crate::scheduler::recovery::{self, Verdict};
use crate::scheduler::starter::{self, Told};

/// Between two looks at a supervisor that cannot be followed yet.
const LOOK: Duration = Duration::from_millis(100);

impl Attempts {
    /// Waits for events until one comes, `wake` is called, or this time is over.
    pub fn wait(&mut self, limit: Duration) -> Vec<Event> {
        let until = Instant::now() + limit;
        loop {
            let mut events = Vec::new();
            self.hear(&mut events);
            self.look(&mut events);
            let now = Instant::now();
            let left = if events.is_empty() { until.saturating_duration_since(now) } else { Duration::ZERO };
            let next_look = self.next_look().map(|at| at.saturating_duration_since(now));
            let (is_woken, ended) = self.poll(next_look.map_or(left, |look| look.min(left)));
            for attempt in ended {
                self.supervisor_ended(attempt, &mut events);
            }
            if is_woken {
                self.woken.clear();
                self.hear(&mut events);
            }
            if !events.is_empty() || is_woken || Instant::now() >= until {
                return events;
            }
        }
    }

    /// What other threads have told.
    fn hear(&mut self, events: &mut Vec<Event>) {
        while let Ok(told) = self.told.try_recv() {
            match told {
                Told::Started(id, child, supervisor) => {
                    events.push(Event::Started(id));
                    self.started(id, child, supervisor);
                }
                Told::Failed(id, why) => self.is_over(self.not_started(id, why), events),
                Told::Cancelled(id) => self.is_over(Event::Ended(id, not_run(End::Cancelled)), events),
                Told::NeverStarted(id) => self.is_over(Event::NeverStarted(id), events),
                Told::Abandoned(id, why) => self.is_over(Event::Abandoned(id, why), events),
            }
        }
    }

    fn started(&mut self, id: Uuid, child: Supervised, supervisor: Option<OwnedFd>) {
        self.starter.cancelled.lock().remove(&id);
        let mark = self.cancelled_mark(id);
        let known = self.attempts.entry(id);
        let known = known.or_insert(Known { place: None, state: State::Starting, is_cancelled: false });
        if let Some(supervisor) = supervisor.as_ref().filter(|_| known.is_cancelled) {
            terminate(supervisor, &mark);
        }
        known.state = State::Running { child: Some(child), supervisor, look_at: Instant::now() + LOOK };
    }

    /// Forgets one that has not ended, since it has.
    fn is_over(&mut self, event: Event, events: &mut Vec<Event>) {
        let (Event::Started(id) | Event::Ended(id, _) | Event::Abandoned(id, _) | Event::NeverStarted(id)) =
            &event;
        self.starter.cancelled.lock().remove(id);
        if let Some(place) = self.attempts.remove(id).and_then(|known| known.place) {
            self.starter.packages.release(&place);
        }
        events.push(event);
    }

    /// Whether it was woken, and of which attempts the supervisors have ended.
    fn poll(&self, limit: Duration) -> (bool, Vec<Uuid>) {
        let mut ids = Vec::with_capacity(self.attempts.len());
        let mut polled = Vec::with_capacity(self.attempts.len() + 1);
        polled.push(PollFd::new(self.woken.as_fd(), PollFlags::POLLIN));
        for (id, known) in &self.attempts {
            if let State::Running { supervisor: Some(supervisor), .. } = &known.state {
                ids.push(*id);
                polled.push(PollFd::new(supervisor.as_fd(), PollFlags::POLLIN));
            }
        }
        // What is left of a millisecond would be rounded off.
        let limit = if limit.is_zero() { limit } else { limit + Duration::from_millis(1) };
        if poll(&mut polled, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)).is_err() {
            return (false, Vec::new());
        }
        let came = |polled: &PollFd<'_>| polled.any().unwrap_or(true);
        let ended = ids.iter().zip(&polled[1..]).filter(|(_, polled)| came(polled)).map(|(id, _)| *id);
        (came(&polled[0]), ended.collect())
    }

    fn next_look(&self) -> Option<Instant> {
        let looks = self.attempts.values().filter_map(|known| match known.state {
            State::Running { supervisor: None, look_at, .. } => Some(look_at),
            _ => None,
        });
        looks.min()
    }

    /// Looks at those that cannot be followed by a descriptor yet.
    fn look(&mut self, events: &mut Vec<Event>) {
        let now = Instant::now();
        let due = |known: &Known| match known.state {
            State::Running { supervisor: None, look_at, .. } => look_at <= now,
            _ => false,
        };
        let due: Vec<_> = self.attempts.iter().filter(|(_, known)| due(known)).map(|(id, _)| *id).collect();
        for id in due {
            let (attempt, mark) = (self.at(id), self.cancelled_mark(id));
            let Some(known) = self.attempts.get_mut(&id) else { continue };
            let State::Running { child, supervisor, look_at } = &mut known.state else { continue };
            *look_at = now + LOOK;
            *supervisor = match child {
                Some(child) => starter::descriptor_of(child),
                None => attempt.ok().as_ref().and_then(recovery::adopt),
            };
            let is_lost = supervisor.is_none() && child.is_none();
            if let Some(supervisor) = supervisor.as_ref().filter(|_| known.is_cancelled && !mark.exists()) {
                terminate(supervisor, &mark);
            }
            // It may have ended before it could be followed.
            if is_lost && self.judge(id) != Verdict::Alive {
                self.supervisor_ended(id, events);
            }
        }
    }

    /// Nothing of it could be started. On a disk that is full nothing can be, which is no fault of its task's.
    fn not_started(&self, id: Uuid, why: String) -> Event {
        match disk::obstacle(&self.starter.settings.home) {
            Some(full) => {
                log::warn!(attempt:% = id, why = why.as_str(); "a task waits until it can start: {full}");
                Event::NeverStarted(id)
            }
            None => Event::Ended(id, not_run(End::Failed(why))),
        }
    }

    /// No supervisor of it is left.
    fn supervisor_ended(&mut self, id: Uuid, events: &mut Vec<Event>) {
        let Some(known) = self.attempts.get_mut(&id) else { return };
        let State::Running { child, .. } = std::mem::replace(&mut known.state, State::Ending) else { return };
        let status = child.and_then(|child| self.starter.own.wait(child).ok());
        match self.judge(id) {
            Verdict::Ended(outcome) => self.is_over(Event::Ended(id, *outcome), events),
            Verdict::NeverStarted => match status.and_then(|status| status.code()) {
                // It would do so again and again.
                Some(code) => {
                    let why = format!("its supervisor could not begin, and ended with exit code {code}");
                    self.is_over(self.not_started(id, why), events);
                }
                None => self.is_over(Event::NeverStarted(id), events),
            },
            Verdict::Abandoned(gone) if gone.may_have_left => self.cleanup.end_leftovers(id, gone),
            Verdict::Abandoned(gone) => self.is_over(Event::Abandoned(id, gone.why), events),
            // Of a process that has not closed it yet, and soon will have.
            Verdict::Alive => {
                if let Some(known) = self.attempts.get_mut(&id) {
                    let look_at = Instant::now() + LOOK;
                    known.state = State::Running { child: None, supervisor: None, look_at };
                }
            }
        }
    }
}

/// What came of an attempt whose command was not started.
fn not_run(end: End) -> Outcome {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    Outcome {
        format: FORMAT,
        end,
        output: None,
        started_at_ms: 0,
        ended_at_ms: now_ms,
        log_bytes: 0,
        log_kept_bytes: 0,
        warnings: Vec::new(),
    }
}
