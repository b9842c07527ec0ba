//! What a database URL says, as libpq means it. No error repeats a piece of the URL: it may be a piece of a password.

mod names;
mod syntax;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres::Config;
use postgres::config::{ChannelBinding, LoadBalanceHosts, SslNegotiation};

/// A database URL, taken apart and checked. No file that it names has been looked at.
pub struct DatabaseUrl {
    /// In the order in which they are tried; at least one.
    pub hosts: Vec<Host>,
    pub mode: SslMode,
    /// Whom to trust; `None` leaves it to libpq's own file.
    pub roots: Option<Roots>,
    /// A client's certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    pub password_file: Option<PathBuf>,
    /// All else: user, password and database, and how to connect.
    pub config: Config,
}

impl DatabaseUrl {
    /// Whether there may be TLS on any of its connections.
    pub fn uses_tls(&self) -> bool {
        self.mode != SslMode::Disable && !self.hosts.iter().all(Host::is_unix)
    }
}

/// One place where the database may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A name, an address, or the directory of a Unix socket.
    pub name: String,
    /// Where the name is, so that nobody has to be asked for it.
    pub address: Option<IpAddr>,
    pub port: u16,
}

impl Host {
    /// Whether the name is the directory of a Unix socket. There is no TLS on one.
    pub fn is_unix(&self) -> bool {
        self.name.starts_with('/')
    }
}

/// How much of TLS there has to be. The later ones ask for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum SslMode {
    Disable,
    /// Only where the server insists.
    Allow,
    /// Where the server has it.
    Prefer,
    Require,
    /// And the server's certificate is signed by whom we trust.
    VerifyCa,
    /// And it is for the name that we asked for.
    VerifyFull,
}

const MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

impl SslMode {
    /// As in a URL.
    pub fn name(self) -> &'static str {
        MODES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// Whose signature on a server's certificate counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    System,
    File(PathBuf),
}

/// Reads a database URL of either form.
///
/// # Errors
/// What is wrong and what would be right.
pub fn parse(text: &str) -> Result<DatabaseUrl, String> {
    const FORM: &str = "it must look like postgresql://USER:PASSWORD@HOST:5432/DATABASE, with special characters \
                        of the password percent-encoded";
    let is_no_url = |reason: &str| format!("is not a database URL ({reason}); {FORM}");
    if text.trim().is_empty() {
        return Err(is_no_url("empty"));
    }
    let (parameters, unnamed) = syntax::parameters(text).map_err(is_no_url)?;
    let mut given = Given { config: defaults(), ..Given::default() };
    for (number, (name, value)) in parameters.iter().enumerate() {
        names::check(name, (number + 1).saturating_sub(unnamed))?;
        let wrong = |right: &str| match name.as_str() {
            // Where these are wrong, it is most often the form.
            "host" | "port" => is_no_url(&format!("{name} {right}")),
            _ => format!("has a wrong value for the parameter {name}: it {right}"),
        };
        given.take(name, value).map_err(|right| wrong(&right))?;
    }
    let hosts = hosts(&given).map_err(|reason| is_no_url(&reason))?;
    let mode = mode(&given)?;
    let certificate = match (given.certificate, given.key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("has one of the parameters sslcert and sslkey: they go together".to_owned()),
    };
    Ok(DatabaseUrl {
        hosts,
        mode,
        roots: given.roots,
        certificate,
        password_file: given.password_file,
        config: given.config,
    })
}

/// What counts where the URL says nothing. A host that is gone is noticed within 15 seconds, whatever was under way.
fn defaults() -> Config {
    let mut config = Config::new();
    config
        .connect_timeout(Duration::from_secs(3))
        .tcp_user_timeout(Duration::from_secs(10))
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3)
        .application_name("cloacinactl");
    config
}

/// What the parameters said, before they are looked at together.
#[derive(Default)]
struct Given {
    config: Config,
    hosts: Vec<String>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    mode: Option<SslMode>,
    roots: Option<Roots>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    password_file: Option<PathBuf>,
}

