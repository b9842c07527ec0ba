//! What the server says about itself. The event loop answers these, so nothing here may wait.

use std::time::Instant;

use crate::app::App;
use crate::http::response::Response;
use crate::store::Trouble;

/// `GET /health`: the process is alive.
pub fn health(_app: &App) -> Response {
    Response::bytes(200, "application/json", &br#"{"status":"ok"}"#[..])
}

/// `GET /ready`: requests can be served from the database, and the server is not shutting down.
pub fn ready(app: &App) -> Response {
    let reason = match app.status.is_draining() {
        true => Some("shutting down"),
        false => app.store.status.trouble().map(Trouble::reason),
    };
    match reason {
        None => {
            let body = format!(r#"{{"status":"ready"{}}}"#, app.warnings.json_field());
            Response::bytes(200, "application/json", body.into_bytes())
        }
        Some(reason) => {
            let body = format!(r#"{{"status":"not ready","reason":"{reason}"}}"#);
            Response::bytes(503, "application/json", body.into_bytes()).header("Retry-After", "1")
        }
    }
}

/// `GET /metrics`: Prometheus' text format 0.0.4.
pub fn metrics(app: &App) -> Response {
    app.store.show_pool();
    Response::bytes(200, "text/plain; version=0.0.4", app.status.rendered_metrics(Instant::now()))
}

/// `GET /openapi.json`: this interface.
pub fn openapi(app: &App) -> Response {
    Response::bytes(200, "application/json", app.openapi)
}
