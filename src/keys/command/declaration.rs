//! The file of `cloacinactl keys apply`: which keys there shall be. Every mistake in it has a line and a column.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use time::OffsetDateTime;
use toml_edit::{Document, Item, TableLike, Value};

use super::super::expiry;
use super::super::request_body::check_name;
use crate::auth::Permission;
use crate::auth::api_key::KeyHash;
use crate::config::position;
use crate::terminal::shown;

const FIELDS: [&str; 4] = ["name", "sha256", "permissions", "expires_at"];

/// A key that the file wants.
#[derive(Debug)]
pub struct Wanted {
    pub name: String,
    pub hash: KeyHash,
    pub permission: Permission,
    pub expires_at: Option<OffsetDateTime>,
    /// Where it begins, from 1.
    pub line: usize,
}

/// Where it stands and what it is called, for messages.
impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: `{}`", self.line, shown(&self.name))
    }
}

/// What is wrong, and at which byte. Values are not repeated, but for names: one of them may be a key by mistake.
struct Wrong {
    at: usize,
    what: String,
}

/// Reads a whole file.
///
/// # Errors
/// `line L, column C: what is wrong`.
pub fn read(bytes: &[u8]) -> Result<Vec<Wanted>, String> {
    let text = String::from_utf8_lossy(bytes);
    let wrong = |at: usize, what: &str| {
        let (line, column) = position(&text, at);
        format!("line {line}, column {column}: {what}")
    };
    std::str::from_utf8(bytes).map_err(|error| wrong(error.valid_up_to(), "not UTF-8"))?;
    keys(&text).map_err(|Wrong { at, what }| wrong(at, &what))
}

fn keys(text: &str) -> Result<Vec<Wanted>, Wrong> {
    // The error's own display would repeat the line.
    let document = Document::parse(text).map_err(|error| Wrong {
        at: error.span().map_or(text.len(), |span| span.start),
        what: error.message().to_owned(),
    })?;
    let root = document.as_table();
    if let Some((name, item)) = root.iter().find(|(name, _)| *name != "key") {
        let what = format!("unknown `{}`; a file has only `[[key]]`", shown(name));
        return Err(Wrong { at: place(root, name, item), what });
    }
    let Some(item) = root.get("key") else {
        // It may just as well be what is left of a file that was cut off, and would revoke every declared key.
        return Err(Wrong {
            at: text.len(),
            what: "no `[[key]]`; an empty list is written `key = []`".to_owned(),
        });
    };
    let mut first_lines = BTreeMap::new();
    let mut wanted = Vec::new();
    for (at, table) in tables(item)? {
        let key = entry(table, at, position(text, at).0)?;
        if let Some(line) = first_lines.insert(key.hash.as_str().to_owned(), key.line) {
            let what =
                format!("`{}`: the sha256 is that of the key in line {line} once more", shown(&key.name));
            let at = table.get("sha256").and_then(Item::span).map_or(at, |span| span.start);
            return Err(Wrong { at, what });
        }
        wanted.push(key);
    }
    Ok(wanted)
}

/// `[[key]]`, or the same as an array of inline tables.
fn tables(item: &Item) -> Result<Vec<(usize, &dyn TableLike)>, Wrong> {
    let start = |span: Option<Range<usize>>| span.map_or(0, |span| span.start);
    let no_table =
        |at: usize| Wrong { at, what: "each key is a table that begins with `[[key]]`".to_owned() };
    match item {
        Item::ArrayOfTables(tables) => {
            Ok(tables.iter().map(|table| (start(table.span()), table as &dyn TableLike)).collect())
        }
        Item::Value(Value::Array(array)) => array
            .iter()
            .map(|value| match value {
                Value::InlineTable(table) => Ok((start(table.span()), table as &dyn TableLike)),
                other => Err(no_table(start(other.span()))),
            })
            .collect(),
        other => Err(no_table(start(other.span()))),
    }
}

fn entry(table: &dyn TableLike, at: usize, line: usize) -> Result<Wanted, Wrong> {
    if let Some((name, item)) = table.iter().find(|(name, _)| !FIELDS.contains(name)) {
        let what = format!("unknown field `{}`; known are {}", shown(name), FIELDS.join(", "));
        return Err(Wrong { at: place(table, name, item), what });
    }
    let name = text(table, at, "name")?;
    check_name(name).map_err(|line| wrong(table, at, "name", &line))?;
    let hash = text(table, at, "sha256")?;
    let hash = KeyHash::from_hex(hash).ok_or_else(|| {
        wrong(table, at, "sha256", "expected 64 hex digits, as `printf %s \"$KEY\" | sha256sum` prints them")
    })?;
    if hash == KeyHash::of("") {
        return Err(wrong(table, at, "sha256", "it is the SHA-256 of nothing at all, not of a key"));
    }
    // Not admin by default: what one reads in the file is what one gets.
    let permission = Permission::parse(text(table, at, "permissions")?)
        .ok_or_else(|| wrong(table, at, "permissions", &format!("expected {}", Permission::NAMES)))?;
    Ok(Wanted { name: name.to_owned(), hash, permission, expires_at: end(table, at)?, line })
}

fn text<'a>(table: &'a dyn TableLike, at: usize, field: &str) -> Result<&'a str, Wrong> {
    match table.get(field) {
        None => Err(wrong(table, at, field, "missing")),
        Some(item) => item.as_str().ok_or_else(|| {
            wrong(table, at, field, &format!("expected a string, and this is of type {}", item.type_name()))
        }),
    }
}

