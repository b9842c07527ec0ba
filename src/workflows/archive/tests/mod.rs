//! Archives of all kinds, each checked and unpacked: both find the same, and nothing is ever written outside.

mod cost;
mod damaged;
mod extensions;
mod fuzz;
mod links;
mod made;
mod names;
mod round_trip;

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

pub use made::Made;

use super::unpack::unpack;
use super::walk::{Nowhere, WalkError, Walked, walk};
use crate::workflows::problem::Problem;

/// A directory that is gone after the test; in memory where there is such a place, as unpacking waits for the disk.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let path = parent.join(format!("cloacina-archive-{}", Uuid::new_v4()));
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// All paths below, with what is there.
pub fn listing(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                lines.push(format!("{}/", path.display()));
                left.push(path);
            } else if kind.is_symlink() {
                lines.push(format!("{} -> {}", path.display(), fs::read_link(&path).unwrap().display()));
            } else {
                let content = fs::read(&path).unwrap();
                lines.push(format!("{} {:?}", path.display(), String::from_utf8_lossy(&content)));
            }
        }
    }
    lines.sort();
    lines
}

fn checked(archive: &[u8]) -> Vec<Problem> {
    match walk(archive, &mut Nowhere) {
        Ok(Walked { mut tree, .. }) => tree.problems.take(),
        Err(other) => panic!("{other:?}"),
    }
}

/// What is wrong with an archive, a line each.
pub fn problems(archive: &[u8]) -> Vec<String> {
    let checked = checked(archive);
    let scratch = Scratch::new();
    fs::write(scratch.0.join("canary"), "sings").unwrap();
    fs::create_dir(scratch.0.join("packages")).unwrap();
    let outside = listing(&scratch.0);
    let destination = scratch.0.join("packages/one");
    let unpacked = match unpack(archive, &destination, Uuid::new_v4()) {
        Ok(()) => Vec::new(),
        Err(WalkError::Problems(problems)) => problems,
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(checked, unpacked);
    assert_eq!(destination.join("package.toml").is_file(), checked.is_empty());
    if destination.exists() {
        fs::remove_dir_all(destination).unwrap();
    }
    assert_eq!(listing(&scratch.0), outside);
    checked.iter().map(ToString::to_string).collect()
}

/// Each archive has these problems, in this order, and no other: a part of each line.
pub fn assert_problems(archive: &[u8], expected: &[&str]) {
    let found = problems(archive);
    let is_right =
        found.len() == expected.len() && found.iter().zip(expected).all(|(line, part)| line.contains(part));
    assert!(is_right, "expected {expected:#?}, found {found:#?}");
}
