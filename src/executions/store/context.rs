//! The contexts that tasks read: the execution's, and over it the outputs of all tasks upstream, which are read one at a time.
//! What one transaction reads of them is bounded, so that it ends within its time whatever tasks have written.

use std::collections::{BTreeSet, HashMap};

use postgres::fallible_iterator::FallibleIterator as _;
use uuid::Uuid;

use super::locked::Task;
use crate::engine::graph::{Context, Graph};
use crate::json_text;
use crate::store::Transaction;

/// Of a context that a task reads, as JSON; a larger one is shown without outputs.
pub const MOST_BYTES: usize = 4 * 1024 * 1024;
/// Of what a transaction reads for attempts, and of what it reads for decisions.
const MOST_READ_BYTES: usize = 64 * 1024 * 1024;
/// Of what a transaction compares for decisions: values that are read once are compared for each task that names them.
const MOST_COMPARED_BYTES: usize = 2 * MOST_READ_BYTES;

const OWN: &str = "SELECT context FROM cloacina_executions WHERE id = $1";
const OUTPUTS: &str = "SELECT task.output
     FROM unnest($2::int[]) WITH ORDINALITY AS upstream (number, position)
     JOIN cloacina_tasks AS task ON task.execution = $1 AND task.number = upstream.number
     ORDER BY position";

/// What a transaction knows of the contexts of one execution.
#[derive(Debug, Default)]
pub struct Contexts {
    /// The execution's own.
    pub own: Option<String>,
    named: Option<Named>,
    read_for_attempts: usize,
}

/// Of the contexts, what any `run_if` of the workflow names.
#[derive(Debug, Default)]
struct Named {
    keys: BTreeSet<String>,
    own: Fields,
    outputs: HashMap<usize, Fields>,
    kept_bytes: usize,
    read_bytes: usize,
    compared_bytes: usize,
}

/// Keys, each with its value as JSON.
type Fields = HashMap<String, String>;

/// Why a task has no context.
#[derive(Debug)]
pub enum NoContext {
    /// It fails for that.
    TooLarge(String),
    /// This transaction has read enough: the next one may claim it.
    Later,
    Database(postgres::Error),
}

impl From<postgres::Error> for NoContext {
    fn from(error: postgres::Error) -> NoContext {
        NoContext::Database(error)
    }
}

/// What contexts are of.
#[derive(Clone, Copy)]
pub struct Of<'a> {
    pub execution: Uuid,
    pub graph: &'a Graph,
    pub tasks: &'a [Task],
}

impl Contexts {
    /// What the decision on a task asks for: no more than the keys that it names.
    pub fn of_decision(
        &mut self,
        transaction: &mut Transaction<'_>,
        of: Of<'_>,
        task: usize,
    ) -> Result<Context, NoContext> {
        let upstream = of.upstream(task);
        if self.named.is_none() {
            let all = 0..of.graph.len();
            let keys: BTreeSet<String> =
                all.flat_map(|task| of.graph.context_keys(task)).map(str::to_owned).collect();
            let own = fields(self.own(transaction, of)?, &keys);
            self.named = Some(Named { keys, own, ..Named::default() });
        }
        let Some(named) = &self.named else { return Ok(Context::new()) };
        let missing: Vec<usize> =
            upstream.iter().rev().filter(|task| !named.outputs.contains_key(task)).copied().collect();
        let missing_bytes: usize = missing.iter().map(|task| of.output_bytes(*task)).sum();
        let Some(named) = &mut self.named else { return Ok(Context::new()) };
        named.read_bytes += missing_bytes;
        if named.read_bytes > MOST_READ_BYTES {
            let what = "the outputs that its run_if, with those decided on at the same time, reads";
            return Err(too_much(what, MOST_READ_BYTES));
        }
        let keys: BTreeSet<&str> = of.graph.context_keys(task).into_iter().collect();
        let mut merged: HashMap<&str, String> = HashMap::new();
        let mut take = |part: &Fields| {
            for key in &keys {
                if let Some(value) = part.get(*key).filter(|_| !merged.contains_key(key)) {
                    merged.insert(key, value.clone());
                }
            }
        };
        let mut rows = Outputs::open(transaction, of, &missing)?;
        // The last one that has a key counts.
        for task in upstream.into_iter().rev() {
            if let Some(part) = named.outputs.get(&task) {
                take(part);
                continue;
            }
            let part = rows.next(of, task, |text| fields(text, &named.keys))?;
            take(&part);
            let bytes: usize = part.iter().map(|(key, value)| key.len() + value.len()).sum();
            if named.kept_bytes + bytes <= MOST_BYTES {
                named.kept_bytes += bytes;
                named.outputs.insert(task, part);
            }
        }
        take(&named.own);
        named.compared_bytes += merged.values().map(String::len).sum::<usize>();
        if named.compared_bytes > MOST_COMPARED_BYTES {
            let what = "the values that its run_if, with those decided on at the same time, compares";
            return Err(too_much(what, MOST_COMPARED_BYTES));
        }
        let parsed =
            |(key, value): (&str, String)| (key.to_owned(), serde_json::from_str(&value).unwrap_or_default());
        Ok(merged.into_iter().map(parsed).collect())
    }

