//! The endpoint with which a tenant reads what a task has printed.

use std::time::Instant;

use uuid::Uuid;

use super::handlers::{id, not_found, number, wait};
use super::store::log::{self as store, NotFound};
use super::waiting::once_over;
use crate::app::{App, Call};
use crate::auth::Tenant;
use crate::error::Error;
use crate::http::response::Response;
use crate::terminal::start_of;
use crate::waiting_clients::{LogPart, Wanted};

const MOST_LINES: usize = 100_000;

/// `GET /tenants/{tenant}/executions/{id}/tasks/{task}/log`.
pub fn log(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let (wait, query) = (wait(call)?, call.request.query);
    let attempt = number(query, "attempt", "the number of an attempt, from 1", 1..=i32::MAX)?;
    let after = number(query, "after", "a number of bytes", 0..=i64::MAX)?;
    let tail = number(query, "tail", "a whole number of lines from 1 to 100000", 1..=MOST_LINES)?;
    let part = match (after, tail) {
        (Some(_), Some(_)) => {
            return Err(Error::Malformed(
                "tail: does not go with after, which says where to begin".to_owned(),
            ));
        }
        (after, None) => LogPart::After(after.unwrap_or(0)),
        (None, Some(lines)) => LogPart::Tail(lines),
    };
    let execution = id(call)?;
    let task = call.parameters.get("task");
    let place = store::find(&app.store, tenant, execution, task, attempt, call.request.deadline)?;
    let place = place.map_err(|missing| log_not_found(missing, execution, task, attempt))?;
    let from = if let LogPart::After(after) = part { after } else { 0 };
    let has_more = place.attempt.as_ref().is_some_and(|attempt| attempt.printed > from);
    match wait.filter(|_| !has_more && !place.has_ended) {
        Some(wait) => {
            let (task, number) = (task.to_owned(), place.task);
            let wanted = Wanted::Log { execution, task, number, attempt, part };
            once_over(app, call, tenant, wanted, wait, None)
        }
        None => log_answer(app, &place, part, call.request.deadline),
    }
}

/// What there is of a log.
pub(super) fn log_answer(
    app: &App,
    place: &store::Place,
    part: LogPart,
    until: Instant,
) -> Result<Response, Error> {
    let text = match (&place.attempt, part) {
        (Some(attempt), part) => store::text(&app.store, attempt, part, until)?,
        (None, _) => store::Text::default(),
    };
    let response = Response::bytes(200, "text/plain; charset=utf-8", text.bytes)
        .header("X-Content-Type-Options", "nosniff")
        .header("X-Log-Next", text.next.to_string());
    Ok(match &place.attempt {
        Some(attempt) => response.header("X-Log-Attempt", attempt.number.to_string()),
        None => response,
    })
}

pub(super) fn log_not_found(missing: NotFound, execution: Uuid, task: &str, attempt: Option<i32>) -> Error {
    let task = start_of(task);
    Error::NotFound(match missing {
        NotFound::Execution => return not_found(execution),
        NotFound::Task => format!("task '{task}' not found").into(),
        NotFound::Attempt => format!("attempt {} of task '{task}' not found", attempt.unwrap_or(0)).into(),
    })
}
