//! `cloacinactl keys list`: every key, as a table for people or as JSON for scripts.

use std::fmt::Write as _;

use time::OffsetDateTime;

use super::super::expiry;
use super::super::listing;
use super::{failed, is_obeyed, shown, until};
use crate::cli;
use crate::failure::Failure;
use crate::store::Store;
use crate::store::keys::{KeyRow, Position};

/// Rows that are fetched at once.
const PAGE: i64 = 1000;
/// Characters of a name that a table has room for.
const NAME_CHARACTERS: usize = 40;

pub fn run(store: &Store, json: bool) -> Result<(), Failure> {
    let rows = all(store)?;
    cli::print(&if json { array(&rows)? } else { table(&rows, OffsetDateTime::now_utc()) })
}

/// Newest first.
fn all(store: &Store) -> Result<Vec<KeyRow>, Failure> {
    let mut rows: Vec<KeyRow> = Vec::new();
    loop {
        let after = rows.last().map(|row| Position { created_at: row.created_at, id: row.id });
        let page = store.list(after, true, PAGE, until()).map_err(failed)?;
        let is_last = (page.len() as i64) < PAGE;
        for row in page.iter() {
            rows.push(row.map_err(failed)?);
        }
        if is_last {
            return Ok(rows);
        }
    }
}

/// The objects of the listing over HTTP, one on a line.
fn array(rows: &[KeyRow]) -> Result<String, Failure> {
    let mut text = String::from("[");
    for (index, row) in rows.iter().enumerate() {
        let mut object = Vec::new();
        listing::write(row, &mut object)
            .map_err(|error| Failure::Runtime(format!("cannot write JSON: {error}")))?;
        text += if index == 0 { "\n" } else { ",\n" };
        // JSON lets some of them stand as they are. All of them are below U+10000, so they have a short escape.
        for character in String::from_utf8_lossy(&object).chars() {
            match is_obeyed(character) {
                true => _ = write!(text, "\\u{:04x}", u32::from(character)),
                false => text.push(character),
            }
        }
    }
    Ok(text + "\n]\n")
}

fn table(rows: &[KeyRow], now: OffsetDateTime) -> String {
    const HEAD: [&str; 8] =
        ["ID", "NAME", "PREFIX", "PERMISSIONS", "CREATED", "EXPIRES", "LAST USED", "STATE"];
    let lines: Vec<[String; 8]> =
        std::iter::once(HEAD.map(str::to_owned)).chain(rows.iter().map(|row| cells(row, now))).collect();
    let mut widths = [0; 8];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = usize::max(*width, cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn cells(row: &KeyRow, now: OffsetDateTime) -> [String; 8] {
    let or_never = |moment: Option<OffsetDateTime>| moment.map_or("never".to_owned(), expiry::written);
    [
        row.id.to_string(),
        shortened(&shown(&row.name)),
        row.prefix.as_deref().map_or("-".to_owned(), shown),
        shown(&row.permissions),
        expiry::written(row.created_at),
        or_never(row.expires_at),
        or_never(row.last_used_at),
        state(row, now).to_owned(),
    ]
}

fn state(row: &KeyRow, now: OffsetDateTime) -> &'static str {
    match row.expires_at {
        _ if row.revoked_at.is_some() => "revoked",
        Some(end) if end <= now => "expired",
        _ => "valid",
    }
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARACTERS) {
        Some(_) => name.chars().take(NAME_CHARACTERS - 1).chain(['\u{2026}']).collect(),
        None => name.to_owned(),
    }
}
