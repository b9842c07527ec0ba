//! `cloacinactl hosts …`: straight on the database, for an operator who has that and no key.

use std::process::ExitCode;

use serde::Serialize;

use super::store::{self, HostRow, TABLE};
use super::{Forgotten, RunningAttempt};
use crate::cli::table::{Fit, json_array, shown_json, table, terminal_width, timestamp};
use crate::cli::{self, HostsAction};
use crate::command_error::CommandError::{self, Runtime};
use crate::command_error::runtime;
use crate::config::Settings;
use crate::database_command::{self, Load, failed, has_answered, remark_unconfirmed, until};
use crate::keys::expiry::format_rfc3339;
use crate::store::Store;
use crate::terminal::{shown, start_of};

/// Rows that are fetched at once.
const PAGE: usize = 1000;
/// A host that was seen so shortly ago may well be alive.
const SEEN_JUST_NOW_SECONDS: i64 = 60;

/// Ends what a forgotten host ran, and says how many attempts that were.
pub type EndAttempts = fn(&Store, &[RunningAttempt]) -> Result<usize, CommandError>;

/// Carries out an action. `settings` is asked for only where a database is needed.
///
/// # Errors
/// Those of `database_command::run`.
pub fn run(
    action: HostsAction,
    settings: impl FnOnce() -> Result<Settings, CommandError> + Send + 'static,
    end_attempts: EndAttempts,
) -> Result<ExitCode, CommandError> {
    let may_change = !matches!(action, HostsAction::List { .. });
    database_command::run(settings, may_change, move |settings| {
        carry_out(&action, settings, end_attempts).map(|()| ExitCode::SUCCESS)
    })
}

fn carry_out(action: &HostsAction, settings: Load, end_attempts: EndAttempts) -> Result<(), CommandError> {
    match action {
        HostsAction::List { json } => list(&Store::to_look(&settings()?, &[TABLE])?, *json),
        HostsAction::Forget { name } => {
            forget(&Store::to_change(&settings()?, &[TABLE])?, name, end_attempts)
        }
    }
}

/// A host as JSON has it.
#[derive(Serialize)]
struct Shown<'a> {
    id: String,
    name: &'a str,
    slots: i32,
    running_attempts: i64,
    silent: bool,
    obstacle: Option<&'a str>,
    created_at: String,
    seen_at: String,
}

fn list(store: &Store, is_json: bool) -> Result<(), CommandError> {
    let mut rows: Vec<HostRow> = Vec::new();
    loop {
        let after = rows.last().map_or("", |row| &row.name);
        let page = store::list(store, after, PAGE, until()).map_err(failed)?;
        let is_last = page.len() < PAGE;
        rows.extend(page);
        if is_last {
            break;
        }
    }
    has_answered();
    cli::print(&if is_json { array(&rows)? } else { hosts_table(&rows) })
}

fn array(rows: &[HostRow]) -> Result<String, CommandError> {
    let object = |row: &HostRow| {
        serde_json::to_vec(&Shown {
            id: row.id.to_string(),
            name: &row.name,
            slots: row.slots,
            running_attempts: row.running_attempts,
            silent: row.is_silent,
            obstacle: row.obstacle.as_deref(),
            created_at: format_rfc3339(row.created_at),
            seen_at: format_rfc3339(row.seen_at),
        })
    };
    let objects = rows.iter().map(object).collect::<Result<Vec<_>, _>>();
    Ok(json_array(objects.map_err(runtime("cannot write JSON"))?.into_iter()))
}

fn hosts_table(rows: &[HostRow]) -> String {
    let width = terminal_width();
    let cells = |row: &HostRow| {
        [
            shown(&row.name),
            row.slots.to_string(),
            row.running_attempts.to_string(),
            timestamp(format_rfc3339(row.seen_at), false),
            state(row),
        ]
    };
    let head = ["NAME", "SLOTS", "RUNNING", "SEEN", "STATE"].map(str::to_owned);
    let lines = [head].into_iter().chain(rows.iter().map(cells)).collect();
    table(lines, &Fit { cut: 4, optional: 5 }, width)
}

/// What a person should know of it first.
fn state(row: &HostRow) -> String {
    match (&row.obstacle, row.is_silent) {
        (_, true) => "silent".to_owned(),
        (Some(obstacle), false) => format!("starts no task: {}", shown(obstacle)),
        (None, false) if row.slots == 0 => "without slots".to_owned(),
        (None, false) => "ok".to_owned(),
    }
}

#[derive(Serialize)]
struct Gone<'a> {
    forgotten: &'a str,
    /// Attempts that it ran and that count as abandoned now.
    abandoned_attempts: usize,
}

fn forget(store: &Store, name: &str, end_attempts: EndAttempts) -> Result<(), CommandError> {
    let committed = store::forget(store, name, until()).map_err(failed)?;
    let Some(Forgotten { running, silent_seconds, .. }) = committed.value else {
        return Err(Runtime(format!(
            "host '{}' not found; `cloacinactl hosts list` names all",
            start_of(name)
        )));
    };
    if !committed.is_confirmed {
        remark_unconfirmed();
    }
    let abandoned_attempts = end_attempts(store, &running)?;
    has_answered();
    let gone = serde_json::to_vec(&Gone { forgotten: name, abandoned_attempts });
    cli::print(&(shown_json(&gone.map_err(runtime("cannot write JSON"))?) + "\n"))?;
    if silent_seconds < SEEN_JUST_NOW_SECONDS {
        cli::remark(&format!(
            "cloacinactl: host '{name}' was seen {silent_seconds} seconds ago: if its server runs, it ends what runs there and \
             comes back; until it has, a task that runs again may run twice"
        ));
    }
    Ok(())
}
