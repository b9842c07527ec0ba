//! Makes an execution.

use std::time::Instant;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::auth::Tenant;
use crate::store::{Committed, Store, StoreError};
use crate::workflows::names::{Version, WorkflowName};

/// What is to be run.
#[derive(Debug)]
pub struct NewExecution<'a> {
    pub tenant: &'a Tenant,
    pub workflow: &'a WorkflowName,
    /// `None`: the highest release.
    pub version: Option<&'a Version>,
    /// Not before.
    pub run_at: Option<OffsetDateTime>,
    /// A JSON object, as its client wrote it.
    pub context: &'a str,
    pub idempotency: Option<Idempotency<'a>>,
}

/// What makes a request that is sent twice one.
#[derive(Debug)]
pub struct Idempotency<'a> {
    pub key: &'a str,
    /// Of the request's body, in hex.
    pub body_sha256: &'a str,
}

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    New(Uuid),
    /// An earlier request with its key made this one.
    Known(Uuid),
}

/// Why none was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NoWorkflow,
    NoVersion,
    /// No server runs tasks; why the hosts that there are do not.
    NoHost(Option<String>),
    /// As many wait as the tenant may have.
    TooManyPending(i64),
    /// An earlier request had the same idempotency key and another body.
    OtherBody,
    /// The tenant was removed meanwhile.
    NoTenant,
}

/// Makes an execution, with its first events and its row in the queue: all of it, or nothing.
///
/// # Errors
/// See `StoreError`.
pub fn create(
    store: &Store,
    new: &NewExecution<'_>,
    until: Instant,
) -> Result<Result<Committed<Created>, Refusal>, StoreError> {
    let _ = (store, new, until);
    todo!()
}
