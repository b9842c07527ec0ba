//! From a database URL to connections: which hosts in which order, with TLS or without, and with whose password.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use postgres::config::{LoadBalanceHosts, SslMode as DriverMode, SslNegotiation, TargetSessionAttrs};
use postgres::error::SqlState;
use postgres::{CancelToken, Client, Config};
use r2d2::ManageConnection as _;
use r2d2_postgres::PostgresConnectionManager;

use super::describe;
use super::password_file::PasswordFile;
use super::pinned::{self, Path, Pinned};
use super::stream::{Limit, SILENT};
use super::tls::{self, Encryption, Refusal, Tls};
use crate::config::database_url::{self, DatabaseUrl, Host, SslMode};
use crate::config::secret_in;
use crate::failure::Failure;

/// What one host gets once it is connected, for all until the session's settings are pinned.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The SQLSTATE that `transaction_timeout` ends a session with, from PostgreSQL 17 on.
const TRANSACTION_TIMEOUT: &str = "25P04";

/// Makes every connection to the database that there is.
pub struct Connector {
    /// As the URL was last read.
    routes: Mutex<Arc<Routes>>,
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

/// A connection whose settings are pinned and which takes writes.
pub struct Connected {
    pub client: Client,
    /// For how long the driver waits on it.
    pub limit: Limit,
    pub pinned: Pinned,
}

/// Why there is no such connection.
#[derive(Debug)]
pub enum ConnectError {
    Driver(postgres::Error),
    /// Every host that answers is a standby, or read-only for us.
    ReadOnly,
    /// The database's encoding, which is not UTF8.
    Encoding(String),
    /// Nothing came within the limit.
    Silent,
    /// Another server has taken the place of the one that a session is on.
    Replaced,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Driver(error) => formatter.write_str(&describe(error)),
            ConnectError::ReadOnly => formatter.write_str(
                "it takes no writes: it is a standby, or read-only for this user (default_transaction_read_only)",
            ),
            ConnectError::Encoding(encoding) => write!(
                formatter,
                "its encoding is {encoding}, which cannot hold every name; make a database with ENCODING 'UTF8'"
            ),
            ConnectError::Silent => formatter.write_str(SILENT),
            ConnectError::Replaced => formatter.write_str("its server is not the one that answers now"),
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<postgres::Error> for ConnectError {
    fn from(error: postgres::Error) -> ConnectError {
        let is_kind = |kind| {
            let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
            cause.is_some_and(|cause| cause.kind() == kind && cause.raw_os_error().is_none())
        };
        // What the driver says of `target_session_attrs`, and what our limit says.
        if is_kind(std::io::ErrorKind::PermissionDenied) {
            ConnectError::ReadOnly
        } else if is_kind(std::io::ErrorKind::TimedOut) && describe(&error).ends_with(SILENT) {
            ConnectError::Silent
        } else {
            ConnectError::Driver(error)
        }
    }
}

impl ConnectError {
    /// Whether the same may work a moment later: a refused connection, a name that does not resolve yet, a server that
    /// says that it is busy with itself, a standby that is about to be promoted, a session that was ended at once.
    pub fn may_pass(&self) -> bool {
        match self {
            ConnectError::Driver(error) => match error.code() {
                Some(code) => {
                    // An imposed time-out may end a transaction before it is set aside.
                    super::is_fatal(error) && (super::is_passing(code) || code.code() == TRANSACTION_TIMEOUT)
                        || *code == SqlState::QUERY_CANCELED
                }
                None => {
                    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
                    error.is_closed() || cause.is_some_and(|cause| tls::refusal(cause).is_none())
                }
            },
            ConnectError::ReadOnly | ConnectError::Silent | ConnectError::Replaced => true,
            ConnectError::Encoding(_) => false,
        }
    }
}

impl Connector {
    /// Reads the files that the URL names. `file` is where the URL itself is from.
    ///
    /// # Errors
    /// `Usage` that names the file that is not as it should be.
    pub fn new(url: &str, file: Option<PathBuf>) -> Result<Connector, Failure> {
        let routes = Routes::new(url)?;
        let latest = LatestUrl { text: url.to_owned(), is_wrong: false };
        Ok(Connector {
            place: routes.place.clone(),
            routes: Mutex::new(Arc::new(routes)),
            file: file.map(|path| UrlFile { path, latest: Mutex::new(latest) }),
        })
    }

