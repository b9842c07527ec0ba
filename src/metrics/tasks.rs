//! What Prometheus is told of executions, tasks and hosts. No label holds a name that a tenant chooses.

use prometheus::core::{AtomicF64, GenericGauge};
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::added;

/// From a task that starts at once to one that waited for most of an hour.
const START_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// Those of executions, tasks and hosts.
pub struct TaskMetrics {
    executions: IntGaugeVec,
    executions_ended: IntCounterVec,
    tasks: IntGaugeVec,
    tasks_ended: IntCounterVec,
    queue_length: IntGauge,
    queue_oldest_seconds: GenericGauge<AtomicF64>,
    /// Seconds from a task that was ready to its process, of tasks that started here.
    pub start_seconds: Histogram,
    /// Attempts that ended without an outcome, as this server recorded it.
    pub attempts_abandoned: IntCounter,
    log_bytes: IntGauge,
    /// How many tasks this server runs at once, and how many it runs now.
    pub slots: IntGauge,
    pub slots_in_use: IntGauge,
    pub hosts_silent: IntGauge,
}

/// What the tables say now of executions and tasks that have not ended.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct TaskCounts {
    pub executions_pending: i64,
    pub executions_running: i64,
    /// Tasks that may start now.
    pub tasks_ready: i64,
    pub tasks_running: i64,
    /// What may start now, executions and tasks.
    pub queue_length: i64,
    /// For how long the first of them has been waiting; zero where there is none.
    pub queue_oldest_seconds: f64,
    /// Of all logs in the database.
    pub log_bytes: i64,
}

/// Values of the label `status`.
const EXECUTIONS: [&str; 2] = ["Pending", "Running"];
const EXECUTIONS_ENDED: [&str; 3] = ["Completed", "Failed", "Cancelled"];
const TASKS: [&str; 2] = ["Ready", "Running"];
const TASKS_ENDED: [&str; 4] = ["Completed", "Failed", "Skipped", "Cancelled"];

impl TaskMetrics {
    pub fn new(registry: &Registry) -> prometheus::Result<TaskMetrics> {
        let gauge = |name: &str, help: &str| added(registry, IntGauge::new(name, help)?);
        let gauges = |name: &str, help: &str, values: &[&str]| {
            let gauges = added(registry, IntGaugeVec::new(Opts::new(name, help), &["status"])?)?;
            values.iter().for_each(|value| gauges.with_label_values(&[value]).set(0));
            Ok::<_, prometheus::Error>(gauges)
        };
        let counters = |name: &str, help: &str, values: &[&str]| {
            let counters = added(registry, IntCounterVec::new(Opts::new(name, help), &["status"])?)?;
            values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
            Ok::<_, prometheus::Error>(counters)
        };
        let start_seconds = HistogramOpts::new(
            "cloacina_task_start_seconds",
            "From a task that was ready to its process, of tasks that this server started.",
        );
        Ok(TaskMetrics {
            executions: gauges("cloacina_executions", "Executions that have not ended.", &EXECUTIONS)?,
            executions_ended: counters(
                "cloacina_executions_ended_total",
                "Executions whose end this server recorded.",
                &EXECUTIONS_ENDED,
            )?,
            tasks: gauges("cloacina_tasks", "Tasks that may start now, and that run.", &TASKS)?,
            tasks_ended: counters(
                "cloacina_tasks_ended_total",
                "Tasks whose end this server recorded.",
                &TASKS_ENDED,
            )?,
            queue_length: gauge("cloacina_queue_length", "Executions and tasks that may start now.")?,
            queue_oldest_seconds: added(
                registry,
                Gauge::new("cloacina_queue_oldest_seconds", "For how long the first of them has waited.")?,
            )?,
            start_seconds: added(
                registry,
                Histogram::with_opts(start_seconds.buckets(START_SECONDS.to_vec()))?,
            )?,
            attempts_abandoned: added(
                registry,
                IntCounter::new(
                    "cloacina_attempts_abandoned_total",
                    "Attempts that this server recorded as abandoned.",
                )?,
            )?,
            log_bytes: gauge("cloacina_task_log_bytes", "What logs of tasks take in the database.")?,
            slots: gauge("cloacina_task_slots", "Tasks that this server runs at once.")?,
            slots_in_use: gauge("cloacina_task_slots_in_use", "Tasks that this server runs now.")?,
            hosts_silent: gauge(
                "cloacina_hosts_silent",
                "Hosts with slots that the database has not heard of for a minute.",
            )?,
        })
    }

    /// What was last counted.
    pub fn set_counts(&self, counts: &TaskCounts) {
        self.executions.with_label_values(&["Pending"]).set(counts.executions_pending);
        self.executions.with_label_values(&["Running"]).set(counts.executions_running);
        self.tasks.with_label_values(&["Ready"]).set(counts.tasks_ready);
        self.tasks.with_label_values(&["Running"]).set(counts.tasks_running);
        self.queue_length.set(counts.queue_length);
        self.queue_oldest_seconds.set(counts.queue_oldest_seconds);
        self.log_bytes.set(counts.log_bytes);
    }

    /// The end of an execution has been committed. `status` is one of `ExecutionStatus`.
    pub fn execution_ended(&self, status: &'static str) {
        self.executions_ended.with_label_values(&[status]).inc();
    }

    /// The end of a task has been committed, with a status as its table has it.
    pub fn task_ended(&self, status: &'static str) {
        self.tasks_ended.with_label_values(&[status]).inc();
    }
}
