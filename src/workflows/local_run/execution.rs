//! An execution that is under way: what starts next, and what comes of each attempt.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::attempt::{self, Ended, Handle};
use super::display::{Display, LiveLine, seconds};
use super::{LocalRun, Message};
use crate::channel::Sender;
use crate::command_error::{CommandError, runtime};
use crate::engine::attempt::End;
use crate::engine::graph::{
    AttemptOutcome, Context, Decision, ExecutionOutcome, Graph, Progress, SkipReason, Task as Node,
    TaskOutcome, TaskState,
};
use crate::engine::retry::random;
use crate::terminal::shown;
use crate::workflows::manifest::Task;

/// How often the lines of running tasks are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Where only a message can change anything.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// What is longer is shown as lines of its own.
const LONGEST_LINE_BYTES: usize = 64 * 1024;
/// Lines that are shown of what a failed task printed last.
const SHOWN_LINES: usize = 20;

/// An execution that is under way.
pub struct Execution {
    run: Arc<LocalRun>,
    id: Uuid,
    graph: Arc<Graph>,
    tasks: Vec<Task>,
    progress: Progress,
    outputs: Vec<Option<Context>>,
    /// Of each task how many attempts have begun.
    attempts: Vec<u32>,
    ready: VecDeque<usize>,
    /// Tasks whose next attempt is at that time.
    waiting: Vec<(Instant, usize)>,
    running: HashMap<usize, Running>,
    display: Display,
    /// When it was last looked at what running tasks have printed.
    looked_at: Instant,
    /// Signals that have come.
    stops: usize,
}

struct Running {
    since: Instant,
    handle: Arc<Handle>,
    /// What it printed behind the last end of a line.
    unfinished: String,
    last_line: String,
}

impl Execution {
    pub fn new(run: LocalRun) -> Result<Execution, CommandError> {
        let (graph, tasks) = match run.only {
            None => (Arc::clone(&run.manifest.graph), run.manifest.tasks.clone()),
            Some(only) => {
                (Arc::new(alone(&run.manifest.tasks[only])?), vec![run.manifest.tasks[only].clone()])
            }
        };
        Ok(Execution {
            id: Uuid::new_v4(),
            progress: Progress::new(Arc::clone(&graph)),
            outputs: vec![None; tasks.len()],
            attempts: vec![0; tasks.len()],
            ready: VecDeque::new(),
            waiting: Vec::new(),
            running: HashMap::new(),
            display: Display::new(tasks.iter().map(|task| task.id.as_str())),
            looked_at: Instant::now(),
            stops: 0,
            run: Arc::new(run),
            graph,
            tasks,
        })
    }

    /// How it has ended, once it has.
    pub fn outcome(&self) -> Option<ExecutionOutcome> {
        self.progress.outcome()
    }

    /// Decides on every task whose dependencies have ended.
    pub fn decide(&mut self) {
        loop {
            let context =
                |task| Ok::<_, Infallible>(merged(&self.graph, &self.run.context, &self.outputs, task));
            let Ok(Some((task, decision))) = self.progress.decide_next(context) else { return };
            match decision {
                Decision::Ready => self.ready.push_back(task),
                Decision::Skipped(reason) => {
                    let why = match reason {
                        SkipReason::Condition => "its run_if does not hold".to_owned(),
                        SkipReason::Dependency(on) => format!("`{}` did not succeed", self.graph.id(on)),
                    };
                    self.display.event(self.graph.id(task), "skipped", &why);
                }
            }
        }
    }

    /// Starts as many attempts as there are slots.
    pub fn start(&mut self, sender: &Sender<Message>) -> Result<(), CommandError> {
        let now = Instant::now();
        let due = self.waiting.extract_if(.., |(at, _)| *at <= now).map(|(_, task)| task);
        self.ready.extend(due);
        while self.running.len() < self.run.slots {
            let Some(task) = self.ready.pop_front() else { break };
            if self.progress.started(task).is_err() {
                // It was cancelled while it waited.
                continue;
            }
            self.attempts[task] += 1;
            let context = merged(&self.graph, &self.run.context, &self.outputs, task);
            let number = self.attempts[task];
            let new = attempt::new_attempt(&self.run, self.id, &self.tasks[task], number, context);
            let handle = new
                .and_then(|new| attempt::start(new, task, sender.clone()))
                .map_err(runtime("cannot run a task"))?;
            let (unfinished, last_line) = (String::new(), String::new());
            self.running.insert(task, Running { since: now, handle, unfinished, last_line });
            if self.attempts[task] == 1 {
                self.display.event(self.graph.id(task), "started", "");
            }
        }
        Ok(())
    }

    /// What comes of an attempt that has ended.
    pub fn ended(&mut self, task: usize, ended: Ended) {
        let Some(running) = self.running.remove(&task) else { return };
        let took = seconds(running.since.elapsed());
        let id = self.graph.id(task).to_owned();
        if self.run.only.is_some() {
            self.display.output((running.unfinished + &ended.log).lines());
        }
        for warning in &ended.warnings {
            self.display.event(&id, "warning", &shown(warning));
        }
        match ended.end {
            End::Exited(0) => {
                self.outputs[task] = ended.output;
                let _ = self.progress.ended(task, AttemptOutcome::Completed);
                self.display.event(&id, "completed", &took);
            }
            end => self.failed(task, &id, &end, &took, &ended.log),
        }
    }

