//! Why a command did not do what it was asked to: one line for people, and the exit code that goes with it.

use std::fmt;

/// Ends a command. `main` prints it on stderr and exits with its code; nothing else in the program exits.
#[derive(Debug)]
pub enum CommandError {
    /// Wrong usage or configuration; the text says what would be right. Exit code 2.
    Usage(String),
    /// It failed at run time. Exit code 1.
    Runtime(String),
}

impl CommandError {
    /// The process's exit code: 1 for a failure at run time, 2 for wrong usage or configuration.
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Runtime(_) => 1,
            CommandError::Usage(_) => 2,
        }
    }
}

/// Makes a cause the end of a command that failed at run time; `what` is what could not be done.
pub fn runtime<E: fmt::Display>(what: &str) -> impl FnOnce(E) -> CommandError {
    move |cause| CommandError::Runtime(format!("{what}: {cause}"))
}

impl fmt::Display for CommandError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandError::Usage(text) | CommandError::Runtime(text) => formatter.write_str(text),
        }
    }
}
