//! What `std::sync::mpsc` is, in one form that suits our threads. That one has three, all of which the program would
//! contain once for each type of message.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    messages: VecDeque<T>,
    senders: usize,
    is_received: bool,
}

pub struct Sender<T>(Arc<Shared<T>>);

pub struct Receiver<T>(Arc<Shared<T>>);

pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { messages: VecDeque::new(), senders: 1, is_received: true };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// # Errors
    /// The receiver is gone.
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        let mut state = self.0.state.lock();
        if !state.is_received {
            return Err(SendError(message));
        }
        state.messages.push_back(message);
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.state.lock().senders += 1;
        Sender(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state.lock().senders -= 1;
        self.0.changed.notify_one();
    }
}

impl<T> Receiver<T> {
    /// # Errors
    /// There is no message, and no sender any more.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.wait(None).map_err(|_| RecvError)
    }

    /// # Errors
    /// There is no message in that time, or no sender any more.
    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        self.wait(Instant::now().checked_add(limit))
    }

    /// # Errors
    /// There is no message now.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.wait(Some(Instant::now())).map_err(|error| match error {
            RecvTimeoutError::Timeout => TryRecvError::Empty,
            RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
        })
    }

    fn wait(&self, until: Option<Instant>) -> Result<T, RecvTimeoutError> {
        let mut state = self.0.state.lock();
        loop {
            if let Some(message) = state.messages.pop_front() {
                return Ok(message);
            }
            if state.senders == 0 {
                return Err(RecvTimeoutError::Disconnected);
            }
            match until {
                None => self.0.changed.wait(&mut state),
                Some(until) if until <= Instant::now() => return Err(RecvTimeoutError::Timeout),
                Some(until) => _ = self.0.changed.wait_until(&mut state, until),
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_received = false;
        let unread = std::mem::take(&mut state.messages);
        // What they hold may send on this channel when it is dropped.
        drop(state);
        drop(unread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn messages_come_in_order_and_the_last_ones_after_their_sender_is_gone() {
        let (sender, receiver) = channel();
        let other = sender.clone();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(receiver.recv_timeout(Duration::from_millis(1)), Err(RecvTimeoutError::Timeout));
        for number in 0..3 {
            sender.send(number).unwrap();
        }
        drop(sender);
        assert_eq!((receiver.recv(), receiver.recv_timeout(LONG)), (Ok(0), Ok(1)));
        drop(other);
        assert_eq!(receiver.recv(), Ok(2));
        assert_eq!(receiver.recv(), Err(RecvError));
        assert_eq!(receiver.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn a_thread_that_waits_hears_of_a_message_and_of_the_last_sender_s_end() {
        let (sender, receiver) = channel();
        let (heard, hears) = channel();
        let waits = std::thread::spawn(move || {
            while let Ok(number) = receiver.recv_timeout(LONG) {
                heard.send(number).unwrap();
            }
        });
        sender.send(1).unwrap();
        assert_eq!(hears.recv_timeout(LONG), Ok(1));
        drop(sender);
        assert_eq!(hears.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
        waits.join().unwrap();
    }

    #[test]
    fn what_nobody_reads_is_given_back_or_dropped() {
        struct Held(Sender<Held>);
        let (sender, receiver) = channel();
        let held = Arc::clone(&sender.0);
        sender.send(Held(sender.clone())).map_err(drop).unwrap();
        drop(receiver);
        assert_eq!(held.state.lock().senders, 1);
        let back = sender.send(Held(sender.clone()));
        assert!(back.is_err_and(|SendError(Held(sender))| Arc::ptr_eq(&sender.0, &held)));
    }
}
