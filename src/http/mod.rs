//! All that speaks HTTP, and nothing that knows what a key is (the table in `routes` aside).

pub mod chunked;
pub mod connection;
pub mod event_loop;
pub mod forwarded;
pub mod head;
pub mod listener;
pub mod peer;
pub mod response;
pub mod routes;
pub mod server_status;
pub mod target;
pub mod waiters;
pub mod worker_pool;
