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
    status: &'a str,
    started_at: Option<String>,
    completed_at: Option<String>,
    version: &'a str,
    created_at: String,
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

/// What of an execution stands before its context.
#[derive(Serialize)]
struct DetailHead<'a> {
    tenant_id: &'a str,
    execution_id: Uuid,
    status: &'a str,
    workflow_name: &'a str,
    version: &'a str,
}

/// What stands behind it.
#[derive(Serialize)]
struct DetailRest<'a> {
    error: Option<&'a str>,
    tasks: Vec<TaskItem<'a>>,
    created_at: String,
    run_at: Option<String>,
    started_at: Option<String>,
    completed_at: Option<String>,
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
    let head = DetailHead {
        tenant_id,
        execution_id,
        status: &shown.status,
        workflow_name: &shown.workflow,
        version: &shown.version,
    };
    let rest = DetailRest {
        error: shown.error.as_deref(),
        created_at: format_rfc3339(shown.created_at),
        run_at: shown.run_at.map(format_rfc3339),
        started_at: shown.started_at.map(format_rfc3339),
        completed_at: shown.completed_at.map(format_rfc3339),
        tasks: tasks.collect(),
        context_truncated: shown.is_truncated,
    };
    let mut json = serde_json::to_vec(&head)?;
    add_field(&mut json, "context", &shown.context);
    add_fields(&mut json, &rest)?;
    Ok(json)
}

/// What of an event stands before its data.
#[derive(Serialize)]
struct EventHead<'a> {
    id: Uuid,
    event_type: &'a str,
}

/// What stands behind it.
#[derive(Serialize)]
struct EventRest {
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
        let head = EventHead { id: event.id, event_type: &event.event_type };
        serde_json::to_writer(&mut json, &head)?;
        add_field(&mut json, "event_data", event.event_data.as_deref().unwrap_or("null"));
        let rest = EventRest { created_at: format_rfc3339(event.created_at), sequence_num: event.number };
        add_fields(&mut json, &rest)?;
    }
    json.push(b']');
    Ok(json)
}

/// Adds fields at the end of an object.
fn add_fields(object: &mut Vec<u8>, fields: &impl Serialize) -> serde_json::Result<()> {
    object.pop();
    let at = object.len();
    serde_json::to_writer(&mut *object, fields)?;
    object[at] = b',';
    Ok(())
}

/// Adds a field, whose value is JSON text, to an object that has others.
fn add_field(object: &mut Vec<u8>, name: &str, value: &str) {
    object.pop();
    object.extend_from_slice(format!(",\"{name}\":").as_bytes());
    object.extend_from_slice(value.as_bytes());
    object.push(b'}');
}
