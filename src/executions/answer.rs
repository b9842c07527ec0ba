//! The JSON that shows executions. What clients and tasks wrote stands in it as they wrote it.

use serde::Serialize;
use uuid::Uuid;

use super::store::events::Event;
use super::store::listing::Listed;
use super::store::show::{Shown, Task};
use crate::keys::expiry::format_rfc3339;

/// What a request to execute is told at once.
#[derive(Serialize)]
pub struct Scheduled<'a> {
    pub execution_id: Uuid,
    pub workflow_name: &'a str,
    pub tenant_id: &'a str,
    pub status: &'static str,
}

/// What a cancellation or a retry is told.
#[derive(Serialize)]
pub struct Changed {
    pub execution_id: Uuid,
    pub status: &'static str,
}

#[derive(Serialize)]
pub struct Listing<'a> {
    pub tenant_id: &'a str,
    pub executions: Vec<Item<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'a str>,
}

/// An execution in a listing.
#[derive(Serialize)]
pub struct Item<'a> {
    id: Uuid,
    pipeline_name: &'a str,
    version: &'a str,
    status: &'a str,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    error: Option<&'a str>,
}

impl<'a> From<&'a Listed> for Item<'a> {
    fn from(listed: &'a Listed) -> Item<'a> {
        Item {
            id: listed.id,
            pipeline_name: &listed.workflow,
            version: &listed.version,
            status: &listed.status,
            created_at: format_rfc3339(listed.created_at),
            started_at: listed.started_at.map(format_rfc3339),
            completed_at: listed.completed_at.map(format_rfc3339),
            error: listed.error.as_deref(),
        }
    }
}

/// An execution, but for its context.
#[derive(Serialize)]
struct Detail<'a> {
    tenant_id: &'a str,
    execution_id: Uuid,
    workflow_name: &'a str,
    version: &'a str,
    status: &'a str,
    error: Option<&'a str>,
    created_at: String,
    run_at: Option<String>,
    started_at: Option<String>,
    completed_at: Option<String>,
    tasks: Vec<TaskItem<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    context_truncated: bool,
}

#[derive(Serialize)]
struct TaskItem<'a> {
    id: &'a str,
    dependencies: Vec<&'a str>,
    status: &'a str,
    attempts: i32,
    started_at: Option<String>,
    completed_at: Option<String>,
    exit_code: Option<i32>,
    error: Option<&'a str>,
}

/// # Errors
/// None, as long as memory can be written to; so for the other.
pub fn detail(tenant_id: &str, execution_id: Uuid, shown: &Shown) -> serde_json::Result<Vec<u8>> {
    let id_of = |number: &i32| shown.tasks.get(number.unsigned_abs() as usize).map(|task| &*task.id);
    let tasks = shown.tasks.iter().map(|task: &Task| TaskItem {
        id: &task.id,
        dependencies: task.dependencies.iter().filter_map(id_of).collect(),
        status: &task.status,
        attempts: task.attempts,
        started_at: task.started_at.map(format_rfc3339),
        completed_at: task.completed_at.map(format_rfc3339),
        exit_code: task.exit_code,
        error: task.error.as_deref(),
    });
    let detail = Detail {
        tenant_id,
        execution_id,
        workflow_name: &shown.workflow,
        version: &shown.version,
        status: &shown.status,
        error: shown.error.as_deref(),
        created_at: format_rfc3339(shown.created_at),
        run_at: shown.run_at.map(format_rfc3339),
        started_at: shown.started_at.map(format_rfc3339),
        completed_at: shown.completed_at.map(format_rfc3339),
        tasks: tasks.collect(),
        context_truncated: shown.is_truncated,
    };
    let mut json = serde_json::to_vec(&detail)?;
    add_field(&mut json, "context", &shown.context);
    Ok(json)
}

/// An event, but for its data.
#[derive(Serialize)]
struct EventItem<'a> {
    id: Uuid,
    event_type: &'a str,
    created_at: String,
    sequence_num: i32,
}

/// An array.
pub fn events(events: &[Event]) -> serde_json::Result<Vec<u8>> {
    let mut json = b"[".to_vec();
    for event in events {
        if json.len() > 1 {
            json.push(b',');
        }
        let item = EventItem {
            id: event.id,
            event_type: &event.event_type,
            created_at: format_rfc3339(event.created_at),
            sequence_num: event.number,
        };
        serde_json::to_writer(&mut json, &item)?;
        add_field(&mut json, "event_data", event.event_data.as_deref().unwrap_or("null"));
    }
    json.push(b']');
    Ok(json)
}

/// Adds a field, whose value is JSON text, to an object that has others.
fn add_field(object: &mut Vec<u8>, name: &str, value: &str) {
    object.pop();
    object.extend_from_slice(format!(",\"{name}\":").as_bytes());
    object.extend_from_slice(value.as_bytes());
    object.push(b'}');
}