/// RFC 3339, as a string or as TOML's own. It may lie in the past: a file outlives its keys.
fn end(table: &dyn TableLike, at: usize) -> Result<Option<OffsetDateTime>, Wrong> {
    let text = match table.get("expires_at") {
        None => return Ok(None),
        Some(item) => match (item.as_str(), item.as_datetime()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(timestamp)) => timestamp.to_string(),
            (None, None) => String::new(),
        },
    };
    expiry::parse_rfc3339(&text).map(Some).map_err(|line| wrong(table, at, "expires_at", line))
}

/// Points at the field, or where it is missing at the key.
fn wrong(table: &dyn TableLike, at: usize, field: &str, line: &str) -> Wrong {
    let at = table.get(field).and_then(Item::span).map_or(at, |span| span.start);
    let name = table.get("name").and_then(Item::as_str).filter(|name| check_name(name).is_ok());
    let name = name.map_or(String::new(), |name| format!("`{}`: ", shown(name)));
    Wrong { at, what: format!("{name}{field}: {line}") }
}

fn place(table: &dyn TableLike, name: &str, item: &Item) -> usize {
    let span = table.key(name).and_then(|key| key.span()).or_else(|| item.span());
    span.map_or(0, |span| span.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn what_a_file_may_say() {
        let text = format!(
            "# ours\n[[key]]\nname = 'a'\nsha256 = '{}'\npermissions = 'read'\n\n\
             [[key]]\nname = \"a b\"\nsha256 = '{}'\npermissions = 'admin'\nexpires_at = 2027-01-31 12:00:00.5Z\n",
            ONE.to_uppercase(),
            "b".repeat(64)
        );
        let wanted = read(text.as_bytes()).unwrap();
        let said: Vec<_> = wanted
            .iter()
            .map(|key| (&*key.name, key.permission, key.expires_at.map(expiry::format_rfc3339), key.line))
            .collect();
        assert_eq!(
            said,
            [
                ("a", Permission::Read, None, 2),
                ("a b", Permission::Admin, Some("2027-01-31T12:00:00+00:00".to_owned()), 7)
            ]
        );
        assert_eq!(wanted[0].hash.as_str(), ONE);
        assert!(read(b"key = []").unwrap().is_empty());
        let inline = format!("key = [{{ name = 'a', sha256 = '{ONE}', permissions = 'write' }}]");
        assert_eq!(read(inline.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn mistakes_have_a_place_and_repeat_no_value() {
        let good = format!("name = 'a'\nsha256 = '{ONE}'\npermissions = 'read'\n");
        let of_nothing = KeyHash::of("");
        for (text, message) in [
            (String::new(), "line 1, column 1: no `[[key]]`; an empty list is written `key = []`"),
            ("# nothing\n".to_owned(), "line 2, column 1: no `[[key]]`"),
            ("[[key]\n".to_owned(), "line 1, column "),
            (format!("[[key]]\n{good}name = 'b'\n"), "line 5, column 1: "),
            (
                "[key]\nname = 'a'".to_owned(),
                "line 1, column 1: each key is a table that begins with `[[key]]`",
            ),
            ("key = ['topsecret']".to_owned(), "line 1, column 8: each key is a table"),
            (format!("[[keys]]\n{good}"), "line 1, column 3: unknown `keys`; a file has only `[[key]]`"),
            (
                format!("[[key]]\n{good}key = 'topsecret'"),
                "line 5, column 1: unknown field `key`; known are name, sha256, permissions, expires_at",
            ),
            ("[[key]]\n".to_owned(), "line 1, column 1: name: missing"),
            (
                "[[key]]\nname = 7".to_owned(),
                "line 2, column 8: name: expected a string, and this is of type integer",
            ),
            ("[[key]]\nname = ''".to_owned(), "line 2, column 8: name: must not be empty"),
            (
                "[[key]]\nname = \"a\\u001b\"".to_owned(),
                "line 2, column 8: name: must not have control characters",
            ),
            ("[[key]]\nname = 'a'".to_owned(), "line 1, column 1: `a`: sha256: missing"),
            (
                "[[key]]\nname = 'a'\nsha256 = 'topsecret'".to_owned(),
                "line 3, column 10: `a`: sha256: expected 64 hex digits",
            ),
            (
                format!("[[key]]\nname = 'a'\nsha256 = '{}'", of_nothing.as_str()),
                "line 3, column 10: `a`: sha256: it is the SHA-256 of nothing",
            ),
            (format!("[[key]]\nname = 'a'\nsha256 = '{ONE}'"), "line 1, column 1: `a`: permissions: missing"),
            (
                good.replace("read", "topsecret").replace("name", "[[key]]\nname"),
                "line 4, column 15: `a`: permissions: expected admin, write or read",
            ),
            (
                format!("[[key]]\n{good}expires_at = 'topsecret'"),
                "line 5, column 14: `a`: expires_at: expected a date and time as in RFC 3339",
            ),
            (
                format!("[[key]]\n{good}expires_at = 2027-01-31"),
                "line 5, column 14: `a`: expires_at: expected",
            ),
            (format!("[[key]]\n{good}expires_at = 90"), "line 5, column 14: `a`: expires_at: expected"),
            (
                format!(
                    "[[key]]\n{good}[[key]]\n{}",
                    good.replace("'a'", "'b'").replace(ONE, &ONE.to_uppercase())
                ),
                "line 7, column 10: `b`: the sha256 is that of the key in line 1 once more",
            ),
        ] {
            let said = read(text.as_bytes()).expect_err(&text);
            assert!(said.starts_with(message) && !said.contains("topsecret"), "{text}\n{said}\n{message}");
            assert!(!said.contains('\n'), "{said}");
        }
        assert_eq!(read(b"# \xff").unwrap_err(), "line 1, column 3: not UTF-8");
    }
}
