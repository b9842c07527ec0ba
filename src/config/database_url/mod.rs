//! What a database URL says, as libpq means it. No error repeats a piece of the URL: it may be a piece of a password.

pub mod names;
pub mod syntax;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres::Config;
use postgres::config::SslNegotiation;

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
    /// Where the name is, so that no resolver is asked for it.
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

    fn parse(text: &str) -> Option<SslMode> {
        MODES.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode)
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
    let mut given = Given::default();
    for (number, (name, value)) in parameters.iter().enumerate() {
        names::check(name, (number + 1).saturating_sub(unnamed))?;
        given.take(name, value).map_err(|right| match name.as_str() {
            // Where these are wrong, it is most often the form.
            "host" | "port" => is_no_url(&format!("{name} {right}")),
            _ => format!("has a wrong value for the parameter {name}: it {right}"),
        })?;
    }
    let hosts = hosts(&given).map_err(is_no_url)?;
    let mut config: Config =
        (DEFAULTS.to_owned() + &given.for_driver).parse().map_err(|_| is_no_url("malformed"))?;
    config.tcp_user_timeout(given.tcp_user_timeout.unwrap_or(TCP_USER_TIMEOUT));
    if let Some(password) = given.password {
        config.password(password);
    }
    let mut file = |name: &str| given.files.remove(name);
    let password_file = file("passfile");
    let roots = file("sslrootcert").map(|path| match path.to_str() {
        Some("system") => Roots::System,
        _ => Roots::File(path),
    });
    let certificate = match (file("sslcert"), file("sslkey")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("has one of the parameters sslcert and sslkey: they go together".to_owned()),
    };
    let is_direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
    let mode = mode(given.mode, roots == Some(Roots::System), is_direct)?;
    Ok(DatabaseUrl { hosts, mode, roots, certificate, password_file, config })
}

/// What counts where the URL says nothing, in the driver's words. A host that is gone is noticed within 15 seconds,
/// whatever was under way.
const DEFAULTS: &str = "application_name=cloacinactl connect_timeout=3 keepalives_idle=5 keepalives_interval=2 \
                        keepalives_retries=3";
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the parameters said, before they are looked at together.
#[derive(Default)]
struct Given {
    hosts: Vec<String>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    password: Option<Vec<u8>>,
    mode: Option<SslMode>,
    /// By the parameters that name them.
    files: BTreeMap<String, PathBuf>,
    tcp_user_timeout: Option<Duration>,
    /// All else, in libpq's `key=value` form, each checked by the driver. Of two with one name, the later one counts.
    for_driver: String,
}

impl Given {
    /// An empty value is none. The error says what would be right.
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), &'static str> {
        if value.is_empty() {
            return Ok(());
        }
        if name == "password" {
            self.password = Some(value.to_vec());
            return Ok(());
        }
        let value = std::str::from_utf8(value).map_err(|_| "must be UTF-8")?;
        if value.contains('\0') {
            return Err("must have no zero byte");
        }
        match name {
            "host" => self.hosts = value.split(',').map(str::to_owned).collect(),
            "hostaddr" => {
                let addresses: Result<_, _> = value.split(',').map(str::parse).collect();
                self.addresses = addresses.map_err(|_| "must be IP addresses, with commas between them")?;
            }
            "port" => {
                let ports: Option<_> = value.split(',').map(port).collect();
                self.ports = ports.ok_or("must be numbers from 1 to 65535")?;
            }
            "dbname" if value.contains('@') => {
                return Err("must have no `@`; a `/` or an `@` in a password is written %2F or %40");
            }
            "passfile" | "sslrootcert" | "sslcert" | "sslkey" => {
                self.files.insert(name.to_owned(), value.into());
            }
            // The driver knows neither all of these nor `primary` below.
            "sslmode" => {
                const RIGHT: &str = "must be one of disable, allow, prefer, require, verify-ca, verify-full";
                self.mode = Some(SslMode::parse(value).ok_or(RIGHT)?);
            }
            // Each session is asked whether it takes writes, whichever of these is said.
            "target_session_attrs" if ["any", "read-write", "primary"].contains(&value) => {}
            "target_session_attrs" => {
                return Err("must be one of any, read-write, primary, for the server writes");
            }
            _ if name.starts_with("keepalives") || name.ends_with("_timeout") => {
                // i32 is what libpq takes.
                let number: i32 = value.parse().map_err(|_| "must be a whole number")?;
                match name {
                    "keepalives" => self.leave(name, if number > 0 { "1" } else { "0" })?,
                    // In all others, zero and less stand for the default.
                    _ if number <= 0 => {}
                    // In milliseconds, which the driver would take for seconds.
                    "tcp_user_timeout" => {
                        self.tcp_user_timeout = Some(Duration::from_millis(number.unsigned_abs().into()));
                    }
                    "keepalives_count" => self.leave("keepalives_retries", value)?,
                    _ => self.leave(name, value)?,
                }
            }
            _ => self.leave(name, value)?,
        }
        Ok(())
    }

    /// Leaves a parameter to the driver.
    fn leave(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        let pair = format!(" {name}='{}'", value.replace('\\', r"\\").replace('\'', r"\'"));
        pair.parse::<Config>().map_err(|_| match name {
            "sslnegotiation" => "must be one of postgres, direct",
            "channel_binding" => "must be one of disable, prefer, require",
            _ => "must be one of disable, random",
        })?;
        self.for_driver += &pair;
        Ok(())
    }
}

fn port(text: &str) -> Option<u16> {
    match text {
        "" => Some(5432),
        text => text.parse().ok().filter(|port| *port != 0),
    }
}

/// Names, addresses and ports side by side. The error is the reason alone.
fn hosts(given: &Given) -> Result<Vec<Host>, &'static str> {
    let count = given.hosts.len().max(given.addresses.len()).max(1);
    // An `@` of the password that was not encoded: the rest of the password would be taken for the host.
    if given.hosts.iter().any(|name| name.contains('@') && !name.starts_with('/')) {
        return Err("an `@` in the host");
    }
    if ![0, count].contains(&given.hosts.len()) || ![0, count].contains(&given.addresses.len()) {
        return Err("not as many in hostaddr as in host");
    }
    if ![0, 1, count].contains(&given.ports.len()) {
        return Err("not as many ports as hosts");
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

fn mode(given: Option<SslMode>, trusts_system: bool, is_direct: bool) -> Result<SslMode, String> {
    let mode = given.unwrap_or(if trusts_system { SslMode::VerifyFull } else { SslMode::Prefer });
    let refused = |with: &str, right: &str| {
        Err(format!("has {with} and sslmode={}; that takes sslmode={right}", mode.name()))
    };
    match mode {
        // Anybody can have a certificate that the system trusts, for some name.
        weak if trusts_system && weak != SslMode::VerifyFull => refused("sslrootcert=system", "verify-full"),
        weak if is_direct && weak < SslMode::Require => {
            refused("sslnegotiation=direct", "require, verify-ca or verify-full")
        }
        mode => Ok(mode),
    }
}
