//! What an earlier server with this home has left behind.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::Instant;

use uuid::Uuid;

use super::{Attempts, Event, Found, Known, State};
use crate::scheduler::cleanup;
use crate::scheduler::names::Name;
use crate::scheduler::recovery::{self, Verdict};

impl Attempts {
    /// What an earlier server with this home has left. Called once, before anything is started.
    ///
    /// # Errors
    /// Not all of it can be seen. Nothing was done then: what is not seen would be taken to have never started.
    pub fn find(&mut self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut abandoned = HashMap::new();
        let entries: Vec<_> = fs::read_dir(&self.starter.directory)?.collect::<io::Result<_>>()?;
        for entry in entries {
            let name = entry.file_name();
            match Name::of(&name.to_string_lossy(), self.starter.settings.boot) {
                Name::Attempt(id) => match self.judge(id) {
                    Verdict::Alive => {
                        self.follow(id);
                        found.push(Found::Running(id));
                    }
                    Verdict::Abandoned(gone) if gone.may_have_left => _ = abandoned.insert(id, gone),
                    Verdict::Abandoned(gone) => found.push(Found::Over(Event::Abandoned(id, gone.why))),
                    Verdict::NeverStarted => found.push(Found::Over(Event::NeverStarted(id))),
                    Verdict::Ended(outcome) => found.push(Found::Over(Event::Ended(id, *outcome))),
                },
                Name::HalfMade(id) => {
                    self.cleanup.remove(entry.path());
                    found.push(Found::Over(Event::NeverStarted(id)));
                }
                Name::HalfMadeBefore(id) => {
                    self.cleanup.remove(entry.path());
                    let why = "its host was restarted while it may have run".to_owned();
                    found.push(Found::Over(Event::Abandoned(id, why)));
                }
                Name::Removed => self.cleanup.remove(entry.path()),
                Name::Kept => log::warn!(
                    path:% = entry.path().display();
                    "an attempt's directory of another version is kept; remove it once nobody needs it"
                ),
                Name::Unknown => {
                    log::warn!(path:% = entry.path().display(); "this is no attempt's directory, and is left alone");
                }
            }
        }
        let over = cleanup::end_leftovers(abandoned, &self.starter.own, self.starter.settings.task_uid());
        found.extend(over.into_iter().map(|(id, why)| Found::Over(Event::Abandoned(id, why))));
        Ok(found)
    }

    /// One of an earlier server.
    fn follow(&mut self, id: Uuid) {
        let attempt = self.at(id);
        let spec = attempt.as_ref().ok().and_then(|attempt| attempt.spec().ok());
        let place = spec.and_then(|spec| self.starter.packages.hold_at(&spec.working_directory));
        let supervisor = attempt.ok().and_then(|attempt| recovery::adopt(&attempt));
        // An earlier server has told it already: told again, it would go without the rest of the grace.
        let is_cancelled = self.cancelled_mark(id).exists();
        let state = State::Running { child: None, supervisor, look_at: Instant::now() };
        self.attempts.insert(id, Known { place, state, is_cancelled });
    }
}
