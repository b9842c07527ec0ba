//! Paths and targets of links as text: none that leads out of the package by itself.

use crate::terminal::start_of;

pub const MOST_PATH_BYTES: usize = 1_024;
const MOST_NAME_BYTES: usize = 255;
const MOST_DEPTH: usize = 64;

/// The path that a name stands for, without `.` and empty parts; empty for the package itself.
///
/// # Errors
/// What is wrong with the name, to be read after it.
pub fn path_of(name: &[u8]) -> Result<String, String> {
    let name = text_of(name)?;
    if name.starts_with('/') {
        return Err("is an absolute path; names in a package begin at its top".to_owned());
    }
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("has `..` in it, which may lead outside of the package".to_owned()),
            _ if part.len() > MOST_NAME_BYTES => {
                return Err(format!("has a part of {} bytes; {MOST_NAME_BYTES} are allowed", part.len()));
            }
            _ => parts.push(part),
        }
    }
    let path = parts.join("/");
    if path.len() > MOST_PATH_BYTES {
        return Err(format!("is a path of {} bytes; {MOST_PATH_BYTES} are allowed", path.len()));
    }
    if parts.len() > MOST_DEPTH {
        return Err(format!("is {} directories deep; {MOST_DEPTH} are allowed", parts.len()));
    }
    Ok(path)
}

/// # Errors
/// What is wrong with the target of a link, to be read after the link's name.
pub fn target_of(target: &[u8]) -> Result<String, String> {
    let wrong = |line: String| format!("is a link whose target {line}");
    let target = text_of(target).map_err(wrong)?;
    if target.len() > MOST_PATH_BYTES {
        return Err(wrong(format!("has {} bytes; {MOST_PATH_BYTES} are allowed", target.len())));
    }
    if target.starts_with('/') {
        return Err(format!("is a link to `{}`, which is outside of the package", start_of(target)));
    }
    Ok(target.to_owned())
}

fn text_of(name: &[u8]) -> Result<&str, String> {
    let text = str::from_utf8(name).map_err(|_| "is not UTF-8".to_owned())?;
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    match text.chars().find(|character| character.is_control()) {
        Some(control) => Err(format!("has the control character {control:?} in it")),
        None => Ok(text),
    }
}
