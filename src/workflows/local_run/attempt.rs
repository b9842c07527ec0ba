//! One attempt of a task: a thread follows it from its directory to its end.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use uuid::Uuid;

use super::{LocalRun, Message};
use crate::channel::Sender;
use crate::engine::attempt::{Attempt, End, FORMAT, Spec, Supervised};
use crate::engine::environment::{AttemptName, environment};
use crate::engine::graph::Context;
use crate::engine::sandbox::Sandbox;
use crate::workflows::manifest::Task;

const MIB: u64 = 1024 * 1024;
/// What a server has as its defaults.
const LOG_LIMIT_BYTES: u64 = MIB;
const OUTPUT_LIMIT_BYTES: u64 = MIB;
const SCRATCH_LIMIT_BYTES: u64 = 1024 * MIB;
const CONTEXT_LIMIT_BYTES: usize = 4 * 1024 * 1024;
const GRACE_MS: u64 = 10_000;
/// What programs expect that are not made for more.
const OPEN_FILES: u64 = 1024;
/// Of a log: enough for the lines that are shown at its end.
const TAIL_BYTES: u64 = 64 * 1024;
/// Of a log that are read at once.
const PIECE_BYTES: usize = 64 * 1024;

/// An attempt that has not begun.
pub struct NewAttempt {
    attempt: Attempt,
    spec: Spec,
    context: Context,
    secrets: BTreeMap<String, String>,
    /// All that it prints is shown, rather than the end of it.
    is_followed: bool,
}

/// An attempt that may run.
pub struct Handle {
    attempt: Attempt,
    state: Mutex<State>,
    /// Bytes of its log that have been read.
    offset: Mutex<u64>,
}

enum State {
    NotStarted,
    /// It is to end as soon as it has begun.
    Cancelled,
    Running(Supervised),
    Over,
}

/// How an attempt has ended, and what is left of it.
pub struct Ended {
    pub end: End,
    pub output: Option<Context>,
    /// The end of what it printed; of one that is followed, all that was not read yet.
    pub log: String,
    /// What went wrong beside it.
    pub warnings: Vec<String>,
}

impl Ended {
    fn failed(why: String) -> Ended {
        Ended { end: End::Failed(why), output: None, log: String::new(), warnings: Vec::new() }
    }
}

/// What an attempt of a task is to be.
pub fn new_attempt(
    run: &LocalRun,
    execution: Uuid,
    task: &Task,
    number: u32,
    context: Context,
) -> io::Result<NewAttempt> {
    let attempt = Attempt::at(&run.attempts.join(format!("{}-{number}", task.id)))?;
    let manifest = &run.manifest;
    let version = manifest.version.to_string();
    let name = AttemptName {
        tenant: "local",
        workflow: manifest.name.as_str(),
        version: &version,
        execution_id: execution,
        task: task.id.as_str(),
        number,
    };
    let mut sandbox: Sandbox = run.sandbox.clone();
    sandbox.readable.push(run.package.clone());
    sandbox.writable.push(attempt.task_path());
    let cgroup_name = format!("{execution}-{}-{number}", task.id);
    let cgroup = run.cgroups.as_ref().map(|cgroups| cgroups.of_attempt(&cgroup_name, task.max_memory));
    let spec = Spec {
        format: FORMAT,
        command: task.command.clone(),
        working_directory: run.package.clone(),
        environment: environment(&attempt, &name, &manifest.env),
        timeout_ms: u64::try_from(task.timeout.as_millis()).unwrap_or(u64::MAX),
        grace_ms: GRACE_MS,
        log_limit_bytes: LOG_LIMIT_BYTES,
        output_limit_bytes: OUTPUT_LIMIT_BYTES,
        scratch_limit_bytes: Some(SCRATCH_LIMIT_BYTES),
        open_files: OPEN_FILES,
        user: run.user.clone(),
        sandbox,
        cgroup,
        ends_with_parent: true,
        boot: None,
    };
    let secrets = run.secrets.iter().filter(|(name, _)| task.secrets.contains(name));
    let secrets = secrets.map(|(name, value)| (name.clone(), value.clone())).collect();
    Ok(NewAttempt { attempt, spec, context, secrets, is_followed: run.only.is_some() })
}

