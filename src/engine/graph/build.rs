//! A graph from the tasks of a manifest, or everything that is wrong with them.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use super::{Graph, Node, Task};

/// Why tasks are no graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphError {
    /// The task that it is found at; of a cycle the first one in the manifest's order.
    pub task: usize,
    /// What is wrong there.
    pub kind: GraphErrorKind,
}

/// What is wrong with a task, with the ids that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphErrorKind {
    /// An earlier task has this id.
    DuplicateTask { id: String, earlier: usize },
    /// No task has the id at this place of the list of dependencies.
    UnknownDependency { id: String, place: usize },
    /// The id at this place of the list of dependencies is in it before.
    DuplicateDependency { id: String, place: usize },
    /// Each task depends on the next one, and the last is the first again.
    Cycle { ids: Vec<String> },
    /// `run_if` names a task that does not exist.
    UnknownInRunIf { id: String },
    /// `run_if` names a task that the task does not depend on, directly or through further tasks.
    NotUpstreamInRunIf { id: String },
}

/// For each task those that it depends on, or those that depend on it.
type Edges = Vec<Vec<usize>>;

impl Graph {
    /// # Errors
    /// All of them, in the manifest's order. Of cycles that share a task one is told. What is upstream of a
    /// task, and so may be in its `run_if`, is known only once all else is right.
    pub fn new(tasks: Vec<Task>) -> Result<Graph, Vec<GraphError>> {
        let mut errors = Vec::new();
        let indices = index_ids(&tasks, &mut errors);
        let dependencies = resolve(&tasks, &indices, &mut errors);
        let mut dependents = vec![Vec::new(); tasks.len()];
        for (task, dependencies) in dependencies.iter().enumerate() {
            dependencies.iter().for_each(|dependency| dependents[*dependency].push(task));
        }
        let (order, cycles) = sort(&dependencies, &dependents);
        errors.extend(cycles.into_iter().map(|cycle| cycle_error(&tasks, cycle)));
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.task);
            return Err(errors);
        }
        let graph = Graph { nodes: nodes(tasks, dependencies, dependents, &order), order, indices };
        let errors = graph.run_if_errors();
        if errors.is_empty() { Ok(graph) } else { Err(errors) }
    }

    fn run_if_errors(&self) -> Vec<GraphError> {
        let mut errors = Vec::new();
        for (task, node) in self.nodes.iter().enumerate() {
            let named = node.run_if.iter().flat_map(|condition| condition.tasks());
            let not_upstream =
                named.filter(|id| !self.index_of(id).is_some_and(|other| self.is_upstream(other, task)));
            for id in BTreeSet::from_iter(not_upstream) {
                let kind = GraphErrorKind::NotUpstreamInRunIf { id: id.to_owned() };
                errors.push(GraphError { task, kind });
            }
        }
        errors
    }
}

/// The task of each id. Of several with one id it is the first.
fn index_ids(tasks: &[Task], errors: &mut Vec<GraphError>) -> HashMap<String, usize> {
    let mut indices = HashMap::with_capacity(tasks.len());
    for (task, Task { id, .. }) in tasks.iter().enumerate() {
        let earlier = *indices.entry(id.clone()).or_insert(task);
        if earlier != task {
            let kind = GraphErrorKind::DuplicateTask { id: id.clone(), earlier };
            errors.push(GraphError { task, kind });
        }
    }
    indices
}

/// The dependencies that are known, each once. What `run_if` names only has to exist here.
fn resolve(tasks: &[Task], indices: &HashMap<String, usize>, errors: &mut Vec<GraphError>) -> Edges {
    let mut edges = Vec::with_capacity(tasks.len());
    // For each task the last one that was found to depend on it.
    let mut last_dependent = vec![None; tasks.len()];
    for (task, Task { dependencies, run_if, .. }) in tasks.iter().enumerate() {
        let mut resolved = Vec::with_capacity(dependencies.len());
        for (place, id) in dependencies.iter().enumerate() {
            let kind = match indices.get(id) {
                None => GraphErrorKind::UnknownDependency { id: id.clone(), place },
                Some(dependency) if last_dependent[*dependency] == Some(task) => {
                    GraphErrorKind::DuplicateDependency { id: id.clone(), place }
                }
                Some(dependency) => {
                    last_dependent[*dependency] = Some(task);
                    resolved.push(*dependency);
                    continue;
                }
            };
            errors.push(GraphError { task, kind });
        }
        let named = run_if.iter().flat_map(|condition| condition.tasks());
        for id in BTreeSet::from_iter(named.filter(|id| !indices.contains_key(*id))) {
            let kind = GraphErrorKind::UnknownInRunIf { id: id.to_owned() };
            errors.push(GraphError { task, kind });
        }
        edges.push(resolved);
    }
    edges
}

