//! `cloacinactl keys list`: every key, as a table for people or as JSON for scripts.

use time::OffsetDateTime;

use super::super::expiry;
use super::super::listing;
use super::super::store::{self, Listed};
use crate::auth::store::KeyRow;
use crate::cli;
use crate::cli::table::{Fit, json_array, table, terminal_width, timestamp};
use crate::command_error::{CommandError, runtime};
use crate::database_command::{failed, find_tenant, has_answered, until};
use crate::store::Store;
use crate::terminal::shown;

/// Rows that are fetched at once.
const PAGE: usize = 1000;

/// Of every owner, or of one tenant.
pub fn run(store: &Store, tenant: Option<&str>, json: bool, active: bool) -> Result<(), CommandError> {
    let listed = tenant.map_or(Ok(Listed::All), |name| find_tenant(store, name).map(Listed::Of))?;
    let now = store.now(until()).map_err(failed)?;
    let mut rows = all(store, &listed)?;
    rows.retain(|row| !active || state(row, now) == "valid");
    has_answered();
    if json {
        return cli::print(&array(&rows)?);
    }
    let width = terminal_width();
    let cells = rows.iter().map(|row| cells(row, now, width.is_some()));
    cli::print(&table([HEAD.map(str::to_owned)].into_iter().chain(cells).collect(), &FIT, width))
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

/// The objects of the listing over HTTP.
fn array(rows: &[KeyRow]) -> Result<String, CommandError> {
    let object = |row: &KeyRow| {
        let mut object = Vec::new();
        listing::write(row, &mut object).map(|()| object)
    };
    let objects = rows.iter().map(object).collect::<Result<Vec<_>, _>>();
    Ok(json_array(objects.map_err(runtime("cannot write JSON"))?.into_iter()))
}

const HEAD: [&str; 9] =
    ["STATE", "ID", "NAME", "PERMISSIONS", "TENANT", "EXPIRES", "LAST USED", "CREATED", "PREFIX"];
/// Names are cut.
const FIT: Fit = Fit { cut: 2, optional: 3 };

fn cells(row: &KeyRow, now: OffsetDateTime, is_short: bool) -> [String; HEAD.len()] {
    let written = |at: OffsetDateTime| timestamp(expiry::format_rfc3339(at), is_short);
    let or_never = |at: Option<OffsetDateTime>| at.map_or("never".to_owned(), written);
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
