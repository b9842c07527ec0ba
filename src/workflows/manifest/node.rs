//! TOML as a tree in which everything has its place in the text, or the first thing in it that is no TOML.

use std::ops::Range;

use toml_edit::{Document, Item, TableLike, Value};

use super::syntax;

/// A value and where it stands.
#[derive(Debug)]
pub struct Node {
    /// Of a table that a header begins it is the header.
    pub span: Range<usize>,
    pub value: NodeValue,
}

#[derive(Debug)]
pub enum NodeValue {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Date,
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Debug)]
pub struct Entry {
    pub key: String,
    /// Where the key begins.
    pub key_at: usize,
    pub node: Node,
}

impl Node {
    /// # Errors
    /// Where the text ends to be TOML, if that is known, and why.
    pub fn parse(text: &str) -> Result<Node, (Option<usize>, String)> {
        let document = Document::parse(text).map_err(|error| syntax::explain(text, &error))?;
        Ok(Node { span: 0..0, value: NodeValue::Table(entries(document.as_table())) })
    }

    pub fn at(&self) -> usize {
        self.span.start
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            NodeValue::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_table(&self) -> Option<&[Entry]> {
        match &self.value {
            NodeValue::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// What it is, for "… is an integer".
    pub fn kind(&self) -> &'static str {
        match self.value {
            NodeValue::Text(_) => "a string",
            NodeValue::Integer(_) => "an integer",
            NodeValue::Float(_) => "a float",
            NodeValue::Boolean(_) => "a boolean",
            NodeValue::Date => "a date or a time",
            NodeValue::Array(_) => "an array",
            NodeValue::Table(_) => "a table",
        }
    }
}

/// In the order of the text.
fn entries(table: &dyn TableLike) -> Vec<Entry> {
    let entry = |(key, item): (&str, &Item)| {
        let key_at = table.key(key).and_then(|key| key.span()).map_or(0, |span| span.start);
        Entry { key: key.to_owned(), key_at, node: of_item(item) }
    };
    let mut entries: Vec<_> = table.iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.key_at);
    entries
}

fn of_item(item: &Item) -> Node {
    let span = item.span().unwrap_or_default();
    let value = match item {
        Item::None => NodeValue::Table(Vec::new()),
        Item::Value(value) => return of_value(value),
        Item::Table(table) => NodeValue::Table(entries(table)),
        Item::ArrayOfTables(tables) => {
            let node = |table: &toml_edit::Table| Node {
                span: table.span().unwrap_or_default(),
                value: NodeValue::Table(entries(table)),
            };
            NodeValue::Array(tables.iter().map(node).collect())
        }
    };
    Node { span, value }
}

fn of_value(value: &Value) -> Node {
    let span = value.span().unwrap_or_default();
    let value = match value {
        Value::String(text) => NodeValue::Text(text.value().clone()),
        Value::Integer(number) => NodeValue::Integer(*number.value()),
        Value::Float(number) => NodeValue::Float(*number.value()),
        Value::Boolean(boolean) => NodeValue::Boolean(*boolean.value()),
        Value::Datetime(_) => NodeValue::Date,
        Value::Array(array) => NodeValue::Array(array.iter().map(of_value).collect()),
        Value::InlineTable(table) => NodeValue::Table(entries(table)),
    };
    Node { span, value }
}
