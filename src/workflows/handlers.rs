//! The endpoints with which a tenant looks at its workflows, deletes versions, pauses and resumes; `upload` has the one that
//! takes packages.

use std::sync::Arc;
use std::time::Instant;

use super::answer::{Deleted, Detail, Item, Listing, Paused};
use super::manifest::{Found, Manifest};
use super::names::{Version, WorkflowName};
use super::store::deletion::{self, Deletion};
use super::store::{self, Archive};
use crate::app::{App, Call};
use crate::auth::Tenant;
use crate::change_log::ChangeLog;
use crate::error::Error;
use crate::http::download::Download;
use crate::http::response::Response;
use crate::paging::{self, cursor, given};
use crate::terminal::start_of;

/// What a client gets of an archive at once: it has to take so much in the time of one answer.
const DOWNLOADED_AT_ONCE: usize = 64 * 1024;

/// `GET /tenants/{tenant}/workflows`: a page of the listing, newest first.
pub fn list(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let query = call.request.query;
    let page = paging::Page::from_query(query)?;
    let all = match given(query, "all", "true or false")? {
        Some((value, wrong)) => value.parse().map_err(|_| wrong)?,
        None => false,
    };
    let found = store::list(&app.store, tenant, all, page.after, page.limit, call.request.deadline)?;
    let next = found.next.map(cursor);
    let workflows = found.packages.iter().map(Item::from).collect();
    let listing = Listing { tenant_id: tenant.name(), workflows, next: next.as_deref() };
    let response = Response::json(200, &listing)?;
    let others: &[_] = if all { &[("all", "true")] } else { &[] };
    Ok(match next {
        Some(next) => {
            let target = page.target_of_next(call.request.path, &next, others);
            response.header("Link", format!("<{target}>; rel=\"next\""))
        }
        None => response,
    })
}

/// `GET /tenants/{tenant}/workflows/{name}`: the highest release, or the version that is asked for.
pub fn show(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let text = call.parameters.get("name");
    let asked = given(call.request.query, "version", "a version")?.map(|(value, _)| value);
    let not_found = || match &asked {
        None => workflow_not_found(text),
        Some(version) => version_not_found(text, version),
    };
    let name = WorkflowName::parse(text).map_err(|_| not_found())?;
    let version = asked.as_deref().map(Version::parse).transpose().map_err(|_| not_found())?;
    let found = store::show(&app.store, tenant, &name, version.as_ref(), call.request.deadline)?;
    let found = found.ok_or_else(not_found)?;
    let manifest = Manifest::parse(&found.manifest, &|_| Found::Known).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let (id, problems) = (found.listed.id, problems.join("; "));
        Error::Internal(format!("the manifest of package {id} is not read any more: {problems}").into())
    })?;
    Ok(Response::json(200, &Detail::new(tenant.name(), &found, &manifest))?)
}

/// `GET /tenants/{tenant}/workflows/{name}/{version}/package`: the archive as it was uploaded.
pub fn download(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let (name, version) = named(call)?;
    let found = store::archive(&app.store, tenant, &name, &version, call.request.deadline)?;
    let Archive { package, sha256, size } =
        found.ok_or_else(|| version_not_found(name.as_str(), &version.to_string()))?;
    let tag = format!("\"{sha256}\"");
    let is_known = call.request.if_none_match.is_some_and(|known| names_tag(known, &tag));
    // A cache of the client's own may keep it, and asks each time whether the key may still read it.
    let with_fields = |response: Response| {
        response.header("ETag", tag.clone()).header("Cache-Control", "private, no-cache")
    };
    if is_known {
        return Ok(with_fields(Response { status: 304, ..Response::default() }));
    }
    let (store, tenant, limit) = (Arc::clone(&app.store), tenant.clone(), app.database_timeout);
    let mut at = 0;
    let next = move || {
        let piece = store::bytes(&store, &tenant, package, at, DOWNLOADED_AT_ONCE, Instant::now() + limit);
        let piece = piece.map_err(|error| error.to_string())?;
        at += piece.len() as u64;
        Ok(piece)
    };
    let response = Response {
        status: 200,
        content_type: Some("application/gzip"),
        download: Download::new(size, next),
        ..Response::default()
    };
    let file_name = format!("attachment; filename=\"{name}-{version}.tar.gz\"");
    Ok(with_fields(response).header("Content-Disposition", file_name))
}

