//! SIGHUP: the configuration is read again, and what can change in a running server does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::Settings;
use crate::failure::Failure;
use crate::http::connection::{Deadlines, Rules};
use crate::http::workers::Shop;
use crate::store::changes::LONGEST_WAIT_FOR_SERVERS;

/// The settings that the running server follows; all others need a restart.
const FOLLOWED: &[&str] =
    &["trusted_proxies", "request_timeout", "idle_timeout", "write_timeout", "access_log"];

/// What the server runs with, and where it learns what it should run with.
pub struct Reload<L> {
    pub running: Settings,
    pub load: L,
    pub shop: Arc<Shop>,
}

impl<L: Fn() -> Result<Settings, Failure>> Reload<L> {
    /// Loads the configuration with the flags and the environment of the start. One that is wrong anywhere changes
    /// nothing.
    pub fn run(&mut self) {
        match (self.load)() {
            Ok(new) => {
                log::info!("SIGHUP: {}", summary(&self.running.changed(&new)));
                self.follow(new);
            }
            Err(failure) => log::error!("SIGHUP: nothing is changed: {failure}"),
        }
    }

    fn follow(&mut self, new: Settings) {
        for key in FOLLOWED {
            self.running.take_value(&new, key);
        }
        let running = &mut self.running;
        running.trusted_proxies = new.trusted_proxies;
        running.request_timeout = new.request_timeout;
        running.idle_timeout = new.idle_timeout;
        running.write_timeout = new.write_timeout;
        running.access_log = new.access_log;
        self.shop.vitals.access_log.store(running.access_log, Ordering::Relaxed);
        self.shop.mailbox.post_rules(rules(running));
    }
}

/// What the gate goes by with these settings.
pub fn rules(settings: &Settings) -> Rules {
    let deadlines = Deadlines {
        request: settings.request_timeout,
        idle: settings.idle_timeout,
        write: settings.write_timeout,
        answer: settings.database_timeout,
        answer_to_change: settings.database_timeout + LONGEST_WAIT_FOR_SERVERS,
    };
    Rules { deadlines, trusted_proxies: settings.trusted_proxies.clone() }
}

fn summary(changed: &[&str]) -> String {
    let (now, later): (Vec<&str>, Vec<&str>) = changed.iter().partition(|key| FOLLOWED.contains(key));
    let parts = [("in force from now on", now), ("after a restart", later)];
    let parts = parts.iter().filter(|(_, keys)| !keys.is_empty());
    let parts: Vec<String> = parts.map(|(when, keys)| format!("{when}: {}", keys.join(", "))).collect();
    match parts.is_empty() {
        true => "nothing has changed in the configuration".to_owned(),
        false => parts.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Setting;

    #[test]
    fn what_is_followed_is_a_setting_and_stands_in_the_help() {
        let help = crate::cli::help_of("serve", None).unwrap();
        let help = help.split_once("SIGHUP reads").unwrap().1.split_once("all else").unwrap().0;
        for key in FOLLOWED {
            assert!(Setting::of_key(key).is_some(), "{key}");
            assert!(help.contains(key), "{key}: {help}");
        }
        assert_eq!(help.matches('_').count(), FOLLOWED.len(), "{help}");
    }

    #[test]
    fn the_line_says_what_and_when() {
        assert_eq!(summary(&[]), "nothing has changed in the configuration");
        assert_eq!(summary(&["access_log"]), "in force from now on: access_log");
        assert_eq!(
            summary(&["bind", "idle_timeout", "workers"]),
            "in force from now on: idle_timeout; after a restart: bind, workers"
        );
    }
}
