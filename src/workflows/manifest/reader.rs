//! Reads a table by its grammar: finds what it may not hold, what it lacks, and gives the fields one by one as what they
//! mean. A value that is wrong is told and given as if the field were not there.

use std::ops::Deref;
use std::time::Duration;

use super::grammar::{Field, Kind, Literal, Presence, Table};
use super::node::{Entry, Node, NodeValue};
use super::problems::Problems;
use super::unknown::{missing, unknown_field};
use super::values;
use crate::suggestion::did_you_mean;
use crate::terminal::start_of;

/// A table of the text with its grammar.
pub struct Reader<'a> {
    grammar: &'static Table,
    /// Where the table begins.
    pub at: usize,
    values: Vec<Given<'a>>,
}

/// A field that is there.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    pub field: &'static Field,
    pub key_at: usize,
    pub node: &'a Node,
    /// It goes by a name of another program, which is told already.
    pub is_foreign: bool,
}

impl Deref for Given<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.node
    }
}

impl<'a> Reader<'a> {
    pub fn new(
        grammar: &'static Table,
        at: usize,
        entries: &'a [Entry],
        problems: &mut Problems,
    ) -> Reader<'a> {
        let mut reader = Reader { grammar, at, values: Vec::new() };
        for Entry { key, key_at, node } in entries {
            if let Some(field) = grammar.field(key) {
                reader.values.push(Given { field, key_at: *key_at, node, is_foreign: false });
            }
        }
        for Entry { key, key_at, node } in entries.iter().filter(|entry| grammar.field(&entry.key).is_none())
        {
            let meant = unknown_field(grammar, key, *key_at, problems);
            if let Some(field) = meant.filter(|field| reader.given(field.name).is_none()) {
                reader.values.push(Given { field, key_at: *key_at, node, is_foreign: true });
            }
        }
        for field in grammar.fields {
            if matches!(field.presence, Presence::Required) && reader.given(field.name).is_none() {
                problems.add(at, || missing(grammar, field));
            }
        }
        reader
    }

    /// A table that is not there, whose fields are all as they are without it.
    pub fn of_defaults(grammar: &'static Table) -> Reader<'a> {
        Reader { grammar, at: 0, values: Vec::new() }
    }

    pub fn given(&self, name: &str) -> Option<Given<'a>> {
        self.values.iter().find(|given| given.field.name == name).copied()
    }

    /// Where a field stands, or else the table.
    pub fn place(&self, name: &str) -> usize {
        self.given(name).map_or(self.at, |given| given.at())
    }

    pub fn text(&self, name: &str, problems: &mut Problems) -> Option<&'a str> {
        let given = self.given(name)?;
        let text = given.node.as_text();
        if text.is_none() {
            wrong_type(&given, problems);
        }
        text
    }

    /// A string that `parse` takes; what it says otherwise is told behind the field's name.
    pub fn parsed<T, E: std::fmt::Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
        problems: &mut Problems,
    ) -> Option<T> {
        let text = self.text(name, problems)?;
        let refused = |error| problems.add(self.place(name), || format!("`{name}`: {error}"));
        parse(text).map_err(refused).ok()
    }

    pub fn boolean(&self, name: &str, problems: &mut Problems) -> bool {
        let default = self.default(name);
        match self.given(name).map(|given| (given, &given.node.value)) {
            Some((_, NodeValue::Boolean(boolean))) => return *boolean,
            Some((given, _)) => wrong_type(&given, problems),
            None => {}
        }
        matches!(default, Some(Literal::Boolean(true)))
    }

    pub fn integer(&self, name: &str, problems: &mut Problems) -> Option<u32> {
        let given = self.given(name)?;
        let Kind::Integer { least, most } = given.field.kind else { return None };
        let NodeValue::Integer(number) = given.node.value else {
            wrong_type(&given, problems);
            return None;
        };
        if !(least..=most).contains(&number) {
            let expected = given.field.kind.expected();
            problems.add(given.at(), || format!("`{name}` is {number}; expected {expected}"));
        }
        u32::try_from(number).ok()
    }

    pub fn duration(&self, name: &str, problems: &mut Problems) -> Duration {
        let Some(field) = self.grammar.field(name) else { return Duration::ZERO };
        let Kind::Duration { least, most } = field.kind else { return Duration::ZERO };
        match self.text(name, problems) {
            Some(text) => {
                let duration = values::duration(text, least, most);
                let refused = |hint: String| {
                    problems.add(self.place(name), || {
                        format!(
                            "`{name}` is \"{}\"; expected {}{hint}",
                            start_of(text),
                            field.kind.expected()
                        )
                    });
                };
                duration.map_err(refused).unwrap_or_default()
            }
            None => match field.presence {
                Presence::Default(Literal::Text(text)) => values::parse_duration(text).unwrap_or_default(),
                _ => Duration::ZERO,
            },
        }
    }

    pub fn bytes(&self, name: &str, problems: &mut Problems) -> Option<u64> {
        let field = self.grammar.field(name)?;
        let Kind::Bytes { least, most } = field.kind else { return None };
        let text = self.text(name, problems)?;
        let bytes = values::bytes(text, least, most);
        if let Err(hint) = &bytes {
            problems.add(self.place(name), || {
                format!("`{name}` is \"{}\"; expected {}{hint}", start_of(text), field.kind.expected())
            });
        }
        bytes.ok()
    }

    /// Which of the field's words it is, counted from 0.
    pub fn one_of(&self, name: &str, problems: &mut Problems) -> usize {
        let Some(field) = self.grammar.field(name) else { return 0 };
        let Kind::OneOf(words) = field.kind else { return 0 };
        let place = |word: &str| words.iter().position(|known| *known == word);
        let Some(text) = self.text(name, problems) else {
            return match field.presence {
                Presence::Default(Literal::Text(word)) => place(word).unwrap_or_default(),
                _ => 0,
            };
        };
        let found = place(text);
        if found.is_none() {
            let near = did_you_mean(text, words.iter().copied());
            let expected = field.kind.expected();
            problems.add(self.place(name), || {
                format!("`{name}` is \"{}\"{near}; expected {expected}", start_of(text))
            });
        }
        found.unwrap_or_default()
    }

    /// A table that is a field's value.
    pub fn table(&self, name: &str, problems: &mut Problems) -> Option<Reader<'a>> {
        let given = self.given(name)?;
        let Kind::Table(grammar) = given.field.kind else { return None };
        match &given.node.value {
            NodeValue::Table(entries) => {
                Some(Reader::new(grammar, begin_of(given.key_at, given.node), entries, problems))
            }
            NodeValue::Array(elements) if grammar.header.starts_with('[') => {
                problems.add(given.key_at, || {
                    format!("`{name}` is an array; there is one, written as {}", grammar.header)
                });
                let first = elements.first()?;
                Some(Reader::new(grammar, first.at(), first.as_table()?, problems))
            }
            _ => {
                wrong_type(&given, problems);
                None
            }
        }
    }

    /// The tables of an array of them. A single table, which has one bracket where two belong, is told and read.
    pub fn tables(&self, name: &str, problems: &mut Problems) -> Vec<Reader<'a>> {
        let Some(given) = self.given(name) else { return Vec::new() };
        let Kind::Tables { table: grammar, least, most } = given.field.kind else { return Vec::new() };
        let header = grammar.header;
        match &given.node.value {
            NodeValue::Array(elements) => {
                let count = elements.len();
                if !(least..=most).contains(&count) {
                    problems.add(begin_of(given.key_at, given.node), || {
                        format!("there are {count} {name}; expected {least} to {most}")
                    });
                }
                let of_element = |element: &'a Node| match element.as_table() {
                    Some(entries) => Some(Reader::new(grammar, element.at(), entries, problems)),
                    None => {
                        let kind = element.kind();
                        problems.add(element.at(), || {
                            format!("an element of `{name}` is {kind}; expected a table, written as {header}")
                        });
                        None
                    }
                };
                elements.iter().take(most).filter_map(of_element).collect()
            }
            NodeValue::Table(entries) => {
                single_table(&given, grammar, entries, problems).into_iter().collect()
            }
            _ if given.is_foreign => Vec::new(),
            _ => {
                wrong_type(&given, problems);
                Vec::new()
            }
        }
    }

    fn default(&self, name: &str) -> Option<Literal> {
        match self.grammar.field(name)?.presence {
            Presence::Default(literal) => Some(literal),
            _ => None,
        }
    }
}

