//! What is wrong with a text that is no TOML, in words for people who do not know TOML's grammar.

use toml_edit::TomlError;

use super::problems::line_of;
use crate::terminal::start_of;

/// Where the text ends to be TOML, if that is known, and what would be right.
pub fn explain(text: &str, error: &TomlError) -> (Option<usize>, String) {
    let message = error.message();
    let Some(span) = error.span() else {
        return (None, plain(message));
    };
    let at = text.floor_char_boundary(span.start);
    let of_value = ["string values must be quoted", "invalid float", "invalid boolean", "invalid integer"];
    if of_value.iter().any(|start| message.starts_with(start)) {
        let (at, word) = bare_word(text, at);
        return (Some(at), bare_value(word));
    }
    let explained = match message {
        "duplicate key" => duplicate(text, at),
        _ if message.starts_with("key with no value") => key_without_value(text, at),
        _ if message.starts_with("invalid key-value pair") && text[at..].starts_with('{') => {
            "this is JSON, and a manifest is TOML: `key = value` in each line".to_owned()
        }
        _ if message.starts_with("unexpected key or value") => {
            format!("`{}` stands behind the value; a line holds one `key = value`", rest_of_line(text, at))
        }
        _ => plain(message),
    };
    (Some(at), explained)
}

fn plain(message: &str) -> String {
    let words = [
        ("invalid basic string, expected `\"`", "the string is not closed: its `\"` is missing"),
        ("invalid literal string, expected `'`", "the string is not closed: its `'` is missing"),
        (
            "invalid multi-line basic string, expected `\"`",
            "the string is not closed: its `\"\"\"` is missing",
        ),
        ("invalid multi-line literal string, expected `'`", "the string is not closed: its `'''` is missing"),
        ("missing comma between array", "`,` is missing before this, or `]` that closes the array"),
        ("missing comma between key", "`,` is missing before this, or `}` that closes the table"),
        ("unclosed table", "the header is not closed: `]` is missing"),
        ("unclosed array table", "the header is not closed: `]]` is missing"),
        ("unclosed array", "the array is not closed: `]` is missing"),
        ("unclosed inline table", "the table is not closed: `}` is missing"),
        ("unquoted keys cannot be empty", "a key is missing here"),
        ("missing escaped value", "a backslash begins an escape; write \\\\ for one, or use single quotes"),
        (
            "carriage return must be",
            "a carriage return that no line feed follows; a line ends with LF or CR LF",
        ),
        ("unexpected leading zero", "a number does not begin with 0"),
        ("integer number overflowed", "the number is too large"),
        ("recursion limit", "keys are nested more than 80 levels deep"),
        ("cannot recurse further", "arrays and tables are nested more than 80 levels deep"),
    ];
    let known = words.into_iter().find(|(start, _)| message.starts_with(start));
    match known {
        Some((_, plain)) => plain.to_owned(),
        None if message.contains("visible characters") => {
            "a control character; in a string with double quotes it is written as \\u0007".to_owned()
        }
        None => message.to_owned(),
    }
}

/// The whole word of which some part is no value, and where it begins.
fn bare_word(text: &str, at: usize) -> (usize, &str) {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '=' | ',' | '[' | ']' | '{' | '}' | '#');
    let from = text[..at].rfind(is_end).map_or(0, |end| end + 1);
    let from = (from..=at).find(|from| text.is_char_boundary(*from)).unwrap_or(at);
    let length = text[from..].find(is_end).unwrap_or(text.len() - from);
    (from, &text[from..from + length])
}

fn bare_value(word: &str) -> String {
    let lower = word.to_ascii_lowercase();
    let word = start_of(word);
    match lower.as_str() {
        "" => "a value is missing here".to_owned(),
        "true" | "yes" | "on" => format!("`{word}` is no value; write `true`"),
        "false" | "no" | "off" => format!("`{word}` is no value; write `false`"),
        "null" | "nil" | "none" | "~" => {
            format!("`{word}` is no value; leave the field out to have its default")
        }
        _ if word.contains(['"', '\'']) => format!("`{word}` is no value; a string stands in quotes"),
        _ => format!("`{word}` is no value; a string stands in quotes: \"{word}\""),
    }
}

fn key_without_value(text: &str, at: usize) -> String {
    let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..];
    let right = "expected `=` and a value behind the key";
    let is_list = line.trim_start().starts_with("- ");
    let has_colon = line.split(['=', '"', '\'', '\n']).next().is_some_and(|key| key.contains(':'));
    match (is_list, has_colon) {
        (false, true) => format!("{right}, not `:`: this is TOML, and no YAML"),
        (true, _) => {
            format!("{right}; an array is written as [\"a\", \"b\"]: this is TOML, and no YAML")
        }
        _ => right.to_owned(),
    }
}

fn duplicate(text: &str, at: usize) -> String {
    let key = text[at..].split(|c: char| c.is_whitespace() || matches!(c, '=' | '.' | ']')).next();
    let key = start_of(key.unwrap_or_default());
    let line_from = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let line = text[line_from..].trim_start();
    if !line.starts_with('[') {
        let header = text[..line_from].rfind("\n[").map_or(0, |end| end + 1);
        let is_first = |line: &&str| {
            let rest = line.trim_start().strip_prefix(&key);
            rest.is_some_and(|rest| rest.trim_start().starts_with(['=', '.']))
        };
        let block = &text[header..line_from];
        let first = block.lines().position(|line| is_first(&line)).map(|line| line_of(text, header) + line);
        let there = first.map_or(String::new(), |line| format!(", after line {line}"));
        return format!("`{key}` is set a second time{there}; a table has each key once");
    }
    let header = line.split(['\r', '\n', '#']).next().unwrap_or_default().trim_end();
    let is_around = |c: char| c.is_whitespace() || matches!(c, '[' | ']');
    let name = header.trim_matches(is_around);
    let same = |line: &str| line.trim_start().starts_with('[') && line.trim_matches(is_around) == name;
    let first = text[..line_from].lines().position(same);
    let there = first.map_or(String::new(), |line| format!(", after line {}", line + 1));
    let lists = "; what can be there more than once has two brackets each time, as in [[tasks]]";
    format!("the header `{}` is there a second time{there}{lists}", start_of(header))
}

fn rest_of_line(text: &str, at: usize) -> String {
    start_of(text[at..].lines().next().unwrap_or_default().trim_end())
}
