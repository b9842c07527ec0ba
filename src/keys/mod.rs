//! What a key is, who may pass, and the endpoints under `/auth`.

pub mod handlers;

use time::OffsetDateTime;
use uuid::Uuid;

/// Who asks: the row of the key that came with the request.
#[derive(Debug, Clone)]
pub struct Caller {
    pub id: Uuid,
    pub name: String,
    /// As stored; only `admin`, `write` and `read` mean something.
    pub permissions: String,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
}

/// The room's state: what its handlers work on.
pub struct Keys {}

impl Keys {
    /// Header to caller: the guard. Counts what it refuses.
    ///
    /// # Errors
    /// `MalformedAuthorization`, `InvalidKey`, `InsufficientPermissions`, `DatabaseUnavailable`.
    pub fn admit(
        &self,
        _authorization: Option<&str>,
        _access: crate::http::routes::Access,
    ) -> Result<Caller, crate::http::reply::Error> {
        Err(crate::http::reply::Error::Internal("not there yet".to_owned()))
    }
}