/// Where a table begins: at its header, or at its key where it has none.
fn begin_of(key_at: usize, node: &Node) -> usize {
    node.at().min(key_at)
}

/// `[tasks]`, or `[tasks.extract]` with the id as a key.
fn single_table<'a>(
    given: &Given<'a>,
    grammar: &'static Table,
    entries: &'a [Entry],
    problems: &mut Problems,
) -> Option<Reader<'a>> {
    let (name, header) = (given.field.name, grammar.header);
    let is_map = !entries.is_empty()
        && entries.iter().all(|entry| grammar.field(&entry.key).is_none() && entry.node.as_table().is_some());
    if is_map {
        for Entry { key, key_at, node } in entries {
            problems.add(begin_of(*key_at, node), || {
                let field = grammar.fields[0].name;
                format!("each of the {name} is written as {header}, with {field} = \"{}\"", start_of(key))
            });
        }
        return None;
    }
    let at = begin_of(given.key_at, given.node);
    if !given.is_foreign {
        problems.add(at, || format!("`{name}` is a single table; write {header}, with two brackets"));
    }
    Some(Reader::new(grammar, at, entries, problems))
}

/// Tells that a value is of another type than its field's, and how it would be written.
pub fn wrong_type(given: &Given, problems: &mut Problems) {
    let text = problems.text();
    problems.add(given.at(), || {
        let hint = values::rewritten(given, text).map_or(String::new(), |right| format!(": write {right}"));
        let there = values::told(given.node, text);
        format!("`{}` is {there}; expected {}{hint}", given.field.name, given.field.kind.expected())
    });
}
