//! Commands that work straight on the database with the server's own store, for an operator who has that and no key: how
//! long they wait for it, and how servers hear of what they change.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::auth::announcement::wait_for_servers;
use crate::auth::{self, Tenant};
use crate::channel::channel;
use crate::cli;
use crate::command_error::CommandError::{self, Runtime, Usage};
use crate::config::Settings;
use crate::http::error::OUTCOME_UNKNOWN;
use crate::store::{COMMAND_LIMIT, Store, StoreError};
use crate::terminal::start_of;

/// By when the database has to have answered what the command asks of it now. `None`: nothing has been asked of it yet.
static ANSWERED_BY: Mutex<Option<Instant>> = Mutex::new(None);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Beyond what a command waits for a database and its answer: for servers to hear of it, and for the cancelling of what
/// takes too long.
const BESIDE_ANSWER: Duration = Duration::from_secs(6);

/// What a command asks for its settings with, once it needs the database.
pub type Load = Box<dyn FnOnce() -> Result<Settings, CommandError>>;

/// Carries out a command. `settings` is asked for only where a database is needed.
///
/// # Errors
/// Those of the command itself, and `Runtime` when the database falls silent: the driver would wait for that for ever, so
/// the wait is left to a thread that ends with the process.
pub fn run(
    settings: impl FnOnce() -> Result<Settings, CommandError> + Send + 'static,
    may_change: bool,
    carry_out: impl FnOnce(Load) -> Result<ExitCode, CommandError> + Send + 'static,
) -> Result<ExitCode, CommandError> {
    let (over, heard) = channel();
    let carrying_out = thread::spawn(move || {
        let load = || {
            let settings = settings()?;
            // To connect, which has its own limit.
            until_within(settings.database_wait + COMMAND_LIMIT);
            Ok(settings)
        };
        let _ = over.send(carry_out(Box::new(load)));
    });
    loop {
        match heard.recv_timeout(LOOK_EVERY) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Timeout) if ANSWERED_BY.lock().is_none_or(|at| Instant::now() < at) => {}
            Err(RecvTimeoutError::Timeout) => {
                let outcome = if may_change { format!("; {OUTCOME_UNKNOWN}") } else { String::new() };
                return Err(Runtime(format!("the database does not answer{outcome}")));
            }
            Err(RecvTimeoutError::Disconnected) => match carrying_out.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => return Err(Runtime("internal error: no outcome".to_owned())),
            },
        }
    }
}

/// Until when the database may take for the one thing that a command asks of it now.
pub fn until() -> Instant {
    until_within(COMMAND_LIMIT)
}

/// The same, where that takes longer. From now on the command waits for this, whatever it waited for before.
pub fn until_within(limit: Duration) -> Instant {
    let until = Instant::now() + limit;
    *ANSWERED_BY.lock() = Some(until + BESIDE_ANSWER);
    until
}

/// The database has answered: what comes now may take its time, such as a reader of stdout.
pub fn has_answered() {
    *ANSWERED_BY.lock() = None;
}

/// Waits until no server lets a key in by what it knew before this call.
pub fn tell_servers(store: &Store) {
    // It takes no longer than `BESIDE_ANSWER`, and is not part of what was asked before.
    until();
    // An id that no server has: all of them have to be told.
    wait_for_servers(store, Uuid::new_v4());
}

/// The tenant of this name.
///
/// # Errors
/// `Runtime`: there is none, or the database does not say.
pub fn find_tenant(store: &Store, name: &str) -> Result<Tenant, CommandError> {
    auth::find_tenant(store, name, until()).map_err(failed)?.ok_or_else(|| tenant_not_found(name))
}

pub fn tenant_not_found(name: &str) -> CommandError {
    Runtime(format!("tenant '{}' not found", start_of(name)))
}

/// Why a command failed, where the store failed.
pub fn failed(error: StoreError) -> CommandError {
    Runtime(match error {
        StoreError::Unavailable(cause) => format!("the database is not available: {cause}"),
        StoreError::Refused(cause) => format!("the database refused: {cause}"),
        StoreError::Unknown(cause) => format!("lost the database: {cause}; {OUTCOME_UNKNOWN}"),
    })
}

/// What is wrong with the value of a flag, or of an operand.
pub fn invalid(name: &str, line: &str) -> CommandError {
    Usage(format!("invalid value for `{name}`: {line}"))
}

/// Says of a change that a failover may undo it, where that is no reason to fail.
pub fn remark_unconfirmed() {
    cli::remark(
        "cloacinactl: this is done, but no synchronous standby has confirmed it: a failover may undo it",
    );
}

/// Prints a line that is shown this once. `otherwise`: what is to be said where no process can have read it, not even
/// from a closed pipe.
///
/// # Errors
/// `Runtime`: it could not be written.
pub fn hand_over(line: &str, otherwise: impl FnOnce(io::Error) -> String) -> Result<(), CommandError> {
    has_answered();
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    written.map_err(|error| Runtime(otherwise(error)))
}
