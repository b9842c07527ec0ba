//! The tasks of a manifest as a graph, and what makes them none, told at the place where it stands.

use std::collections::BTreeMap;

use super::problems::Problems;
use super::reader::Reader;
use super::run_if;
use crate::engine::graph::{Graph, GraphError, GraphErrorKind, Task};
use crate::suggestion::did_you_mean;
use crate::terminal::start_of;
use crate::workflows::names::TaskId;

/// Of unknown names with known ones, to find the nearest, which takes time with each of thousands of tasks.
const MOST_COMPARISONS: usize = 20_000;

#[derive(Default)]
pub struct Nodes<'a> {
    tasks: Vec<Task>,
    places: Vec<Places<'a>>,
}

/// Where the parts of a task stand.
struct Places<'a> {
    id: usize,
    dependencies: usize,
    each_dependency: Vec<usize>,
    in_run_if: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Nodes<'a> {
    /// A task whose id cannot be read has one that no other can name.
    pub fn add(
        &mut self,
        reader: &Reader<'a>,
        dependencies: Vec<(usize, &'a str)>,
        run_if: Option<run_if::Read<'a>>,
        allow_failure: bool,
    ) {
        let id = reader.given("id").and_then(|id| id.node.as_text());
        let id = id.map_or_else(|| format!("\0{}", self.tasks.len()), str::to_owned);
        let mut in_run_if = BTreeMap::<_, Vec<_>>::new();
        let condition = run_if.map(|read| {
            read.tasks.into_iter().for_each(|(id, at)| in_run_if.entry(id).or_default().push(at));
            read.condition
        });
        self.places.push(Places {
            id: reader.place("id"),
            dependencies: reader.place("dependencies"),
            each_dependency: dependencies.iter().map(|(at, _)| *at).collect(),
            in_run_if,
        });
        let dependencies = dependencies.into_iter().map(|(_, id)| id.to_owned()).collect();
        self.tasks.push(Task { id, dependencies, run_if: condition, allow_failure });
    }
}

/// `None` where the tasks are no graph.
pub fn build_graph(nodes: Nodes, problems: &mut Problems) -> Option<Graph> {
    let Nodes { tasks, places } = nodes;
    let ids: Vec<_> = tasks.iter().map(|task| task.id.clone()).collect();
    let errors = match Graph::new(tasks) {
        Ok(graph) => return Some(graph),
        Err(errors) => errors,
    };
    let mut words = Words { ids: &ids, places: &places, comparisons: 0 };
    for error in errors {
        words.tell(error, problems);
    }
    None
}

struct Words<'w> {
    ids: &'w [String],
    places: &'w [Places<'w>],
    comparisons: usize,
}

impl Words<'_> {
    fn tell(&mut self, error: GraphError, problems: &mut Problems) {
        let place = &self.places[error.task];
        match error.kind {
            GraphErrorKind::DuplicateTask { id, earlier } => {
                let earlier = problems.line_of(self.places[earlier].id);
                problems.add(place.id, || {
                    format!("`{}` is the id of the task in line {earlier} already", start_of(&id))
                });
            }
            GraphErrorKind::UnknownDependency { id, place: at } => {
                let near = self.nearest(&id);
                problems
                    .add(place.each_dependency[at], || format!("there is no task `{}`{near}", start_of(&id)));
            }
            GraphErrorKind::DuplicateDependency { id, place: at } => {
                problems.add(place.each_dependency[at], || {
                    format!("`{}` is in these dependencies twice; once is enough", start_of(&id))
                });
            }
            GraphErrorKind::Cycle { ids } => {
                problems.add(place.dependencies, || match ids.as_slice() {
                    [id, _] => format!("task `{}` depends on itself", start_of(id)),
                    ids => {
                        let ids: Vec<_> = ids.iter().map(|id| start_of(id)).collect();
                        format!("tasks depend on each other in a cycle: {}", ids.join(" -> "))
                    }
                });
            }
            GraphErrorKind::UnknownInRunIf { id } => {
                let near = self.nearest(&id);
                for at in place.in_run_if_at(&id) {
                    problems.add(at, || format!("there is no task `{}`{near}", start_of(&id)));
                }
            }
            GraphErrorKind::NotUpstreamInRunIf { id } => {
                let task = start_of(&self.ids[error.task]);
                for at in place.in_run_if_at(&id) {
                    problems.add(at, || {
                        let id = start_of(&id);
                        if id == task {
                            return format!("`{id}` is the task itself, which has not run when this is decided");
                        }
                        format!("`{task}` does not depend on `{id}`, so `{id}` may not have ended; add \"{id}\" to its dependencies")
                    });
                }
            }
        }
    }

    fn nearest(&mut self, id: &str) -> String {
        if self.comparisons >= MOST_COMPARISONS {
            return String::new();
        }
        self.comparisons += self.ids.len();
        // An id that is wrong itself is no help, and not fit to be shown.
        let is_like = |known: &&str| known.len().abs_diff(id.len()) <= 3 && TaskId::parse(known).is_ok();
        did_you_mean(id, self.ids.iter().map(String::as_str).filter(is_like))
    }
}

impl Places<'_> {
    fn in_run_if_at(&self, id: &str) -> impl Iterator<Item = usize> {
        self.in_run_if.get(id).into_iter().flatten().copied()
    }
}
