//! What is wrong with an archive or a directory: all of it, as far as a person would read.

use crate::workflows::problem::Problem;

const MOST_PROBLEMS: usize = 100;
const MOST_NAME_CHARACTERS: usize = 256;

#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    /// That are not in the list.
    further: usize,
}

impl Problems {
    pub fn add(&mut self, name: &[u8], message: String) {
        if self.list.len() == MOST_PROBLEMS {
            self.further += 1;
            return;
        }
        self.list.push(Problem { file: file(name), line: None, column: None, message });
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, and those of the manifest behind.
    pub fn take(&mut self) -> Vec<Problem> {
        if self.further > 0 {
            let message = format!("has {} more problems of this kind", std::mem::take(&mut self.further));
            self.list.push(Problem { file: WHOLE.to_owned(), line: None, column: None, message });
        }
        std::mem::take(&mut self.list)
    }
}

/// What a problem of no entry in particular is called by.
pub const WHOLE: &str = "archive";

/// A name as text: bytes that are no text as escapes, and the beginning alone of a very long one.
fn file(name: &[u8]) -> String {
    let text = match str::from_utf8(name) {
        Ok(text) => text.to_owned(),
        Err(_) => name.escape_ascii().to_string(),
    };
    match text.char_indices().nth(MOST_NAME_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
