//! All that speaks HTTP, and nothing that knows what a key is.

pub mod chunked;
pub mod completions;
pub mod connection;
pub mod download;
pub mod error;
pub mod event_loop;
pub mod fields;
pub mod forwarded;
pub mod head;
pub mod listener;
pub mod parked_response;
pub mod peer;
pub mod queue;
pub mod request;
pub mod response;
pub mod router;
pub mod server_status;
pub mod target;
pub mod tiny_http_pair;
pub mod upload;
pub mod worker_pool;
