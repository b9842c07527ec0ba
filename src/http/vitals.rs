//! What the server says about itself, answered at the gate: these never wait for a worker or a database.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::reply::{Asked, Reply};
use crate::metrics::Metrics;

/// How long a successful look at the database counts as readiness.
const FRESH_FOR: Duration = Duration::from_millis(1900);

/// The server's own state, shared by the gate, the workers and the threads that watch the database.
pub struct Vitals {
    pub metrics: Arc<Metrics>,
    /// Since when.
    draining: OnceLock<Instant>,
    database_seen: Mutex<Option<Instant>>,
}

impl Vitals {
    pub fn new(metrics: Arc<Metrics>) -> Vitals {
        Vitals { metrics, draining: OnceLock::new(), database_seen: Mutex::new(None) }
    }

    /// The pool gave out a session, and the database answered on it, at this moment.
    pub fn saw_database(&self, at: Instant) {
        *self.database_seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(at);
    }

    /// From now on `/ready` says that we are shutting down.
    pub fn start_draining(&self) {
        let _ = self.draining.set(Instant::now());
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// For how long we have been draining.
    pub fn drained_for(&self) -> Duration {
        self.draining.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Counts an answer, and logs it for whoever asks for that much.
    pub fn answered(&self, asked: &Asked, status: u16, duration: Duration) {
        self.metrics.answered(asked.method, asked.route, status, duration.as_secs_f64());
        log::debug!(
            method = asked.method,
            route = asked.route,
            status = status,
            milliseconds = duration.as_secs_f64() * 1e3,
            client:% = asked.client,
            request_id = &*asked.request_id;
            "answered"
        );
    }

    fn database_is_fresh(&self) -> bool {
        let seen = *self.database_seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        seen.is_some_and(|at| at.elapsed() < FRESH_FOR)
    }
}

/// `GET /health`: the process is alive.
pub fn health(_vitals: &Vitals) -> Reply {
    Reply::bytes(200, "application/json", &br#"{"status":"ok"}"#[..])
}

/// `GET /ready`: the database was reached within the last two seconds, and we are not shutting down.
pub fn ready(vitals: &Vitals) -> Reply {
    let not_ready = |body: &'static str| {
        Reply::bytes(503, "application/json", body.as_bytes()).header("Retry-After", "1")
    };
    if vitals.is_draining() {
        not_ready(r#"{"status":"not ready","reason":"shutting down"}"#)
    } else if vitals.database_is_fresh() {
        Reply::bytes(200, "application/json", &br#"{"status":"ready"}"#[..])
    } else {
        not_ready(r#"{"status":"not ready","reason":"database unreachable"}"#)
    }
}

/// `GET /metrics`: Prometheus' text format 0.0.4.
pub fn metrics(vitals: &Vitals) -> Reply {
    Reply::bytes(200, "text/plain; version=0.0.4", vitals.metrics.render())
}

/// `GET /openapi.json`: OpenAPI 3.1 of every endpoint.
pub fn openapi(_vitals: &Vitals) -> Reply {
    Reply::bytes(200, "application/json", &include_bytes!("openapi.json")[..])
}