    /// A connection to the first host that gives one which takes writes. `limit` is for all hosts together.
    ///
    /// # Errors
    /// Those of the last host; that one is read-only before all others.
    pub fn connect(&self, statement_timeout: Duration, limit: Duration) -> Result<Connected, ConnectError> {
        self.refresh();
        self.routes().connect(statement_timeout, limit)
    }

    /// Asks PostgreSQL to cancel what runs on a session.
    ///
    /// # Errors
    /// No connection could be made for that.
    pub fn cancel(&self, token: &CancelToken) -> Result<(), postgres::Error> {
        let routes = self.routes();
        let Some(route) = routes.list.first() else { return Ok(()) };
        let limit = Limit::default();
        limit.set(Some(Instant::now() + HANDSHAKE));
        // A session on a Unix socket has no TLS, whatever is said here.
        token.cancel_query(route.tls.for_connection(encryptions(routes.mode).0, &limit))
    }

    /// Why there is no connection, and what the URL has to do with it.
    pub fn explain(&self, error: &ConnectError) -> String {
        self.routes().explain(error)
    }

    fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Reads the URL's file again. While it is wrong, what it held before counts.
    fn refresh(&self) {
        let Some(file) = &self.file else { return };
        let mut latest = file.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let wrong = match secret_in(&file.path) {
            Ok(text) if text == latest.text => {
                latest.is_wrong = false;
                return;
            }
            Ok(text) => match Routes::new(&text) {
                Ok(routes) => {
                    log::info!(
                        "the database URL in {} has changed; new sessions use it",
                        file.path.display()
                    );
                    *self.routes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(routes);
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

/// What a URL says about where to connect, and how.
struct Routes {
    list: Vec<Route>,
    /// Whether any of the hosts may come first.
    is_random: bool,
    mode: SslMode,
    place: String,
    passwords: Option<PasswordFile>,
    /// Whether the URL itself says which schemas to look in.
    says_path: bool,
    /// The schema of the server's tables, once it has been found.
    search_path: OnceLock<String>,
    /// Longest time for one host.
    attempt_limit: Duration,
}

/// The way to one host.
struct Route {
    host: Host,
    config: Config,
    tls: Tls,
    mode: SslMode,
    /// Connections to a Unix socket that nothing came on in time: they are waited for before others are made.
    late: Mutex<Vec<mpsc::Receiver<Result<Client, postgres::Error>>>>,
}

impl Routes {
    fn new(url: &str) -> Result<Routes, Failure> {
        let mut url: DatabaseUrl = database_url::parse(url)
            .map_err(|reason| Failure::Usage(format!("the database URL {reason}")))?;
        let tls = Tls::new(&url)?;
        if url.config.get_user().is_none() {
            let user = whoami::username().map_err(|error| {
                Failure::Usage(format!(
                    "the database URL has no user, and the system does not say who runs this: {error}"
                ))
            })?;
            url.config.user(&user);
        }
        let user = url.config.get_user().unwrap_or_default();
        let database = url.config.get_dbname().unwrap_or(user);
        let place = place(&url.hosts, database, user);
        let needs_password = url.config.get_password().is_none();
        let passwords = needs_password.then(|| PasswordFile::find(url.password_file.as_deref())).flatten();
        let connect_timeout = url.config.get_connect_timeout().copied().unwrap_or_default();
        let route = |host: &Host| {
            let mut config = url.config.clone();
            config.port(host.port);
            match host.is_unix() {
                true => config.host_path(&host.name),
                false => config.host(&host.name),
            };
            if let Some(address) = host.address {
                config.hostaddr(address);
            }
            let mode = if host.is_unix() { SslMode::Disable } else { url.mode };
            Route { host: host.clone(), config, tls: tls.clone(), mode, late: Mutex::default() }
        };
        Ok(Routes {
            list: url.hosts.iter().map(route).collect(),
            is_random: url.config.get_load_balance_hosts() == LoadBalanceHosts::Random,
            mode: url.mode,
            place,
            passwords,
            says_path: url.config.get_options().is_some_and(|options| options.contains("search_path")),
            search_path: OnceLock::new(),
            attempt_limit: connect_timeout + HANDSHAKE,
        })
    }

    fn connect(&self, statement_timeout: Duration, limit: Duration) -> Result<Connected, ConnectError> {
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
        let mut wrong = ConnectError::Silent;
        let mut is_read_only = false;
        let until = Instant::now().checked_add(limit);
        for (tried, index) in order.into_iter().enumerate() {
            // An equal share of what is left for each, so that one that is silent leaves the others some.
            let left = until.map_or(limit, |until| until.saturating_duration_since(Instant::now()));
            let share = left / u32::try_from(count - tried).unwrap_or(u32::MAX);
            match self.connect_to(&self.list[index], statement_timeout, share) {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    is_read_only |= matches!(error, ConnectError::ReadOnly);
                    wrong = error;
                }
            }
        }
        Err(if is_read_only { ConnectError::ReadOnly } else { wrong })
    }

    fn connect_to(
        &self,
        route: &Route,
        statement_timeout: Duration,
        limit: Duration,
    ) -> Result<Connected, ConnectError> {
        let mut config = route.config.clone();
        if let Some(password) = self.password(route) {
            config.password(password);
        }
        let until = Instant::now() + limit.min(self.attempt_limit);
        if config.get_connect_timeout().is_none_or(|timeout| *timeout > limit) {
            config.connect_timeout(limit);
        }
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

    fn password(&self, route: &Route) -> Option<Vec<u8>> {
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
        if pinned.is_read_only {
            return Err(ConnectError::ReadOnly);
        }
        if pinned.encoding != "UTF8" {
            return Err(ConnectError::Encoding(pinned.encoding));
        }
        let _ = self.search_path.set(pinned.search_path.clone());
        Ok(Connected { client, limit, pinned })
    }

    fn explain(&self, error: &ConnectError) -> String {
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

impl Route {
    fn connect(&self, config: &Config, until: Instant) -> Result<(Client, Limit), ConnectError> {
        if self.host.is_unix() {
            return Ok((self.connect_to_socket(config, until)?, Limit::default()));
        }
        let limit = Limit::default();
        limit.set(Some(until));
        let client = self.connect_to_host(config, &limit)?;
        limit.set(None);
        Ok((client, limit))
    }

    fn connect_to_host(&self, config: &Config, limit: &Limit) -> Result<Client, postgres::Error> {
        let (first, otherwise) = encryptions(self.mode);
        let connect = |encryption| {
            // The driver hands the connection to our TLS at once, which asks for TLS or does not, and watches the limit.
            let mut config = config.clone();
            config.ssl_mode(DriverMode::Require).ssl_negotiation(SslNegotiation::Direct);
            PostgresConnectionManager::new(config, self.tls.for_connection(encryption, limit)).connect()
        };
        let error = match (connect(first), otherwise) {
            (Err(error), Some(_)) if is_about_tls(&error) => error,
            (result, _) => return result,
        };
        match otherwise.map(connect) {
            // That way is closed altogether, so the first one's error is the one to know.
            Some(Err(second)) if !is_about_tls(&second) => Err(second),
            Some(Ok(client)) => Ok(client),
            _ => Err(error),
        }
    }

    /// The driver does not let go of a Unix socket that nothing comes on. A thread waits on it, and what it gets is for
    /// the next that asks: there are never more of them than threads that ask at once.
    fn connect_to_socket(&self, config: &Config, until: Instant) -> Result<Client, ConnectError> {
        let late = || self.late.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let earlier = late().pop();
        let connecting = match earlier {
            Some(connecting) => connecting,
            None => {
                let mut config = config.clone();
                config.ssl_mode(DriverMode::Disable);
                let manager = PostgresConnectionManager::new(config, self.tls.clone());
                let (done, connecting) = mpsc::channel();
                let thread = std::thread::Builder::new().name("connect".to_owned());
                if thread.spawn(move || _ = done.send(manager.connect())).is_err() {
                    return Err(ConnectError::Silent);
                }
                connecting
            }
        };
        let left = until.saturating_duration_since(Instant::now());
        match connecting.recv_timeout(left) {
            Ok(outcome) => {
                let mut client = outcome?;
                if let Err(error) = client.is_valid(left) {
                    super::pool::release(client);
                    return Err(error.into());
                }
                Ok(client)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(ConnectError::Silent),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                late().push(connecting);
                Err(ConnectError::Silent)
            }
        }
    }
}

/// What is tried first, and what when TLS turns out to be wrong there, or missing.
fn encryptions(mode: SslMode) -> (Encryption, Option<Encryption>) {
    match mode {
        SslMode::Disable => (Encryption::Off, None),
        SslMode::Allow => (Encryption::Off, Some(Encryption::Required)),
        SslMode::Prefer => (Encryption::Preferred, Some(Encryption::Off)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Encryption::Required, None),
    }
}

/// Whether another try with TLS, or without, may do better: a handshake that failed, or a rule of pg_hba.conf.
fn is_about_tls(error: &postgres::Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
        || error.source().is_some_and(|cause| cause.is::<Refusal>())
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