    /// What a task reads.
    pub fn of_attempt(
        &mut self,
        transaction: &mut Transaction<'_>,
        of: Of<'_>,
        task: usize,
    ) -> Result<Context, NoContext> {
        let upstream = of.upstream(task);
        let bytes: usize = upstream.iter().map(|task| of.output_bytes(*task)).sum();
        if bytes > MOST_READ_BYTES {
            return Err(too_much("the outputs upstream", MOST_READ_BYTES));
        }
        if self.read_for_attempts > 0 && self.read_for_attempts + bytes > MOST_READ_BYTES {
            return Err(NoContext::Later);
        }
        self.read_for_attempts += bytes;
        let mut merged = Merged::default();
        let own = parse(self.own(transaction, of)?);
        let mut is_small = merged.add(own);
        let mut rows = Outputs::open(transaction, of, &upstream)?;
        for task in upstream {
            is_small = is_small && merged.add(rows.next(of, task, parse)?);
            if !is_small {
                break;
            }
        }
        match is_small {
            true => Ok(merged.context),
            false => Err(NoContext::TooLarge(format!(
                "its context, with the outputs upstream, has more than {MOST_BYTES} bytes"
            ))),
        }
    }

    fn own(&mut self, transaction: &mut Transaction<'_>, of: Of<'_>) -> Result<&str, postgres::Error> {
        if self.own.is_none() {
            self.own = Some(transaction.query_one(OWN, &[&of.execution])?.try_get(0)?);
        }
        Ok(self.own.as_deref().unwrap_or("{}"))
    }
}

impl Of<'_> {
    /// Tasks upstream that have an output, in topological order.
    fn upstream(self, task: usize) -> Vec<usize> {
        let has_output =
            |task: &usize| self.tasks[*task].output.is_some() || self.tasks[*task].stored_bytes.is_some();
        self.graph.upstream(task).filter(has_output).collect()
    }

    fn output_bytes(self, task: usize) -> usize {
        let task = &self.tasks[task];
        task.output.as_ref().map_or(task.stored_bytes.unwrap_or(0), |output| output.len())
    }
}

fn too_much(what: &str, most: usize) -> NoContext {
    NoContext::TooLarge(format!("{what} have more than {most} bytes"))
}

/// Outputs in the order in which they are asked for.
struct Outputs<'a> {
    rows: Option<postgres::RowIter<'a>>,
}

impl<'a> Outputs<'a> {
    /// What this transaction has not written yet is in no row.
    fn open(
        transaction: &'a mut Transaction<'_>,
        of: Of<'_>,
        tasks: &[usize],
    ) -> Result<Outputs<'a>, postgres::Error> {
        let stored = |task: &&usize| of.tasks[**task].output.is_none();
        let numbers: Vec<i32> = tasks.iter().filter(stored).map(|task| *task as i32).collect();
        let rows = match numbers.is_empty() {
            true => None,
            false => Some(transaction.query_each(OUTPUTS, &[&of.execution, &numbers])?),
        };
        Ok(Outputs { rows })
    }

    fn next<T: Default>(
        &mut self,
        of: Of<'_>,
        task: usize,
        read: impl Fn(&str) -> T,
    ) -> Result<T, postgres::Error> {
        if let Some(output) = &of.tasks[task].output {
            return Ok(read(output));
        }
        let Some(rows) = &mut self.rows else { return Ok(T::default()) };
        rows.next()?.map_or(Ok(T::default()), |row| Ok(read(row.try_get(0)?)))
    }
}

/// Objects over each other, and how many bytes that is as JSON.
#[derive(Default)]
struct Merged {
    context: Context,
    bytes: usize,
}

impl Merged {
    /// `false`: all of it together is too large.
    fn add(&mut self, part: Context) -> bool {
        for (key, value) in part {
            // With quotes, colon and comma.
            let key_bytes = key.len() + 4;
            self.bytes += size(&value) + key_bytes;
            if let Some(replaced) = self.context.insert(key, value) {
                self.bytes -= size(&replaced) + key_bytes;
            }
        }
        self.bytes <= MOST_BYTES
    }
}

/// What we have written ourselves is an object.
fn parse(text: &str) -> Context {
    serde_json::from_str(text).unwrap_or_default()
}

/// Of an object, those with these keys.
fn fields(text: &str, keys: &BTreeSet<String>) -> Fields {
    let fields = json_text::fields(text).unwrap_or_default().into_iter();
    fields.filter(|(key, _)| keys.contains(key)).map(|(key, value)| (key, value.to_owned())).collect()
}

/// Bytes of it as JSON.
fn size(value: &serde_json::Value) -> usize {
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
    let _ = serde_json::to_writer(&mut counted, value);
    counted.0
}
