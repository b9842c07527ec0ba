//! What signals mean: SIGINT and SIGTERM end the server, SIGHUP has it read its configuration again, SIGUSR1 and SIGUSR2
//! mean nothing.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::background::restart_on_panic;
use crate::command_error::{CommandError, runtime};
use crate::logging;

/// Some senders, such as timeout(1), signal a process and then its group: that is one signal, not two.
const ONE_SIGNAL: Duration = Duration::from_millis(100);

/// Keeps from every thread what would end the process for no reason: SIGHUP, which one thread waits for instead; SIGUSR1
/// and SIGUSR2, by which other servers open their logs anew; SIGXFSZ, since a log that is too large is an error like
/// any other. Lets SIGINT and SIGTERM through, which a parent may have blocked for itself and its children. Called before
/// there are other threads, since each inherits what is blocked.
///
/// # Errors
/// None that the system documents.
pub fn set_mask() -> Result<(), CommandError> {
    let blocked = Signal::SIGHUP | Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGXFSZ;
    let heeded = Signal::SIGINT | Signal::SIGTERM;
    blocked
        .thread_block()
        .and_then(|()| heeded.thread_unblock())
        .map_err(runtime("cannot say which signals to block"))
}

/// Whether the process was started with SIGHUP ignored, as by `nohup`: then it means nothing here either. Asked before
/// `on_end`, which handles it.
pub fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    ignored & (1 << (Signal::SIGHUP as u32 - 1)) != 0
}

/// Starts a thread that calls `act` for every SIGHUP, also for one that came since `set_mask`. It is not joined: it waits
/// for signals until the process ends.
///
/// # Errors
/// The system has no thread left.
pub fn on_hangup(mut act: impl FnMut() + Send + 'static) -> io::Result<()> {
    let hangup = SigSet::from(Signal::SIGHUP);
    let wait = move || {
        restart_on_panic(|| {
            while let Ok(Signal::SIGHUP) = hangup.wait() {
                act();
            }
        });
    };
    thread::Builder::new().name("hangup".to_owned()).spawn(wait).map(drop)
}

/// The first SIGINT or SIGTERM drains, the second exits at once. So does one that comes before there is anything to
/// drain, which `drain` says with `false`: the next start finishes what this one has begun.
///
/// # Errors
/// Signals are handled already.
pub fn on_end(drain: impl Fn() -> bool + Send + 'static) -> Result<(), CommandError> {
    let (signals, first_signal) = (AtomicUsize::new(0), OnceLock::new());
    let end = move || {
        let first = first_signal.get_or_init(Instant::now);
        if signals.fetch_add(1, Ordering::AcqRel) == 0 {
            if !drain() {
                log::info!("told to stop before it served");
                logging::exit(0);
            }
        } else if first.elapsed() >= ONE_SIGNAL {
            log::warn!("second signal: exiting at once");
            logging::exit(1);
        }
    };
    ctrlc::set_handler(move || {
        // ctrlc's thread would be gone after a panic, and the server deaf to every further signal.
        if catch_unwind(AssertUnwindSafe(&end)).is_err() {
            logging::exit(1);
        }
    })
    .map_err(runtime("cannot handle signals"))
}
