//! The values of a manifest that are made of several: commands, lists of names, environments and contexts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Found;
use super::grammar::MOST_STRING_BYTES;
use super::node::{Entry, Node, NodeValue};
use super::problems::Problems;
use super::reader::{Given, Reader, wrong_type};
use super::values;
use crate::engine::graph::Context;
use crate::terminal::start_of;

/// The program and its arguments. Whether the program is there is looked at where its path leads into the package.
pub fn command(reader: &Reader, found: &dyn Fn(&str) -> Found, problems: &mut Problems) -> Vec<String> {
    let Some(given) = reader.given("command") else { return Vec::new() };
    let words = strings(&given, problems);
    let Some((at, program)) = words.first() else {
        if matches!(&given.node.value, NodeValue::Array(elements) if elements.is_empty()) {
            problems
                .add(given.at(), || format!("`command` is empty; expected {}", given.field.kind.expected()));
        }
        return Vec::new();
    };
    for (at, word) in &words {
        check_string(*at, word, "an argument", problems);
    }
    // One that no process can be given is not looked for either.
    if program.len() <= MOST_STRING_BYTES
        && let Some(message) = wrong_program(program, words.len(), found)
    {
        problems.add(*at, || message);
    }
    words.into_iter().map(|(_, word)| word.to_owned()).collect()
}

fn wrong_program(program: &str, words: usize, found: &dyn Fn(&str) -> Found) -> Option<String> {
    let shown = start_of(program);
    if program.is_empty() {
        return Some("the program is an empty string".to_owned());
    }
    let is_line = words == 1 && program.contains(' ');
    let apart = "the program and each of its arguments are strings of their own";
    if !program.contains('/') {
        if is_line {
            return Some(format!("there is no program `{shown}`: {apart}"));
        }
        return matches!(found(program), Found::File { .. }).then(|| {
            format!("`{shown}` without a `/` is looked for in PATH; write \"./{shown}\" for the package's own file")
        });
    }
    if program.starts_with('/') {
        return None;
    }
    let Some(path) = path_in_package(program) else {
        return Some(format!("`{shown}` leads out of the package"));
    };
    match found(&path) {
        Found::File { is_executable: true } | Found::Known => None,
        Found::File { is_executable: false } => {
            Some(format!("`{shown}` is not executable; `chmod +x {}` makes it so", start_of(&path)))
        }
        Found::Directory => Some(format!("`{shown}` is a directory; expected a program")),
        Found::Nothing if is_line => Some(format!("the package has no file `{shown}`: {apart}")),
        Found::Nothing if program.starts_with(['~', '$']) => {
            Some(format!("the package has no file `{shown}`; nothing is expanded in a command"))
        }
        Found::Nothing => Some(format!("the package has no file `{shown}`")),
    }
}

/// The path without `.` and `..`; `None` where it leads out.
fn path_in_package(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The ids in a list of tasks, each with its place.
pub fn tasks<'a>(reader: &Reader<'a>, problems: &mut Problems) -> Vec<(usize, &'a str)> {
    reader.given("dependencies").map_or(Vec::new(), |given| strings(&given, problems))
}

pub fn secrets(reader: &Reader, problems: &mut Problems) -> Vec<String> {
    let Some(given) = reader.given("secrets") else { return Vec::new() };
    let mut names = BTreeSet::new();
    let mut secrets = Vec::new();
    for (at, name) in strings(&given, problems) {
        if let Some(message) = values::wrong_variable(name, true) {
            problems.add(at, || format!("`secrets`: {message}"));
        } else if !names.insert(name) {
            problems.add(at, || format!("`secrets` has `{name}` twice"));
        }
        secrets.push(name.to_owned());
    }
    secrets
}

