//! Fields that a table does not have, by what was probably meant, and those that it lacks.

use super::grammar::{Field, HEADED, Kind, MANIFEST, Table};
use super::problems::Problems;
use crate::suggestion::did_you_mean;
use crate::terminal::start_of;

/// Tells of a field that the table does not have. The field that is meant, where its value can be read as that one's.
pub fn unknown_field(
    grammar: &'static Table,
    key: &str,
    key_at: usize,
    problems: &mut Problems,
) -> Option<&'static Field> {
    if problems.is_full() {
        problems.add(key_at, String::new);
        return None;
    }
    let of = match grammar.header {
        header if std::ptr::eq(grammar, &MANIFEST) => format!("at the top of {header}"),
        header => format!("in {header}"),
    };
    let plain = |name: &str| name.to_lowercase().replace(['-', '_'], "");
    let word = plain(key);
    let pair = |pairs: &[(&'static str, &'static str)]| {
        pairs.iter().find(|(foreign, _)| *foreign == word).map(|(_, known)| *known)
    };
    let unknown = || format!("unknown field `{}` {of}", start_of(key));
    if let Some(instead) = pair(grammar.absent) {
        problems.add(key_at, || format!("{}: {instead}", unknown()));
        return None;
    }
    let same = grammar.fields.iter().find(|field| plain(field.name) == word);
    if let Some(field) = same.or_else(|| grammar.field(pair(grammar.foreign)?)) {
        problems.add(key_at, || format!("{}: write {}", unknown(), how_to_write(field)));
        return Some(field);
    }
    let owners: Vec<_> =
        HEADED.iter().filter(|table| table.field(key).is_some()).map(|table| table.header).collect();
    if !owners.is_empty() {
        problems.add(key_at, || {
            format!(
                "{}: it is a field of {}, and belongs below that header",
                unknown(),
                owners.join(" and of ")
            )
        });
        return None;
    }
    let near = did_you_mean(key, grammar.fields.iter().map(|field| field.name));
    let field = grammar.fields.iter().find(|field| near.contains(&format!("`{}`", field.name)));
    problems.add(key_at, || match near.as_str() {
        "" => {
            let known: Vec<_> = grammar.fields.iter().map(|field| field.name).collect();
            format!("{}; the fields there are {}", unknown(), known.join(", "))
        }
        near => format!("{}{near}", unknown()),
    });
    field
}

fn how_to_write(field: &Field) -> String {
    match &field.kind {
        Kind::Tables { table, .. } => table.header.to_owned(),
        Kind::Table(table) if table.header.starts_with('[') => table.header.to_owned(),
        _ => format!("`{}`", field.name),
    }
}

/// What is told of a required field that is not there.
pub fn missing(grammar: &Table, field: &Field) -> String {
    match &field.kind {
        Kind::Tables { table, .. } => format!("there is no {}; a workflow has one at least", table.header),
        Kind::Table(table) => format!("there is no {} with `name` and `version`", table.header),
        kind => format!("{} has no `{}`; expected {}", grammar.header, field.name, kind.expected()),
    }
}
