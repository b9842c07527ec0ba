//! `cloacinactl keys list`: every key, as a table for people or as JSON for scripts.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};

use time::OffsetDateTime;

use super::super::expiry;
use super::super::listing;
use super::super::store::{self, Listed};
use crate::auth::store::KeyRow;
use crate::cli;
use crate::command_error::{CommandError, runtime};
use crate::database_command::{failed, find_tenant, has_answered, until};
use crate::store::Store;
use crate::terminal::{is_obeyed, shown};

/// Rows that are fetched at once.
const PAGE: usize = 1000;
/// Names are not cut to fewer characters than these, however narrow the terminal is.
const LEAST_NAME_CHARACTERS: usize = 12;

/// Of every owner, or of one tenant.
pub fn run(store: &Store, tenant: Option<&str>, json: bool, active: bool) -> Result<(), CommandError> {
    let listed = tenant.map_or(Ok(Listed::All), |name| find_tenant(store, name).map(Listed::Of))?;
    let now = store.now(until()).map_err(failed)?;
    let mut rows = all(store, &listed)?;
    rows.retain(|row| !active || state(row, now) == "valid");
    has_answered();
    cli::print(&if json { array(&rows)? } else { table(&rows, now, terminal_width()) })
}

/// Columns of the terminal that stdout is; `None` where it is none. COLUMNS counts more than what the terminal says.
fn terminal_width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let variable = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let asked = || rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
    variable.or_else(asked).filter(|columns| *columns > 0)
}

/// Newest first.
fn all(store: &Store, listed: &Listed) -> Result<Vec<KeyRow>, CommandError> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = store::list(store, listed, after, true, PAGE, until()).map_err(failed)?;
        for row in page.iter() {
            rows.push(row.map_err(failed)?);
        }
        after = page.next;
        if after.is_none() {
            return Ok(rows);
        }
    }
}

/// The objects of the listing over HTTP, one on a line.
fn array(rows: &[KeyRow]) -> Result<String, CommandError> {
    let mut text = String::from("[");
    for (index, row) in rows.iter().enumerate() {
        let mut object = Vec::new();
        listing::write(row, &mut object).map_err(runtime("cannot write JSON"))?;
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

const HEAD: [&str; 9] =
    ["STATE", "ID", "NAME", "PERMISSIONS", "TENANT", "EXPIRES", "LAST USED", "CREATED", "PREFIX"];
const NAME: usize = 2;
/// The columns from here on may be left out.
const OPTIONAL: usize = 3;

/// In `width` columns, as far as that goes; whole where it is `None`.
fn table(rows: &[KeyRow], now: OffsetDateTime, width: Option<usize>) -> String {
    let mut lines: Vec<[String; HEAD.len()]> = std::iter::once(HEAD.map(str::to_owned))
        .chain(rows.iter().map(|row| cells(row, now, width.is_some())))
        .collect();
    let mut widths = [0; HEAD.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = usize::max(*width, cell.chars().count());
        }
    }
    let mut count = HEAD.len();
    if let Some(width) = width {
        let (columns, name_width) = fitted(&widths, width);
        count = columns;
        widths[NAME] = name_width;
        lines.iter_mut().for_each(|line| shorten(&mut line[NAME], name_width));
    }
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(widths).take(count).map(|(cell, width)| format!("{cell:width$}"));
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// How many columns there is room for, and how many characters of a name.
fn fitted(widths: &[usize; HEAD.len()], width: usize) -> (usize, usize) {
    let name = widths[NAME];
    let least = name.min(LEAST_NAME_CHARACTERS);
    let others = |count: usize| widths[..count].iter().sum::<usize>() - name + 2 * (count - 1);
    let count = (OPTIONAL..=widths.len()).rev().find(|count| others(*count) + least <= width);
    let count = count.unwrap_or(OPTIONAL);
    (count, name.min(width.saturating_sub(others(count))).max(least))
}

/// Days stand for instants where there is little room.
fn cells(row: &KeyRow, now: OffsetDateTime, short: bool) -> [String; HEAD.len()] {
    let written = |timestamp: OffsetDateTime| match short {
        true => expiry::format_rfc3339(timestamp).chars().take("2026-11-24".len()).collect(),
        false => expiry::format_rfc3339(timestamp),
    };
    let or_never = |timestamp: Option<OffsetDateTime>| timestamp.map_or("never".to_owned(), written);
    [
        state(row, now).to_owned(),
        row.id.to_string(),
        shown(&row.name),
        shown(&row.permissions),
        tenant(row),
        or_never(row.expires_at),
        or_never(row.last_used_at),
        written(row.created_at),
        row.prefix.as_deref().map_or("-".to_owned(), shown),
    ]
}

fn tenant(row: &KeyRow) -> String {
    match &row.tenant_name {
        Some(name) => name.clone(),
        // No tenant can be called so.
        None if row.is_shut_out || row.tenant.is_some() => "(none here)".to_owned(),
        None => "-".to_owned(),
    }
}

fn state(row: &KeyRow, now: OffsetDateTime) -> &'static str {
    match row.expires_at {
        _ if row.revoked_at.is_some() => "revoked",
        Some(end) if end <= now => "expired",
        _ => "valid",
    }
}

fn shorten(name: &mut String, characters: usize) {
    if name.chars().count() > characters {
        *name = name.chars().take(characters - 1).chain(['\u{2026}']).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_go_from_the_right_and_names_are_cut() {
        let widths = [7, 36, 30, 11, 6, 10, 10, 10, 12];
        for (width, columns, name) in [
            (0, 3, 12),
            (59, 3, 12),
            (71, 3, 24),
            (72, 4, 12),
            (79, 4, 19),
            (80, 5, 12),
            (92, 6, 12),
            (128, 8, 24),
            (130, 9, 12),
            (148, 9, 30),
            (500, 9, 30),
        ] {
            assert_eq!(fitted(&widths, width), (columns, name), "{width}");
        }
        assert_eq!(fitted(&[7, 36, 4, 11, 6, 10, 10, 10, 12], 72), (5, 4), "no wider than its names are");
    }
}
