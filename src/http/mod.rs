//! All that speaks HTTP, and nothing that knows what a key is (the table in `routes` aside).

pub mod chunked;
pub mod connection;
pub mod forwarded;
pub mod framing;
pub mod gate;
pub mod listener;
pub mod parked;
pub mod peer;
pub mod reply;
pub mod routes;
pub mod target;
pub mod vitals;
pub mod workers;
