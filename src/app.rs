//! What handlers work with.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::auth::{Auth, Principal};
use crate::background::{JobQueue, Waker};
use crate::config::TenantDatabaseHost;
use crate::execution_changes::ExecutionChanges;
use crate::http::request::Request;
use crate::http::router::Parameters;
use crate::http::server_status::ServerStatus;
use crate::store::Store;
use crate::warnings::Warnings;

/// Made once at the start; lives as long as the server.
pub struct App {
    /// How long the database may take for what no request waits for.
    pub database_timeout: Duration,
    /// Longest life of a new key; zero is no limit.
    pub max_key_lifetime: Duration,
    pub store: Arc<Store>,
    pub auth: Auth,
    pub status: Arc<ServerStatus>,
    /// Where tenants find the database; `None`: where the server does.
    pub tenant_database_host: Option<TenantDatabaseHost>,
    /// Bytes of one.
    pub max_package_size: usize,
    /// What the thread has to do that keeps packages.
    pub package_store: Arc<JobQueue<App>>,
    /// Who hears of changes to executions.
    pub execution_changes: Arc<ExecutionChanges>,
    /// Wakes the thread that drops what removed tenants had.
    pub tenant_removal: Waker,
    /// Tasks are being ended with this server, which waits for them.
    pub tasks_are_stopping: AtomicBool,
    /// What `/ready` adds to its answer.
    pub warnings: Warnings,
    /// What `GET /openapi.json` answers.
    pub openapi: &'static [u8],
}

/// A request whose key has the scope of its route.
pub struct Call<'a> {
    pub request: &'a Request<'a>,
    pub principal: Arc<Principal>,
    /// What the pattern's `{…}` stand for.
    pub parameters: Parameters<'a>,
}
