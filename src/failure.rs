//! Why a command did not do what it was asked to: one line for people, and the exit code that goes with it.

use std::fmt;

/// Ends a command. `main` prints it on stderr and exits with its code; nothing else in the program exits.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage or configuration; the text says what would be right. Exit code 2.
    Usage(String),
    /// It failed at run time. Exit code 1.
    Runtime(String),
}

impl Failure {
    /// The process's exit code: 1 for a failure at run time, 2 for wrong usage or configuration.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Runtime(_) => 1,
            Failure::Usage(_) => 2,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) | Failure::Runtime(text) => formatter.write_str(text),
        }
    }
}
