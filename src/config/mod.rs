//! Every setting once: flag, then environment, then `config.toml`, then default.

pub mod database_url;
pub mod file;
mod mask;
pub mod sources;
mod table;
mod values;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use file::{position, private_directory};
pub use mask::mask_url;
pub use sources::{secret_in, secret_text};
use table::Secrecy;
pub use table::{Form, SETTINGS, Setting, unknown_key};
pub use values::{count, parse_digits, parse_duration, parse_size};

use crate::command_error::CommandError::{self, Runtime, Usage};
use crate::engine::sandbox::Mode;
use crate::networks::Networks;
use sources::Sources;

/// What the program needs to know, all of it resolved and checked.
#[derive(Clone, Default)]
pub struct Settings {
    /// Holds `config.toml`, `bootstrap-key` and `logs/`; mode 0700.
    pub home: PathBuf,
    /// Debug lines of our own.
    pub verbose: bool,
    pub bind: Bind,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
    pub database_url: String,
    /// The file that the URL is from, if it is from one: it is read again for new sessions.
    pub database_url_file: Option<PathBuf>,
    /// Where tenants find the database; `None`: where the server does.
    pub tenant_database_host: Option<TenantDatabaseHost>,
    pub bootstrap_key: Option<String>,
    /// Worker threads.
    pub workers: usize,
    /// Database sessions.
    pub pool_size: u32,
    /// Requests that may wait for a worker.
    pub queue: usize,
    pub max_connections: usize,
    /// Keys in the auth cache; 0 turns it off.
    pub cache_size: usize,
    pub cache_ttl: Duration,
    /// Longest life of a new key; zero is no limit.
    pub max_key_lifetime: Duration,
    /// Bytes.
    pub max_package_size: usize,
    /// A whole request, head and body, from its first byte.
    pub request_timeout: Duration,
    /// Between two requests of one connection.
    pub idle_timeout: Duration,
    /// An answer that the client does not take.
    pub write_timeout: Duration,
    /// Until a request that a worker has is answered with 503.
    pub database_timeout: Duration,
    pub shutdown_timeout: Duration,
    /// How long to wait for a PostgreSQL that is still coming up.
    pub database_wait: Duration,
    /// A line of the log for every request.
    pub access_log: bool,
    /// Tasks that run at the same time; 0 starts none.
    pub task_slots: usize,
    pub sandbox: Mode,
    /// By name or number.
    pub task_user: Option<String>,
    /// Bytes of one attempt.
    pub task_log_limit: usize,
    /// `None`: as `stops_tasks` says.
    pub stop_tasks: Option<bool>,
    /// Flags whose values stand on this process's command line, where other users may read it, and are secret.
    pub exposed: Vec<&'static str>,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind(pub SocketAddr);

impl Default for Bind {
    fn default() -> Bind {
        Bind((Ipv4Addr::UNSPECIFIED, 0).into())
    }
}

/// A host that stands in connection strings of tenants in the place of the database URL's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantDatabaseHost {
    /// A name, an address, or the directory of a Unix socket.
    pub name: String,
    /// `None`: that of the database URL's first host.
    pub port: Option<u16>,
}

