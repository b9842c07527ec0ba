//! What an error of the driver means for its session, and how people are told of it.

use std::error::Error as _;

use postgres::error::{Severity, SqlState};

/// States of the server rather than of the statement: class 08, 40, 53, 57 and 58, and a standby's refusal to write.
pub fn is_passing(code: &SqlState) -> bool {
    ["08", "40", "53", "57", "58"].iter().any(|class| code.code().starts_with(class))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || *code == SqlState::LOCK_NOT_AVAILABLE
}

/// Whether PostgreSQL ends the session with this error, for whatever reason.
pub fn is_fatal(error: &postgres::Error) -> bool {
    let severity = error.as_db_error().and_then(|error| error.parsed_severity());
    matches!(severity, Some(Severity::Fatal | Severity::Panic))
}

/// Whether nothing more can be done with a session after this error: PostgreSQL or the network has ended it, or it is
/// read-only from now on. Of class 57 only a cancelled statement leaves it as it was.
pub fn ends_session(error: &postgres::Error) -> bool {
    match error.code() {
        Some(code) => {
            is_fatal(error)
                || *code == SqlState::READ_ONLY_SQL_TRANSACTION
                || ["08", "57P"].iter().any(|class| code.code().starts_with(class))
        }
        None => error.is_closed() || error.source().is_some_and(|cause| cause.is::<std::io::Error>()),
    }
}

/// What went wrong, with its cause. PostgreSQL's own detail is left out: it may quote the row, and with it a hash.
pub fn describe(error: &postgres::Error) -> String {
    if let Some(refusal) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", refusal.message(), refusal.code().code());
    }
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
