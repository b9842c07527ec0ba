//! For how long a server may go on by what it knew of keys, and the clock that says so.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// For how long a server may trust its cache after the moment when it last asked the database for news. No
/// server waits for one that is silent for longer than this.
pub const LEASE: Duration = Duration::from_secs(3);
/// Beyond the lease, for clocks that do not run quite alike.
const LEASE_MARGIN: Duration = Duration::from_millis(100);
/// For how long a server can go on by what it knew, as seen from here.
pub const LONGEST_LEASE: Duration = LEASE.saturating_add(LEASE_MARGIN);
/// A lease and its margin, and the time that statements take before and after.
pub const LONGEST_WAIT_FOR_SERVERS: Duration = Duration::from_secs(5);

/// The clock of leases, which goes on while the host sleeps: other servers do not wait for one that does.
/// `Duration::MAX`, when no lease holds, on a system without such a clock.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}