/// Starts it, on a thread of its own that says how it has ended.
pub fn start(new: NewAttempt, task: usize, sender: Sender<Message>) -> io::Result<Arc<Handle>> {
    let handle = Arc::new(Handle {
        attempt: new.attempt.clone(),
        state: Mutex::new(State::NotStarted),
        offset: Mutex::new(0),
    });
    let follows = Arc::clone(&handle);
    std::thread::Builder::new().name("attempt".to_owned()).spawn(move || {
        let carried_out = catch_unwind(AssertUnwindSafe(|| follows.carry_out(&new)));
        let carried_out = carried_out.unwrap_or_else(|_| Err(io::Error::other("internal error")));
        let not_run = |error| Ended::failed(format!("it could not be run: {error}"));
        let _ = sender.send(Message::Ended(task, carried_out.unwrap_or_else(not_run)));
    })?;
    Ok(handle)
}

impl Handle {
    /// Has it end, with the grace; a second time without.
    pub fn cancel(&self) {
        let mut state = self.state.lock();
        match &*state {
            State::Running(supervised) => drop(supervised.cancel()),
            State::NotStarted => *state = State::Cancelled,
            State::Cancelled | State::Over => {}
        }
    }

    /// What it has printed since this was last asked, as far as it is kept.
    pub fn new_output(&self) -> String {
        let mut offset = self.offset.lock();
        let mut bytes = Vec::new();
        while let Ok(piece) = self.attempt.log(*offset, PIECE_BYTES) {
            *offset = piece.next;
            if piece.bytes.is_empty() || bytes.len() as u64 > LOG_LIMIT_BYTES {
                break;
            }
            bytes.extend(piece.bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn carry_out(&self, new: &NewAttempt) -> io::Result<Ended> {
        let size = serde_json::to_vec(&new.context)?.len();
        if size > CONTEXT_LIMIT_BYTES {
            let why = format!("its context has {size} bytes, and {CONTEXT_LIMIT_BYTES} are allowed");
            return Ok(Ended::failed(why));
        }
        Attempt::create(self.attempt.directory(), &new.spec, &new.context)?;
        self.run(&new.secrets)?;
        let outcome = self.attempt.outcome()?.ok_or_else(|| io::Error::other("its supervisor was killed"))?;
        let output = outcome.output.as_deref().map(serde_json::from_str).transpose()?;
        if !new.is_followed {
            *self.offset.lock() = outcome.log_bytes.saturating_sub(TAIL_BYTES);
        }
        let log = self.new_output();
        let mut warnings = outcome.warnings;
        warnings.extend(
            self.attempt
                .clone()
                .remove()
                .err()
                .map(|error| format!("{} cannot be removed: {error}", self.attempt.directory().display())),
        );
        Ok(Ended { end: outcome.end, output, log, warnings })
    }

    /// Until its supervisor has ended.
    fn run(&self, secrets: &BTreeMap<String, String>) -> io::Result<()> {
        let id = {
            let mut state = self.state.lock();
            let supervised = self.attempt.start(secrets)?;
            if matches!(*state, State::Cancelled) {
                supervised.cancel()?;
            }
            let id = supervised.id();
            *state = State::Running(supervised);
            id
        };
        // Without reaping it, so that its id is its own for as long as others may signal it.
        let id = Pid::from_raw(i32::try_from(id).map_err(io::Error::other)?);
        waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        if let State::Running(supervised) = std::mem::replace(&mut *self.state.lock(), State::Over) {
            supervised.wait()?;
        }
        Ok(())
    }
}
