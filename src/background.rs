//! Threads on which requests depend without being served by them. Each has a name, starts again when it panics, and ends
//! when it is told to.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A thread that panics again and again starts no more often than this.
const RESTART_EVERY: Duration = Duration::from_secs(1);

/// Threads that all end at once.
#[derive(Default)]
pub struct Background {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    /// Starts a thread that runs until it sees that its flag is set. It is unparked then.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(&mut self, name: &str, mut run: impl FnMut(&AtomicBool) + Send + 'static) -> io::Result<()> {
        let stop = Arc::clone(&self.stop);
        let thread = thread::Builder::new().name(name.to_owned());
        self.threads.push(thread.spawn(move || restart_on_panic(|| run(&stop)))?);
        Ok(())
    }

    /// Tells all of them to end, and hands them back to be joined.
    pub fn stop(self) -> Vec<JoinHandle<()>> {
        self.stop.store(true, Ordering::Release);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
        self.threads
    }
}

/// Wakes a thread that waits for work, once that has said which it is.
#[derive(Default)]
pub struct Waker(OnceLock<Thread>);

impl Waker {
    /// From now on the thread that calls this is woken.
    pub fn wakes_this_thread(&self) {
        let _ = self.0.set(thread::current());
    }

    pub fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// What one thread does for others, in turn. Each of them bounds how much it gives it.
pub struct JobQueue<C> {
    waiting: Mutex<VecDeque<Job<C>>>,
    thread: Waker,
}

type Job<C> = Box<dyn FnOnce(&C) + Send>;

impl<C> Default for JobQueue<C> {
    fn default() -> JobQueue<C> {
        JobQueue { waiting: Mutex::default(), thread: Waker::default() }
    }
}

impl<C> JobQueue<C> {
    pub fn add(&self, job: impl FnOnce(&C) + Send + 'static) {
        self.waiting.lock().push_back(Box::new(job));
        self.thread.wake();
    }

    /// Has the thread look around.
    pub fn wake(&self) {
        self.thread.wake();
    }

    /// From now on the thread that calls this does them.
    pub fn are_for_this_thread(&self) {
        self.thread.wakes_this_thread();
    }

    /// The next one, unless there is none.
    pub fn next(&self) -> Option<impl FnOnce(&C) + use<C>> {
        self.waiting.lock().pop_front()
    }
}

/// Runs a thread's work until it returns. After a panic, whose own line is in the log by then, it begins anew.
pub fn restart_on_panic(mut work: impl FnMut()) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    loop {
        let began = Instant::now();
        match catch_unwind(AssertUnwindSafe(&mut work)) {
            Ok(()) => return log::debug!(thread = name; "the thread has ended"),
            Err(cause) => {
                // Dropping it may panic as well.
                std::mem::forget(cause);
                log::error!(thread = name; "the thread panicked, and starts again");
                thread::park_timeout(RESTART_EVERY.saturating_sub(began.elapsed()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_panics_starts_again_and_stops_with_the_others() {
        let mut background = Background::default();
        let (seen, runs) = mpsc::channel();
        let mut count = 0;
        let work = move |stop: &AtomicBool| {
            count += 1;
            seen.send(count).unwrap();
            assert!(count > 2, "on purpose");
            while !stop.load(Ordering::Acquire) {
                thread::park();
            }
        };
        background.start("test", work).unwrap();
        for expected in 1..=3 {
            assert_eq!(runs.recv_timeout(Duration::from_secs(30)), Ok(expected));
        }
        for thread in background.stop() {
            thread.join().unwrap();
        }
        assert_eq!(runs.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }
}
