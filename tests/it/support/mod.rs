//! What the tests stand on: a PostgreSQL, the program under test, and clients that believe nothing.

pub mod authority;
pub mod cluster;
pub mod compose;
pub mod directory;
pub mod footprint;
pub mod front;
pub mod http;
pub mod image;
pub mod made;
pub mod metrics;
pub mod nameserver;
pub mod package;
pub mod postgres;
pub mod program;
pub mod proxy;
pub mod rust_source;
pub mod secured;
pub mod server;
pub mod supervisor;
pub mod upstream;
pub mod wire;

use std::time::{Duration, Instant};

/// How long anything may take before a test calls it hung. Generous: it is a deadline, never a measurement.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer.
///
/// Panics with `what` when there is none before the deadline.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Numbers that look random and are the same in every run (xorshift64*).
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Seeded {
        Seeded(seed.max(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}
