//! The file that a task may leave its output in. The task made it, so it may be anything.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use serde_json::Value;

use crate::engine::attempt::OUTPUT_NAME;

/// The text of the JSON object in the file, or none where there is no file.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn read(task: impl AsFd, most_bytes: u64, owner: Option<u32>) -> Result<Option<String>, String> {
    let named = |why: String| format!("{OUTPUT_NAME} {why}");
    // Neither followed, if it is a link, nor waited for, if it is a pipe.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = match openat(task, OUTPUT_NAME, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP) => return Err(named("is a link; write a plain file".to_owned())),
        Err(Errno::ENXIO) => return Err(named("is a socket or a device; write a plain file".to_owned())),
        Err(error) => return Err(named(format!("cannot be read: {}", error.desc()))),
        Ok(file) => File::from(file),
    };
    let found = file.metadata().map_err(|error| named(format!("cannot be read: {error}")))?;
    if !found.is_file() {
        let kind = if found.is_dir() { "a directory" } else { "a pipe or a device" };
        return Err(named(format!("is {kind}; write a plain file")));
    }
    if owner.is_some_and(|owner| owner != found.uid()) {
        return Err(named("belongs to another user; write a file of the task's own".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(most_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| named(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > most_bytes {
        let long = found.size().max(most_bytes + 1);
        return Err(named(format!("has {long} bytes; at most {most_bytes} are allowed")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        named(format!("is not UTF-8 at byte {}; write JSON in UTF-8", error.utf8_error().valid_up_to()))
    })?;
    check(&text).map_err(named)?;
    Ok(Some(text))
}

/// Whether a database can keep it as a JSON object.
fn check(text: &str) -> Result<(), String> {
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(_) if text.trim_ascii().is_empty() => {
            return Err("is empty; write a JSON object, or no file".to_owned());
        }
        Err(error) if error.to_string().starts_with("recursion limit") => {
            return Err("is nested too deeply: 127 levels are the most".to_owned());
        }
        Err(error) => {
            return Err(format!("is no JSON: {error}; write a JSON object such as {{\"rows\": 7}}"));
        }
    };
    let kind = match value {
        Value::Object(_) if has_nul(text) => {
            return Err("holds \\u0000, which PostgreSQL cannot store; leave it out".to_owned());
        }
        Value::Object(_) => return Ok(()),
        Value::Array(_) => "an array",
        Value::String(_) => "a string",
        Value::Number(_) => "a number",
        Value::Bool(_) | Value::Null => "true, false or null",
    };
    Err(format!("is {kind}; write a JSON object such as {{\"rows\": 7}}"))
}

/// In text that is JSON, where a backslash stands in strings alone and begins an escape.
fn has_nul(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, escape)) = rest.split_once('\\') {
        if escape.starts_with("u0000") {
            return true;
        }
        rest = escape.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_database_keeps_is_an_output() {
        for right in ["{}", " {\"a\": [1, \"\\\\u0000\", \"\\u00e9\", {\"b\": null}]}\n"] {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        for (wrong, why) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("[1]", "is an array"),
            ("\"x\"", "is a string"),
            ("7", "is a number"),
            ("null", "is true, false or null"),
            ("{\"a\": }", "is no JSON: expected value at line 1 column 7"),
            ("{} {}", "is no JSON: trailing characters"),
            ("{\"a\": NaN}", "is no JSON"),
            ("{\"a\": 1e999}", "is no JSON: number out of range"),
            ("{\"a\": \"\\ud800\"}", "is no JSON"),
            ("{\"a\": \"x\\u0000\"}", "holds \\u0000"),
            ("{\"\\\\\\u0000\": 1}", "holds \\u0000"),
            (deep.as_str(), "is nested too deeply"),
        ] {
            let told = check(wrong).unwrap_err();
            assert!(told.starts_with(why), "{wrong:?}: {told}");
        }
    }
}
