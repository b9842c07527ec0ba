//! What has happened to an execution.

use std::time::Instant;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::auth::Tenant;
use crate::executions::ExecutionStatus;
use crate::store::{Store, StoreError};

#[derive(Debug)]
pub struct Event {
    pub id: Uuid,
    pub number: i32,
    pub event_type: String,
    /// A JSON object, as text.
    pub event_data: Option<String>,
    pub created_at: OffsetDateTime,
}

/// A page of an execution's events.
#[derive(Debug)]
pub struct Page {
    pub events: Vec<Event>,
    pub is_last: bool,
    /// The execution has ended.
    pub has_ended: bool,
}

const EXECUTION: &str = "SELECT last_event, status FROM cloacina_executions WHERE tenant = $1 AND id = $2";
/// Of the page, as many as have 1 MiB of data together, but for the first one's.
const EVENTS: &str = "SELECT id, number, event_type, event_data, created_at
     FROM (SELECT *, sum(octet_length(event_data)) OVER (ORDER BY number) - octet_length(event_data) AS before
           FROM (SELECT * FROM cloacina_events WHERE execution = $1 AND number > $2 ORDER BY number LIMIT $3) AS page
          ) AS counted
     WHERE before IS NULL OR before < 1048576 ORDER BY number";

/// At most `limit` events after this one, in their order; `None`: no such execution.
///
/// # Errors
/// See `StoreError`.
pub fn events(
    store: &Store,
    tenant: &Tenant,
    execution: Uuid,
    after: i32,
    limit: usize,
    until: Instant,
) -> Result<Option<Page>, StoreError> {
    store.read(until, |session| {
        let Some(row) = session.query_opt(EXECUTION, &[&tenant.id(), &execution])? else { return Ok(None) };
        let (last, status): (i32, &str) = (row.try_get(0)?, row.try_get(1)?);
        let has_ended = ExecutionStatus::from_name(status).is_some_and(ExecutionStatus::has_ended);
        let rows = session.query(EVENTS, &[&execution, &after, &(limit as i64)])?;
        let event = |row: &postgres::Row| {
            Ok(Event {
                id: row.try_get(0)?,
                number: row.try_get(1)?,
                event_type: row.try_get(2)?,
                event_data: row.try_get(3)?,
                created_at: row.try_get(4)?,
            })
        };
        let events = rows.iter().map(event).collect::<Result<Vec<_>, postgres::Error>>()?;
        let is_last = events.last().is_none_or(|event| event.number >= last);
        Ok(Some(Page { events, is_last, has_ended }))
    })
}
