//! Makes every connection to the database, by a URL that is read again from its file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::connect_error::ConnectError;
use super::hosts::{Connected, Hosts};
use crate::command_error::CommandError;
use crate::config::secret_in;

/// Makes every connection to the database that there is.
pub struct Connector {
    /// As the URL was last read.
    hosts: Mutex<Arc<Hosts>>,
    file: Option<UrlFile>,
    /// Which database, for people; never the password.
    pub place: String,
}

/// A file with the URL in it, which may change: passwords are.
struct UrlFile {
    path: PathBuf,
    latest: Mutex<LatestUrl>,
}

struct LatestUrl {
    /// What it held when it was last right.
    text: String,
    /// It is wrong now, and the log has it.
    is_wrong: bool,
}

impl Connector {
    /// Reads the files that the URL names. `file` is where the URL itself is from.
    ///
    /// # Errors
    /// `Usage` that names the file that is not as it should be.
    pub fn new(url: &str, file: Option<PathBuf>) -> Result<Connector, CommandError> {
        let hosts = Hosts::new(url)?;
        let latest = LatestUrl { text: url.to_owned(), is_wrong: false };
        Ok(Connector {
            place: hosts.place.clone(),
            hosts: Mutex::new(Arc::new(hosts)),
            file: file.map(|path| UrlFile { path, latest: Mutex::new(latest) }),
        })
    }

    /// A connection to the first host that gives one which takes writes. `limit` is for all hosts together.
    ///
    /// # Errors
    /// Those of the last host; that one is read-only before all others.
    pub fn connect(&self, statement_timeout: Duration, limit: Duration) -> Result<Connected, ConnectError> {
        self.refresh();
        self.hosts().connect(statement_timeout, limit)
    }

    /// As the URL was last read.
    pub fn hosts(&self) -> Arc<Hosts> {
        Arc::clone(&self.hosts.lock())
    }

    /// Reads the URL's file again. While it is wrong, what it held before counts.
    fn refresh(&self) {
        let Some(file) = &self.file else { return };
        let mut latest = file.latest.lock();
        let wrong = match secret_in(&file.path) {
            Ok(text) if text == latest.text => {
                latest.is_wrong = false;
                return;
            }
            Ok(text) => match Hosts::new(&text) {
                Ok(hosts) => {
                    log::info!(
                        "the database URL in {} has changed; new sessions use it",
                        file.path.display()
                    );
                    *self.hosts.lock() = Arc::new(hosts);
                    *latest = LatestUrl { text, is_wrong: false };
                    return;
                }
                Err(failure) => failure.to_string(),
            },
            Err(reason) => reason,
        };
        if !std::mem::replace(&mut latest.is_wrong, true) {
            log::warn!(
                "cannot use {} again, so the database URL that was in it before is used: {wrong}",
                file.path.display()
            );
        }
    }
}
