//! Runs a package here, with the graph, the supervisor and the sandbox that a server runs it with, and without server or
//! database.

mod attempt;
mod display;
mod execution;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;

use self::attempt::Ended;
use self::execution::Execution;
use super::manifest::Manifest;
use crate::channel::{Receiver, Sender};
use crate::command_error::CommandError;
use crate::engine::attempt::TaskUser;
use crate::engine::cgroup::Cgroups;
use crate::engine::graph::{Context, ExecutionOutcome};
use crate::engine::sandbox::Sandbox;

/// What is run, and how.
pub struct LocalRun {
    pub manifest: Manifest,
    /// Absolute.
    pub package: PathBuf,
    pub context: Context,
    /// Where attempts have their directories; it is there, and the caller's alone.
    pub attempts: PathBuf,
    /// Without what an attempt itself needs.
    pub sandbox: Sandbox,
    pub user: Option<TaskUser>,
    /// Where one is delegated, as by `systemd-run --user --scope --property=Delegate=yes`.
    pub cgroups: Option<Cgroups>,
    /// How many tasks run at the same time.
    pub slots: usize,
    /// The values of all secrets that tasks name.
    pub secrets: BTreeMap<String, String>,
    /// One task alone: what it prints is shown as it comes.
    pub only: Option<usize>,
}

/// What happens beside the loop.
pub enum Message {
    /// A signal that ends the program.
    Stop,
    Ended(usize, Ended),
}

/// Runs it until every task has ended and no process of one is left.
///
/// # Errors
/// `Runtime`: the program itself can't go on.
pub fn run(
    run: LocalRun,
    sender: &Sender<Message>,
    messages: &Receiver<Message>,
) -> Result<ExecutionOutcome, CommandError> {
    let began = Instant::now();
    let mut execution = Execution::new(run)?;
    loop {
        execution.decide();
        execution.start(sender)?;
        if let Some(outcome) = execution.outcome() {
            execution.show_end(&outcome, began.elapsed());
            return Ok(outcome);
        }
        match messages.recv_timeout(execution.until_next_look()) {
            Ok(Message::Stop) => execution.stop(),
            Ok(Message::Ended(task, ended)) => execution.ended(task, ended),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(CommandError::Runtime("internal error: no thread is left".to_owned()));
            }
        }
        execution.show_running();
    }
}
