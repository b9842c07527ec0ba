//! `cloacinactl keys …`: straight on the database with the server's own store, for whoever has that and no key.

mod apply;
mod declaration;
mod explain;
mod list;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::body::{End, check_name, read_grace};
use super::key::Plaintext;
use super::{ALREADY_ROTATED, Permission, expiry, fresh_id};
use crate::cli::{self, KeysAction};
use crate::config::Settings;
use crate::failure::Failure;
use crate::store::keys::{NewKey, Revocation, Rotated, Successor};
use crate::store::{COMMAND_LIMIT, Committed, Store, StoreError};
use crate::terminal::shown;

/// What the thread that carries an action out says of itself.
enum Event {
    /// From here on it may wait for the database, for no longer than this.
    AsksDatabase(Duration),
    Over(Result<ExitCode, Failure>),
}

/// Beyond what a command waits for a database and its answer: for servers to hear of it, and for the cancelling of what
/// takes too long.
const BESIDE_ANSWER: Duration = Duration::from_secs(6);

/// Carries out an action. `settings` is asked for only where a database is needed.
///
/// # Errors
/// `Usage` for a value that is not right, `Runtime` when the database does not do it, or falls silent: the driver would
/// wait for that for ever, so the wait is left to a thread that ends with the process.
pub fn run(
    action: KeysAction,
    settings: impl FnOnce() -> Result<Settings, Failure> + Send + 'static,
) -> Result<ExitCode, Failure> {
    let (events, heard) = mpsc::channel();
    let may_change = !matches!(action, KeysAction::List { .. } | KeysAction::Explain);
    let carrying_out = thread::spawn(move || {
        let outcome = carry_out(&action, || {
            let settings = settings()?;
            let limit = settings.database_wait + time_for(&action) + BESIDE_ANSWER;
            let _ = events.send(Event::AsksDatabase(limit));
            Ok(settings)
        });
        let _ = events.send(Event::Over(outcome));
    });
    let mut limit = None;
    loop {
        let event = match limit {
            None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(limit) => heard.recv_timeout(limit),
        };
        match event {
            Ok(Event::AsksDatabase(longest)) => limit = Some(longest),
            Ok(Event::Over(outcome)) => return outcome,
            Err(RecvTimeoutError::Timeout) if may_change => {
                return Err(Failure::Runtime(format!("the database does not answer; {OUTCOME_UNKNOWN}")));
            }
            Err(RecvTimeoutError::Timeout) => {
                return Err(Failure::Runtime("the database does not answer".to_owned()));
            }
            Err(RecvTimeoutError::Disconnected) => match carrying_out.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => return Err(Failure::Runtime("internal error: no outcome".to_owned())),
            },
        }
    }
}

/// How long the database may take for what an action asks of it.
fn time_for(action: &KeysAction) -> Duration {
    match action {
        // As long as a file may be: it has a limit of its own.
        KeysAction::Apply { .. } => Duration::from_secs(24 * 60 * 60),
        _ => COMMAND_LIMIT,
    }
}

fn carry_out(
    action: &KeysAction,
    settings: impl FnOnce() -> Result<Settings, Failure>,
) -> Result<ExitCode, Failure> {
    match action {
        KeysAction::Create { name, permissions, expires_in } => {
            create(settings, name, permissions.as_deref(), expires_in.as_deref())?;
        }
        KeysAction::List { json, active } => {
            list::run(&Store::to_look(&settings()?)?, *json, *active)?;
        }
        KeysAction::Revoke { id } => revoke(settings, id)?,
        KeysAction::Rotate { id, grace } => rotate(settings, id, grace.as_deref())?,
        KeysAction::Explain => return explain::run(settings),
        KeysAction::Apply { file, dry_run } => apply::run(settings, file, *dry_run)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn create(
    settings: impl FnOnce() -> Result<Settings, Failure>,
    name: &str,
    permissions: Option<&str>,
    expires_in: Option<&str>,
) -> Result<(), Failure> {
    check_name(name).map_err(|line| wrong("--name", &line))?;
    let permission = match permissions {
        Some(permissions) => Permission::parse(permissions)
            .ok_or_else(|| wrong("--permissions", &format!("expected {}", Permission::NAMES)))?,
        None => Permission::Admin,
    };
    let asked = expires_in.map(expiry::duration).transpose().map_err(|line| wrong("--expires-in", line))?;
    if asked.is_some_and(|duration| duration.is_zero()) {
        return Err(wrong("--expires-in", "must lie in the future"));
    }
    let settings = settings()?;
    let longest = settings.max_key_lifetime;
    // That needs no clock, so the database is left alone.
    if !longest.is_zero() && asked.is_some_and(|duration| duration.unsigned_abs() > longest) {
        let line = format!("must not be more than {}s: keys live no longer here", longest.as_secs());
        return Err(wrong("--expires-in", &line));
    }
    let store = Store::to_change(&settings)?;
    let now = store.now(until()).map_err(failed)?;
    let expires_at = asked
        .map(|duration| End::ExpiresIn(duration).at(now))
        .transpose()
        .map_err(str::to_owned)
        .and_then(|end| expiry::bounded(end, longest, now))
        .map_err(|line| wrong("--expires-in", &line))?;
    let (id, key) = (id()?, generated()?);
    let hash = key.hash();
    let new = NewKey {
        id,
        hash: hash.as_str(),
        prefix: key.shown(),
        name,
        permissions: permission.name(),
        expires_at,
    };
    warn_unless_confirmed(&store.insert(&new, until()).map_err(failed)?);
    cli::remark(&format!("created {} {id}", shown(name)));
    hand_over(&store, id, &key)
}

/// Prints a new key. One that nobody can have read, not even in a closed pipe, must not stay valid.
fn hand_over(store: &Store, id: Uuid, key: &Plaintext) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", key.reveal()).and_then(|()| stdout.flush()).map_err(|error| {
        let outcome = match store.revoke(id, until()) {
            Ok(_) => "so it was revoked again".to_owned(),
            Err(revocation) => format!("and revoking it failed, please do so: {}", failed(revocation)),
        };
        Failure::Runtime(format!("the new key {id} could not be written to stdout ({error}), {outcome}"))
    })
}

