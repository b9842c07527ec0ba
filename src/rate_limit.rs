//! What may happen so often in so long, such as a line of the log about each of many failures.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

#[derive(Debug)]
pub struct RateLimit {
    most: u32,
    window: Duration,
    /// When this window began, and how many were in it.
    used: Mutex<Option<(Instant, u32)>>,
}

impl RateLimit {
    pub const fn new(most: u32, window: Duration) -> RateLimit {
        RateLimit { most, window, used: Mutex::new(None) }
    }

    /// Whether one more may happen, which is counted then. A window begins with the first that finds none open.
    pub fn allows(&self, now: Instant) -> bool {
        let mut used = self.used.lock();
        let open = used.filter(|(began, _)| now.saturating_duration_since(*began) < self.window);
        let (began, count) = open.unwrap_or((now, 0));
        let is_allowed = count < self.most;
        *used = Some((began, count + u32::from(is_allowed)));
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_each_window() {
        let second = Duration::from_secs(1);
        let limit = RateLimit::new(10, second);
        let now = Instant::now();
        let allowed = |at| (0..100).filter(|_| limit.allows(at)).count();
        assert_eq!(allowed(now), 10);
        assert_eq!(allowed(now + second - Duration::from_millis(1)), 0);
        assert_eq!(allowed(now + second), 10);
        assert_eq!(allowed(now + second * 5 / 2), 10);
        assert_eq!(allowed(now + second * 3), 0, "the last window began when it was first asked for");
    }
}
