//! Every setting once: flag, then environment, then `config.toml`, then default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What `serve` needs to know, all of it resolved and checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Holds `config.toml`, `bootstrap-key` and `logs/`; mode 0700.
    pub home: PathBuf,
    pub bind: SocketAddr,
    pub database_url: String,
    pub bootstrap_key: Option<String>,
    /// Worker threads.
    pub workers: usize,
    /// Database sessions.
    pub pool_size: u32,
    /// Requests that may wait for a worker.
    pub queue: usize,
    pub max_connections: usize,
    /// Keys in the auth cache; 0 turns it off.
    pub cache_size: usize,
    pub cache_ttl: Duration,
    /// A whole request, head and body, from its first byte.
    pub request_timeout: Duration,
    /// Between two requests of one connection.
    pub idle_timeout: Duration,
    /// An answer that the client does not take.
    pub write_timeout: Duration,
    /// Until a request that a worker has is answered with 503.
    pub database_timeout: Duration,
    pub shutdown_timeout: Duration,
    /// How long to wait for a PostgreSQL that is still coming up.
    pub database_wait: Duration,
}