/// Whether an `If-None-Match` names this entity tag (RFC 9110, 13.1.2): compared weakly.
fn names_tag(known: &str, tag: &str) -> bool {
    known.trim() == "*"
        || known.split(',').any(|one| {
            let one = one.trim();
            one.strip_prefix("W/").unwrap_or(one) == tag
        })
}

/// `DELETE /tenants/{tenant}/workflows/{name}/{version}`.
pub fn delete(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let (name, version) = named(call)?;
    let deleted = deletion::delete(&app.store, tenant, &name, &version, call.request.deadline)?;
    let version = version.to_string();
    match deleted.value {
        Deletion::Deleted => {}
        Deletion::NotFound => return Err(version_not_found(name.as_str(), &version)),
        Deletion::Used => {
            let line = format!(
                "an execution of version {version} of workflow '{name}' has not ended: wait for it, or cancel it"
            );
            return Err(Error::Conflict(line.into()));
        }
    }
    ChangeLog::of(call).log(tenant, "package deleted", name.as_str(), Some(&version));
    // Which removes the bytes.
    app.package_store.wake();
    if !deleted.is_confirmed {
        return Err(Error::OutcomeUnknown(None));
    }
    Ok(Response::json(200, &Deleted { status: "deleted", package_name: name.as_str(), version: &version })?)
}

/// `POST /tenants/{tenant}/workflows/{name}/pause`.
pub fn pause(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    set_paused(app, call, tenant, true)
}

/// `POST /tenants/{tenant}/workflows/{name}/resume`.
pub fn resume(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    set_paused(app, call, tenant, false)
}

fn set_paused(app: &App, call: &Call<'_>, tenant: &Tenant, paused: bool) -> Result<Response, Error> {
    let text = call.parameters.get("name");
    let name = WorkflowName::parse(text).map_err(|_| workflow_not_found(text))?;
    let changed = store::set_paused(&app.store, tenant, &name, paused, call.request.deadline)?;
    if !changed.value {
        return Err(workflow_not_found(text));
    }
    if !paused {
        app.execution_changes.committed();
    }
    let what = if paused { "workflow paused" } else { "workflow resumed" };
    ChangeLog::of(call).log(tenant, what, name.as_str(), None);
    if !changed.is_confirmed {
        return Err(Error::OutcomeUnknown(None));
    }
    Ok(Response::json(200, &Paused { name: name.as_str(), paused })?)
}

/// The name and the version of the path. What cannot be one is not there.
fn named(call: &Call<'_>) -> Result<(WorkflowName, Version), Error> {
    let (name, version) = (call.parameters.get("name"), call.parameters.get("version"));
    let not_found = || version_not_found(name, version);
    let parsed = WorkflowName::parse(name).map_err(|_| not_found())?;
    Ok((parsed, Version::parse(version).map_err(|_| not_found())?))
}

fn workflow_not_found(name: &str) -> Error {
    Error::NotFound(format!("workflow '{}' not found", start_of(name)).into())
}

fn version_not_found(name: &str, version: &str) -> Error {
    let (name, version) = (start_of(name), start_of(version));
    Error::NotFound(format!("version '{version}' of workflow '{name}' not found").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags() {
        for known in ["\"a\"", "*", " * ", "W/\"a\"", "\"b\", \"a\"", "\"b\",W/\"a\" "] {
            assert!(names_tag(known, "\"a\""), "{known}");
        }
        for other in ["", "a", "\"b\"", "\"a", "**", "w/\"a\""] {
            assert!(!names_tag(other, "\"a\""), "{other}");
        }
    }
}