fn revoke(settings: impl FnOnce() -> Result<Settings, Failure>, id: &str) -> Result<(), Failure> {
    let id = key_id(id)?;
    let store = Store::to_change(&settings()?)?;
    let revocation = store.revoke(id, until()).map_err(failed)?;
    if revocation.value == Revocation::Unknown {
        return Err(Failure::Runtime(format!("there is no key {id}")));
    }
    // For an earlier revocation as well: whoever made it may not have waited to the end.
    tell_servers(&store)?;
    match revocation.value {
        Revocation::Revoked(name) if !revocation.is_confirmed => Err(Failure::Runtime(format!(
            "{} {id} is revoked, but no synchronous standby has confirmed that: after a failover, list keys and \
             revoke it again",
            shown(&name)
        ))),
        Revocation::Revoked(name) => cli::print(&format!("revoked {} {id}\n", shown(&name))),
        _ => Err(Failure::Runtime(format!("the key {id} has been revoked before"))),
    }
}

fn rotate(
    settings: impl FnOnce() -> Result<Settings, Failure>,
    old: &str,
    grace: Option<&str>,
) -> Result<(), Failure> {
    let old = key_id(old)?;
    let grace = read_grace(grace.unwrap_or("0s")).map_err(|line| wrong("--grace", line))?;
    let (id, key) = (id()?, generated()?);
    let hash = key.hash();
    let settings = settings()?;
    let longest = settings.max_key_lifetime;
    let successor = Successor {
        id,
        hash: hash.as_str(),
        prefix: key.shown(),
        grace_seconds: grace.as_seconds_f64(),
        longest_seconds: (!longest.is_zero()).then_some(longest.as_secs_f64()),
    };
    let store = Store::to_change(&settings)?;
    let rotated = store.rotate(old, &successor, until()).map_err(failed)?;
    warn_unless_confirmed(&rotated);
    let made = match rotated.value {
        Rotated::Now(made) => made,
        Rotated::Earlier => return Err(Failure::Runtime(format!("{ALREADY_ROTATED}: {old}"))),
        Rotated::NotValid => {
            return Err(Failure::Runtime(format!(
                "there is no valid key {old}: unknown, revoked or expired"
            )));
        }
    };
    // The key comes first: the old one is gone, whether or not all servers can be told.
    let until = expiry::written(made.old_expires_at);
    cli::remark(&format!("rotated {} {old} to {id}; the old key ends {until}", shown(&made.name)));
    let printed = hand_over(&store, id, &key);
    tell_servers(&store).and(printed)
}

/// Waits until no server lets anybody in by what it knew before this call.
fn tell_servers(store: &Store) -> Result<(), Failure> {
    // An id that no server has: all of them have to be told.
    store.wait_for_servers(id()?);
    Ok(())
}

fn id() -> Result<Uuid, Failure> {
    fresh_id().map_err(|_| no_random_bytes())
}

fn generated() -> Result<Plaintext, Failure> {
    Plaintext::generate().map_err(|_| no_random_bytes())
}

fn no_random_bytes() -> Failure {
    Failure::Runtime("the system has no random bytes".to_owned())
}

fn key_id(text: &str) -> Result<Uuid, Failure> {
    // In the hyphenated form only, as in the server's paths. The text is not repeated: it may be a key.
    let id = Some(text).filter(|text| text.len() == 36).and_then(|text| Uuid::try_parse(text).ok());
    id.ok_or_else(|| {
        Failure::Usage("invalid key ID format: it is like a1b2c3d4-e5f6-7890-abcd-ef1234567890".to_owned())
    })
}

fn wrong(flag: &str, line: &str) -> Failure {
    Failure::Usage(format!("invalid value for `{flag}`: {line}"))
}

fn failed(error: StoreError) -> Failure {
    Failure::Runtime(match error {
        StoreError::Unavailable(text) => format!("the database is not available: {text}"),
        StoreError::Refused(text) => format!("the database refused: {text}"),
        StoreError::Unknown(text) => {
            format!("lost the database: {text}; {OUTCOME_UNKNOWN}")
        }
    })
}

/// Of a change that the database may have carried out.
const OUTCOME_UNKNOWN: &str = "the outcome is unknown: list keys before trying again";

/// Until when the database may take for what a command asks of it now.
fn until() -> Instant {
    Instant::now() + COMMAND_LIMIT
}

/// A key that is handed out may be lost with its primary, which lets nobody in; a revocation that is lost would.
fn warn_unless_confirmed<T>(committed: &Committed<T>) {
    if !committed.is_confirmed {
        cli::remark(
            "cloacinactl: this is done, but no synchronous standby has confirmed it: a failover may undo it",
        );
    }
}
