//! How often a task that fails is tried, and how long it waits before.

use std::time::Duration;

/// How often a task that fails is tried, and how long it waits before.
#[derive(Debug, Clone, PartialEq)]
pub struct Retries {
    /// All of them, the first one too; 1 to 100.
    pub attempts: u32,
    pub backoff: Backoff,
    /// Before the second attempt.
    pub delay: Duration,
    /// No wait is longer.
    pub max_delay: Duration,
    /// Each wait is a random one between half of it and all of it.
    pub jitter: bool,
}

/// How the wait before an attempt grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backoff {
    /// It does not.
    Constant,
    /// By the delay each time.
    Linear,
    /// Twofold each time.
    Exponential,
}

impl Retries {
    /// The wait before the attempt that follows this one; the first is 1. `random` is at least 0 and below 1, and counts
    /// where waits have jitter. `None`: no attempt follows.
    pub fn wait_after(&self, attempt: u32, random: f64) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let factor = match self.backoff {
            Backoff::Constant => 1,
            Backoff::Linear => attempt,
            // Beyond 2^31 any delay that is not zero is above the longest that a manifest may have.
            Backoff::Exponential => 1_u32 << attempt.saturating_sub(1).min(31),
        };
        let wait = self.delay.saturating_mul(factor).min(self.max_delay);
        Some(if self.jitter { wait.mul_f64(0.5 + random / 2.0) } else { wait })
    }
}

/// For `wait_after`: at least 0 and below 1; 0 where the system has no random numbers.
pub fn random() -> f64 {
    f64::from(getrandom::u32().unwrap_or(0)) / 2_f64.powi(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(backoff: Backoff, attempts: u32) -> Vec<u64> {
        let (delay, max_delay) = (Duration::from_secs(2), Duration::from_secs(60));
        let retries = Retries { attempts, backoff, delay, max_delay, jitter: false };
        (1..).map_while(|attempt| retries.wait_after(attempt, 0.9)).map(|wait| wait.as_secs()).collect()
    }

    #[test]
    fn waits_grow_up_to_the_most() {
        assert_eq!(seconds(Backoff::Constant, 4), [2, 2, 2]);
        assert_eq!(seconds(Backoff::Linear, 4), [2, 4, 6]);
        assert_eq!(seconds(Backoff::Exponential, 8), [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(seconds(Backoff::Exponential, 100).len(), 99);
        assert!(seconds(Backoff::Exponential, 1).is_empty());
    }

    #[test]
    fn jitter_takes_half_at_most() {
        let second = Duration::from_secs(1);
        let backoff = Backoff::Constant;
        let retries = Retries { attempts: 2, backoff, delay: second, max_delay: second, jitter: true };
        assert_eq!(retries.wait_after(1, 0.0), Some(second / 2));
        assert_eq!(retries.wait_after(1, 0.5), Some(second * 3 / 4));
    }
}
