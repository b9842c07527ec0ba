//! Why there is no connection that takes writes, and whether there may be one a moment later.

use std::error::Error as _;
use std::fmt;

use postgres::error::SqlState;

use super::driver_error::{describe, is_fatal, is_passing};
use super::stream::SILENT;
use super::tls;

/// The SQLSTATE that `transaction_timeout` ends a session with, from PostgreSQL 17 on.
const TRANSACTION_TIMEOUT: &str = "25P04";

/// Why there is no connection that takes writes.
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
                    is_fatal(error) && (is_passing(code) || code.code() == TRANSACTION_TIMEOUT)
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
