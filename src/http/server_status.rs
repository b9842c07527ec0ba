//! The state of the server itself, as the event loop, the workers and the background threads share it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use log::Level;
use parking_lot::Mutex;

use super::request::RequestInfo;
use super::response::Response;
use crate::metrics::Metrics;
use crate::rate_limit::RateLimit;

/// To render the metrics takes the event loop longer than anything else that it answers. So many in so long are fresh, which
/// is enough for every scraper; a flood of requests gets the last of them again.
const FRESH_RENDERINGS: u32 = 100;
const RENDERING_WINDOW: Duration = Duration::from_millis(100);

/// The target of lines about requests.
const ACCESS: &str = concat!(env!("CARGO_CRATE_NAME"), "::access");

/// Failed requests that get a line each, in a second; a database that is away makes thousands.
const FAILURE_LINES: u32 = 10;

/// The server's own state, shared by the event loop, the workers and the threads that watch the database.
pub struct ServerStatus {
    pub metrics: Arc<Metrics>,
    /// Since when.
    draining: OnceLock<Instant>,
    /// The metrics as they were last rendered.
    rendered: Mutex<Vec<u8>>,
    fresh_renderings: RateLimit,
    /// Every answer is a line of the log.
    pub access_log: AtomicBool,
    failure_lines: RateLimit,
    unlogged_failures: AtomicU64,
    /// The path at which we ask ourselves, for the watchdog; no client knows it.
    probe: OnceLock<String>,
}

/// The route of requests to that path, which are not counted: no client sent them.
pub const PROBE: &str = "probe";

impl ServerStatus {
    pub fn new(metrics: Arc<Metrics>) -> ServerStatus {
        ServerStatus {
            metrics,
            draining: OnceLock::new(),
            rendered: Mutex::default(),
            fresh_renderings: RateLimit::new(FRESH_RENDERINGS, RENDERING_WINDOW),
            probe: OnceLock::new(),
            access_log: AtomicBool::new(false),
            failure_lines: RateLimit::new(FAILURE_LINES, Duration::from_secs(1)),
            unlogged_failures: AtomicU64::new(0),
        }
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

    /// How many failed requests got no line since this was last asked.
    pub fn unlogged_failures(&self) -> u64 {
        self.unlogged_failures.swap(0, Ordering::Relaxed)
    }

    /// From now on requests for this path are probes.
    pub fn expect_probe(&self, path: &str) {
        let _ = self.probe.set(path.to_owned());
    }

    pub fn is_probe(&self, path: &str) -> bool {
        self.probe.get().is_some_and(|probe| probe == path)
    }

    /// Counts an answer, and logs it: where an access log is wanted, and where the request failed.
    pub fn answered(&self, info: &RequestInfo, response: &Response, duration: Duration) {
        if info.route == PROBE {
            return;
        }
        self.metrics.answered(info.method, info.route, response.status, duration.as_secs_f64());
        // 500 has a line of its own, with the cause. That the server is not ready is no failure of `/ready`.
        let has_failed = matches!(response.status, 503 | 507) && info.route != "/ready";
        let level = if has_failed && self.failure_lines.allows(Instant::now()) {
            Level::Warn
        } else if self.access_log.load(Ordering::Relaxed) {
            Level::Info
        } else {
            Level::Debug
        };
        if has_failed && !log::log_enabled!(target: ACCESS, level) {
            self.unlogged_failures.fetch_add(1, Ordering::Relaxed);
        }
        log::log!(
            target: ACCESS,
            level,
            method = info.method,
            route = info.route,
            status = response.status,
            // From whole microseconds: a product has noise in its last digits.
            milliseconds = duration.as_micros() as f64 / 1e3,
            bytes = if info.method == "HEAD" { 0 } else { response.length() },
            client:% = info.client,
            key_id = response.key_id.map(|id| id.to_string()),
            request_id = &*info.request_id;
            "answered"
        );
    }

    /// The metrics as Prometheus' text; of a flood of requests most get the last rendering again.
    pub fn rendered_metrics(&self, now: Instant) -> Vec<u8> {
        let mut rendered = self.rendered.lock();
        if self.fresh_renderings.allows(now) {
            *rendered = self.metrics.render();
        }
        rendered.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_scrapers_renders_only_so_often() {
        let status = ServerStatus::new(Arc::new(Metrics::new().unwrap()));
        let now = Instant::now();
        let hits = |now| {
            status.metrics.cache_hits.inc();
            let text = String::from_utf8(status.rendered_metrics(now)).unwrap();
            let line = text.lines().find(|line| line.starts_with("cloacina_auth_cache_hits_total ")).unwrap();
            line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
        };
        for number in 1..=FRESH_RENDERINGS {
            assert_eq!(hits(now), number);
        }
        assert_eq!(hits(now), FRESH_RENDERINGS);
        assert_eq!(hits(now + RENDERING_WINDOW), FRESH_RENDERINGS + 2);
    }
}
