//! What workers leave for the event loop to do.

use std::sync::Mutex;

use mio::{Token, Waker};

use super::connection::Rules;

/// What a worker tells the event loop when the event loop has something left to do with the connection.
pub struct Completion {
    pub token: Token,
    /// What the socket would not take at once.
    pub rest: Vec<u8>,
    pub close: bool,
}

/// Where workers leave what the event loop has to do.
pub struct CompletionQueue {
    done: Mutex<Vec<Completion>>,
    rules: Mutex<Option<Rules>>,
    waker: Waker,
}

impl CompletionQueue {
    pub fn new(waker: Waker) -> CompletionQueue {
        CompletionQueue { done: Mutex::new(Vec::new()), rules: Mutex::new(None), waker }
    }

    pub fn post(&self, done: Completion) {
        self.done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(done);
        self.wake();
    }

    /// Has the event loop go by these from now on.
    pub fn post_rules(&self, rules: Rules) {
        *self.rules.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(rules);
        self.wake();
    }

    /// The rules that were posted last, once.
    pub fn collect_rules(&self) -> Option<Rules> {
        self.rules.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    /// Makes the event loop look around: also at whether we are draining.
    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!("cannot wake the event loop: {error}");
        }
    }

    /// All that was posted since the last time.
    pub fn collect(&self) -> Vec<Completion> {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}
