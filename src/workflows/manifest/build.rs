//! A manifest from its tree: each table by its grammar, and then what is true of them only together.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::macros::datetime;

use super::graph::{Nodes, build_graph};
use super::node::Node;
use super::problems::Problems;
use super::reader::Reader;
use super::{CatchUp, Found, Manifest, Overlap, Schedule, Task, Trigger};
use super::{grammar, lists, run_if};
use crate::cron::{Cron, zone};
use crate::engine::retry::{Backoff, Retries};
use crate::terminal::start_of;
use crate::workflows::names::{TaskId, TriggerName, Version, WorkflowName};

type Files<'f> = &'f dyn Fn(&str) -> Found;

/// `None` where there are problems.
pub fn build(root: &Node, found: Files, problems: &mut Problems) -> Option<Manifest> {
    let root = Reader::new(&grammar::MANIFEST, 0, root.as_table()?, problems);
    let package = root.table("package", problems);
    let package = package.as_ref();
    let name = package.and_then(|package| package.parsed("name", WorkflowName::parse, problems));
    let version = package.and_then(|package| package.parsed("version", Version::parse, problems));
    let description = package.and_then(|package| description(package, problems));
    let max_running = package.and_then(|package| package.integer("max_running", problems));
    let env = package.map(|package| lists::environment(package, problems)).unwrap_or_default();
    let mut nodes = Nodes::default();
    let mut tasks = Vec::new();
    for reader in root.tables("tasks", problems) {
        tasks.extend(task(&reader, found, &mut nodes, problems));
    }
    let graph = build_graph(nodes, problems);
    let mut names = BTreeMap::new();
    let schedules = root.tables("schedules", problems);
    let schedules: Vec<_> =
        schedules.iter().filter_map(|reader| schedule(reader, &mut names, problems)).collect();
    let triggers = root.tables("triggers", problems);
    let triggers: Vec<_> =
        triggers.iter().filter_map(|reader| trigger(reader, found, &mut names, problems)).collect();
    Some(Manifest {
        name: name?,
        version: version?,
        description,
        max_running,
        env,
        tasks,
        graph: Arc::new(graph?),
        schedules,
        triggers,
    })
}

fn description(package: &Reader, problems: &mut Problems) -> Option<String> {
    let text = package.text("description", problems)?;
    let given = package.given("description")?;
    let grammar::Kind::Text(most) = given.field.kind else { return None };
    let characters = text.chars().count();
    if characters > most {
        problems.add(given.at(), || {
            format!("`description` has {characters} characters; at most {most} are allowed")
        });
    }
    if text.contains('\0') {
        problems.add(given.at(), || "`description` cannot have the character NUL in it".to_owned());
    }
    Some(text.to_owned())
}

/// Its part of the graph goes into `nodes`, also where the task is wrong, so that others can depend on it.
fn task<'a>(
    reader: &Reader<'a>,
    found: Files,
    nodes: &mut Nodes<'a>,
    problems: &mut Problems,
) -> Option<Task> {
    let id = reader.parsed("id", TaskId::parse, problems);
    let dependencies = lists::tasks(reader, problems);
    let condition = run_if::read(reader, problems);
    let allow_failure = reader.boolean("allow_failure", problems);
    nodes.add(reader, dependencies, condition, allow_failure);
    let task = Task {
        command: lists::command(reader, found, problems),
        timeout: reader.duration("timeout", problems),
        retries: retries(reader, problems),
        restart_safe: reader.boolean("restart_safe", problems),
        max_memory: reader.bytes("max_memory", problems),
        secrets: lists::secrets(reader, problems),
        id: id?,
    };
    Some(task)
}

fn retries(task: &Reader, problems: &mut Problems) -> Retries {
    let reader = task.table("retries", problems).unwrap_or(Reader::of_defaults(&grammar::RETRIES));
    let backoffs = [Backoff::Constant, Backoff::Linear, Backoff::Exponential];
    let delay = reader.duration("delay", problems);
    let mut max_delay = reader.duration("max_delay", problems);
    if max_delay < delay {
        if let Some(given) = reader.given("max_delay") {
            problems.add(given.at(), || {
                "`max_delay` is shorter than `delay`; expected at least as much".to_owned()
            });
        }
        max_delay = delay;
    }
    Retries {
        attempts: reader.integer("attempts", problems).unwrap_or(1),
        backoff: backoffs[reader.one_of("backoff", problems)],
        delay,
        max_delay,
        jitter: reader.boolean("jitter", problems),
    }
}

fn schedule<'a>(reader: &Reader<'a>, names: &mut Names<'a>, problems: &mut Problems) -> Option<Schedule> {
    let name = unique_name(reader, names, problems);
    let cron = reader.parsed("cron", cron_line, problems);
    let timezone = match reader.given("timezone") {
        Some(_) => reader.parsed("timezone", |name| zone::check(name).map(|()| name.to_owned()), problems),
        None => Some("UTC".to_owned()),
    };
    let catch_up = [CatchUp::Skip, CatchUp::Latest, CatchUp::All][reader.one_of("catch_up", problems)];
    let overlap = [Overlap::Skip, Overlap::Wait, Overlap::Allow][reader.one_of("overlap", problems)];
    let context = lists::context(reader, problems);
    Some(Schedule { name: name?, cron: cron?, timezone: timezone?, catch_up, overlap, context })
}

fn cron_line(line: &str) -> Result<String, String> {
    let cron = Cron::parse(line).map_err(|error| error.to_string())?;
    match cron.next_local_time(datetime!(2000-01-01 0:00)) {
        Some(_) => Ok(line.trim().to_owned()),
        None => Err(format!("`{}` never fires: no month of these has such a day", start_of(line))),
    }
}

fn trigger<'a>(
    reader: &Reader<'a>,
    found: Files,
    names: &mut Names<'a>,
    problems: &mut Problems,
) -> Option<Trigger> {
    let name = unique_name(reader, names, problems);
    let command = lists::command(reader, found, problems);
    let poll_interval = reader.duration("poll_interval", problems);
    Some(Trigger { name: name?, command, poll_interval })
}

/// Where each name of a schedule or a trigger stands.
type Names<'a> = BTreeMap<&'a str, usize>;

fn unique_name<'a>(
    reader: &Reader<'a>,
    names: &mut Names<'a>,
    problems: &mut Problems,
) -> Option<TriggerName> {
    let name = reader.parsed("name", TriggerName::parse, problems);
    let (text, at) = (reader.given("name")?.node.as_text()?, reader.place("name"));
    let earlier = *names.entry(text).or_insert(at);
    if earlier != at {
        let line = problems.line_of(earlier);
        problems.add(at, || {
            format!(
                "`{}` is the name of the one in line {line} already; schedules and triggers share names",
                start_of(text)
            )
        });
    }
    name
}
