//! The machines whose servers run tasks: what the database knows of them, and what keeps one from running any.

pub mod command;
pub mod obstacle;
pub mod store;

use uuid::Uuid;

/// What a server says of its host at its start.
#[derive(Debug, Clone)]
pub struct NewHost {
    /// From its home.
    pub id: Uuid,
    /// What the system calls itself.
    pub name: String,
    pub slots: usize,
    /// Why it starts no task, where that is so.
    pub obstacle: Option<String>,
}

/// What the database says to that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// With its name, which is another where a host has that already.
    As(String),
    /// A person said that it is gone: what it still runs is void, and is to be ended before it comes back.
    WasForgotten,
}

/// A host that a person said is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Forgotten {
    pub id: Uuid,
    /// Seconds since it was last seen, by the database's clock.
    pub silent_seconds: i64,
    /// What it ran.
    pub running: Vec<RunningAttempt>,
}

/// An attempt that has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningAttempt {
    pub attempt: Uuid,
    pub execution: Uuid,
}

/// Longer than any name that a kernel gives, so that no line of a table is too long.
const MOST_NAME_CHARACTERS: usize = 64;

/// A host's name as it is kept: of characters that mean nothing to a shell or a terminal.
fn plain_name(name: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-._".contains(*c);
    let plain: String = name.chars().filter(is_plain).take(MOST_NAME_CHARACTERS).collect();
    if plain.is_empty() { "host".to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        assert_eq!(plain_name("web-1.example"), "web-1.example");
        assert_eq!(plain_name("a b\u{1b}[0m\u{e9}"), "ab0m");
        assert_eq!(plain_name(""), "host");
        assert_eq!(plain_name(&"x".repeat(300)).len(), MOST_NAME_CHARACTERS);
    }
}