    fn failed(&mut self, task: usize, id: &str, end: &End, took: &str, log: &str) {
        let end = shown(&end.to_string());
        let is_stopped = self.stops > 0;
        let wait = self.tasks[task].retries.wait_after(self.attempts[task], random());
        match wait.filter(|_| !is_stopped) {
            Some(wait) => {
                let _ = self.progress.retry_scheduled(task);
                self.waiting.push((Instant::now() + wait, task));
                let (attempt, of) = (self.attempts[task], self.tasks[task].retries.attempts);
                let next =
                    format!("{took}, {end}; attempt {attempt} of {of}, the next one in {}", seconds(wait));
                self.display.event(id, "failed", &next);
            }
            None => {
                let _ = self.progress.ended(task, AttemptOutcome::Failed);
                let state = if is_stopped { "cancelled" } else { "failed" };
                self.display.event(id, state, &format!("{took}, {end}"));
            }
        }
        if self.run.only.is_none() {
            let lines: Vec<_> = log.lines().collect();
            self.display.output(lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES)).copied());
        }
    }

    /// The first signal gives tasks their grace; the next one takes it.
    pub fn stop(&mut self) {
        self.stops += 1;
        for task in self.progress.cancel().unwrap_or_default() {
            self.display.event(self.graph.id(task), "cancelled", "");
        }
        self.ready.clear();
        self.waiting.clear();
        self.running.values().for_each(|running| running.handle.cancel());
    }

    /// Shows what running tasks have printed: all of it of one that runs alone, else the last line.
    pub fn show_running(&mut self) {
        let is_followed = self.run.only.is_some();
        if !is_followed && !self.display.is_live() {
            return;
        }
        let looks = self.looked_at.elapsed() >= LOOK_EVERY;
        if looks {
            self.looked_at = Instant::now();
        }
        for running in self.running.values_mut().filter(|_| looks) {
            running.unfinished += &running.handle.new_output();
            if running.unfinished.len() > LONGEST_LINE_BYTES && !running.unfinished.contains('\n') {
                running.unfinished.push('\n');
            }
            let Some(end) = running.unfinished.rfind('\n') else { continue };
            let lines: String = running.unfinished.drain(..=end).collect();
            if is_followed {
                self.display.output(lines.lines());
            }
            lines.lines().next_back().unwrap_or_default().clone_into(&mut running.last_line);
        }
        let mut running: Vec<_> = self.running.iter().collect();
        running.sort_by_key(|(_, running)| running.since);
        let line = |(task, running): (&usize, &'_ Running)| LiveLine {
            id: self.graph.id(*task),
            took: running.since.elapsed(),
            last_line: running.last_line.clone(),
        };
        let lines: Vec<_> = running.into_iter().map(line).collect();
        self.display.live(&lines);
    }

    pub fn show_end(&mut self, outcome: &ExecutionOutcome, took: Duration) {
        let (state, what) = match outcome {
            ExecutionOutcome::Completed => ("completed", String::new()),
            ExecutionOutcome::Cancelled => ("cancelled", String::new()),
            ExecutionOutcome::Failed { tasks } => {
                let ids: Vec<_> = tasks.iter().map(|task| self.graph.id(*task)).collect();
                ("failed", format!(": {}", ids.join(", ")))
            }
        };
        let ended = |outcome| {
            (0..self.tasks.len())
                .filter(|task| self.progress.state(*task) == TaskState::Ended(outcome))
                .count()
        };
        let counts = [
            (ended(TaskOutcome::Completed), "completed"),
            (ended(TaskOutcome::Failed), "failed"),
            (ended(TaskOutcome::Skipped), "skipped"),
            (ended(TaskOutcome::Cancelled), "cancelled"),
        ];
        let counts: Vec<_> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        let name = &self.run.manifest.name;
        self.display.remark(&format!("{name} {state} in {}{what} ({})", seconds(took), counts.join(", ")));
    }

    /// How long nothing has to be done unless a message comes.
    pub fn until_next_look(&self) -> Duration {
        let now = Instant::now();
        let due = self.waiting.iter().map(|(at, _)| at.saturating_duration_since(now));
        let looks = !self.running.is_empty() && (self.display.is_live() || self.run.only.is_some());
        due.chain(looks.then_some(LOOK_EVERY)).min().unwrap_or(LONGEST_WAIT)
    }
}

/// The context that a task reads.
fn merged(graph: &Graph, context: &Context, outputs: &[Option<Context>], task: usize) -> Context {
    graph.merge_context(task, context, |task| outputs[task].as_ref())
}

/// The graph of a task that runs alone, whatever it depends on.
fn alone(task: &Task) -> Result<Graph, CommandError> {
    let id = task.id.as_str().to_owned();
    let task = Node { id, dependencies: Vec::new(), run_if: None, allow_failure: false };
    Graph::new(vec![task])
        .map_err(|_| CommandError::Runtime("internal error: a task that runs alone is no graph".to_owned()))
}
