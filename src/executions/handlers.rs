//! The endpoints with which a tenant has workflows executed, and looks at what came of it.

use std::time::Duration;

use uuid::Uuid;

use super::ExecutionStatus;
use super::answer::{self, Changed, Item, Listing, Scheduled};
use super::request_body::{Execute, idempotency_key};
use super::store::cancel::{ChangedExecution, NotChanged, cancel as cancel_execution};
use super::store::create::{self, Created, Idempotency, NewExecution, Refusal};
use super::store::events;
use super::store::listing::{self, Filter};
use super::store::retry::retry as retry_execution;
use super::store::show;
use super::waiting::once_over;
use crate::app::{App, Call};
use crate::auth::{Owner, Tenant};
use crate::change_log::ChangeLog;
use crate::config::count;
use crate::error::Error;
use crate::http::response::Response;
use crate::paging::{self, cursor, given};
use crate::store::Committed;
use crate::terminal::start_of;
use crate::waiting_clients::Wanted;
use crate::workflows::names::WorkflowName;

const LONGEST_WAIT_SECONDS: u64 = 60;
const LARGEST_PAGE: usize = 1000;

/// `POST /tenants/{tenant}/workflows/{name}/execute`.
pub fn execute(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let wait = wait(call)?;
    let key = idempotency_key(call.request)?;
    let execute = Execute::read(call.request)?;
    let text = call.parameters.get("name");
    let workflow = WorkflowName::parse(text).map_err(|_| workflow_not_found(text))?;
    let new = NewExecution {
        tenant,
        workflow: &workflow,
        version: execute.version.as_ref(),
        run_at: execute.run_at,
        context: &execute.context,
        idempotency: key.map(|key| Idempotency { key, body_sha256: &execute.sha256 }),
    };
    let created = create::create(&app.store, &new, call.request.deadline)?;
    let Committed { value, is_confirmed } =
        created.map_err(|refusal| refused(refusal, &new, matches!(call.principal.owner, Owner::Server)))?;
    let execution = match value {
        Created::New(id) => {
            match new.run_at {
                Some(_) => app.execution_changes.committed(),
                None => app.execution_changes.created(),
            }
            ChangeLog::of(call).log_execution(tenant, "execution scheduled", id, workflow.as_str());
            id
        }
        Created::Known(id) => id,
    };
    if !is_confirmed {
        return Err(Error::OutcomeUnknown(None));
    }
    let scheduled = Scheduled {
        execution_id: execution,
        workflow_name: workflow.as_str(),
        tenant_id: tenant.name(),
        status: "scheduled",
    };
    let location = format!("/tenants/{}/executions/{execution}", tenant.name());
    let response = Response::json(202, &scheduled)?;
    let wanted = Wanted::Execution { execution, status: 202 };
    let response = match wait {
        Some(wait) => once_over(app, call, tenant, wanted, wait, Some(response))?,
        None => response,
    };
    Ok(response.header("Location", location))
}

fn refused(refusal: Refusal, new: &NewExecution<'_>, is_for_admin: bool) -> Error {
    let (tenant, workflow) = (new.tenant.name(), new.workflow);
    match refusal {
        Refusal::NoWorkflow => workflow_not_found(workflow.as_str()),
        Refusal::NoVersion => {
            let version = new.version.map_or("any release".to_owned(), ToString::to_string);
            Error::NotFound(format!("version '{version}' of workflow '{workflow}' not found").into())
        }
        Refusal::NoRelease => Error::NotFound(
            format!("workflow '{workflow}' has no release, only pre-releases: name one as `version`").into(),
        ),
        Refusal::Unreadable => Error::Internal(
            format!("the manifest of workflow {workflow} of tenant {tenant} is not read any more").into(),
        ),
        Refusal::NoHost(None) => {
            Error::Unable("no server runs tasks: start one with --task-slots".to_owned())
        }
        Refusal::NoHost(Some(reason)) if is_for_admin => {
            Error::Unable(format!("no server runs tasks: {reason}"))
        }
        // It may say how the server's database or home could be got at.
        Refusal::NoHost(Some(_)) => Error::Unable(
            "no server runs tasks: something keeps them from it, which the server's admin is told here"
                .to_owned(),
        ),
        Refusal::TooManyPending(limit) => Error::TooMany(format!(
            "{limit} executions of tenant '{tenant}' have not started yet, and no more may wait (max_pending_executions); \
             try again once some have"
        )),
        Refusal::OtherBody => Error::Invalid(
            "Idempotency-Key: an earlier request for this workflow had the same key and another body"
                .to_owned(),
        ),
        Refusal::NoTenant => Error::NotFound(format!("tenant '{tenant}' not found").into()),
    }
}

