//! Answers clients that wait for executions: one thread looks after all of them with one statement, whenever something has
//! changed here, and each second for what other servers do.

use std::collections::HashMap;
use std::iter;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::answer;
use super::handlers::{events_answer, not_found};
use super::log_handler::{log_answer, log_not_found};
use super::store::waiting::{Progress, Question, look};
use super::store::{events, log as task_log, show};
use crate::app::{App, Call};
use crate::auth::Tenant;
use crate::error::Error;
use crate::http::download::Download;
use crate::http::parked_response::ParkedResponse;
use crate::http::response::Response;
use crate::waiting_clients::{LogPart, WaitingClient, Wanted};

/// How often the database is asked, at most and at least. However much changes, this thread takes a fifth of a session's time.
const LOOKS_APART: Duration = Duration::from_millis(20);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon a drain is noticed.
const NOTICE_EVERY: Duration = Duration::from_millis(100);
/// What answers may take beyond the time of the database, when many are given at once.
const SLACK: Duration = Duration::from_secs(5);
/// Of a body that several clients are sent.
const PIECE_BYTES: usize = 64 * 1024;

/// The answer that a client gets once what it wants is there or this time is over; at once where as many wait as may, or
/// the server is about to end. `now` is what it could be told now, and is told where nothing better can be said; without it
/// the client is told how it is then.
pub(super) fn once_over(
    app: &App,
    call: &Call<'_>,
    tenant: &Tenant,
    wanted: Wanted,
    wait: Duration,
    now: Option<Response>,
) -> Result<Response, Error> {
    let key = call.principal.id;
    let place = match app.status.is_draining() {
        true => None,
        false => app.execution_changes.clients.reserve(key),
    };
    let Some(place) = place else {
        return match (&wanted, now) {
            (Wanted::Execution { status: 200, .. } | Wanted::Events { .. }, Some(now)) => Ok(now),
            (_, now) => make(app, tenant, &wanted, call.request.deadline).or_else(|error| now.ok_or(error)),
        };
    };
    let until = Instant::now() + wait;
    // A change is made already: only its own answer may stand in for a better one.
    let fallback = now.filter(|now| now.status == 202);
    let (tenant, request_id) = (tenant.clone(), call.request.id.to_owned());
    let changes = Arc::clone(&app.execution_changes);
    let park = move |parked: ParkedResponse| {
        changes.clients.add(WaitingClient {
            key,
            tenant,
            wanted,
            until,
            request_id,
            parked,
            fallback,
            place,
        });
        changes.waiting.wake();
    };
    // Replaced by what comes of it.
    Ok(Response::no_content().parked_until(until + 2 * app.database_timeout + SLACK, park))
}

/// Runs until `stop` is set and it is unparked.
pub fn watch(app: &App, stop: &AtomicBool) {
    app.execution_changes.waiting.wakes_this_thread();
    while !stop.load(Ordering::Acquire) {
        let Some(first_end) = app.execution_changes.clients.map(|client| client.until).into_iter().min()
        else {
            thread::park();
            continue;
        };
        let began = Instant::now();
        answer_those_that_are_over(app);
        thread::sleep((began.elapsed() * 4).clamp(LOOKS_APART, LOOK_EVERY));
        let next_look = first_end.min(Instant::now() + LOOK_EVERY);
        loop {
            let (asked, limit) = (Instant::now(), next_look.saturating_duration_since(Instant::now()));
            thread::park_timeout(limit.min(NOTICE_EVERY));
            let was_woken = asked.elapsed() < limit.min(NOTICE_EVERY);
            if was_woken || limit <= NOTICE_EVERY || app.status.is_draining() || stop.load(Ordering::Acquire)
            {
                break;
            }
        }
    }
}