impl Given {
    /// An empty value is none. The error says what would be right.
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), String> {
        if value.is_empty() {
            return Ok(());
        }
        if name == "password" {
            self.config.password(value);
            return Ok(());
        }
        let value = std::str::from_utf8(value).map_err(|_| "must be UTF-8".to_owned())?;
        if value.contains('\0') {
            return Err("must have no zero byte".to_owned());
        }
        let path = || Some(PathBuf::from(value));
        let seconds = || whole_number(value).map(Duration::from_secs);
        let config = &mut self.config;
        match name {
            "host" => self.hosts = value.split(',').map(str::to_owned).collect(),
            "hostaddr" => {
                let addresses: Result<Vec<_>, _> = value.split(',').map(str::parse).collect();
                self.addresses = addresses.map_err(|_| "must be IP addresses, with commas between them")?;
            }
            "port" => {
                let ports: Option<Vec<_>> = value.split(',').map(port).collect();
                self.ports = ports.ok_or("must be numbers from 1 to 65535")?;
            }
            "dbname" if value.contains('@') => {
                return Err(
                    "must have no `@`; a `/` or an `@` in a password is written %2F or %40".to_owned()
                );
            }
            "dbname" => _ = config.dbname(value),
            "user" => _ = config.user(value),
            "application_name" => _ = config.application_name(value),
            "options" => _ = config.options(value),
            "passfile" => self.password_file = path(),
            "sslmode" => self.mode = Some(one_of(MODES, value)?),
            "sslrootcert" if value == "system" => self.roots = Some(Roots::System),
            "sslrootcert" => self.roots = path().map(Roots::File),
            "sslcert" => self.certificate = path(),
            "sslkey" => self.key = path(),
            "sslnegotiation" => {
                let ways = &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];
                config.ssl_negotiation(one_of(ways, value)?);
            }
            "channel_binding" => {
                let ways = &[
                    ("disable", ChannelBinding::Disable),
                    ("prefer", ChannelBinding::Prefer),
                    ("require", ChannelBinding::Require),
                ];
                config.channel_binding(one_of(ways, value)?);
            }
            "target_session_attrs" => {
                // Each session is asked whether it takes writes, whichever of these is said.
                one_of(&[("any", ()), ("read-write", ()), ("primary", ())], value)
                    .map_err(|right| format!("{right}, for the server writes"))?;
            }
            "load_balance_hosts" => {
                let ways = &[("disable", LoadBalanceHosts::Disable), ("random", LoadBalanceHosts::Random)];
                config.load_balance_hosts(one_of(ways, value)?);
            }
            "keepalives" => _ = config.keepalives(whole_number(value)? != 0),
            // In all of these, zero and less stand for the default.
            _ if whole_number(value)? == 0 => {}
            "connect_timeout" => _ = config.connect_timeout(seconds()?),
            "tcp_user_timeout" => _ = config.tcp_user_timeout(Duration::from_millis(whole_number(value)?)),
            "keepalives_idle" => _ = config.keepalives_idle(seconds()?),
            "keepalives_interval" => _ = config.keepalives_interval(seconds()?),
            _ => {
                let count = u32::try_from(whole_number(value)?).map_err(|_| WHOLE_NUMBER)?;
                config.keepalives_retries(count);
            }
        }
        Ok(())
    }
}

const WHOLE_NUMBER: &str = "must be a whole number";

fn whole_number(text: &str) -> Result<u64, String> {
    // i32 is what libpq takes.
    text.parse::<i32>().map(|number| u64::try_from(number).unwrap_or(0)).map_err(|_| WHOLE_NUMBER.to_owned())
}

fn port(text: &str) -> Option<u16> {
    match text {
        "" => Some(5432),
        text => text.parse().ok().filter(|port| *port != 0),
    }
}

fn one_of<T: Copy>(known: &[(&str, T)], value: &str) -> Result<T, String> {
    known.iter().find(|(name, _)| *name == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        format!("must be one of {}", names.join(", "))
    })
}

/// Names, addresses and ports side by side. The error is the reason alone.
fn hosts(given: &Given) -> Result<Vec<Host>, String> {
    let count = given.hosts.len().max(given.addresses.len()).max(1);
    // An `@` of the password that was not encoded: the rest of the password would be taken for the host.
    if given.hosts.iter().any(|name| name.contains('@') && !name.starts_with('/')) {
        return Err("an `@` in the host".to_owned());
    }
    if ![0, count].contains(&given.hosts.len()) || ![0, count].contains(&given.addresses.len()) {
        return Err("not as many in hostaddr as in host".to_owned());
    }
    if ![0, 1, count].contains(&given.ports.len()) {
        return Err("not as many ports as hosts".to_owned());
    }
    let host = |index: usize| {
        let address = given.addresses.get(index).copied();
        // TLS wants a name; where there is none, it is the address. A directory is none.
        let is_name = |name: &&String| !(name.is_empty() || name.starts_with('/') && address.is_some());
        let named = given.hosts.get(index).filter(is_name).cloned();
        let name = named.or_else(|| address.map(|address| address.to_string()));
        let port = given.ports.get(index).or(given.ports.first()).copied().unwrap_or(5432);
        Host { name: name.unwrap_or_else(usual_socket_directory), address, port }
    };
    Ok((0..count).map(host).collect())
}

/// Where PostgreSQL's Unix socket is when the URL names no host: libpq's own default on Debian and most others, else
/// that of PostgreSQL as it comes from its makers.
fn usual_socket_directory() -> String {
    let usual = ["/var/run/postgresql", "/tmp"];
    usual.into_iter().find(|directory| Path::new(directory).is_dir()).unwrap_or(usual[0]).to_owned()
}

fn mode(given: &Given) -> Result<SslMode, String> {
    let mode = match (given.mode, &given.roots) {
        (None, Some(Roots::System)) => SslMode::VerifyFull,
        // Anybody can have a certificate that the system trusts, for some name.
        (Some(weak), Some(Roots::System)) if weak != SslMode::VerifyFull => {
            let mode = weak.name();
            return Err(format!("has sslrootcert=system and sslmode={mode}; that takes sslmode=verify-full"));
        }
        (mode, _) => mode.unwrap_or(SslMode::Prefer),
    };
    if given.config.get_ssl_negotiation() == SslNegotiation::Direct && mode < SslMode::Require {
        let mode = mode.name();
        return Err(format!(
            "has sslnegotiation=direct and sslmode={mode}; that takes sslmode=require, verify-ca or verify-full"
        ));
    }
    Ok(mode)
}
