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
    let host = match Host::open(&settings.home) {
        Ok(host) => host,
        Err(why) => return log::error!("this server runs no tasks: {why}"),
    };
    let session = Uuid::new_v4();
    if settings.task_slots == 0 {
        let retired = || retire(&app.store, host.id, session, Instant::now() + app.database_timeout).ok();
        let _ = until_done(stop, retired);
        return;
    }
    let obstacle = match obstacle::obstacle(settings) {
        Ok(open) => {
            obstacle::tell(settings.sandbox, &open);
            None
        }
        Err(why) => {
            log::error!("this server starts no tasks: {why}");
            Some(why)
        }
    };
    let new =
        NewHost { id: host.id, name: host.name.clone(), slots: settings.task_slots, obstacle, timeline: 0 };
    let registers = || register(&app.store, &new, session, Instant::now() + app.database_timeout).ok();
    let Some(registered) = until_done(stop, registers) else { return };
    let name = match registered.value {
        Registered::New(name) | Registered::Known(name) => name,
        Registered::WasForgotten => host.name.clone(),
    };
    let attempts = match open_attempts(app, settings, host.boot) {
        Ok(attempts) => attempts,
        Err(why) => return log::error!("this server runs no tasks: {why}"),
    };
    let wake = attempts.waker();
    app.execution_changes.wake_scheduler_by(move || wake.wake());
    log::info!(host = &*name, slots = settings.task_slots; "tasks run here");
    let claiming = ClaimingHost { id: host.id, name, boot: host.boot, session };
    Scheduler::new(app, claiming, new, settings, attempts).run(stop);
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
        // Tasks are granted paths without links in them.
        home: settings.home.canonicalize().map_err(|error| error.to_string())?,
        boot,
        sandbox: settings.sandbox,
        user: task_user::of_process(settings.task_user.as_deref())?,
        log_limit_bytes: settings.task_log_limit as u64,
        grace: GRACE,
        read_package: Arc::new(read_package),
        program: "/proc/self/exe".into(),
    })
}