/// `GET /tenants/{tenant}/executions`: a page of the listing, newest first.
pub fn list(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let query = call.request.query;
    let page = paging::Page::from_query(query)?;
    let statuses = ExecutionStatus::ALL.map(ExecutionStatus::name).join(", ");
    let status = given(query, "status", &format!("one of {statuses}"))?;
    let status = status.map(|(text, wrong)| ExecutionStatus::from_name(&text).ok_or(wrong)).transpose()?;
    let workflow = given(query, "workflow", "the name of a workflow")?;
    let workflow = workflow.map(|(text, wrong)| WorkflowName::parse(&text).map_err(|_| wrong)).transpose()?;
    let filter = Filter { workflow: workflow.as_ref(), status };
    let found = listing::list(&app.store, tenant, filter, page.after, page.limit, call.request.deadline)?;
    let next = found.next.map(cursor);
    let executions = found.executions.iter().map(Item::from).collect();
    let listing = Listing { tenant_id: tenant.name(), executions, next: next.as_deref() };
    let response = Response::json(200, &listing)?;
    let others: Vec<_> = [
        status.map(|status| ("status", status.name())),
        workflow.as_ref().map(|name| ("workflow", name.as_str())),
    ]
    .into_iter()
    .flatten()
    .collect();
    Ok(match next {
        Some(next) => {
            let target = page.target_of_next(call.request.path, &next, &others);
            response.header("Link", format!("<{target}>; rel=\"next\""))
        }
        None => response,
    })
}

/// `GET /tenants/{tenant}/executions/{id}`.
pub fn show(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let wait = wait(call)?;
    let execution = id(call)?;
    let shown = show::show(&app.store, tenant, execution, call.request.deadline)?;
    let shown = shown.ok_or_else(|| not_found(execution))?;
    let response =
        Response::bytes(200, "application/json", answer::detail(tenant.name(), execution, &shown)?);
    match wait.filter(|_| !shown.has_ended()) {
        Some(wait) => {
            once_over(app, call, tenant, Wanted::Execution { execution, status: 200 }, wait, Some(response))
        }
        None => Ok(response),
    }
}

/// `GET /tenants/{tenant}/executions/{id}/events`: those after a number, in their order.
pub fn events(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let (wait, query) = (wait(call)?, call.request.query);
    let limit = number(query, "limit", "a whole number from 1 to 1000", 1..=LARGEST_PAGE)?;
    let after = number(query, "after", "the sequence_num of an event, or 0", 0..=i32::MAX)?;
    let (limit, after) = (limit.unwrap_or(LARGEST_PAGE), after.unwrap_or(0));
    let execution = id(call)?;
    let page = events::events(&app.store, tenant, execution, after, limit, call.request.deadline)?;
    let page = page.ok_or_else(|| not_found(execution))?;
    let response = events_answer(tenant, execution, limit, &page)?;
    match wait.filter(|_| page.events.is_empty() && !page.has_ended) {
        Some(wait) => {
            once_over(app, call, tenant, Wanted::Events { execution, after, limit }, wait, Some(response))
        }
        None => Ok(response),
    }
}

