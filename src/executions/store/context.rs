//! The contexts that tasks read: the execution's, and over it the outputs of all tasks upstream, which are read one at a time.

use postgres::fallible_iterator::FallibleIterator as _;
use uuid::Uuid;

use super::locked::Task;
use crate::engine::graph::{Context, Graph};
use crate::store::Transaction;

/// Of a context that a task reads, as JSON.
pub const MOST_BYTES: usize = 4 * 1024 * 1024;

const OWN: &str = "SELECT context FROM cloacina_executions WHERE id = $1";
const OUTPUTS: &str = "SELECT task.number, task.output
     FROM unnest($2::int[]) WITH ORDINALITY AS upstream (number, position)
     JOIN cloacina_tasks AS task ON task.execution = $1 AND task.number = upstream.number
     WHERE task.output IS NOT NULL ORDER BY position";

/// What the decision on a task asks for: no more than the keys that it names.
pub fn of_decision(
    transaction: &mut Transaction<'_>,
    execution: Uuid,
    graph: &Graph,
    tasks: &[Task],
    task: usize,
) -> Result<Context, postgres::Error> {
    let keys = graph.context_keys(task);
    let mut context = Context::new();
    each(transaction, execution, graph, tasks, task, |part| {
        context.extend(part.into_iter().filter(|(key, _)| keys.contains(&key.as_str())));
        true
    })?;
    Ok(context)
}

/// What a task reads, unless it is too large.
pub fn of_attempt(
    transaction: &mut Transaction<'_>,
    execution: Uuid,
    graph: &Graph,
    tasks: &[Task],
    task: usize,
) -> Result<Option<Context>, postgres::Error> {
    let mut context = Context::new();
    // What it has at most; outputs may replace each other's values.
    let mut bytes = 0;
    each(transaction, execution, graph, tasks, task, |part| {
        bytes += size(&part);
        context.extend(part);
        if bytes > MOST_BYTES {
            bytes = size(&context);
        }
        bytes <= MOST_BYTES
    })?;
    Ok(Some(context).filter(|_| bytes <= MOST_BYTES))
}

/// Hands over the execution's context, then the output of each task upstream, in topological order, until told to stop.
fn each(
    transaction: &mut Transaction<'_>,
    execution: Uuid,
    graph: &Graph,
    tasks: &[Task],
    task: usize,
    mut take: impl FnMut(Context) -> bool,
) -> Result<(), postgres::Error> {
    let own = transaction.query_one(OWN, &[&execution])?;
    if !take(parse(own.try_get(0)?)) {
        return Ok(());
    }
    let upstream: Vec<usize> = graph.upstream(task).collect();
    if upstream.is_empty() {
        return Ok(());
    }
    let numbers: Vec<i32> = upstream.iter().map(|task| *task as i32).collect();
    let mut rows = transaction.query_each(OUTPUTS, &[&execution, &numbers])?;
    let mut row = rows.next()?;
    for task in upstream {
        // What this transaction has not written yet is in no row.
        let part = match (&tasks[task].output, &row) {
            (Some(output), _) => parse(output),
            (None, Some(found)) if found.try_get::<_, i32>(0)? == task as i32 => {
                let part = parse(found.try_get(1)?);
                row = rows.next()?;
                part
            }
            (None, _) => continue,
        };
        if !take(part) {
            break;
        }
    }
    Ok(())
}

/// What we have written ourselves is an object.
fn parse(text: &str) -> Context {
    serde_json::from_str(text).unwrap_or_default()
}

/// Bytes of it as JSON.
fn size(context: &Context) -> usize {
    struct Counted(usize);
    impl std::io::Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    let _ = serde_json::to_writer(&mut counted, context);
    counted.0
}
