//! The copy of what a running task prints, as its host makes it.

use std::time::Instant;

use uuid::Uuid;

use super::has_not_ended;
use crate::store::{Store, StoreError, Transaction};

/// A part of what an attempt has printed.
#[derive(Debug)]
pub struct NewPiece<'a> {
    /// How many bytes it had printed before.
    pub at: u64,
    pub bytes: &'a [u8],
    /// Of all that is kept of the log.
    pub limit: u64,
}

/// Only for an attempt that runs. A piece may be there already, where it was not known whether it had been written: then
/// the longer one stays.
const COPY: &str = concat!(
    "WITH attempt AS (
         UPDATE cloacina_attempts SET log_bytes = GREATEST(log_bytes, $2::bigint + octet_length($3::bytea))
         WHERE id = $1 AND ",
    has_not_ended!("ended_at"),
    " RETURNING id
     ), gone AS (
         -- Of what came behind the beginning, as much is kept as of the beginning.
         DELETE FROM cloacina_log_pieces AS piece USING attempt
         WHERE piece.attempt = attempt.id AND piece.at <> $2::bigint AND piece.at >= $4::bigint / 2
           AND piece.at + octet_length(piece.bytes) <= $2::bigint + octet_length($3::bytea) - $4::bigint / 2
     )
     INSERT INTO cloacina_log_pieces (attempt, at, bytes)
     SELECT id, $2::bigint, $3::bytea FROM attempt
     ON CONFLICT (attempt, at) DO UPDATE SET bytes = excluded.bytes
         WHERE octet_length(excluded.bytes) > octet_length(cloacina_log_pieces.bytes)"
);

/// Adds a piece to the log of a running attempt.
///
/// # Errors
/// See `StoreError`.
pub fn copy_log(
    store: &Store,
    attempt: Uuid,
    piece: &NewPiece<'_>,
    until: Instant,
) -> Result<(), StoreError> {
    store.transact(until, |transaction| copy(transaction, attempt, piece).map(Ok::<_, ()>)).map(drop)
}

/// The same, in a transaction that does more.
pub fn copy(
    transaction: &mut Transaction<'_>,
    attempt: Uuid,
    piece: &NewPiece<'_>,
) -> Result<(), postgres::Error> {
    let (at, limit) = (piece.at as i64, piece.limit as i64);
    transaction.execute(COPY, &[&attempt, &at, &piece.bytes, &limit]).map(drop)
}
