//! The program's own source, taken apart as far as the rules of its tree need it: files, code without comments, names.

use std::fs;
use std::path::Path;

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A Rust file, its lines where they were: what is left out is blank.
pub struct Source {
    /// Below the project, such as `src/http/mod.rs`.
    pub path: String,
    /// All but the module of tests.
    pub text: String,
    /// All of it without comments and without what stands in quotes, and that without the tests.
    pub all_code: String,
    pub code: String,
    pub comments: String,
}

pub fn sources() -> Vec<Source> {
    let read = |path: String| {
        let whole = fs::read_to_string(Path::new(ROOT).join(&path)).unwrap();
        let (all_code, comments) = split(&whole);
        Source { path, text: without_tests(&whole), code: without_tests(&all_code), all_code, comments }
    };
    files("src").into_iter().filter(|path| path.ends_with(".rs")).map(read).collect()
}

/// Every file below a place in the project, but for secrets and what tools leave.
pub fn files(place: &str) -> Vec<String> {
    let path = Path::new(ROOT).join(place);
    if !path.is_dir() {
        return if path.exists() { vec![place.to_owned()] } else { Vec::new() };
    }
    let below = names(&path).into_iter().map(|name| format!("{place}/{name}"));
    let ours = below.filter(|path| path != "scripts/deploy/secrets" && !path.ends_with("/__pycache__"));
    ours.flat_map(|path| files(&path)).collect()
}

pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn without_tests(text: &str) -> String {
    let mut is_test = false;
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        is_test |= line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.starts_with("mod tests {"));
        kept.push_str(if is_test { "" } else { line });
        kept.push('\n');
        is_test &= line != "}";
    }
    kept
}

/// Code and comments; of a literal nothing stays.
fn split(text: &str) -> (String, String) {
    let (mut code, mut comments) = (String::new(), String::new());
    let mut rest = text;
    let mut is_in_name = false;
    while let Some(c) = rest.chars().next() {
        let hashes = rest.strip_prefix('r').map(|after| after.len() - after.trim_start_matches('#').len());
        let raw = hashes.filter(|hashes| !is_in_name && rest[1 + hashes..].starts_with('"'));
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(hashes) = raw {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = 2 + hashes;
            start + rest[start..].find(&end).unwrap() + end.len()
        } else if c == '"' {
            quoted(rest, '"')
        } else if c == '\'' && (rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'')) {
            quoted(rest, '\'')
        } else {
            c.len_utf8()
        };
        let (part, after) = rest.split_at(length);
        let blank: String = part.chars().filter(|c| *c == '\n').collect();
        let (is_comment, is_literal) = (part.starts_with("//"), length > c.len_utf8());
        comments.push_str(if is_comment { part } else { &blank });
        code.push_str(if is_comment || is_literal { &blank } else { part });
        // Not the `b` of a string of bytes.
        is_in_name = (c.is_alphanumeric() || c == '_') && (is_in_name || c != 'b');
        rest = after;
    }
    (code, comments)
}

/// How long the literal is that the text begins with.
fn quoted(text: &str, quote: char) -> usize {
    let mut is_escaped = true;
    for (at, c) in text.char_indices() {
        if c == quote && !is_escaped {
            return at + 1;
        }
        is_escaped = at > 0 && c == '\\' && !is_escaped;
    }
    text.len()
}

/// The words of a text, each with the number of its line.
pub fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_between = |c: char| !c.is_alphanumeric() && c != '_';
    text.lines()
        .zip(1..)
        .flat_map(move |(line, number)| line.split(is_between).map(move |word| (number, word)))
}

/// `_catch_up_link_` for CatchUpLink, catch_up_link and CATCH_UP_LINK.
pub fn parts(name: &str) -> String {
    let mut parts = "_".to_owned();
    for c in name.chars() {
        if c.is_uppercase() && parts.ends_with(|last: char| last.is_lowercase() || last.is_numeric()) {
            parts.push('_');
        }
        parts.push(c);
    }
    parts.to_lowercase() + "_"
}
