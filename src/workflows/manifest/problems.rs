//! The problems of a manifest as they are found, in any order, and then in that of their places.

use super::FILE_NAME;
use crate::workflows::problem::Problem;

/// More are counted, and not told.
const MOST_PROBLEMS: usize = 1_000;

/// What is wrong with one text.
pub struct Problems<'a> {
    text: &'a str,
    /// Where each line ends.
    line_ends: Vec<usize>,
    /// With the byte that each is found at; `None` is the whole file.
    found: Vec<(Option<usize>, String)>,
    left_out: usize,
}

impl<'a> Problems<'a> {
    pub fn new(text: &'a str) -> Problems<'a> {
        let line_ends = text.match_indices('\n').map(|(at, _)| at).collect();
        Problems { text, line_ends, found: Vec::new(), left_out: 0 }
    }

    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The line of a byte, from 1.
    pub fn line_of(&self, at: usize) -> usize {
        1 + self.line_ends.partition_point(|end| *end < at)
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether no further one will be told, so that none of their texts is worth any time.
    pub fn is_full(&self) -> bool {
        self.found.len() >= MOST_PROBLEMS
    }

    pub fn add(&mut self, at: usize, message: impl FnOnce() -> String) {
        self.add_at(Some(at), message);
    }

    /// `message` is only called where it will be told.
    pub fn add_at(&mut self, at: Option<usize>, message: impl FnOnce() -> String) {
        match self.is_full() {
            true => self.left_out += 1,
            false => self.found.push((at, message())),
        }
    }

    pub fn into_sorted(self) -> Vec<Problem> {
        let Problems { text, mut found, left_out, .. } = self;
        found.sort_by_key(|(at, _)| *at);
        let problem = |line, column, message| Problem { file: FILE_NAME.to_owned(), line, column, message };
        let mut counted = Place::start_of(text);
        let mut problems: Vec<_> = found
            .into_iter()
            .map(|(at, message)| match at {
                Some(at) => {
                    counted.go_to(text, at);
                    problem(Some(counted.line), Some(counted.column), message)
                }
                None => problem(None, None, message),
            })
            .collect();
        if left_out > 0 {
            problems.push(problem(None, None, format!("and {left_out} further problems")));
        }
        problems
    }
}

/// Where a byte is, both numbers from 1, the column in characters.
struct Place {
    at: usize,
    line: usize,
    column: usize,
}

impl Place {
    fn start_of(text: &str) -> Place {
        // A byte order mark is no column.
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Place { at, line: 1, column: 1 }
    }

    /// Only forwards.
    fn go_to(&mut self, text: &str, at: usize) {
        for character in text.get(self.at..at).unwrap_or_default().chars() {
            match character {
                '\n' => (self.line, self.column) = (self.line + 1, 1),
                _ => self.column += 1,
            }
        }
        self.at = self.at.max(at);
    }
}

/// As `Problems::line_of`, for one byte alone.
pub fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().get(..at).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
}
