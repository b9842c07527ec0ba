//! Manifests that are right, and what they say; manifests that are wrong, and what is told of them.

pub mod cost;
mod good;
mod texts;
mod wrong;

use super::*;

/// A package of scripts. `plain` is one that is not executable.
fn found(path: &str) -> Found {
    match path {
        "extract.sh" | "load" | "alarm.sh" | "is-there-a-file.sh" | "bin/tool" => {
            Found::File { is_executable: true }
        }
        "plain" => Found::File { is_executable: false },
        "bin" => Found::Directory,
        _ => Found::Nothing,
    }
}

fn parse(text: &str) -> Result<Manifest, Vec<Problem>> {
    Manifest::parse(text, &found)
}
