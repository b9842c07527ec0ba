//! The command line of `cloacinactl workflow`.

use pico_args::Arguments;

use super::action::GivenAction;
use super::flags::{Flag, Kind};
use crate::command_error::CommandError;

/// What is to be done with a package. Values are as they were given.
#[derive(Debug, PartialEq, Eq)]
pub enum WorkflowAction {
    Check { path: String },
    Pack { directory: String, output: Option<String> },
    Run { path: String, flags: RunFlags },
    Schema,
}

/// How a package is to be run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RunFlags {
    pub context: Option<String>,
    pub task: Option<String>,
    pub sandbox: Option<String>,
    pub task_user: Option<String>,
    pub allow_paths: Vec<String>,
    pub task_slots: Option<String>,
}

/// Of `workflow pack`.
pub const PACK_FLAGS: &[Flag] = &[Flag {
    short: Some("-o"),
    ..Flag::with_value(
        "--output",
        "FILE",
        Kind::File,
        "Where to write it; - is stdout. [default: NAME-VERSION.tar.gz]",
    )
}];

/// Of `workflow run`.
pub const RUN_FLAGS: &[Flag] = &[
            Flag::with_value("--context", "JSON", Kind::Free, "The object that tasks read. [default: {}]"),
            Flag::with_value("--task", "ID", Kind::Free, "Run this task alone, and show all that it prints."),
            Flag::with_value(
                "--sandbox",
                "MODE",
                Kind::OneOf(&["required", "partial", "off"]),
                "What keeps tasks from the rest of the host: required, partial or off. Partial is as much as this kernel can,
and says what stays open.
[default: required]",
            ),
            Flag::with_value(
                "--task-user",
                "USER",
                Kind::Free,
                "Run tasks as this user; only root can, and has to. [default: the caller]",
            ),
            Flag {
                repeats: true,
                ..Flag::with_value(
                    "--allow-path",
                    "PATH:r|rw",
                    Kind::Free,
                    "A further file or directory that tasks may read, or read and write; may be given more than once.",
                )
            },
            Flag::with_value(
                "--task-slots",
                "N",
                Kind::Free,
                "How many tasks run at the same time: 1 to 1000. [default: one for each CPU]",
            ),
        ];

/// Reads what follows `workflow`: an action with its flags.
pub fn parse(arguments: Arguments, literal: Vec<String>) -> Result<WorkflowAction, CommandError> {
    let (mut given, _) = GivenAction::take("workflow", arguments, literal, |_| None)?;
    Ok(match &*given.name {
        "check" => WorkflowAction::Check { path: given.operand("DIR|FILE")? },
        "pack" => {
            WorkflowAction::Pack { directory: given.operand("DIR")?, output: given.flags.value("--output") }
        }
        "run" => WorkflowAction::Run {
            path: given.operand("DIR|FILE")?,
            flags: RunFlags {
                context: given.flags.value("--context"),
                task: given.flags.value("--task"),
                sandbox: given.flags.value("--sandbox"),
                task_user: given.flags.value("--task-user"),
                allow_paths: given.flags.values("--allow-path"),
                task_slots: given.flags.value("--task-slots"),
            },
        },
        _ => WorkflowAction::Schema,
    })
}
