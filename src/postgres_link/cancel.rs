//! Ends statements whose time is over. PostgreSQL's own `statement_timeout` bounds each statement by itself, whatever was
//! waited before it, and does not bound a commit at all: one that waits for a synchronous standby waits for ever.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use postgres::CancelToken;

use super::driver_error::describe;
use super::session_factory::SessionFactory;
use crate::background::restart_on_panic;

/// The statements that run, each with the moment when PostgreSQL is asked to cancel it.
#[derive(Default)]
pub struct Running {
    state: Mutex<State>,
    sooner: Condvar,
}

#[derive(Default)]
struct State {
    statements: Vec<Statement>,
    last_number: u64,
    /// When the thread looks next; `None`: once it is woken.
    looks_at: Option<Instant>,
    is_over: bool,
}

struct Statement {
    number: u64,
    until: Instant,
    token: Arc<CancelToken>,
    is_cancelled: bool,
}

impl Running {
    /// Starts the thread that looks after them. It ends when this is dropped.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(factory: &Arc<SessionFactory>) -> std::io::Result<Watched> {
        let running = Arc::new(Running::default());
        let (watched, factory) = (Arc::clone(&running), Arc::downgrade(factory));
        let thread = std::thread::Builder::new().name("cancel".to_owned());
        let thread = thread.spawn(move || restart_on_panic(|| watched.watch(&factory)))?;
        Ok(Watched { running, thread: Some(thread) })
    }

    fn begin(&self, token: Arc<CancelToken>, until: Instant) -> u64 {
        let mut state = self.state.lock();
        state.last_number += 1;
        let number = state.last_number;
        state.statements.push(Statement { number, until, token, is_cancelled: false });
        // The thread is mostly waiting for a statement that is long over: a wake-up costs more than all else here.
        if state.looks_at.is_none_or(|looks_at| until < looks_at) {
            drop(state);
            self.sooner.notify_one();
        }
        number
    }

    /// Whether PostgreSQL was asked to cancel it.
    fn end(&self, number: u64) -> bool {
        let mut state = self.state.lock();
        let place = state.statements.iter().position(|statement| statement.number == number);
        place.is_some_and(|place| state.statements.swap_remove(place).is_cancelled)
    }

    fn watch(&self, factory: &Weak<SessionFactory>) {
        let mut state = self.state.lock();
        while !state.is_over {
            let now = Instant::now();
            for statement in state.statements.iter_mut().filter(|statement| !statement.is_cancelled) {
                if statement.until <= now {
                    statement.is_cancelled = true;
                    cancel(factory, Arc::clone(&statement.token));
                }
            }
            let left = state.statements.iter().filter(|statement| !statement.is_cancelled);
            state.looks_at = left.map(|statement| statement.until).min();
            match state.looks_at {
                None => self.sooner.wait(&mut state),
                Some(at) => _ = self.sooner.wait_until(&mut state, at),
            }
        }
    }
}

/// On a thread of its own, since the request needs a connection, which the database may not give.
fn cancel(factory: &Weak<SessionFactory>, token: Arc<CancelToken>) {
    let Some(factory) = factory.upgrade() else { return };
    let thread = std::thread::Builder::new().name("cancel-one".to_owned());
    let spawned = thread.spawn(move || {
        if let Err(error) = factory.connector.hosts().cancel(&token) {
            log::debug!("cannot cancel a statement: {}", describe(&error));
        }
    });
    if let Err(error) = spawned {
        log::error!("cannot start a thread: {error}");
    }
}

/// Statements with a thread that looks after them.
pub struct Watched {
    running: Arc<Running>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    /// Has what runs on the session at that moment cancelled then, until `end` is called with the number that this
    /// returns.
    pub fn begin(&self, token: Arc<CancelToken>, until: Instant) -> u64 {
        self.running.begin(token, until)
    }

    /// Whether that was asked for: the session must not be used again then, since the request may reach PostgreSQL later
    /// than the statement's end.
    pub fn end(&self, number: u64) -> bool {
        self.running.end(number)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.running.state.lock().is_over = true;
        self.running.sooner.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
