//! Answers to changes, each of which waits until every other server that shares the database knows of its change. One
//! thread watches for all of them together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::Keys;
use crate::http::waiters::Waiter;
use crate::store::StoreError;
use crate::store::invalidation::{Announced, LONGEST_LEASE, LOOK_LIMIT};

/// Between two looks at the other servers: first, and once they have not caught up for a while.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The answers that wait.
#[derive(Default)]
pub struct WaitingResponses {
    answers: Mutex<Vec<Answer>>,
    watcher: OnceLock<Thread>,
}

struct Answer {
    announced: Announced,
    parked: Waiter,
}

impl WaitingResponses {
    fn answers(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Has the answer completed once no other server lets anybody in by what it knew before the change.
    pub fn add(&self, announced: Announced, parked: Waiter) {
        self.answers().push(Answer { announced, parked });
        if let Some(watcher) = self.watcher.get() {
            watcher.unpark();
        }
    }

    /// Waits until every answer is given, or until this moment: those that still wait then are lost. No more may be
    /// added.
    pub fn finish(&self, until: Instant) {
        while !self.answers().is_empty() && Instant::now() < until {
            thread::sleep(LONGEST_PAUSE);
        }
        let lost = std::mem::take(&mut *self.answers());
        drop(lost);
    }

    /// Takes those out of the first so many whose wait is over, given what every other server has seen. The highest
    /// number of which a lease had to be sat out comes with them.
    fn take(&self, count: usize, seen_by_all: Option<i64>) -> (Vec<Answer>, Option<i64>) {
        let now = Instant::now();
        let mut answers = self.answers();
        let knows = |announced: &Announced| {
            announced.number.zip(seen_by_all).is_some_and(|(number, seen)| seen >= number)
        };
        let over: Vec<_> = answers
            .extract_if(..count, |answer| knows(&answer.announced) || answer.announced.until <= now)
            .collect();
        let missed = over.iter().filter(|answer| !knows(&answer.announced));
        let missed = missed.filter_map(|answer| answer.announced.number).max();
        (over, missed)
    }
}

/// Runs until `stop` is set and it is unparked.
pub fn watch(keys: &Keys, stop: &AtomicBool) {
    let _ = keys.waiting.watcher.set(thread::current());
    let mut out = Vec::new();
    let mut pause = SHORTEST_PAUSE;
    while !stop.load(Ordering::Acquire) {
        // An answer that comes during the look may wait for a server that came during it as well.
        let count = keys.waiting.answers().len();
        if count == 0 {
            pause = SHORTEST_PAUSE;
            thread::park();
            continue;
        }
        let seen = keys.store.seen_by_all(keys.server, LOOK_LIMIT);
        let (over, missed) = keys.waiting.take(count, seen.as_ref().ok().copied());
        pause = if over.is_empty() { (pause * 2).min(LONGEST_PAUSE) } else { SHORTEST_PAUSE };
        over.into_iter().for_each(|answer| answer.parked.complete(&mut out));
        // No answer waits for this.
        if let Some(number) = missed {
            forget_who_is_behind(keys, number, seen);
        }
        thread::park_timeout(pause);
    }
}

/// They have not asked for news since the number was drawn, so they trust nothing that they remember; and the next
/// change need not wait for them.
fn forget_who_is_behind(keys: &Keys, number: i64, seen: Result<i64, StoreError>) {
    let forgotten =
        seen.and_then(|_| keys.store.forget_who_is_behind(keys.server, number, Instant::now() + LOOK_LIMIT));
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
