//! Requests that wait for a worker.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use prometheus::IntGauge;

use super::peer::{Peer, Stage};
use super::request::RequestInfo;
use super::router::Routed;
use super::upload::Upload;

/// A vetted request on its way to a worker.
pub struct Job {
    pub peer: Arc<Peer>,
    /// `Head::plain_request`.
    pub tiny_http_bytes: Vec<u8>,
    /// Beside it, since tiny_http takes every line apart letter by letter.
    pub authorization: Option<String>,
    pub content_type: Option<String>,
    pub if_none_match: Option<String>,
    pub idempotency_key: Option<String>,
    pub has_content_coding: bool,
    /// `None` for the server's own probe.
    pub routed: Option<Routed>,
    pub step: Step,
    pub info: RequestInfo,
}

/// What a worker does with a request.
pub enum Step {
    /// Says whether the client may send the body, of which nothing is there yet.
    Authorize(Routed),
    /// Answers it. A body that is a stream is beside it.
    Answer(Option<Upload>),
}

/// First in, first out, with a bound. One lock, one condition, and no thread woken that would find nothing to do.
pub struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
    limit: usize,
    /// How many wait in this queue and in others that share it.
    depth: IntGauge,
}

struct QueueState {
    jobs: VecDeque<Job>,
    /// How many workers have taken since the start.
    taken: u64,
    closed: bool,
    /// Workers that wait, also those that were woken and have not come to it yet.
    waiting: usize,
    /// Those of them that were woken.
    woken: usize,
}

impl Queue {
    pub fn new(limit: usize, depth: IntGauge) -> Queue {
        let state = QueueState { jobs: VecDeque::new(), taken: 0, closed: false, waiting: 0, woken: 0 };
        Queue { state: Mutex::new(state), filled: Condvar::new(), limit, depth }
    }

    /// Appends a job; `false` when the queue is full.
    pub fn push(&self, job: Job) -> bool {
        let mut state = self.state.lock();
        // While every worker waits for the database, requests that the event loop has answered itself keep no other out.
        while state.jobs.len() >= self.limit
            && state.jobs.front().is_some_and(|oldest| oldest.peer.stage() != Some(Stage::Queued))
        {
            state.jobs.pop_front();
            self.depth.dec();
        }
        if state.jobs.len() >= self.limit {
            return false;
        }
        state.jobs.push_back(job);
        self.depth.inc();
        // A wake-up costs more than most requests, and a worker that is at work comes back for the next job without one.
        let wakes = state.woken < state.waiting.min(state.jobs.len());
        state.woken += usize::from(wakes);
        drop(state);
        if wakes {
            self.filled.notify_one();
        }
        true
    }

    /// Waits for a job, and says whether others wait behind it; `None` once the queue is closed and empty.
    pub fn pop(&self) -> Option<(Job, bool)> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.taken += 1;
                self.depth.dec();
                return Some((job, !state.jobs.is_empty()));
            }
            if state.closed {
                return None;
            }
            state.waiting += 1;
            self.filled.wait(&mut state);
            state.waiting -= 1;
            // Not by one of ours, should the system wake it for no reason: then a worker is woken once too often.
            state.woken = state.woken.saturating_sub(1);
        }
    }

    /// Lets the workers end once they have done what is queued.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_all();
    }

    /// How many jobs workers have taken so far: it stands still when they do.
    pub fn taken(&self) -> u64 {
        self.state.lock().taken
    }
}