/// The topological order, and cycles without a common task, at least one of all that share tasks. Of the
/// tasks whose dependencies are placed the first one is placed next; where there is none, a cycle is found
/// and taken out.
fn sort(dependencies: &Edges, dependents: &Edges) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut open: Vec<usize> = dependencies.iter().map(Vec::len).collect();
    let mut is_placed = vec![false; open.len()];
    let mut next: BinaryHeap<_> = (0..open.len()).filter(|task| open[*task] == 0).map(Reverse).collect();
    let (mut order, mut cycles) = (Vec::with_capacity(open.len()), Vec::new());
    let mut finder = Cycles::new(dependencies);
    loop {
        let placed = match next.pop() {
            Some(Reverse(task)) => {
                order.push(task);
                vec![task]
            }
            None => {
                let Some(start) = is_placed.iter().position(|is_placed| !is_placed) else { break };
                let cycle = finder.find(start, &is_placed);
                cycles.push(cycle.clone());
                cycle
            }
        };
        placed.iter().for_each(|task| is_placed[*task] = true);
        for dependent in placed.iter().flat_map(|task| &dependents[*task]) {
            open[*dependent] -= 1;
            if open[*dependent] == 0 && !is_placed[*dependent] {
                next.push(Reverse(*dependent));
            }
        }
    }
    (order, cycles)
}

/// Finds cycles among tasks that all depend on one that is not placed either. What led to one cycle leads on to the next,
/// so that no task is gone through twice.
struct Cycles<'a> {
    dependencies: &'a Edges,
    /// Each task depends on the one behind it.
    path: Vec<usize>,
    is_in_path: Vec<bool>,
    /// Of each task how many of its dependencies are known to be placed.
    passed: Vec<usize>,
}

impl<'a> Cycles<'a> {
    fn new(dependencies: &'a Edges) -> Cycles<'a> {
        let tasks = dependencies.len();
        Cycles { dependencies, path: Vec::new(), is_in_path: vec![false; tasks], passed: vec![0; tasks] }
    }

    /// `first` is the first task that is not placed.
    fn find(&mut self, first: usize, is_placed: &[bool]) -> Vec<usize> {
        while let Some(task) = self.path.pop_if(|task| is_placed[*task]) {
            self.is_in_path[task] = false;
        }
        let mut task = self.path.pop().unwrap_or(first);
        self.is_in_path[task] = false;
        while !std::mem::replace(&mut self.is_in_path[task], true) {
            self.path.push(task);
            let passed = &mut self.passed[task];
            while is_placed[self.dependencies[task][*passed]] {
                *passed += 1;
            }
            task = self.dependencies[task][*passed];
        }
        let place = self.path.iter().rposition(|one| *one == task).unwrap_or(0);
        let cycle = self.path.split_off(place);
        cycle.iter().for_each(|task| self.is_in_path[*task] = false);
        cycle
    }
}

fn cycle_error(tasks: &[Task], mut cycle: Vec<usize>) -> GraphError {
    let first = (0..cycle.len()).min_by_key(|place| cycle[*place]).unwrap_or(0);
    cycle.rotate_left(first);
    let ids = cycle.iter().chain(cycle.first()).map(|task| tasks[*task].id.clone()).collect();
    GraphError { task: cycle[0], kind: GraphErrorKind::Cycle { ids } }
}

fn nodes(tasks: Vec<Task>, dependencies: Edges, dependents: Edges, order: &[usize]) -> Vec<Node> {
    let edges = dependencies.into_iter().zip(dependents);
    let mut nodes: Vec<Node> = tasks
        .into_iter()
        .zip(edges)
        .map(|(Task { id, run_if, allow_failure, .. }, (dependencies, dependents))| Node {
            id,
            dependencies,
            dependents,
            run_if,
            allow_failure,
            position: 0,
            upstream: Vec::new(),
        })
        .collect();
    for (position, task) in order.iter().enumerate() {
        nodes[*task].position = position;
        nodes[*task].upstream = upstream(&nodes, *task);
    }
    nodes
}

/// The bits of a task whose dependencies have theirs.
fn upstream(nodes: &[Node], task: usize) -> Vec<u64> {
    let dependencies = nodes[task].dependencies.iter().map(|dependency| &nodes[*dependency]);
    let words = dependencies.clone().map(|node| node.position / 64 + 1).max().unwrap_or(0);
    let mut bits = vec![0; words];
    for node in dependencies {
        bits[node.position / 64] |= 1 << (node.position % 64);
        bits.iter_mut().zip(&node.upstream).for_each(|(word, more)| *word |= more);
    }
    bits
}
