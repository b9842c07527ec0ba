//! Tells all who wait for it that executions have changed: the scheduler of this server, clients that wait here, and other
//! servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::background::Waker;
use crate::waiting_clients::WaitingClients;

/// What has to look again. Each of them looks from time to time as well.
#[derive(Default)]
pub struct ExecutionChanges {
    /// Something may start, or is to be ended.
    has_news: AtomicBool,
    /// An execution was made here.
    has_new: AtomicBool,
    /// Wakes the thread that starts tasks.
    scheduler: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
    /// Answers clients that wait.
    pub waiting: Waker,
    /// Those that do.
    pub clients: Arc<WaitingClients>,
    /// Notifies other servers.
    pub announcer: Waker,
}

impl ExecutionChanges {
    /// A new execution has been committed here: more than what may start has not changed.
    pub fn created(&self) {
        self.has_new.store(true, Ordering::Release);
        self.wake();
        self.announcer.wake();
    }

    /// Something else has been committed here: a cancellation, a retry.
    pub fn committed(&self) {
        self.announced();
        self.announcer.wake();
    }

    /// The scheduler has committed something itself: the end of a task, a piece of a log.
    pub fn recorded(&self) {
        self.waiting.wake();
        self.announcer.wake();
    }

    /// Another server has committed something.
    pub fn announced(&self) {
        self.has_news.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        if let Some(wake) = &*self.scheduler.lock() {
            wake();
        }
        self.waiting.wake();
    }

    /// From now on the scheduler is woken by this, rather than by what an earlier one of this server gave.
    pub fn wake_scheduler_by(&self, wake: impl Fn() + Send + Sync + 'static) {
        *self.scheduler.lock() = Some(Box::new(wake));
    }

    /// Whether an execution was made here since this was last asked.
    pub fn take_new(&self) -> bool {
        self.has_new.swap(false, Ordering::AcqRel)
    }

    /// Whether there has been other news since this was last asked.
    pub fn take_news(&self) -> bool {
        self.has_news.swap(false, Ordering::AcqRel)
    }
}
