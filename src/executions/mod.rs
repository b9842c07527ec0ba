//! Executions: runs of workflows. Their tables are the queue, and the only truth about what has run.

pub mod announcement;
mod answer;
pub mod handlers;
pub mod log_handler;
pub mod request_body;
pub mod retention;
pub mod store;
pub mod waiting;

use crate::engine::graph::{TaskOutcome, TaskState};

/// How far an execution has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionStatus {
    /// No task of it has started.
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl ExecutionStatus {
    pub const ALL: [ExecutionStatus; 5] = [
        ExecutionStatus::Pending,
        ExecutionStatus::Running,
        ExecutionStatus::Completed,
        ExecutionStatus::Failed,
        ExecutionStatus::Cancelled,
    ];

    /// In tables, answers and queries.
    pub fn name(self) -> &'static str {
        match self {
            ExecutionStatus::Pending => "Pending",
            ExecutionStatus::Running => "Running",
            ExecutionStatus::Completed => "Completed",
            ExecutionStatus::Failed => "Failed",
            ExecutionStatus::Cancelled => "Cancelled",
        }
    }

    pub fn from_name(name: &str) -> Option<ExecutionStatus> {
        ExecutionStatus::ALL.into_iter().find(|status| status.name() == name)
    }

    pub fn has_ended(self) -> bool {
        !matches!(self, ExecutionStatus::Pending | ExecutionStatus::Running)
    }
}

/// How far a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    NotStarted,
    Ready,
    Running,
    Completed,
    Failed,
    Skipped,
    Cancelled,
}

impl TaskStatus {
    pub const ALL: [TaskStatus; 7] = [
        TaskStatus::NotStarted,
        TaskStatus::Ready,
        TaskStatus::Running,
        TaskStatus::Completed,
        TaskStatus::Failed,
        TaskStatus::Skipped,
        TaskStatus::Cancelled,
    ];

    /// In tables and answers.
    pub fn name(self) -> &'static str {
        match self {
            TaskStatus::NotStarted => "NotStarted",
            TaskStatus::Ready => "Ready",
            TaskStatus::Running => "Running",
            TaskStatus::Completed => "Completed",
            TaskStatus::Failed => "Failed",
            TaskStatus::Skipped => "Skipped",
            TaskStatus::Cancelled => "Cancelled",
        }
    }

    pub fn from_name(name: &str) -> Option<TaskStatus> {
        TaskStatus::ALL.into_iter().find(|status| status.name() == name)
    }

    /// As the graph has it.
    pub fn state(self) -> TaskState {
        match self {
            TaskStatus::NotStarted => TaskState::NotStarted,
            TaskStatus::Ready => TaskState::Ready,
            TaskStatus::Running => TaskState::Running,
            TaskStatus::Completed => TaskState::Ended(TaskOutcome::Completed),
            TaskStatus::Failed => TaskState::Ended(TaskOutcome::Failed),
            TaskStatus::Skipped => TaskState::Ended(TaskOutcome::Skipped),
            TaskStatus::Cancelled => TaskState::Ended(TaskOutcome::Cancelled),
        }
    }
}

impl From<TaskState> for TaskStatus {
    fn from(state: TaskState) -> TaskStatus {
        match state {
            TaskState::NotStarted => TaskStatus::NotStarted,
            TaskState::Ready => TaskStatus::Ready,
            TaskState::Running => TaskStatus::Running,
            TaskState::Ended(TaskOutcome::Completed) => TaskStatus::Completed,
            TaskState::Ended(TaskOutcome::Failed) => TaskStatus::Failed,
            TaskState::Ended(TaskOutcome::Skipped) => TaskStatus::Skipped,
            TaskState::Ended(TaskOutcome::Cancelled) => TaskStatus::Cancelled,
        }
    }
}
