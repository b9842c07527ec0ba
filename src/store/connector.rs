//! From a database URL to connections: which hosts in which order, with TLS or without, and with whose password.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use postgres::config::{LoadBalanceHosts, SslMode as DriverMode};
use postgres::error::SqlState;
use postgres::{CancelToken, Client, Config};
use r2d2::ManageConnection as _;
use r2d2_postgres::PostgresConnectionManager;

use super::describe;
use super::password_file::PasswordFile;
use super::tls::{self, Refusal, Tls};
use crate::config::database_url::{DatabaseUrl, Host, SslMode};
use crate::failure::Failure;

type Manager = PostgresConnectionManager<Tls>;

/// Makes every connection to the database that there is.
pub struct Connector {
    routes: Vec<Route>,
    tls: Tls,
    /// Whether any of the hosts may come first.
    is_random: bool,
    mode: SslMode,
    /// Which database, for people; never the password.
    pub place: String,
    /// Where the password is from, if it is from there.
    password_file: Option<PathBuf>,
    /// Longest time that `connect` takes, unless somebody accepts connections and does not say a word.
    pub attempt_limit: Duration,
}

/// What one host gets once it is connected.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The way to one host, and the way for when TLS turns out to be wrong there, or missing.
struct Route {
    first: Manager,
    otherwise: Option<Manager>,
}

impl Connector {
    /// Reads the files that the URL names.
    ///
    /// # Errors
    /// `Usage` that names the file that is not as it should be.
    pub fn new(mut url: DatabaseUrl) -> Result<Connector, Failure> {
        let tls = Tls::new(&url)?;
        if url.config.get_user().is_none() {
            let user = whoami::username().map_err(|error| {
                Failure::Usage(format!(
                    "the database URL has no user, and the system does not say who runs this: {error}"
                ))
            })?;
            url.config.user(&user);
        }
        let user = url.config.get_user().unwrap_or_default().to_owned();
        let database = url.config.get_dbname().unwrap_or(&user).to_owned();
        let needs_password = url.config.get_password().is_none();
        let passwords = needs_password.then(|| PasswordFile::find(url.password_file.as_deref())).flatten();
        let mut password_file = None;
        let mut routes = Vec::new();
        for host in &url.hosts {
            let mut config = url.config.clone();
            config.port(host.port);
            match host.is_unix() {
                true => config.host_path(&host.name),
                false => config.host(&host.name),
            };
            if let Some(address) = host.address {
                config.hostaddr(address);
            }
            if let Some(file) = &passwords
                && let Some(password) = file.password(host, &database, &user)
            {
                config.password(password);
                password_file = Some(file.path.clone());
            }
            routes.push(Route::new(config, if host.is_unix() { SslMode::Disable } else { url.mode }, &tls));
        }
        let connect_timeout = url.config.get_connect_timeout().copied().unwrap_or_default();
        Ok(Connector {
            attempt_limit: (connect_timeout + HANDSHAKE) * u32::try_from(routes.len()).unwrap_or(1),
            routes,
            tls,
            is_random: url.config.get_load_balance_hosts() == LoadBalanceHosts::Random,
            mode: url.mode,
            place: place(&url.hosts, &database, &user),
            password_file,
        })
    }

    /// A connection to the first host that gives one.
    ///
    /// # Errors
    /// Those of the last host.
    pub fn connect(&self) -> Result<Client, postgres::Error> {
        let count = self.routes.len();
        let mut order: Vec<usize> = (0..count).collect();
        if self.is_random {
            for left in (1..count).rev() {
                // Without random bytes the order is as good as any.
                order.swap(left, getrandom::u32().unwrap_or(0) as usize % (left + 1));
            }
        }
        let (last, before) = order.split_last().map_or((0, &order[..]), |(last, before)| (*last, before));
        for index in before {
            if let Ok(client) = self.routes[*index].connect() {
                return Ok(client);
            }
        }
        self.routes[last].connect()
    }

    /// Asks PostgreSQL to cancel what runs on a session.
    ///
    /// # Errors
    /// No connection could be made for that.
    pub fn cancel(&self, token: &CancelToken) -> Result<(), postgres::Error> {
        token.cancel_query(self.tls.clone())
    }

    /// Why there is no connection, and what the URL has to do with it.
    pub fn explain(&self, error: &postgres::Error) -> String {
        let text = describe(error);
        if text.ends_with("server does not support TLS") {
            return format!("the server does not offer TLS, and sslmode={} asks for it", self.mode.name());
        }
        if text.ends_with("password missing") {
            return "the server asks for a password; there is none in the database URL, and none that fits in a \
                    password file"
                .to_owned();
        }
        match &self.password_file {
            Some(file) if error.code() == Some(&SqlState::INVALID_PASSWORD) => {
                format!("{text}; the password is from {}", file.display())
            }
            _ => text,
        }
    }
}

impl Route {
    fn new(config: Config, mode: SslMode, tls: &Tls) -> Route {
        let manager = |mode| {
            let mut config = config.clone();
            config.ssl_mode(mode);
            Manager::new(config, tls.clone())
        };
        let (first, otherwise) = match mode {
            SslMode::Disable => (DriverMode::Disable, None),
            SslMode::Allow => (DriverMode::Disable, Some(DriverMode::Require)),
            SslMode::Prefer => (DriverMode::Prefer, Some(DriverMode::Disable)),
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (DriverMode::Require, None),
        };
        Route { first: manager(first), otherwise: otherwise.map(manager) }
    }

    fn connect(&self) -> Result<Client, postgres::Error> {
        let error = match (self.first.connect(), &self.otherwise) {
            (Err(error), Some(_)) if is_about_tls(&error) => error,
            (result, _) => return result,
        };
        match self.otherwise.as_ref().map(Manager::connect) {
            // That way is closed altogether, so the first one's error is the one to know.
            Some(Err(second)) if !is_about_tls(&second) => Err(second),
            Some(Ok(client)) => Ok(client),
            _ => Err(error),
        }
    }
}

/// Whether another try with TLS, or without, may do better: a handshake that failed, or a rule of pg_hba.conf.
fn is_about_tls(error: &postgres::Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
        || error.source().is_some_and(|cause| cause.is::<Refusal>())
}

/// Whether the same may work a moment later: a refused connection, a name that does not resolve yet, or a server that
/// says that it is busy with itself.
pub fn may_come_up(error: &postgres::Error) -> bool {
    match error.code() {
        Some(code) => [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS].contains(code),
        None => {
            let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
            cause.is_some_and(|cause| tls::refusal(cause).is_none())
        }
    }
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