/// The strings of an array. A single string is told, and taken for an array of it where it may be one.
fn strings<'a>(given: &Given<'a>, problems: &mut Problems) -> Vec<(usize, &'a str)> {
    let name = given.field.name;
    match &given.node.value {
        NodeValue::Array(elements) => {
            let mut strings = Vec::with_capacity(elements.len());
            for element in elements {
                match element.as_text() {
                    Some(text) => strings.push((element.at(), text)),
                    None => {
                        let text = problems.text();
                        problems.add(element.at(), || {
                            let hint = match element.value {
                                NodeValue::Integer(_) | NodeValue::Float(_) | NodeValue::Boolean(_) => {
                                    format!(
                                        ": write \"{}\"",
                                        start_of(text.get(element.span.clone()).unwrap_or_default())
                                    )
                                }
                                _ => String::new(),
                            };
                            format!("an element of `{name}` is {}; expected a string{hint}", element.kind())
                        });
                    }
                }
            }
            strings
        }
        other => {
            wrong_type(given, problems);
            match other {
                NodeValue::Text(text) if name == "dependencies" => {
                    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
                    words.map(|word| (given.at(), word)).collect()
                }
                _ => Vec::new(),
            }
        }
    }
}

pub fn environment(reader: &Reader, problems: &mut Problems) -> BTreeMap<String, String> {
    let Some(given) = reader.given("env") else { return BTreeMap::new() };
    let Some(entries) = given.node.as_table() else {
        wrong_type(&given, problems);
        return BTreeMap::new();
    };
    let mut environment = BTreeMap::new();
    for Entry { key, key_at, node } in entries {
        if let Some(message) = values::wrong_variable(key, false) {
            problems.add(*key_at, || format!("`env`: {message}"));
        }
        let Some(value) = node.as_text() else {
            let text = problems.text();
            problems.add(node.at(), || {
                let hint = match node.value {
                    NodeValue::Array(_) | NodeValue::Table(_) => String::new(),
                    _ => format!(": write \"{}\"", start_of(text.get(node.span.clone()).unwrap_or_default())),
                };
                format!("`{}` in `env` is {}; expected a string{hint}", start_of(key), node.kind())
            });
            continue;
        };
        check_string(node.at(), value, "a variable", problems);
        environment.insert(key.clone(), value.to_owned());
    }
    environment
}

pub fn context(reader: &Reader, problems: &mut Problems) -> Context {
    let Some(given) = reader.given("context") else { return Context::new() };
    match json(given.node, problems) {
        Some(Value::Object(context)) => context,
        Some(_) => {
            wrong_type(&given, problems);
            Context::new()
        }
        None => Context::new(),
    }
}

/// A value as JSON, if it can be that.
pub fn json(node: &Node, problems: &mut Problems) -> Option<Value> {
    let refuse = |problems: &mut Problems, message: &'static str| {
        problems.add(node.at(), || message.to_owned());
        None
    };
    let has_nul = "a string that is passed on as JSON must not have the character NUL in it";
    match &node.value {
        NodeValue::Text(text) if text.contains('\0') => refuse(problems, has_nul),
        NodeValue::Text(text) => Some(Value::String(text.clone())),
        NodeValue::Integer(number) => Some((*number).into()),
        NodeValue::Float(number) => match serde_json::Number::from_f64(*number) {
            Some(number) => Some(Value::Number(number)),
            None => refuse(problems, "this is passed on as JSON, which has neither `nan` nor `inf`"),
        },
        NodeValue::Boolean(boolean) => Some(Value::Bool(*boolean)),
        NodeValue::Date => {
            refuse(problems, "this is passed on as JSON, which has no dates: put it into quotes")
        }
        NodeValue::Array(elements) => {
            let values: Vec<_> = elements.iter().map(|element| json(element, problems)).collect();
            values.into_iter().collect::<Option<_>>().map(Value::Array)
        }
        NodeValue::Table(entries) => {
            let mut object = Map::new();
            for Entry { key, key_at, node } in entries {
                if key.contains('\0') {
                    problems.add(*key_at, || has_nul.to_owned());
                }
                object.insert(key.clone(), json(node, problems)?);
            }
            Some(Value::Object(object))
        }
    }
}

/// What a process can be given.
fn check_string(at: usize, text: &str, what: &str, problems: &mut Problems) {
    if text.contains('\0') {
        problems.add(at, || format!("{what} cannot have the character NUL in it"));
    }
    if text.len() > MOST_STRING_BYTES {
        problems
            .add(at, || format!("{what} has {} bytes; at most {MOST_STRING_BYTES} are allowed", text.len()));
    }
}
