//! Answers to changes, each of which waits until every other server that shares the database knows of its change. One
//! thread watches for all of them together.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Auth;
use super::announcement::{self, Announced, LOOK_LIMIT};
use super::lease::LONGEST_LEASE;
use crate::store::StoreError;

/// Between two looks at the other servers: first, and once they have not caught up for a while.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The responses that wait.
#[derive(Default)]
pub struct WaitingResponses {
    responses: Mutex<Vec<Waiting>>,
    watcher: OnceLock<Thread>,
}

struct Waiting {
    announced: Announced,
    complete: Box<dyn FnOnce() + Send>,
}

impl WaitingResponses {
    /// Calls `complete` on a thread of its own once no other server lets a key in by what it read before the change. It
    /// is dropped instead where the server ends before that.
    pub fn add(&self, announced: Announced, complete: impl FnOnce() + Send + 'static) {
        self.responses.lock().push(Waiting { announced, complete: Box::new(complete) });
        if let Some(watcher) = self.watcher.get() {
            watcher.unpark();
        }
    }

    /// Waits until every answer is given, or until this moment: those that still wait then are lost. No more may be
    /// added.
    pub fn finish(&self, until: Instant) {
        while !self.responses.lock().is_empty() && Instant::now() < until {
            thread::sleep(LONGEST_PAUSE);
        }
        let lost = std::mem::take(&mut *self.responses.lock());
        drop(lost);
    }

    /// Takes those out of the first so many whose wait is over, given what every other server has seen. The highest
    /// number of which a lease had to be sat out comes with them.
    fn take(&self, count: usize, seen_by_all: Option<i64>) -> (Vec<Waiting>, Option<i64>) {
        let now = Instant::now();
        let mut responses = self.responses.lock();
        let over: Vec<_> = responses
            .extract_if(..count, |waiting| {
                waiting.announced.is_seen(seen_by_all) || waiting.announced.until <= now
            })
            .collect();
        let missed = over.iter().filter(|waiting| !waiting.announced.is_seen(seen_by_all));
        let missed = missed.filter_map(|waiting| waiting.announced.number).max();
        (over, missed)
    }
}

/// Runs until `stop` is set and it is unparked.
pub fn watch(auth: &Auth, stop: &AtomicBool) {
    let _ = auth.waiting.watcher.set(thread::current());
    let mut pause = SHORTEST_PAUSE;
    while !stop.load(Ordering::Acquire) {
        // An answer that comes during the look may wait for a server that came during it as well.
        let count = auth.waiting.responses.lock().len();
        if count == 0 {
            pause = SHORTEST_PAUSE;
            thread::park();
            continue;
        }
        let seen = announcement::seen_by_all(&auth.store, auth.server, LOOK_LIMIT);
        let (over, missed) = auth.waiting.take(count, seen.as_ref().ok().copied());
        pause = if over.is_empty() { (pause * 2).min(LONGEST_PAUSE) } else { SHORTEST_PAUSE };
        over.into_iter().for_each(|waiting| (waiting.complete)());
        // No answer waits for this.
        if let Some(number) = missed {
            forget_who_is_behind(auth, number, seen);
        }
        thread::park_timeout(pause);
    }
}

/// They have not asked for news since the number was drawn, so they trust nothing that they remember; and the next
/// change need not wait for them.
fn forget_who_is_behind(auth: &Auth, number: i64, seen: Result<i64, StoreError>) {
    let forgotten = seen.and_then(|_| {
        announcement::forget_who_is_behind(&auth.store, auth.server, number, Instant::now() + LOOK_LIMIT)
    });
    match forgotten {
        Ok(0) => {}
        Ok(servers) => {
            log::warn!(servers = servers; "servers that share the database are silent, and trust their caches no longer");
        }
        Err(error) => log::warn!(
            "could not ask whether other servers know of a change, so {LONGEST_LEASE:?} were waited for them: {error}"
        ),
    }
}
