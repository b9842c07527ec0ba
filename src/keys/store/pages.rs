//! Keys page by page.

use std::time::Instant;

use postgres::Row;
use postgres::types::FromSql;

use crate::auth::store::{KeyRow, columns, created_at, key_row, never_if_far};
use crate::paging::Position;
use crate::store::{Store, StoreError};

pub const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM api_keys WHERE (",
    created_at!(),
    ", id) < ($1, $2) AND ($3 OR revoked_at IS NULL) ORDER BY ",
    created_at!(),
    " DESC, id DESC LIMIT $4"
);
pub const LIST_FIRST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM api_keys WHERE $1 OR revoked_at IS NULL ORDER BY ",
    created_at!(),
    " DESC, id DESC LIMIT $2"
);

/// Rows of a page, as PostgreSQL sent them: a thousand copies of each text would only be thrown away.
pub struct Rows {
    rows: Vec<Row>,
    /// Where the next page begins; `None` for the last one.
    pub next: Option<Position>,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// One after another.
    ///
    /// # Errors
    /// A value is not of the type that we expect.
    pub fn iter<'a, T: FromSql<'a>>(&'a self) -> impl Iterator<Item = Result<KeyRow<T>, StoreError>> {
        self.rows.iter().map(|row| Ok(key_row(row)?))
    }
}

/// At most `limit` rows, newest first.
///
/// # Errors
/// See `StoreError`.
pub fn list(
    store: &Store,
    after: Option<Position>,
    with_revoked: bool,
    limit: usize,
    until: Instant,
) -> Result<Rows, StoreError> {
    // One more than asked for tells whether there is another page.
    let count = limit as i64 + 1;
    store.read(until, |session| {
        let mut rows = match after {
            Some(Position { created_at, id }) => {
                session.query(LIST, &[&created_at, &id, &with_revoked, &count])?
            }
            None => session.query(LIST_FIRST, &[&with_revoked, &count])?,
        };
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let position = |row: &Row| Ok(Position { id: row.try_get(0)?, created_at: row.try_get(3)? });
        let next = rows.last().filter(|_| !is_last).map(position).transpose()?;
        Ok(Rows { rows, next })
    })
}