/// A page of events.
pub(super) fn events_answer(
    tenant: &Tenant,
    execution: Uuid,
    limit: usize,
    page: &events::Page,
) -> Result<Response, Error> {
    let response = Response::bytes(200, "application/json", answer::events(&page.events)?);
    Ok(match page.events.last().filter(|_| !page.is_last) {
        Some(last) => {
            let path = format!("/tenants/{}/executions/{execution}/events", tenant.name());
            let target = format!("<{path}?limit={limit}&after={}>; rel=\"next\"", last.number);
            response.header("Link", target)
        }
        None => response,
    })
}

/// `POST /tenants/{tenant}/executions/{id}/cancel`.
pub fn cancel(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let execution = id(call)?;
    let changed = cancel_execution(&app.store, tenant, execution, call.request.deadline)?;
    answer_change(app, call, tenant, execution, ("execution cancelled", "cancelled: it has ended"), changed)
}

/// `POST /tenants/{tenant}/executions/{id}/retry`.
pub fn retry(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let execution = id(call)?;
    let changed = retry_execution(&app.store, tenant, execution, call.request.deadline)?;
    let why = "retried: only what is Failed or Cancelled can be";
    answer_change(app, call, tenant, execution, ("execution retried", why), changed)
}

/// What was done, for the log, and why it could not be where that is so.
fn answer_change(
    app: &App,
    call: &Call<'_>,
    tenant: &Tenant,
    execution_id: Uuid,
    (what, why_not): (&str, &str),
    changed: Result<Committed<ChangedExecution>, NotChanged>,
) -> Result<Response, Error> {
    let changed = changed.map_err(|refusal| match refusal {
        NotChanged::NotFound => not_found(execution_id),
        NotChanged::Status(status) => Error::Conflict(
            format!("execution '{execution_id}' is {} and cannot be {why_not}", status.name()).into(),
        ),
        NotChanged::NoVersion => Error::Conflict(
            format!(
                "the version that execution '{execution_id}' is of was deleted: upload it again to retry it"
            )
            .into(),
        ),
    })?;
    app.execution_changes.committed();
    let Committed { value: ChangedExecution { workflow, status }, is_confirmed } = changed;
    ChangeLog::of(call).log_execution(tenant, what, execution_id, &workflow);
    if !is_confirmed {
        return Err(Error::OutcomeUnknown(None));
    }
    Ok(Response::json(202, &Changed { execution_id, status: status.name() })?)
}

/// The execution of the path.
pub(super) fn id(call: &Call<'_>) -> Result<Uuid, Error> {
    let text = call.parameters.get("id");
    // In the one form that answers have: others would be other paths to the same thing.
    Uuid::try_parse(text)
        .ok()
        .filter(|id| id.hyphenated().to_string().eq_ignore_ascii_case(text))
        .ok_or_else(|| Error::Malformed("invalid execution ID".to_owned()))
}

/// For how long the client would wait.
pub(super) fn wait(call: &Call<'_>) -> Result<Option<Duration>, Error> {
    let right = "a whole number of seconds from 0 to 60";
    let seconds = number(call.request.query, "wait", right, 0..=LONGEST_WAIT_SECONDS)?;
    Ok(seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs))
}

/// A parameter that is a number.
pub(super) fn number<N: std::str::FromStr + PartialOrd + std::fmt::Display>(
    query: Option<&str>,
    name: &str,
    right: &str,
    range: std::ops::RangeInclusive<N>,
) -> Result<Option<N>, Error> {
    let value = given(query, name, right)?;
    value.map(|(value, wrong)| count(&value, range).map_err(|_| wrong)).transpose()
}

fn workflow_not_found(name: &str) -> Error {
    Error::NotFound(format!("workflow '{}' not found", start_of(name)).into())
}

pub(super) fn not_found(execution: Uuid) -> Error {
    Error::NotFound(format!("execution '{execution}' not found").into())
}
