//! Pages of executions, newest first.

use std::time::Instant;

use postgres::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::auth::Tenant;
use crate::executions::ExecutionStatus;
use crate::paging::Position;
use crate::store::{Store, StoreError};
use crate::workflows::names::WorkflowName;

/// An execution as listings show it.
#[derive(Debug)]
pub struct Listed {
    pub id: Uuid,
    pub workflow: String,
    pub version: String,
    pub status: String,
    pub created_at: OffsetDateTime,
    pub started_at: Option<OffsetDateTime>,
    pub completed_at: Option<OffsetDateTime>,
    /// Its first characters.
    pub error: Option<String>,
}

/// A page of the listing.
pub struct Page {
    pub executions: Vec<Listed>,
    /// Where the next page begins; `None` for the last one.
    pub next: Option<Position>,
}

/// Which executions are listed: all there are, or those of a workflow, of a status, or of both.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    pub workflow: Option<&'a WorkflowName>,
    pub status: Option<ExecutionStatus>,
}

/// Each has an index that is in this order. The inner limit, which is never less than the outer one, tells
/// the planner that few rows are wanted.
macro_rules! page {
    ($conditions:literal) => {
        concat!(
            "SELECT * FROM (
                 SELECT id, workflow, version, status, created_at, started_at, completed_at, left(error, 500)
                 FROM cloacina_executions
                 WHERE tenant = $1 AND (created_at, id)
                     < (COALESCE($2::timestamptz, 'infinity'), COALESCE($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))",
            $conditions,
            " ORDER BY created_at DESC, id DESC LIMIT 1001) AS page LIMIT $4"
        )
    };
}

const ALL: &str = page!("");
const OF_WORKFLOW: &str = page!(" AND workflow = $5");
const OF_STATUS: &str = page!(" AND status = $5");
const OF_STATUS_AND_WORKFLOW: &str = page!(" AND workflow = $5 AND status = $6");

fn listed(row: &Row) -> Result<Listed, postgres::Error> {
    Ok(Listed {
        id: row.try_get(0)?,
        workflow: row.try_get(1)?,
        version: row.try_get(2)?,
        status: row.try_get(3)?,
        created_at: row.try_get(4)?,
        started_at: row.try_get(5)?,
        completed_at: row.try_get(6)?,
        error: row.try_get(7)?,
    })
}

/// At most `limit` executions, newest first.
///
/// # Errors
/// See `StoreError`.
pub fn list(
    store: &Store,
    tenant: &Tenant,
    filter: Filter<'_>,
    after: Option<Position>,
    limit: usize,
    until: Instant,
) -> Result<Page, StoreError> {
    // One more than asked for tells whether there is another page.
    let count = limit as i64 + 1;
    let (created_at, id) = after.map(|after| (after.created_at, after.id)).unzip();
    let tenant = tenant.id();
    let workflow = filter.workflow.map(WorkflowName::as_str);
    let status = filter.status.map(ExecutionStatus::name);
    store.read(until, |session| {
        let mut rows = match (&status, &workflow) {
            (None, None) => session.query(ALL, &[&tenant, &created_at, &id, &count]),
            (None, Some(name)) => session.query(OF_WORKFLOW, &[&tenant, &created_at, &id, &count, name]),
            (Some(status), None) => session.query(OF_STATUS, &[&tenant, &created_at, &id, &count, status]),
            (Some(status), Some(name)) => {
                session.query(OF_STATUS_AND_WORKFLOW, &[&tenant, &created_at, &id, &count, name, status])
            }
        }?;
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let executions = rows.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        let next = executions.last().filter(|_| !is_last);
        let next = next.map(|last| Position { created_at: last.created_at, id: last.id });
        Ok(Page { executions, next })
    })
}
