//! Requests that wait for a worker.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use prometheus::IntGauge;

use super::peer::{Peer, Stage};
use super::request::RequestInfo;
use super::router::Routed;

/// A vetted request on its way to a worker.
pub struct Job {
    pub peer: Arc<Peer>,
    /// `Head::plain_request`.
    pub plain: Vec<u8>,
    /// Beside it, since tiny_http takes every line apart letter by letter.
    pub authorization: Option<String>,
    pub content_type: Option<String>,
    pub has_content_coding: bool,
    /// `None` for the server's own probe.
    pub routed: Option<Routed>,
    pub info: RequestInfo,
}

#[cfg(test)]
impl Job {
    /// GET, answered by a connection that ends.
    pub fn for_tests(peer: Arc<Peer>, path: &str, request_id: &str) -> Job {
        use std::time::{Duration, Instant};
        peer.hand_over();
        let info = RequestInfo {
            request_id: request_id.into(),
            method: "GET",
            route: "/test",
            keep_alive: false,
            is_1_0: false,
            client: peer.address.ip(),
            at: Instant::now(),
            deadline: Instant::now() + Duration::from_secs(10),
        };
        Job {
            peer,
            plain: format!("GET {path} HTTP/1.1\r\n\r\n").into_bytes(),
            authorization: None,
            content_type: None,
            has_content_coding: false,
            routed: Some(super::router::TEST_ROUTE),
            info,
        }
    }
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

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Appends a job; `false` when the queue is full.
    pub fn push(&self, job: Job) -> bool {
        let mut state = self.state();
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
        let mut state = self.state();
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
            state = self.filled.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            state.waiting -= 1;
            // Not by one of ours, should the system wake it for no reason: then a worker is woken once too often.
            state.woken = state.woken.saturating_sub(1);
        }
    }

    /// Lets the workers end once they have done what is queued.
    pub fn close(&self) {
        self.state().closed = true;
        self.filled.notify_all();
    }

    /// How many jobs workers have taken so far: it stands still when they do.
    pub fn taken(&self) -> u64 {
        self.state().taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_request_that_was_given_up_keeps_no_other_out() {
        let queue = Queue::new(2, IntGauge::new("depth", "depth").unwrap());
        let ((_one, first), (_two, second), (_three, third)) =
            (Peer::for_tests(), Peer::for_tests(), Peer::for_tests());
        assert!(
            queue.push(Job::for_tests(Arc::clone(&first), "/", "1"))
                && queue.push(Job::for_tests(Arc::clone(&second), "/", "2"))
        );
        assert!(!queue.push(Job::for_tests(Arc::clone(&third), "/", "3")));
        assert_eq!(first.take_back(Instant::now(), |_| true), Some(Stage::Queued));
        assert!(queue.push(Job::for_tests(Arc::clone(&third), "/", "3")));
        let order = [queue.pop(), queue.pop()].map(|popped| popped.unwrap().0.info.request_id);
        assert_eq!(order, ["2".into(), "3".into()]);
    }

    #[test]
    fn the_queue_is_bounded_and_keeps_its_order() {
        let queue = Queue::new(2, IntGauge::new("depth", "depth").unwrap());
        let (_client, peer) = Peer::for_tests();
        let push = |id| queue.push(Job::for_tests(Arc::clone(&peer), "/", id));
        assert_eq!([push("1"), push("2"), push("3")], [true, true, false]);
        assert_eq!(queue.depth.get(), 2);
        queue.close();
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(job, _)| job.info.request_id).collect();
        assert_eq!(order, ["1".into(), "2".into()]);
    }
}
