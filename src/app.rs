//! What handlers work with.

use std::sync::Arc;

use crate::auth::{Auth, Principal};
use crate::config::Settings;
use crate::http::request::Request;
use crate::http::router::Parameters;
use crate::http::server_status::ServerStatus;
use crate::store::Store;

/// Made once at the start; lives as long as the server.
pub struct App {
    pub settings: Settings,
    pub store: Arc<Store>,
    pub auth: Auth,
    pub status: Arc<ServerStatus>,
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
