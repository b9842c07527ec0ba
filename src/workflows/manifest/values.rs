//! Durations, numbers of bytes and names of variables as a manifest writes them, and how a value of a wrong type would be
//! written.

use std::time::Duration;

use super::grammar::Kind;
use super::node::{Node, NodeValue};
use super::reader::Given;
use crate::config::{self, parse_digits};
use crate::terminal::start_of;

/// # Errors
/// A hint that is put behind what is expected; often empty.
pub fn duration(text: &str, least: &str, most: &str) -> Result<Duration, String> {
    let bounds = parse_duration(least).zip(parse_duration(most));
    match (parse_duration(text), bounds) {
        (Some(duration), Some((least, most))) if (least..=most).contains(&duration) => Ok(duration),
        (None, _) if parse_digits::<u32>(text).is_some() && !text.is_empty() => {
            Err(format!(": write \"{text}s\" for seconds"))
        }
        _ => Err(String::new()),
    }
}

/// A whole number with its unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    has_number_and_unit(text).then(|| config::parse_duration(text)).flatten()
}

/// A setting may be a bare number; here each number says what it counts.
fn has_number_and_unit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(|c: char| c.is_ascii_alphabetic())
}

/// # Errors
/// As `duration`.
pub fn bytes(text: &str, least: &str, most: &str) -> Result<u64, String> {
    let bounds = parse_bytes(least).zip(parse_bytes(most));
    match (parse_bytes(text), bounds) {
        (Some(bytes), Some((least, most))) if (least..=most).contains(&bytes) => Ok(bytes),
        (None, _) => {
            // 512MB, 512MiB, 512Mi, 512m, 512 M
            let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, unit) = text.split_at(digits);
            let unit = unit.trim_start().to_ascii_uppercase();
            let is_unit = ["", "B", "I", "IB"].contains(&unit.get(1..).unwrap_or("-"));
            let right = format!("{number}{}", unit.get(..1).unwrap_or_default());
            match is_unit && parse_bytes(&right).is_some() {
                true => Err(format!(": write \"{right}\"")),
                false => Err(String::new()),
            }
        }
        _ => Err(String::new()),
    }
}

/// A whole number with K, M, G or T behind it.
fn parse_bytes(text: &str) -> Option<u64> {
    has_number_and_unit(text).then(|| config::parse_size(text)).flatten()
}

/// Why a name is none of an environment variable that a package may set, or of a secret.
pub fn wrong_variable(name: &str, is_secret: bool) -> Option<String> {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_name = name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit());
    let shown = start_of(name);
    if !is_name || name.len() > MOST_NAME_BYTES {
        let right = format!("1 to {MOST_NAME_BYTES} ASCII letters, digits and _, no digit first");
        return Some(format!("`{shown}` is no name of an environment variable: it has {right}"));
    }
    if name.starts_with("CLOACINA_") {
        return Some(format!("`{shown}`: names that begin with CLOACINA_ are the server's"));
    }
    if name == "HOME" || name == "TMPDIR" {
        return Some(format!("`{shown}` is always the attempt's own directory"));
    }
    let is_no_secret = name == "PATH" || name.starts_with("LD_");
    (is_secret && is_no_secret).then(|| format!("`{shown}` cannot be a secret"))
}

const MOST_NAME_BYTES: usize = 255;

/// A value for "… is 600, an integer"; of what may be long only its type.
pub fn told(node: &Node, text: &str) -> String {
    match node.value {
        NodeValue::Text(_) | NodeValue::Array(_) | NodeValue::Table(_) => node.kind().to_owned(),
        _ => format!("{}, {}", start_of(text.get(node.span.clone()).unwrap_or_default()), node.kind()),
    }
}

/// How a value of another type than its field's would be written, where that can be told.
pub fn rewritten(given: &Given, text: &str) -> Option<String> {
    let raw = start_of(text.get(given.span.clone()).unwrap_or_default());
    match (&given.field.kind, &given.node.value) {
        (Kind::Duration { .. }, NodeValue::Integer(seconds @ 0..)) if !given.is_foreign => {
            Some(format!("\"{seconds}s\" for seconds"))
        }
        (Kind::Bytes { .. }, NodeValue::Integer(bytes)) if bytes % 1_024 == 0 && *bytes > 0 => {
            Some(match bytes % 1_048_576 {
                0 => format!("\"{}M\"", bytes / 1_048_576),
                _ => format!("\"{}K\"", bytes / 1_024),
            })
        }
        (Kind::Version, NodeValue::Integer(_)) => Some(format!("\"{raw}.0.0\"")),
        (Kind::Version, NodeValue::Float(_)) => Some(format!("\"{raw}.0\"")),
        (Kind::Name | Kind::Text(_), NodeValue::Integer(_) | NodeValue::Float(_) | NodeValue::Date) => {
            Some(format!("\"{raw}\""))
        }
        (Kind::Boolean, NodeValue::Text(text)) if text == "true" || text == "false" => {
            Some(format!("{text}, without quotes"))
        }
        (Kind::Integer { .. }, NodeValue::Text(text))
            if parse_digits::<u32>(text).is_some() && !text.is_empty() =>
        {
            Some(format!("{text}, without quotes"))
        }
        (Kind::Command, NodeValue::Text(text)) => Some(words_as_array(text)),
        (Kind::Tasks | Kind::Secrets, NodeValue::Text(text)) => Some(words_as_array(&text.replace(',', " "))),
        (Kind::Environment, NodeValue::Array(elements)) => {
            let (name, value) = elements.first().and_then(Node::as_text)?.split_once('=')?;
            Some(format!("{{ {} = {} }}", start_of(name), quoted(value)))
        }
        (Kind::Table(table), NodeValue::Integer(attempts @ 1..=100)) if table.field("attempts").is_some() => {
            Some(format!("{{ attempts = {attempts} }}; the first attempt counts too"))
        }
        _ => None,
    }
}

/// A line as it would be typed, as an array. What a shell would do to it is not known here.
fn words_as_array(line: &str) -> String {
    if line.contains(['|', '&', ';', '<', '>', '$', '`', '*', '\'', '"', '\\', '\n']) {
        return format!("[\"bash\", \"-c\", {}]", quoted(line));
    }
    let words: Vec<_> = line.split_whitespace().map(quoted).collect();
    format!("[{}]", words.join(", "))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", start_of(&text.replace('\\', "\\\\").replace('"', "\\\"")))
}
