//! Tasks that were claimed and never started, as when a package cannot be read: each waits longer before the next attempt.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// What has been well for so long begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// By execution and number how often that was in a row, and when last.
#[derive(Debug, Default)]
pub struct Unstarted {
    tasks: HashMap<(Uuid, usize), (u32, Instant)>,
}

impl Unstarted {
    /// How long a task waits that has not started this time either.
    pub fn wait(&mut self, task: (Uuid, usize), now: Instant) -> Duration {
        self.tasks.retain(|_, (_, last)| now.saturating_duration_since(*last) < FORGOTTEN_AFTER);
        let (times, last) = self.tasks.entry(task).or_insert((0, now));
        (*times, *last) = (times.saturating_add(1), now);
        FIRST_WAIT.saturating_mul(2_u32.saturating_pow(*times - 1)).min(LONGEST_WAIT)
    }

    pub fn started(&mut self, task: (Uuid, usize)) {
        self.tasks.remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_until_the_task_starts() {
        let (mut unstarted, now) = (Unstarted::default(), Instant::now());
        let [one, other] = [1, 2].map(|id| (Uuid::from_u128(id), 0));
        let waits: Vec<_> = (0..8).map(|_| unstarted.wait(one, now).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(unstarted.wait(other, now), FIRST_WAIT);
        unstarted.started(one);
        assert_eq!(unstarted.wait(one, now), FIRST_WAIT);
        assert_eq!(unstarted.wait(other, now + FORGOTTEN_AFTER), FIRST_WAIT);
    }
}
