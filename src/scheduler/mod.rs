//! What starts tasks on this host, follows them, and writes down what comes of them. One thread, `scheduler`, does it: it
//! waits for the end of an attempt, for news of executions, or for the next look, and then records, claims and starts.

pub mod attempts;
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
use crate::engine::task_user;
use crate::executions::store::claim::ClaimingHost;
use crate::hosts::store::{register, retire};
use crate::hosts::{NewHost, Registered, obstacle};
use attempts::{AttemptSettings, Attempts};
use host::Host;
use running::Scheduler;

/// Between two attempts to reach the database.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Between SIGTERM and SIGKILL for a task that is cancelled.
const GRACE: Duration = Duration::from_secs(10);

/// Runs tasks until `stop` is set. Where this host cannot, it says why, and the server goes on without.
pub fn run(app: &Arc<App>, settings: &Settings, stop: &AtomicBool) {
    if settings.task_slots == 0 && !settings.home.join(host::NAME).exists() {
        return;
    }
    if let Err(why) = run_on(app, settings, stop) {
        log::error!("this server runs no tasks: {why}");
    }
}

/// # Errors
/// Why no tasks can run here, and what to do.
fn run_on(app: &Arc<App>, settings: &Settings, stop: &AtomicBool) -> Result<(), String> {
    let host = Host::open(&settings.home)?;
    let session = Uuid::new_v4();
    let until = || Instant::now() + app.database_timeout;
    let (obstacle, name) = match settings.task_slots {
        // What an earlier server has started here is followed to its end, and nothing more starts.
        0 => {
            let retired = until_done(stop, || retire(&app.store, host.id, session, until()).ok());
            if retired.is_none() || !attempts::are_there(&settings.home) {
                return Ok(());
            }
            (None, host.name.clone())
        }
        slots => {
            let obstacle = obstacle(settings);
            let new = NewHost { id: host.id, name: host.name.clone(), slots, obstacle, timeline: 0 };
            let registered = until_done(stop, || register(&app.store, &new, session, until()).ok());
            let Some(registered) = registered else { return Ok(()) };
            let name = match registered.value {
                Registered::New(name) | Registered::Known(name) => name,
                Registered::WasForgotten => host.name.clone(),
            };
            log::info!(host = &*name, slots = slots; "tasks run here");
            (new.obstacle, name)
        }
    };
    let attempts = open_attempts(app, settings, host.boot)?;
    let wake = attempts.waker();
    app.execution_changes.wake_scheduler_by(move || wake.wake());
    let new =
        NewHost { id: host.id, name: host.name.clone(), slots: settings.task_slots, obstacle, timeline: 0 };
    let claiming = ClaimingHost { id: host.id, name, boot: host.boot, session };
    Scheduler::new(app, claiming, new, settings, attempts).run(stop);
    Ok(())
}

/// Why this host starts no task, if so. The log has it, or what stays open to tasks.
fn obstacle(settings: &Settings) -> Option<String> {
    match obstacle::obstacle(settings) {
        Ok(open) => {
            obstacle::tell(settings.sandbox, &open);
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

fn open_attempts(app: &Arc<App>, settings: &Settings, boot: Uuid) -> Result<Attempts, String> {
    let reads = Arc::clone(app);
    let read_package = move |package, offset| {
        let until = Instant::now() + reads.database_timeout;
        store::package_bytes(&reads.store, package, offset, until)
            .map_err(|error| io::Error::other(error.to_string()))
    };
    Attempts::open(AttemptSettings {
        home: settings.home.clone(),
        boot,
        sandbox: settings.sandbox,
        user: task_user::of_process(settings.task_user.as_deref())?,
        log_limit_bytes: settings.task_log_limit as u64,
        grace: GRACE,
        read_package: Arc::new(read_package),
        program: "/proc/self/exe".into(),
    })
}
