//! The attempts on this host: their directories, their supervisors, and what comes of them. Knows no table.

mod find;
mod follow;
#[cfg(test)]
pub mod tests;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use parking_lot::{Mutex, RwLock};
use rustix::process::{Signal, pidfd_send_signal};
use uuid::Uuid;

use super::cleanup::Cleanup;
use super::own_children::OwnChildren;
use super::packages::{Packages, Place, ReadPackage};
use super::recovery::{self, Abandoned, Verdict};
use super::starter::{self, Starter, Teller, Told};
use super::wake::{self, Wake, Woken};
use super::{disk, names, permissions};
use crate::channel::{Receiver, Sender, channel};
use crate::engine::attempt::{Attempt, Outcome, Supervised, TaskUser};
use crate::engine::cgroup::Cgroups;
use crate::engine::log::Piece;
use crate::engine::sandbox::Mode;
use crate::executions::store::claim::Claimed;

/// What holds for all attempts of a host.
#[derive(Clone)]
pub struct AttemptSettings {
    pub home: PathBuf,
    /// Of the system that runs now.
    pub boot: Uuid,
    pub sandbox: Mode,
    /// Where one is delegated.
    pub cgroups: Option<Cgroups>,
    /// `None`: tasks run as this process's own user.
    pub user: Option<TaskUser>,
    pub log_limit_bytes: u64,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Called on threads that unpack packages.
    pub read_package: ReadPackage,
    /// What supervises and unpacks: this program.
    pub program: PathBuf,
}

impl AttemptSettings {
    /// Whom tasks run as.
    fn task_uid(&self) -> u32 {
        self.user.as_ref().map_or_else(|| geteuid().as_raw(), |user| user.uid)
    }
}

/// What has happened to an attempt.
#[derive(Debug)]
pub enum Event {
    /// Its supervisor runs.
    Started(Uuid),
    /// No process of it is left, and this came of it, without the output.
    Ended(Uuid, Outcome),
    /// Its supervisor is gone without an outcome; what it ran was ended and seen to be gone.
    Abandoned(Uuid, String),
    /// Nothing of it has ever run, and nothing will.
    NeverStarted(Uuid),
}

/// What of an attempt was found in the home at the start.
#[derive(Debug)]
pub enum Found {
    /// Its supervisor lives, and is followed from now on.
    Running(Uuid),
    /// As the event says, which does not come again.
    Over(Event),
}

/// The attempts of this host.
pub struct Attempts {
    starter: Arc<Starter>,
    to_start: Sender<(Claimed, Place)>,
    cleanup: Cleanup,
    told: Receiver<Told>,
    woken: Woken,
    attempts: HashMap<Uuid, Known>,
    /// Locks of those that must not be started any more.
    locks: HashMap<Uuid, File>,
}

/// An attempt that has not ended.
struct Known {
    place: Option<Place>,
    state: State,
    is_cancelled: bool,
}

enum State {
    /// It is to be started.
    Starting,
    /// Its supervisor lives; a child of this process, or adopted.
    Running { child: Option<Supervised>, supervisor: Option<OwnedFd>, look_at: Instant },
    /// Its supervisor is gone, and what it ran is being ended.
    Ending,
}

