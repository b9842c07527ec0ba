//! SIGHUP: the configuration is read again, and what can change in a running server does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::auth::lease::LONGEST_WAIT_FOR_SERVERS;
use crate::command_error::CommandError;
use crate::config::{self, Setting, Settings, Wrong};
use crate::http::connection::{Deadlines, Rules};
use crate::http::worker_pool::ServerContext;
use crate::workflows::upload;

/// The settings that the running server follows; all others need a restart.
const FOLLOWED: &[&str] =
    &["trusted_proxies", "request_timeout", "idle_timeout", "write_timeout", "access_log"];

/// What the server runs with, and where it learns what it should run with.
pub struct Reload<L> {
    running: Settings,
    load: L,
    server: Arc<ServerContext>,
}

impl<L: Fn() -> Result<(Settings, Wrong), CommandError>> Reload<L> {
    pub fn new(mut running: Settings, load: L, server: Arc<ServerContext>) -> Reload<L> {
        running.bootstrap_key = None;
        Reload { running, load, server }
    }

    /// Loads the configuration with the flags and the environment of the start. One that is wrong anywhere changes
    /// nothing.
    pub fn run(&mut self) {
        match self.loaded() {
            Ok(new) => {
                let rereads_url = new.database_url_file.is_some()
                    && new.database_url_file == self.running.database_url_file;
                log::info!("SIGHUP: {}", summary(&self.running.changed(&new), rereads_url));
                self.follow(&new, rereads_url);
            }
            Err(failure) => log::error!("SIGHUP: nothing is changed: {failure}"),
        }
    }

    /// Without the bootstrap key, which the start has used: its file may have been removed since.
    fn loaded(&self) -> Result<Settings, CommandError> {
        let (mut new, mut wrong) = (self.load)()?;
        new.bootstrap_key = None;
        wrong.retain(|(key, _)| *key != "bootstrap_key");
        config::all_right((new, wrong))
    }

    fn follow(&mut self, new: &Settings, rereads_url: bool) {
        let followed = FOLLOWED.iter().copied().chain(rereads_url.then_some("database_url"));
        for setting in followed.filter_map(Setting::of_key) {
            setting.copy(&mut self.running, new);
        }
        self.server.status.access_log.store(self.running.access_log, Ordering::Relaxed);
        self.server.completions.post_rules(rules(&self.running));
    }
}

/// What these settings mean to the event loop.
pub fn rules(settings: &Settings) -> Rules {
    let deadlines = Deadlines {
        request: settings.request_timeout,
        idle: settings.idle_timeout,
        write: settings.write_timeout,
        answer: settings.database_timeout,
        answer_to_change: settings.database_timeout + LONGEST_WAIT_FOR_SERVERS,
        answer_to_upload: upload::longest_wait(settings.max_package_size, settings.database_timeout),
    };
    Rules { deadlines, trusted_proxies: settings.trusted_proxies.clone() }
}

/// `rereads_url` says that each new session reads the database URL from its file again.
fn summary(changed: &[&str], rereads_url: bool) -> String {
    let (now, others): (Vec<&str>, Vec<&str>) = changed.iter().partition(|key| FOLLOWED.contains(key));
    let (new_sessions, later) = others.iter().partition(|key| rereads_url && **key == "database_url");
    let parts = [
        ("in force from now on", now),
        ("in force for new sessions", new_sessions),
        ("after a restart", later),
    ];
    let parts = parts.iter().filter(|(_, keys)| !keys.is_empty());
    let parts: Vec<String> = parts.map(|(when, keys)| format!("{when}: {}", keys.join(", "))).collect();
    if parts.is_empty() { "nothing has changed in the configuration".to_owned() } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(summary(&[], false), "nothing has changed in the configuration");
        assert_eq!(summary(&["access_log"], false), "in force from now on: access_log");
        assert_eq!(
            summary(&["bind", "idle_timeout", "workers"], true),
            "in force from now on: idle_timeout; after a restart: bind, workers"
        );
        assert_eq!(summary(&["database_url"], false), "after a restart: database_url");
        assert_eq!(
            summary(&["database_url", "workers"], true),
            "in force for new sessions: database_url; after a restart: workers"
        );
    }
}
