//! Why a room did not do what it was asked: codes with their data and their cause. `error_response` makes responses of
//! them.

use std::borrow::Cow;

use crate::store::StoreError;

/// Variants without a text have the one that the contract gives them.
#[derive(Debug)]
pub enum Error {
    /// The request has no key, or not as `Bearer <key>`.
    MalformedAuthorization,
    /// The key is unknown, revoked or expired; which of them is for the metrics alone.
    InvalidKey,
    /// A valid key that may not do this.
    InsufficientPermissions,
    /// A permission was asked for that there is not.
    UnknownPermission,
    /// A parameter, or a body that is no JSON, with what is wrong with it.
    Malformed(String),
    /// A body that is too large for a limit of its room, with what is allowed.
    TooLarge(String),
    /// A body of another type, with those that would do.
    UnsupportedMediaType(&'static str),
    /// A body with a content coding.
    UnsupportedContentCoding,
    /// What is wrong with which field of a body.
    Invalid(String),
    /// The path is right, and the thing is not there.
    NotFound(Cow<'static, str>),
    /// As many as there may be are there, with how many that is; another comes once one of them is gone.
    TooMany(String),
    /// What was asked for has been done before and is done once, or something else stands in its way.
    Conflict(Cow<'static, str>),
    /// The database is down or too slow; nothing was changed.
    Unavailable(StoreError),
    /// The server cannot do this now, though the database answers, with what would help; nothing was changed.
    Unable(String),
    /// A change was begun, and it is not known whether it was carried out, or whether it stays.
    OutcomeUnknown(Option<StoreError>),
    /// A bug, or a system that lacks what it must have. The cause is for the log alone.
    Internal(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Writes what is for the log alone: the cause of a bug, and why the database was of no use.
    pub fn log(&self, request_id: &str) {
        match self {
            Error::Internal(cause) => log::error!(request_id = request_id; "internal error: {cause}"),
            Error::Unavailable(cause) | Error::OutcomeUnknown(Some(cause)) => {
                log::debug!(request_id = request_id; "refused: {cause}");
            }
            // Its text may quote what the client sent, which may be a key in the wrong place.
            _ => {}
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        match error {
            StoreError::Unavailable(_) => Error::Unavailable(error),
            StoreError::Unknown(_) => Error::OutcomeUnknown(Some(error)),
            StoreError::Refused(_) => Error::Internal(error.into()),
        }
    }
}

/// Of random bytes, which the system always has, and of the bodies that we keep on the disk.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Internal(error.into())
    }
}

/// Of writing our own JSON.
impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error::Internal(error.into())
    }
}
