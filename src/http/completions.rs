//! What workers leave for the event loop to do.

use std::io;

use mio::{Token, Waker};
use parking_lot::Mutex;

use super::connection::Rules;
use super::download::Download;
use super::upload::Upload;

/// Something that the event loop has left to do with a connection.
pub struct Completion {
    pub token: Token,
    pub outcome: Outcome,
}

pub enum Outcome {
    Answered {
        /// What the socket would not take at once.
        rest: Vec<u8>,
        /// What comes after that.
        download: Option<Download>,
        close: bool,
    },
    /// The client may send the body of its upload.
    Authorized,
    /// A piece of an upload is written, or could not be.
    Stored(io::Result<Upload>),
    /// A piece of a download, with what comes after it, or why it could not be had.
    Fetched(Result<(Vec<u8>, Download), String>),
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
        self.done.lock().push(done);
        self.wake();
    }

    /// Has the event loop go by these from now on.
    pub fn post_rules(&self, rules: Rules) {
        *self.rules.lock() = Some(rules);
        self.wake();
    }

    /// The rules that were posted last, once.
    pub fn collect_rules(&self) -> Option<Rules> {
        self.rules.lock().take()
    }

    /// Makes the event loop look around: also at whether we are draining.
    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!("cannot wake the event loop: {error}");
        }
    }

    /// All that was posted since the last time.
    pub fn collect(&self) -> Vec<Completion> {
        std::mem::take(&mut *self.done.lock())
    }
}
