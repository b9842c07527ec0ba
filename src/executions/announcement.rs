//! How servers that share a database hear of each other's changes to executions: a notification after the commit, whose
//! failure nothing depends on, since each of them looks from time to time as well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::fallible_iterator::FallibleIterator as _;

use crate::app::App;
use crate::postgres_link::{ConnectError, NewSession, quote_identifier, release};

/// What notifications are sent on: a name that no other role can read.
macro_rules! channel {
    () => {
        "COALESCE((SELECT channel FROM cloacina_notifications), 'api_key_changes') || '_e'"
    };
}

/// Where no other server shares the database, none is sent.
const NOTIFY: &str = concat!(
    "SELECT pg_notify(",
    channel!(),
    ", ''), set_config('lock_timeout', '500', true) WHERE EXISTS (SELECT FROM auth_caches WHERE server <> $1)"
);

/// How long a notification may take.
const NOTIFY_LIMIT: Duration = Duration::from_secs(1);
/// Between two notifications, however many changes there are.
const NOTIFY_EVERY: Duration = Duration::from_millis(2);
/// A server that has only just begun to share the database looks itself within that time.
const ALONE_FOR: Duration = Duration::from_secs(1);
/// How often a session that says nothing is asked whether it lives, and how long it has for the answer.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How soon the thread sees that it has to end.
const STOP_EVERY: Duration = Duration::from_millis(500);
/// Between two attempts to reach a database that is gone.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Notifies other servers whenever it is woken. Runs until `stop` is set and it is unparked.
pub fn announce(app: &App, stop: &AtomicBool) {
    app.execution_changes.announcer.wakes_this_thread();
    while !stop.load(Ordering::Acquire) {
        thread::park();
        let until = Instant::now() + NOTIFY_LIMIT;
        let notified = app.store.write(until, |session| session.query(NOTIFY, &[&app.auth.server]));
        let is_alone = notified.as_ref().is_ok_and(|notified| notified.value.is_empty());
        if let Err(error) = notified {
            log::debug!("other servers are not notified of executions, and will find them: {error}");
        }
        let rest = if is_alone { ALONE_FOR } else { NOTIFY_EVERY };
        let began = Instant::now();
        while began.elapsed() < rest && !stop.load(Ordering::Acquire) {
            thread::sleep(NOTIFY_EVERY.max(rest / 10));
        }
    }
}

/// Hears other servers' notifications. Runs until `stop` is set.
pub fn listen(app: &App, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        if let Err(error) = follow(app, stop) {
            log::debug!("no news of executions from other servers: {error}");
            thread::sleep(RETRY_AFTER);
        }
    }
}

fn follow(app: &App, stop: &AtomicBool) -> Result<(), ConnectError> {
    let NewSession { mut client, limit, epoch } = app.store.factory.create(Duration::MAX)?;
    limit.set(Some(Instant::now() + ASK_LIMIT));
    let mut heard = || -> Result<(), ConnectError> {
        let channel: String = client.query_one(concat!("SELECT ", channel!()), &[])?.try_get(0)?;
        client.batch_execute(&format!("LISTEN {}", quote_identifier(&channel)))?;
        // What was committed before this session was there.
        app.execution_changes.announced();
        let mut asked = Instant::now();
        while !stop.load(Ordering::Acquire) {
            limit.set(None);
            if client.notifications().timeout_iter(STOP_EVERY).next()?.is_some() {
                while client.notifications().iter().next()?.is_some() {}
                app.execution_changes.announced();
            }
            if !app.store.factory.is_current(epoch) {
                return Err(ConnectError::Replaced);
            }
            if asked.elapsed() >= ASK_EVERY {
                asked = Instant::now();
                limit.set(Some(asked + ASK_LIMIT));
                client.is_valid(ASK_LIMIT)?;
            }
        }
        Ok(())
    };
    let outcome = heard();
    if outcome.is_err() {
        limit.set(Some(Instant::now()));
        release(client);
    }
    outcome
}
