//! What a database URL says about where to connect: which hosts in which order, and with whose password.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postgres::config::{LoadBalanceHosts, TargetSessionAttrs};
use postgres::error::SqlState;
use postgres::{CancelToken, Client, Config};

use super::connect_error::ConnectError;
use super::host_route::{HANDSHAKE, HostRoute, encryptions};
use super::password_file::PasswordFile;
use super::pinned::{self, Path};
use super::stream::Limit;
use super::tls::Tls;
use crate::command_error::CommandError;
use crate::config::database_url::{self, DatabaseUrl, Host, SslMode};

/// A connection whose settings are pinned and which takes writes.
pub struct Connected {
    pub client: Client,
    /// For how long the driver waits on it.
    pub limit: Limit,
    /// Differs between two servers, the two of a failover included.
    pub instance: String,
}

/// What a URL says about where to connect, and how.
pub struct Hosts {
    list: Vec<HostRoute>,
    /// Whether any of the hosts may come first.
    is_random: bool,
    pub mode: SslMode,
    tls: Tls,
    pub database: String,
    /// Which database, for people; never the password.
    pub place: String,
    passwords: Option<PasswordFile>,
    /// Whether the URL itself says which schemas to look in.
    says_path: bool,
    /// The schema of the server's tables, once it has been found.
    search_path: OnceLock<String>,
    /// Longest time for one host.
    attempt_limit: Duration,
}

impl Hosts {
    /// Reads the files that the URL names.
    ///
    /// # Errors
    /// `Usage` that names what is not as it should be.
    pub fn new(url: &str) -> Result<Hosts, CommandError> {
        let url = parsed(url)?;
        let tls = Tls::new(&url)?;
        Hosts::of(url, tls)
    }

    /// Those of another URL, with this one's TLS.
    ///
    /// # Errors
    /// `Usage` that says what is wrong with it.
    pub fn with_same_tls(&self, url: &str) -> Result<Hosts, CommandError> {
        let mut url = parsed(url)?;
        url.mode = self.mode;
        Hosts::of(url, self.tls.clone())
    }

    /// Those of a URL, without what a password file has for them.
    ///
    /// # Errors
    /// As `new`.
    pub fn without_password_file(url: DatabaseUrl) -> Result<Hosts, CommandError> {
        let tls = Tls::new(&url)?;
        Ok(Hosts { passwords: None, ..Hosts::of(url, tls)? })
    }

    fn of(mut url: DatabaseUrl, tls: Tls) -> Result<Hosts, CommandError> {
        if url.config.get_user().is_none() {
            let user = whoami::username().map_err(|error| {
                CommandError::Usage(format!(
                    "the database URL has no user, and the system does not say who runs this: {error}"
                ))
            })?;
            url.config.user(&user);
        }
        let user = url.config.get_user().unwrap_or_default();
        let database = url.config.get_dbname().unwrap_or(user).to_owned();
        let place = place(&url.hosts, &database, user);
        let needs_password = url.config.get_password().is_none();
        let passwords = needs_password.then(|| PasswordFile::find(url.password_file.as_deref())).flatten();
        let connect_timeout = url.config.get_connect_timeout().copied().unwrap_or_default();
        let route = |host: &Host| {
            let mut config = url.config.clone();
            config.port(host.port);
            if host.is_unix() {
                config.host_path(&host.name)
            } else {
                config.host(&host.name)
            };
            if let Some(address) = host.address {
                config.hostaddr(address);
            }
            let mode = if host.is_unix() { SslMode::Disable } else { url.mode };
            HostRoute { host: host.clone(), config, tls: tls.clone(), mode, late: Mutex::default() }
        };
        Ok(Hosts {
            list: url.hosts.iter().map(route).collect(),
            is_random: url.config.get_load_balance_hosts() == LoadBalanceHosts::Random,
            mode: url.mode,
            tls,
            database,
            place,
            passwords,
            says_path: url.config.get_options().is_some_and(|options| options.contains("search_path")),
            search_path: OnceLock::new(),
            attempt_limit: connect_timeout + HANDSHAKE,
        })
    }