/// Whether this home has directories of attempts, or may have some.
pub fn may_be_there(home: &Path) -> bool {
    match fs::read_dir(home.join(DIRECTORY)) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The directories that may be attempts, as far as they can be listed.
pub fn all(home: &Path) -> impl Iterator<Item = Attempt> {
    let entries = fs::read_dir(home.join(DIRECTORY)).into_iter().flatten().flatten();
    entries.filter_map(|entry| Attempt::at(&entry.path()).ok())
}

/// In the home.
const DIRECTORY: &str = "attempts";

impl Attempts {
    /// Makes the directories where they are missing, and starts the threads.
    ///
    /// # Errors
    /// Why no tasks may run with this home, and what to do.
    pub fn open(mut settings: AttemptSettings) -> Result<Attempts, String> {
        // What tasks are granted has no links in it.
        settings.home = fs::canonicalize(&settings.home)
            .map_err(|error| format!("cannot find the home {}: {error}", settings.home.display()))?;
        let home = &settings.home;
        disk::warn_of_noexec(home);
        permissions::expect_closed(home, settings.sandbox, settings.user.as_ref())?;
        let cannot = |what: &str, error: &dyn std::fmt::Display| {
            format!("cannot {what} for tasks in {}: {error}", home.display())
        };
        let mode = permissions::open_to(home, settings.user.as_ref())
            .map_err(|error| cannot("set the permissions", &error))?;
        let directory = home.join(DIRECTORY);
        starter::make_directory(&directory, mode).map_err(|error| cannot("make a directory", &error))?;
        let packages = Packages::open(&settings, mode).map_err(|error| cannot("use the packages", &error))?;
        // What a supervisor that is killed leaves behind comes to this process.
        nix::sys::prctl::set_child_subreaper(true).map_err(|error| cannot("get orphans", &error))?;
        let (sender, told) = channel();
        let (wake, woken) = wake::pair().map_err(|error| cannot("make a pipe", &error))?;
        let teller = Teller { sender, wake };
        let own = Arc::new(OwnChildren::new());
        let cleanup = Cleanup::start(Arc::clone(&own), settings.task_uid(), teller.clone())
            .map_err(|error| cannot("start a thread", &error))?;
        let (cancelled, is_over) = (Mutex::default(), RwLock::default());
        let starter = Arc::new(Starter { settings, directory, packages, own, cancelled, is_over, teller });
        let to_start = starter::run(&starter).map_err(|error| format!("cannot start a thread: {error}"))?;
        let (attempts, locks) = (HashMap::new(), HashMap::new());
        Ok(Attempts { starter, to_start, cleanup, told, woken, attempts, locks })
    }

    /// Makes `wait` return.
    pub fn waker(&self) -> Wake {
        self.starter.teller.wake.clone()
    }

    /// Has packages removed that no attempt has used for a day. Returns at once.
    pub fn clear_unused(&self) {
        let starter = Arc::clone(&self.starter);
        self.cleanup.run(move || match starter.packages.clear_unused() {
            0 => {}
            packages => log::info!(packages; "packages that no task has used for a day are removed"),
        });
    }

    /// Starts one. Returns at once: `Started`, `Ended` with why it could not be, or `NeverStarted` follows.
    pub fn start(&mut self, claimed: Claimed) {
        let id = claimed.attempt;
        let place = self.starter.packages.hold(claimed.tenant, &claimed.package_sha256);
        self.attempts.insert(id, Known { place: place.clone(), state: State::Starting, is_cancelled: false });
        let sent = match place {
            Some(place) => self.to_start.send((claimed, place)).map_err(|_| "its thread is gone".to_owned()),
            None => Err(format!("`{}` is no SHA-256 of a package", claimed.package_sha256)),
        };
        if let Err(why) = sent {
            self.starter.teller.tell(Told::Failed(id, format!("it could not be started: {why}")));
        }
    }

    /// Has one end, with the grace; `Ended` follows. One that has not started yet will not. Another call changes nothing.
    pub fn cancel(&mut self, attempt: Uuid) {
        let mark = self.cancelled_mark(attempt);
        let Some(known) = self.attempts.get_mut(&attempt).filter(|known| !known.is_cancelled) else { return };
        known.is_cancelled = true;
        match &known.state {
            State::Starting => {
                self.starter.cancelled.lock().insert(attempt);
                // Unpacking its package may take minutes.
                if known.place.as_ref().is_some_and(|place| self.starter.packages.give_up(place, attempt)) {
                    self.starter.teller.tell(Told::Cancelled(attempt));
                }
            }
            State::Running { supervisor: Some(supervisor), .. } => terminate(supervisor, &mark),
            // As soon as it can be followed.
            State::Running { supervisor: None, .. } | State::Ending => {}
        }
    }

    /// Has one end that was cancelled, without more of the grace.
    pub fn kill(&self, attempt: Uuid) {
        if let Some(State::Running { supervisor: Some(supervisor), .. }) =
            self.attempts.get(&attempt).map(|known| &known.state)
        {
            terminate(supervisor, &self.cancelled_mark(attempt));
        }
    }

    /// A piece of the log of one that runs or has ended, from an offset in all that it printed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn log(&self, attempt: Uuid, after: u64, most_bytes: usize) -> io::Result<Piece> {
        self.at(attempt)?.log(after, most_bytes)
    }

    /// What came of one is not in the database yet, and has to outlive a loss of power until it is.
    pub fn make_durable(&self, attempt: Uuid) {
        let directory = self.starter.directory.join(attempt.to_string());
        self.cleanup.make_durable(directory);
    }

    /// The output of one that has succeeded, which `Ended` comes without.
    ///
    /// # Errors
    /// It cannot be read, or is not there any more.
    pub fn output(&self, attempt: Uuid) -> io::Result<Option<String>> {
        let outcome = self.at(attempt)?.outcome()?;
        outcome.map(|outcome| outcome.output).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// What came of one is known to the database, or the database does not know it: its directory may go. One that still
    /// runs is cancelled instead, and is to be removed once it has ended.
    pub fn remove(&mut self, attempt: Uuid) {
        if self.attempts.contains_key(&attempt) {
            return self.cancel(attempt);
        }
        let other_format = self.at(attempt).ok().and_then(|attempt| attempt.other_format());
        let name = if other_format.is_some() { names::kept(attempt) } else { names::removed(attempt) };
        let [from, to] = [attempt.to_string(), name].map(|name| self.starter.directory.join(name));
        // At once, so that no later server finds it half there.
        match fs::rename(&from, &to) {
            Ok(()) => match other_format {
                Some(error) => log::error!(
                    path:% = to.display(), error:%;
                    "an attempt's directory was written by another version, and is kept"
                ),
                None => self.cleanup.remove(to),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                log::warn!(path:% = from.display(), error:%; "an attempt's directory cannot be removed");
            }
        }
        self.locks.remove(&attempt);
    }

    /// A file that is there once its supervisor has been told to end it.
    fn cancelled_mark(&self, attempt: Uuid) -> PathBuf {
        self.starter.directory.join(attempt.to_string()).join("cancelled")
    }

    fn at(&self, attempt: Uuid) -> io::Result<Attempt> {
        Attempt::at(&self.starter.directory.join(attempt.to_string()))
    }

    /// What has become of one. Where it never started, it will not.
    fn judge(&mut self, id: Uuid) -> Verdict {
        let attempt = match self.at(id) {
            Ok(attempt) => attempt,
            Err(error) => {
                let why = error.to_string();
                return Verdict::Abandoned(Abandoned {
                    why,
                    may_have_left: true,
                    supervisor: None,
                    cgroup: None,
                });
            }
        };
        let (facts, lock) = recovery::examine(&attempt);
        let mut verdict = recovery::judge(facts, self.starter.settings.boot);
        // Very many may end at once, and wait for the database: each keeps its output on the disk until it is its turn.
        if let Verdict::Ended(outcome) = &mut verdict {
            outcome.output = None;
        }
        if let (Verdict::NeverStarted, Some(lock)) = (&verdict, lock)
            && let Err(error) = recovery::seal(&lock)
        {
            log::warn!(attempt:% = id, error:%; "an attempt's lock cannot be written, and is kept");
            self.locks.insert(id, lock);
        }
        if let Verdict::Abandoned(Abandoned { why, .. }) = &verdict {
            log::warn!(attempt:% = id, why = why.as_str(); "an attempt has no outcome");
        }
        verdict
    }
}

/// Threads that start attempts may live on for a while, as after a panic of the one that has this.
impl Drop for Attempts {
    fn drop(&mut self) {
        self.starter.start_nothing_more();
    }
}

/// Tells a supervisor once to end its task, whichever server it is that does.
fn terminate(supervisor: &OwnedFd, mark: &Path) {
    // It may have ended.
    let _ = pidfd_send_signal(supervisor, Signal::Term);
    // Without the mark a later server tells it again, which costs the task the rest of its grace.
    let _ = File::create(mark);
}