/// What is wrong with settings, by the setting's key.
pub type Wrong = Vec<(&'static str, CommandError)>;

/// The settings, unless anything is wrong with them.
///
/// # Errors
/// The first thing that is wrong.
pub fn all_right((settings, wrong): (Settings, Wrong)) -> Result<Settings, CommandError> {
    wrong.into_iter().next().map_or(Ok(settings), |(_, failure)| Err(failure))
}

/// Values of flags, by the setting's key.
pub type Flags = BTreeMap<&'static str, String>;

impl Settings {
    /// Resolves every setting, and hands back what is wrong: `Usage` for a value that is not right, with the name under
    /// which it was given, and for a missing database URL. What is right is resolved all the same. Makes nothing and
    /// writes nothing.
    ///
    /// # Errors
    /// `config.toml` itself cannot be read.
    pub fn load_all(home: PathBuf, verbose: bool, flags: Flags) -> Result<(Settings, Wrong), CommandError> {
        Settings::load(Settings { home, verbose, ..Settings::default() }, flags, |_| true)
    }

    /// Resolves those that a command on the database needs; one session is enough. Files of other secrets are left alone:
    /// they may be another user's.
    ///
    /// # Errors
    /// As `load_all`, and the first thing that is wrong.
    pub fn for_command(
        home: PathBuf,
        flags: Flags,
        needs: fn(&Setting) -> bool,
    ) -> Result<Settings, CommandError> {
        let settings = Settings { home, pool_size: 1, ..Settings::default() };
        all_right(Settings::load(settings, flags, needs)?)
    }

    fn load(
        mut settings: Settings,
        flags: Flags,
        needs: fn(&Setting) -> bool,
    ) -> Result<(Settings, Wrong), CommandError> {
        settings.exposed = exposed(&flags);
        let sources = Sources::open(settings.home.clone(), flags)?;
        let mut wrong = Wrong::new();
        for setting in SETTINGS.iter().filter(|setting| setting.file_for.is_none() && needs(setting)) {
            wrong.extend(sources.fill(&mut settings, setting).err().map(|failure| (setting.key, failure)));
        }
        if settings.database_url.is_empty() && !wrong.iter().any(|(key, _)| *key == "database_url") {
            let text = "no database URL: give --database-url URL, set DATABASE_URL, or put database_url into \
                        config.toml with `cloacinactl config set database_url URL`; URL is like \
                        postgresql://USER:PASSWORD@HOST:5432/DATABASE";
            wrong.push(("database_url", Usage(text.to_owned())));
        }
        Ok((settings, wrong))
    }

    /// Whether tasks end with the server. With process 1 they would end anyway, and without their grace.
    pub fn stops_tasks(&self) -> bool {
        self.stop_tasks.unwrap_or_else(|| std::process::id() == 1)
    }

    /// The keys of the settings that are otherwise in `new`.
    pub fn changed(&self, new: &Settings) -> Vec<&'static str> {
        let changed = SETTINGS.iter().filter(|setting| !setting.is_same(self, new));
        changed.map(|setting| setting.key).collect()
    }
}

/// The flags that have a secret in them.
fn exposed(flags: &Flags) -> Vec<&'static str> {
    let has_secret = |setting: &&Setting| match (setting.secrecy, flags.get(setting.key)) {
        (_, None) | (Secrecy::Open, _) => false,
        (Secrecy::Url, Some(url)) => {
            database_url::parse(url).map_or(true, |url| url.config.get_password().is_some())
        }
        (Secrecy::Whole, Some(_)) => true,
    };
    SETTINGS.iter().filter(has_secret).map(|setting| setting.flag).collect()
}

/// The home directory: what `--home` says, else `~/.cloacina`. It need not exist.
///
/// # Errors
/// `Usage` when neither says anything.
pub fn home(flag: Option<&str>) -> Result<PathBuf, CommandError> {
    match flag {
        Some("") => Err(Usage("`--home` must be the path of a directory".to_owned())),
        Some(directory) => Ok(PathBuf::from(directory)),
        None => match std::env::var_os("HOME") {
            Some(home) if !home.is_empty() => Ok(PathBuf::from(home).join(".cloacina")),
            _ => Err(Usage("HOME is not set: say with --home DIR where to keep config.toml".to_owned())),
        },
    }
}

/// Makes the home directory where it is missing, mode 0700.
///
/// # Errors
/// `Runtime` with path and cause.
pub fn make_home(home: &Path) -> Result<(), CommandError> {
    private_directory(home)
        .map_err(|error| Runtime(format!("cannot use {} as the home directory: {error}", home.display())))
}

/// Where a server with this environment and this `config.toml` listens.
///
/// # Errors
/// As `Settings::load`.
pub fn bind(home: PathBuf) -> Result<SocketAddr, CommandError> {
    let mut settings = Settings { home: home.clone(), ..Settings::default() };
    let sources = Sources::open(home, Flags::new())?;
    if let Some(setting) = Setting::of_key("bind") {
        sources.fill(&mut settings, setting)?;
    }
    Ok(settings.bind.0)
}