    /// In the order in which they are tried.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.list.iter().map(|route| &route.host)
    }

    /// A connection to the first host that gives one which takes writes. `limit` is for all hosts together.
    ///
    /// # Errors
    /// Those of the last host; that one is read-only before all others.
    pub fn connect(&self, statement_timeout: Duration, limit: Duration) -> Result<Connected, ConnectError> {
        if let Some(file) = &self.passwords {
            file.refresh();
        }
        let count = self.list.len();
        let mut order: Vec<usize> = (0..count).collect();
        if self.is_random {
            for left in (1..count).rev() {
                // Without random bytes the order is as good as any.
                order.swap(left, getrandom::u32().unwrap_or(0) as usize % (left + 1));
            }
        }
        let connect = |route: &HostRoute, limit| self.connect_to(route, statement_timeout, limit);
        self.try_each(order, limit, connect).map_err(|errors| {
            let is_read_only = errors.iter().any(|error| matches!(error, ConnectError::ReadOnly));
            let last = errors.into_iter().last().unwrap_or(ConnectError::Silent);
            if is_read_only { ConnectError::ReadOnly } else { last }
        })
    }

    /// Logs in at the first host that lets the role in, and out again. Whether it takes writes is not asked.
    ///
    /// # Errors
    /// Those of all hosts.
    pub fn log_in(&self, limit: Duration) -> Result<(), Vec<ConnectError>> {
        self.try_each((0..self.list.len()).collect(), limit, |route, limit| {
            let (config, until) = self.prepared(route, limit);
            let (client, limit) = route.connect(&config, until)?;
            limit.set(Some(until));
            drop(client);
            Ok(())
        })
    }

    /// Tries hosts until one gives what is wanted. Each has an equal share of the time that is left, so that one which is
    /// silent leaves the others some.
    fn try_each<T>(
        &self,
        order: Vec<usize>,
        limit: Duration,
        attempt: impl Fn(&HostRoute, Duration) -> Result<T, ConnectError>,
    ) -> Result<T, Vec<ConnectError>> {
        let count = order.len();
        let until = Instant::now().checked_add(limit);
        let mut errors = Vec::new();
        for (tried, index) in order.into_iter().enumerate() {
            let left = until.map_or(limit, |until| until.saturating_duration_since(Instant::now()));
            let share = left / u32::try_from(count - tried).unwrap_or(u32::MAX);
            match attempt(&self.list[index], share) {
                Ok(wanted) => return Ok(wanted),
                Err(error) => errors.push(error),
            }
        }
        Err(errors)
    }

    /// How to connect to a host, and until when.
    fn prepared(&self, route: &HostRoute, limit: Duration) -> (Config, Instant) {
        let mut config = route.config.clone();
        if let Some(password) = self.password(route) {
            config.password(password);
        }
        if config.get_connect_timeout().is_none_or(|timeout| *timeout > limit) {
            config.connect_timeout(limit);
        }
        (config, Instant::now() + limit.min(self.attempt_limit))
    }

    fn connect_to(
        &self,
        route: &HostRoute,
        statement_timeout: Duration,
        limit: Duration,
    ) -> Result<Connected, ConnectError> {
        let (mut config, until) = self.prepared(route, limit);
        match self.pin(route.connect(&config, until)?, until, statement_timeout) {
            // A name may stand for several addresses, of which the driver took the first: it can look for one that
            // takes writes, a round trip each.
            Err(ConnectError::ReadOnly) if !route.host.is_unix() && route.host.address.is_none() => {
                config.target_session_attrs(TargetSessionAttrs::ReadWrite);
                self.pin(route.connect(&config, until)?, until, statement_timeout)
            }
            outcome => outcome,
        }
    }

    fn password(&self, route: &HostRoute) -> Option<Vec<u8>> {
        let user = route.config.get_user().unwrap_or_default();
        let database = route.config.get_dbname().unwrap_or(user);
        self.passwords.as_ref()?.password(&route.host, database, user)
    }

    fn pin(
        &self,
        (mut client, limit): (Client, Limit),
        until: Instant,
        statement_timeout: Duration,
    ) -> Result<Connected, ConnectError> {
        limit.set(Some(until));
        let path = match self.search_path.get() {
            Some(path) => Path::Known(path),
            None if self.says_path => Path::Imposed,
            None => Path::Anywhere,
        };
        let pinned = pinned::pin(&mut client, statement_timeout, &path)?;
        limit.set(None);
        let _ = self.search_path.set(pinned.search_path);
        Ok(Connected { client, limit, instance: pinned.instance })
    }

    /// Asks PostgreSQL to cancel what runs on a session.
    ///
    /// # Errors
    /// No connection could be made for that.
    pub fn cancel(&self, token: &CancelToken) -> Result<(), postgres::Error> {
        let Some(route) = self.list.first() else { return Ok(()) };
        let limit = Limit::default();
        limit.set(Some(Instant::now() + HANDSHAKE));
        // A session on a Unix socket has no TLS, whatever is said here.
        token.cancel_query(route.tls.for_connection(encryptions(self.mode).0, &limit))
    }

    /// Why there is no connection, and what the URL has to do with it.
    pub fn explain(&self, error: &ConnectError) -> String {
        let text = error.to_string();
        if text.ends_with("server does not support TLS") {
            return format!("the server does not offer TLS, and sslmode={} asks for it", self.mode.name());
        }
        if text.ends_with("password missing") {
            return "the server asks for a password; there is none in the database URL, and none that fits in a \
                    password file"
                .to_owned();
        }
        match (&self.passwords, error) {
            (Some(file), ConnectError::Driver(error))
                if error.code() == Some(&SqlState::INVALID_PASSWORD)
                    && self.list.iter().any(|route| self.password(route).is_some()) =>
            {
                format!("{text}; the password is from {}", file.path.display())
            }
            _ => text,
        }
    }
}

pub fn parsed(url: &str) -> Result<DatabaseUrl, CommandError> {
    database_url::parse(url).map_err(|reason| CommandError::Usage(format!("the database URL {reason}")))
}

/// Which database, for people.
fn place(hosts: &[Host], database: &str, user: &str) -> String {
    let places: Vec<_> = hosts
        .iter()
        .map(|Host { name, port, .. }| match name {
            // As PostgreSQL names the socket.
            directory if directory.starts_with('/') => {
                format!("{}/.s.PGSQL.{port}", directory.trim_end_matches('/'))
            }
            address if address.contains(':') => format!("[{address}]:{port}"),
            name => format!("{name}:{port}"),
        })
        .collect();
    format!("database `{database}` at {} as user `{user}`", places.join(" or "))
}
