//! The registry of what Prometheus is told, and the names in it.

mod tasks;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use crate::command_error::{CommandError, runtime};
pub use tasks::{TaskCounts, TaskMetrics};

/// Upper bounds of the duration histogram, in seconds: from an answer out of the cache to the request deadline.
const SECONDS: &[f64] =
    &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Every metric by its name in the code; the `cloacina_` names are in `new`.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    /// Requests that were read whole and not yet answered.
    pub requests_in_flight: IntGauge,
    /// Sockets of clients that are open.
    pub connections: IntGauge,
    /// Requests that wait for a worker.
    pub queue_depth: IntGauge,
    rejected: IntCounterVec,
    pub cache_hits: IntCounter,
    pub cache_misses: IntCounter,
    auth_failures: IntCounterVec,
    /// Sessions that the pool holds.
    pub pool_size: IntGauge,
    /// Sessions that no thread uses at this moment.
    pub pool_idle: IntGauge,
    /// Seconds that a worker waited for a session, one observation for each checkout.
    pub pool_wait_seconds: Histogram,
    keys: IntGaugeVec,
    pub tasks: TaskMetrics,
}

/// Why a request was not let in. Each is a value of the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthFailure {
    Malformed,
    Checksum,
    Unknown,
    Revoked,
    Expired,
    Permission,
}

impl AuthFailure {
    /// The label of each, in their order, and its name for people.
    const ALL: [(&'static str, &'static str); 6] = [
        ("malformed", "missing or malformed authorization"),
        ("checksum", "mistyped key"),
        ("unknown", "unknown key"),
        ("revoked", "revoked key"),
        ("expired", "expired key"),
        ("permission", "insufficient permissions"),
    ];
}

/// Why a connection or a request was turned away before a worker saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// All of `--max-connections` are busy.
    TooManyConnections,
    /// A connection gave up its place to a newcomer.
    Evicted,
    /// The queue was full, or the request waited in it for too long.
    Overloaded,
    /// The request was not one that we take (4xx, 501 or 505 before any worker saw it).
    Malformed,
    /// The client spoke TLS.
    TlsOnPlainPort,
    /// The client was slower than its deadline.
    TooSlow,
}

impl Rejection {
    /// As of `AuthFailure`.
    const ALL: [(&'static str, &'static str); 6] = [
        ("too_many_connections", "too many connections"),
        ("evicted", "connection that gave way to others"),
        ("overloaded", "too many requests"),
        ("malformed", "malformed request"),
        ("tls", "TLS on a plain port"),
        ("too_slow", "too slow a client"),
    ];
}

impl Metrics {
    /// # Errors
    /// A name that is not one, or that stands twice: a bug.
    pub fn new() -> Result<Metrics, CommandError> {
        Metrics::build().map_err(runtime("cannot set up metrics"))
    }

    fn build() -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let gauge = |name: &str, help: &str| added(&registry, IntGauge::new(name, help)?);
        let gauges = |name: &str, help: &str, label: &str| {
            added(&registry, IntGaugeVec::new(Opts::new(name, help), &[label])?)
        };
        let counter = |name: &str, help: &str| added(&registry, IntCounter::new(name, help)?);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            added(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let of_seconds = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        gauge("cloacina_up", "1 while the server runs.")?.set(1);
        gauges("cloacina_build_info", "1, with the version of the running binary.", "version")?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        let durations = of_seconds(
            "cloacina_http_request_duration_seconds",
            "From a request read whole to its answer handed to the kernel.",
        );
        let pool_wait_seconds = of_seconds("cloacina_db_pool_wait_seconds", "Waits for a database session.");
        let labels = &["method", "route", "status"];
        Ok(Metrics {
            requests: counters("cloacina_http_requests_total", "Requests answered.", labels)?,
            durations: added(&registry, HistogramVec::new(durations, labels)?)?,
            requests_in_flight: gauge(
                "cloacina_http_requests_in_flight",
                "Requests read whole and not yet answered.",
            )?,
            connections: gauge("cloacina_http_connections_open", "Open connections of clients.")?,
            queue_depth: gauge("cloacina_http_queue_depth", "Requests that wait for a worker.")?,
            rejected: counters(
                "cloacina_http_rejected_total",
                "Connections and requests turned away before a worker saw them.",
                &["reason"],
            )?,
            cache_hits: counter("cloacina_auth_cache_hits_total", "Keys found in the cache.")?,
            cache_misses: counter("cloacina_auth_cache_misses_total", "Keys looked up in the database.")?,
            auth_failures: counters(
                "cloacina_auth_failures_total",
                "Requests that the guard refused.",
                &["reason"],
            )?,
            pool_size: gauge("cloacina_db_pool_size", "Database sessions that the pool holds.")?,
            pool_idle: gauge("cloacina_db_pool_idle", "Database sessions that nobody uses.")?,
            pool_wait_seconds: added(&registry, Histogram::with_opts(pool_wait_seconds)?)?,
            keys: gauges("cloacina_api_keys", "Keys in the database.", "state")?,
            tasks: TaskMetrics::new(&registry)?,
            registry,
        })
    }

    /// Counts an answer. `route` is the pattern, never the path; both labels are of a small, fixed set.
    pub fn answered(&self, method: &'static str, route: &'static str, status: u16, seconds: f64) {
        let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
        let labels = &[method, route, std::str::from_utf8(&digits).unwrap_or_default()];
        self.requests.with_label_values(labels).inc();
        self.durations.with_label_values(labels).observe(seconds);
    }

    pub fn auth_failed(&self, reason: AuthFailure) {
        self.auth_failures.with_label_values(&[AuthFailure::ALL[reason as usize].0]).inc();
    }

    pub fn rejected(&self, reason: Rejection) {
        self.rejected.with_label_values(&[Rejection::ALL[reason as usize].0]).inc();
    }

    /// How many connections and requests were refused so far, each with the reason as people put it. Always in the same
    /// order.
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        let auth = AuthFailure::ALL.iter().map(|reason| (&self.auth_failures, reason));
        let event_loop = Rejection::ALL.iter().map(|reason| (&self.rejected, reason));
        auth.chain(event_loop)
            .map(|(counters, (label, name))| (*name, counters.with_label_values(&[label]).get()))
            .collect()
    }

    /// How many keys the table has, as of the last count.
    pub fn set_keys(&self, active: i64, revoked: i64) {
        self.keys.with_label_values(&["active"]).set(active);
        self.keys.with_label_values(&["revoked"]).set(revoked);
    }

    /// The whole registry in the text format 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            log::error!("cannot render metrics: {error}");
        }
        text
    }
}

fn added<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