fn answer_those_that_are_over(app: &App) {
    let clients = &app.execution_changes.clients;
    let questions = clients.map(question);
    let found = look(&app.store, &questions, Instant::now() + app.database_timeout);
    let found = found.inspect_err(|error| log::debug!("cannot look for what clients wait for: {error}")).ok();
    let (now, is_draining) = (Instant::now(), app.status.is_draining());
    let progress = |place: usize| found.as_ref().and_then(|found| found.get(place)).copied();
    let mut let_in = Vec::new();
    let over = clients.take(|place, client| {
        let progress = progress(place);
        let is_over = client.until <= now
            || is_draining
            || progress.is_some_and(|progress| !progress.is_let_in || is_there(&client.wanted, progress));
        if is_over {
            let_in.push(progress.is_none_or(|progress| progress.is_let_in));
        }
        is_over
    });
    let mut groups: HashMap<_, Vec<WaitingClient>> = HashMap::new();
    for (client, is_let_in) in over.into_iter().zip(let_in) {
        if is_let_in {
            groups.entry((client.tenant.id(), client.wanted.clone())).or_default().push(client);
        } else {
            give(client, Error::InvalidKey.into());
        }
    }
    // Found unavailable once, the database is not waited for again and again.
    let mut is_away = found.is_none();
    for ((_, wanted), group) in groups {
        let made = match is_away {
            true => None,
            false => Some(make(app, &group[0].tenant, &wanted, Instant::now() + app.database_timeout)),
        };
        is_away |= matches!(made, Some(Err(Error::Unavailable(_))));
        if let Some(Err(error)) = &made {
            error.log(&group[0].request_id);
        }
        let answer = made.map(|made| made.unwrap_or_else(Response::from));
        let answer = answer.unwrap_or_else(|| Response::error(503, "database unavailable"));
        let answers = copies(answer, group.len());
        group.into_iter().zip(answers).for_each(|(client, answer)| give(client, answer));
    }
}

fn question(client: &WaitingClient) -> Question {
    let (execution, task, attempt) = match client.wanted {
        Wanted::Execution { execution, .. } | Wanted::Events { execution, .. } => (execution, None, None),
        Wanted::Log { execution, number, attempt, .. } => (execution, Some(number), attempt),
    };
    Question { key: client.key, execution, task, attempt }
}

/// Whether there is something to tell.
fn is_there(wanted: &Wanted, progress: Progress) -> bool {
    match wanted {
        Wanted::Execution { .. } => progress.has_ended,
        Wanted::Events { after, .. } => progress.has_ended || progress.last_event > *after,
        Wanted::Log { part, .. } => {
            let from = if let LogPart::After(after) = part { *after } else { 0 };
            match progress.printed {
                Some(printed) => printed > from || progress.attempt_has_ended,
                None => progress.has_ended,
            }
        }
    }
}

/// What a client is told that has waited.
fn make(app: &App, tenant: &Tenant, wanted: &Wanted, until: Instant) -> Result<Response, Error> {
    match wanted {
        Wanted::Execution { execution, status } => {
            let shown = show::show(&app.store, tenant, *execution, until)?;
            let shown = shown.ok_or_else(|| not_found(*execution))?;
            let body = answer::detail(tenant.name(), *execution, &shown)?;
            Ok(Response::bytes(*status, "application/json", body))
        }
        Wanted::Events { execution, after, limit } => {
            let page = events::events(&app.store, tenant, *execution, *after, *limit, until)?;
            let page = page.ok_or_else(|| not_found(*execution))?;
            events_answer(tenant, *execution, *limit, &page)
        }
        Wanted::Log { execution, task, attempt, part, .. } => {
            let place = task_log::find(&app.store, tenant, *execution, task, *attempt, until)?;
            let place = place.map_err(|missing| log_not_found(missing, *execution, task, *attempt))?;
            log_answer(app, &place, *part, until)
        }
    }
}

/// One answer for several clients. They share its body where that is large: of what a slow client has not taken yet, no more
/// is kept for it alone than a piece.
fn copies(mut answer: Response, clients: usize) -> impl Iterator<Item = Response> {
    let is_shared = clients > 1 && answer.body.len() > PIECE_BYTES;
    let body: Option<Arc<[u8]>> = is_shared.then(|| mem::take(&mut answer.body).into_owned().into());
    iter::repeat_with(move || Response {
        status: answer.status,
        content_type: answer.content_type,
        headers: answer.headers.clone(),
        body: answer.body.clone(),
        download: body.as_ref().and_then(in_pieces),
        ..Response::default()
    })
}

fn in_pieces(body: &Arc<[u8]>) -> Option<Download> {
    let (body, mut at) = (Arc::clone(body), 0);
    Download::new(body.len() as u64, move || {
        let piece = &body[at..body.len().min(at + PIECE_BYTES)];
        at += piece.len();
        Ok(piece.to_vec())
    })
}

fn give(client: WaitingClient, answer: Response) {
    let WaitingClient { parked, fallback, place, .. } = client;
    // It may wait again as soon as it has this.
    drop(place);
    parked.complete_with(match fallback {
        Some(fallback) if answer.status >= 300 => fallback,
        _ => answer,
    });
}
