//! `supervise-task DIR`: runs the task of an attempt directory, outlives the process that started it, and leaves the outcome
//! there once no process of the task is left.

mod children;
pub mod descendants;
mod mask;
mod outcome_file;
mod output;
mod scratch;
mod secrets;
mod signals;
mod task;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::getppid;

use super::attempt::{Attempt, End, FORMAT, LOCK_NAME, Outcome, SPEC_NAME, Spec, TASK_NAME};
use super::held_directory::HeldDirectory;
use super::log::LogWriter;
use super::no_core::leave_no_core;
use super::remove_tree::remove_tree_in;
use outcome_file::OutcomeFile;
use signals::Signals;
use task::Task;

/// How long another process may look whether the attempt is held.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How long a cgroup may take to be empty of processes that have ended.
const CGROUP_PATIENCE: Duration = Duration::from_secs(1);

/// Exits with 0 once there is an outcome.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let [directory] = arguments else { return ExitCode::FAILURE };
    match Attempt::at(Path::new(directory)).and_then(|attempt| supervise(&attempt)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "cannot supervise {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn supervise(attempt: &Attempt) -> io::Result<()> {
    let parent = getppid();
    leave_no_core()?;
    let signals = detach()?;
    let directory = HeldDirectory::open(attempt.directory())?;
    let mut lock = hold(attempt)?;
    if attempt.outcome()?.is_some() {
        return Ok(());
    }
    if lock.metadata()?.len() > 0 {
        return Err(io::Error::other("it has been supervised before, or is not to be"));
    }
    let outcome_file = OutcomeFile::reserve(directory.clone());
    let mut log = None;
    let mut outcome = Outcome {
        format: FORMAT,
        end: End::Cancelled,
        output: None,
        started_at_ms: now_ms(),
        ended_at_ms: 0,
        log_bytes: 0,
        log_kept_bytes: 0,
        warnings: Vec::new(),
    };
    match attempt.spec() {
        Ok(spec) => {
            let secrets = secrets::read(&signals)?;
            // Without secrets nothing is started. Else, from here on, something may have been.
            if secrets.is_ok() {
                lock.write_all(std::process::id().to_string().as_bytes())?;
            }
            // Whatever goes wrong in here, nothing of the task may be left, and its parent is told.
            let ran = catch_unwind(AssertUnwindSafe(|| match secrets {
                Ok(secrets) => {
                    let log = log.insert(LogWriter::new(directory.clone(), spec.log_limit_bytes));
                    run(attempt, &directory, &spec, (&secrets, &signals), log, &mut outcome);
                }
                Err(end) => outcome.end = end,
            }));
            if ran.is_err() {
                children::end_all(None, &signals);
                end_cgroup(&spec, &mut outcome);
                outcome.end = End::Failed("internal error: the supervisor panicked".to_owned());
                outcome.output = None;
            }
        }
        Err(error) => outcome.end = End::Failed(error.to_string()),
    }
    if outcome.ended_at_ms == 0 {
        outcome.ended_at_ms = now_ms();
    }
    // For those who read it afterwards.
    directory.open_to_owner(&[SPEC_NAME, LOCK_NAME]);
    if let Err(error) = remove_tree_in(&directory, Path::new(TASK_NAME)) {
        outcome.warnings.push(format!("files of the task are left: {error}"));
    }
    // Log and outcome have to outlive a loss of power. A parent that lives reads them as soon as this process has ended, and
    // sees to it where it cannot write down elsewhere what it has read.
    let is_alone = getppid() != parent;
    if let Some(Err(error)) = log.filter(|_| is_alone).map(|log| log.sync()) {
        outcome.warnings.push(format!("the log may be lost: {error}"));
    }
    outcome_file.write(&outcome, is_alone, &signals)
}

/// Runs the task until nothing of it is left but its files.
fn run(
    attempt: &Attempt,
    directory: &HeldDirectory,
    spec: &Spec,
    (secrets, signals): (&BTreeMap<String, String>, &Signals),
    log: &mut LogWriter,
    outcome: &mut Outcome,
) {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let task_directory = openat(directory, TASK_NAME, flags, Mode::empty()).map_err(io::Error::from);
    let ended = task_directory.and_then(|task_directory| {
        if let Some(cgroup) = &spec.cgroup {
            cgroup.make().map_err(|error| io::Error::other(format!("its cgroup cannot be made: {error}")))?;
        }
        Ok((Task::start(attempt, spec, secrets, signals, log)?.run(), task_directory))
    });
    outcome.ended_at_ms = now_ms();
    end_cgroup(spec, outcome);
    match ended {
        Ok((ended, task_directory)) => {
            outcome.end = ended.end;
            if ended.processes_left > 0 {
                let left = ended.processes_left;
                outcome.warnings.push(format!("{left} of its processes could not be ended"));
            }
            if outcome.end == End::Exited(0) {
                let owner = spec.user.as_ref().map(|user| user.uid);
                match output::read(&task_directory, spec.output_limit_bytes, owner) {
                    Ok(output) => outcome.output = output,
                    Err(why) => outcome.end = End::Failed(why),
                }
            }
        }
        Err(error) => outcome.end = End::Failed(format!("cannot start the command: {error}")),
    }
    for name in log.names() {
        directory.open_to_owner(&[&name]);
    }
    (outcome.log_bytes, outcome.log_kept_bytes) = (log.printed(), log.kept());
    if let Some((lost, error)) = log.lost() {
        outcome.warnings.push(format!("{lost} bytes of the log could not be written: {error}"));
    }
}

/// Ends what is no descendant of this process's any more.
fn end_cgroup(spec: &Spec, outcome: &mut Outcome) {
    let left = spec.cgroup.as_ref().map_or(0, |cgroup| cgroup.end_within(CGROUP_PATIENCE));
    if left > 0 {
        outcome.warnings.push(format!("{left} processes could not be ended in its cgroup"));
    }
}

/// Leaves the parent's session, its descriptors and its signals behind; children of children will be children.
fn detach() -> io::Result<Signals> {
    let signals = Signals::block()?;
    let inherited: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let own = signals.number();
    for descriptor in inherited.into_iter().filter(|one| *one > 2 && *one != own) {
        // The one of the listing itself is closed by now.
        let _ = nix::unistd::close(descriptor);
    }
    // Fails for the leader of a group, as started by hand: then there is nothing to leave.
    let _ = nix::unistd::setsid();
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(signals)
}

fn hold(attempt: &Attempt) -> io::Result<File> {
    let lock = attempt.open_lock()?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(1))
            }
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("another supervisor runs it")),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
