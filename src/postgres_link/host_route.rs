//! The way to one host: with TLS or without, in time, over TCP or a Unix socket.

use std::error::Error as _;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postgres::config::{SslMode as DriverMode, SslNegotiation};
use postgres::error::SqlState;
use postgres::{Client, Config};
use r2d2::ManageConnection as _;
use r2d2_postgres::PostgresConnectionManager;

use super::connect_error::ConnectError;
use super::session_factory::release;
use super::stream::Limit;
use super::tls::{Encryption, Refusal, Tls};
use crate::channel::{Receiver, channel};
use crate::config::database_url::{Host, SslMode};

/// What one host gets once it is connected, for all until the session's settings are pinned.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// The way to one host.
pub struct HostRoute {
    pub host: Host,
    pub config: Config,
    pub tls: Tls,
    pub mode: SslMode,
    /// Connections to a Unix socket that nothing came on in time: they are waited for before others are made.
    pub late: Mutex<Vec<Receiver<Result<Client, postgres::Error>>>>,
}

impl HostRoute {
    /// A connection that is there by `until`, with the limit on how long the driver waits on it.
    ///
    /// # Errors
    /// The host gives none, or not in time.
    pub fn connect(&self, config: &Config, until: Instant) -> Result<(Client, Limit), ConnectError> {
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
        let earlier = self.late.lock().pop();
        let connecting = match earlier {
            Some(connecting) => connecting,
            None => {
                let mut config = config.clone();
                config.ssl_mode(DriverMode::Disable);
                let manager = PostgresConnectionManager::new(config, self.tls.clone());
                let (done, connecting) = channel();
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
                    release(client);
                    return Err(error.into());
                }
                Ok(client)
            }
            Err(RecvTimeoutError::Disconnected) => Err(ConnectError::Silent),
            Err(RecvTimeoutError::Timeout) => {
                self.late.lock().push(connecting);
                Err(ConnectError::Silent)
            }
        }
    }
}

/// What is tried first, and what when TLS turns out to be wrong there, or missing.
pub fn encryptions(mode: SslMode) -> (Encryption, Option<Encryption>) {
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
