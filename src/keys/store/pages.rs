//! Keys page by page.

use std::time::Instant;

use postgres::Row;
use postgres::types::{FromSql, ToSql};

use crate::auth::Tenant;
use crate::auth::store::{KeyRow, columns, created_at, is_shut_out, key_row, never_if_far};
use crate::paging::Position;
use crate::store::{Store, StoreError};

/// Whose keys a page shows.
#[derive(Debug, Clone)]
pub enum Listed {
    /// The server's own, and those of tenants that do not exist here.
    Servers,
    Of(Tenant),
    ServersAnd(Tenant),
    All,
}

/// A page of these rows. The first one begins after all that can be.
macro_rules! list {
    ($columns:expr, $rows:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM ",
            $rows,
            " (",
            created_at!(),
            ", id) < (COALESCE($1::timestamptz, 'infinity'), COALESCE($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
             AND ($3 OR revoked_at IS NULL) ORDER BY ",
            created_at!(),
            " DESC, id DESC LIMIT $4"
        )
    };
}

pub const LIST_SERVERS: &str = list!(columns!("NULL::text"), "api_keys WHERE tenant IS NULL AND");
const LIST_OF: &str = list!(columns!("$6::text"), "api_keys WHERE tenant = $5 AND");
/// Two ways through an index, merged.
const LIST_SERVERS_AND: &str = list!(
    columns!("CASE WHEN tenant = $5 THEN $6::text END"),
    "(SELECT * FROM api_keys WHERE tenant IS NULL UNION ALL SELECT * FROM api_keys WHERE tenant = $5) AS api_keys
     WHERE"
);
const LIST_ALL: &str = list!(columns!(), "api_keys WHERE");

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
    listed: &Listed,
    after: Option<Position>,
    with_revoked: bool,
    limit: usize,
    until: Instant,
) -> Result<Rows, StoreError> {
    // One more than asked for tells whether there is another page.
    let count = limit as i64 + 1;
    store.read(until, |session| {
        let (created_at, id) = after.map(|after| (after.created_at, after.id)).unzip();
        let page: [&(dyn ToSql + Sync); 4] = [&created_at, &id, &with_revoked, &count];
        let [created_at, id, with_revoked, count] = page;
        let mut rows = match listed {
            Listed::Servers => session.query(LIST_SERVERS, &page)?,
            Listed::All => session.query(LIST_ALL, &page)?,
            Listed::Of(tenant) => session
                .query(LIST_OF, &[created_at, id, with_revoked, count, &tenant.id(), &tenant.name()])?,
            Listed::ServersAnd(tenant) => session.query(
                LIST_SERVERS_AND,
                &[created_at, id, with_revoked, count, &tenant.id(), &tenant.name()],
            )?,
        };
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let position = |row: &Row| Ok(Position { id: row.try_get(0)?, created_at: row.try_get(3)? });
        let next = rows.last().filter(|_| !is_last).map(position).transpose()?;
        Ok(Rows { rows, next })
    })
}
