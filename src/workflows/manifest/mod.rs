//! `package.toml`: what a package is called, its tasks, and what starts it.

mod build;
mod grammar;
mod graph;
mod lists;
mod node;
mod problems;
mod reader;
#[cfg(test)]
mod reference;
mod run_if;
mod schema;
mod syntax;
#[cfg(test)]
pub mod tests;
mod unknown;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use node::Node;
use problems::Problems;
pub use schema::schema;

use super::names::{TaskId, TriggerName, Version, WorkflowName};
use super::problem::Problem;
use crate::engine::graph::{Context, Graph};
use crate::engine::retry::Retries;

/// Its path in a package.
pub const FILE_NAME: &str = "package.toml";

/// Of its text.
pub const MOST_BYTES: usize = 1024 * 1024;

/// A manifest that is right in all that it says itself.
#[derive(Debug)]
pub struct Manifest {
    pub name: WorkflowName,
    pub version: Version,
    pub description: Option<String>,
    /// How many executions of it may run at once; `None` is any number.
    pub max_running: Option<u32>,
    /// Environment variables of every task.
    pub env: BTreeMap<String, String>,
    /// In the order of the manifest, which the indices of `graph` count in.
    pub tasks: Vec<Task>,
    pub graph: Arc<Graph>,
    pub schedules: Vec<Schedule>,
    pub triggers: Vec<Trigger>,
}

/// What a task runs, and how. What it depends on is in the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub id: TaskId,
    /// The program and its arguments; at least one.
    pub command: Vec<String>,
    /// Of one attempt.
    pub timeout: Duration,
    pub retries: Retries,
    /// It may run again after its host died, whatever the retries.
    pub restart_safe: bool,
    /// Bytes that one attempt may use; `None` is the host's own limit.
    pub max_memory: Option<u64>,
    /// The names of the tenant's secrets that it gets as environment variables.
    pub secrets: Vec<String>,
}

/// What starts executions by the clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub name: TriggerName,
    pub cron: String,
    /// Of the IANA database.
    pub timezone: String,
    pub catch_up: CatchUp,
    pub overlap: Overlap,
    /// What its executions read.
    pub context: Context,
}

/// What becomes of ticks that are more than a minute late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    Skip,
    Latest,
    All,
}

/// What becomes of a tick while an execution of the schedule has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    Skip,
    Wait,
    Allow,
}

/// What starts executions by asking a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    pub name: TriggerName,
    pub command: Vec<String>,
    pub poll_interval: Duration,
}

/// What a package has at a path, as far as a command matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Directory,
    File {
        is_executable: bool,
    },
    /// What its command needs: the package was checked before, or is not known as a whole.
    Known,
}

impl Manifest {
    /// Reads a manifest. `found` tells what the package has at a path relative to its root, once the path has no `.`
    /// or `..` in it any more.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of its place.
    pub fn parse(text: &str, found: &dyn Fn(&str) -> Found) -> Result<Manifest, Vec<Problem>> {
        let mut problems = Problems::new(text);
        if text.len() > MOST_BYTES {
            problems
                .add_at(None, || format!("it has {} bytes; at most {MOST_BYTES} are allowed", text.len()));
            return Err(problems.into_sorted());
        }
        let manifest = match Node::parse(text) {
            Ok(root) => build::build(&root, found, &mut problems),
            Err((at, message)) => {
                problems.add_at(at, || message);
                None
            }
        };
        manifest.filter(|_| problems.is_empty()).ok_or_else(|| problems.into_sorted())
    }
}
