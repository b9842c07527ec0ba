//! What starts tasks on this host, follows them, and writes down what comes of them. One thread, `scheduler`, does it: it
//! waits for the end of an attempt, for news of executions, or for the next look, and then records, claims and starts.

pub mod attempts;
pub mod cgroups;
mod cleanup;
mod disk;
mod forgotten;
pub mod host;
mod leftovers;
mod names;
mod own_children;
mod packages;
mod permissions;
mod recovery;
mod running;
mod starter;
mod store;
mod turn;
mod wake;

pub use forgotten::abandon_forgotten;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::app::App;
use crate::config::Settings;
use crate::engine::cgroup::Cgroups;
use crate::engine::task_user;
use crate::executions::store::claim::ClaimingHost;
use crate::hosts::store::{register, retire, seen};
use crate::hosts::{NewHost, Registered, obstacle};
use attempts::{AttemptSettings, Attempts, Found};
use host::Host;
use own_children::OwnChildren;
use running::Scheduler;

/// Between two attempts to reach the database.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Between SIGTERM and SIGKILL for a task that is cancelled.
const GRACE: Duration = Duration::from_secs(10);
/// Between two attempts to see what runs here.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How often the first process of a container waits for others there that have ended.
const REAP_EVERY: Duration = Duration::from_secs(5);

/// Whether there is anything to do for `run`.
pub fn is_needed(settings: &Settings) -> bool {
    has_host(settings) || std::process::id() == 1
}

/// Whether this server runs tasks, or one with its home has.
pub fn has_host(settings: &Settings) -> bool {
    settings.task_slots > 0 || settings.home.join(host::NAME).exists()
}

/// Runs tasks until `stop` is set. Where this host cannot, it says why, and the server goes on without.
pub fn run(app: &Arc<App>, settings: &Settings, cgroups: &Result<Cgroups, String>, stop: &AtomicBool) {
    if has_host(settings)
        && let Err(why) = run_on(app, settings, cgroups, stop)
    {
        log::error!("this server runs no tasks: {why}");
    }
    // Nothing else waits for strangers then.
    while std::process::id() == 1 && !stop.load(Ordering::Acquire) {
        OwnChildren::new().reap();
        thread::park_timeout(REAP_EVERY);
    }
}

/// # Errors
/// Why no tasks can run here, and what to do.
fn run_on(
    app: &Arc<App>,
    settings: &Settings,
    cgroups: &Result<Cgroups, String>,
    stop: &AtomicBool,
) -> Result<(), String> {
    let host = Host::open(&settings.home)?;
    let session = Uuid::new_v4();
    let until = || Instant::now() + app.database_timeout;
    let mut new =
        NewHost { id: host.id, name: host.name.clone(), slots: settings.task_slots, obstacle: None };
    let mut name = host.name.clone();
    let mut opened = None;
    if new.slots == 0 {
        // What an earlier server has started here is followed to its end, and nothing more starts.
        let retired = until_done(stop, || retire(&app.store, host.id, session, until()).ok());
        let Some(runs) = retired.map(|retired| retired.value) else { return Ok(()) };
        if !runs && !attempts::may_be_there(&settings.home) {
            return Ok(());
        }
    } else {
        new.obstacle = obstacle(settings, cgroups);
        // Before others count on this host.
        let first = open_attempts(app, settings, cgroups, host.boot);
        let registered = {
            let obstacle = new.obstacle.clone().or(first.as_ref().err().cloned());
            let new = NewHost { obstacle, ..new.clone() };
            until_done(stop, || register(&app.store, &new, session, until()).ok())
        };
        let Some(registered) = registered else { return Ok(()) };
        if let Registered::As(its) = registered.value {
            name = its;
        }
        if first.is_ok() {
            log::info!(host = &*name, slots = new.slots; "tasks run here");
        }
        opened = Some(first);
    }
    let claiming = ClaimingHost { id: host.id, name, boot: host.boot, session };
    let Some(opened) = until_open(app, settings, cgroups, &claiming, opened, stop) else { return Ok(()) };
    let wake = opened.0.waker();
    app.execution_changes.wake_scheduler_by(move || wake.wake());
    Scheduler::new(app, claiming, new, settings, opened).run(stop);
    Ok(())
}

/// Tries until all that an earlier server has left is seen, or the server stops. Until then nothing starts here, and the
/// database hears why. What runs here is not known then, unless there are no directories of attempts.
fn until_open(
    app: &Arc<App>,
    settings: &Settings,
    cgroups: &Result<Cgroups, String>,
    host: &ClaimingHost,
    mut opened: Option<Result<Opened, String>>,
    stop: &AtomicBool,
) -> Option<Opened> {
    let mut told = None;
    while !stop.load(Ordering::Acquire) {
        let why = match opened.take().unwrap_or_else(|| open_attempts(app, settings, cgroups, host.boot)) {
            Ok(opened) => {
                if told.is_some() {
                    log::info!(host = &*host.name; "tasks run here again");
                }
                return Some(opened);
            }
            Err(why) => why,
        };
        if told.as_ref() != Some(&why) {
            log::error!("this server starts no tasks, and tries again: {why}");
            told = Some(why.clone());
        }
        let until = Instant::now() + app.database_timeout;
        let said = seen(&app.store, host.id, host.session, Some(&why), until);
        if said.is_ok() && !attempts::may_be_there(&settings.home) {
            let said = store::said_on_current(&app.store, host, until);
            said.unwrap_or_else(|error| log::debug!("cannot say that nothing runs here: {error}"));
        }
        if std::process::id() == 1 {
            OwnChildren::new().reap();
        }
        thread::park_timeout(OPEN_AGAIN_AFTER);
    }
    None
}

/// Why this host starts no task, if so. The log has it, or what stays open to tasks.
fn obstacle(settings: &Settings, cgroups: &Result<Cgroups, String>) -> Option<String> {
    match obstacle::obstacle(settings) {
        Ok(open) => {
            obstacle::tell(settings.sandbox, &open);
            cgroups::tell(cgroups);
            None
        }
        Err(why) => {
            log::error!("this server starts no tasks: {why}");
            Some(why)
        }
    }
}

/// Tries until it is done, or the server stops.
fn until_done<T>(stop: &AtomicBool, attempt: impl Fn() -> Option<T>) -> Option<T> {
    while !stop.load(Ordering::Acquire) {
        if let Some(done) = attempt() {
            return Some(done);
        }
        thread::park_timeout(TRY_AGAIN_AFTER);
    }
    None
}

/// The attempts, and what of them was found.
type Opened = (Attempts, Vec<Found>);

fn open_attempts(
    app: &Arc<App>,
    settings: &Settings,
    cgroups: &Result<Cgroups, String>,
    boot: Uuid,
) -> Result<Opened, String> {
    let reads = Arc::clone(app);
    let read_package = move |package, offset| {
        let until = Instant::now() + reads.database_timeout;
        store::package_bytes(&reads.store, package, offset, until)
            .map_err(|error| io::Error::other(error.to_string()))
    };
    let mut attempts = Attempts::open(AttemptSettings {
        home: settings.home.clone(),
        boot,
        sandbox: settings.sandbox,
        cgroups: cgroups.clone().ok(),
        user: task_user::of_process(settings.task_user.as_deref())?,
        log_limit_bytes: settings.task_log_limit as u64,
        grace: GRACE,
        read_package: Arc::new(read_package),
        program: "/proc/self/exe".into(),
    })?;
    let found = attempts.find().map_err(|error| {
        format!("the attempts in the home {} cannot be listed: {error}", settings.home.display())
    })?;
    Ok((attempts, found))
}
