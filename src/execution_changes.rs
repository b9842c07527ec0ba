//! Tells all who wait for it that executions have changed: the scheduler of this server, clients that wait here, and other
//! servers.

use std::sync::Arc;

use crate::background::Waker;
use crate::waiting_clients::WaitingClients;

/// What has to look again. Each of them looks from time to time as well.
#[derive(Default)]
pub struct ExecutionChanges {
    /// Starts tasks.
    pub scheduler: Waker,
    /// Answers clients that wait.
    pub waiting: Waker,
    /// Those that do.
    pub clients: Arc<WaitingClients>,
    /// Notifies other servers.
    pub announcer: Waker,
}

impl ExecutionChanges {
    /// Something has been committed: a new execution, the end of a task, a cancellation, a piece of a log.
    pub fn committed(&self) {
        self.scheduler.wake();
        self.waiting.wake();
        self.announcer.wake();
    }
}
