//! What keeps the queue small where vacuum cannot: beside a transaction that stays open each entry that was taken stays as a
//! dead row, and whatever looks for what may start goes through all of them.

use std::time::Instant;

use crate::store::{Store, StoreError};

/// Of the table, some two thousand rows: nothing is done about fewer.
pub const LARGE_BYTES: u64 = 256 * 1024;

/// What works meanwhile waits for this.
const LOCK: &str = "SET LOCAL lock_timeout = '50ms'; LOCK TABLE cloacina_queue IN ACCESS EXCLUSIVE MODE";
/// Something holds back vacuum, and by far most of the table is dead.
const IS_DEAD: &str = "SELECT (SELECT COALESCE(max(age(xmin)), 0) FROM (
             SELECT unnest(ARRAY[backend_xid, backend_xmin]) FROM pg_stat_activity
             UNION ALL SELECT xmin FROM pg_replication_slots UNION ALL SELECT transaction FROM pg_prepared_xacts
         ) AS old (xmin)) > 10000
         AND pg_relation_size('cloacina_queue') > 1000 * (
             SELECT count(*) FROM (SELECT FROM cloacina_queue LIMIT 100000) AS entry)";
/// A dump that has begun, and has no lock of the queue yet, would find it empty. Of another role's sessions nothing but the
/// age tells that.
const IS_DUMPED: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity
         WHERE datname = current_database() AND age(backend_xmin) <= 10000 AND pid <> pg_backend_pid()
           AND (usename <> current_user OR application_name LIKE 'pg_dump%'))";
/// A table that is written anew has none of its dead rows, whichever transactions there are. No index has this column.
const COMPACT: &str = "ALTER TABLE cloacina_queue ALTER max_running TYPE int USING max_running + 0";

/// Writes the queue anew without its dead rows, where that is of use: whether it was.
///
/// # Errors
/// See `StoreError`; another transaction has used the queue for too long.
pub fn compact(store: &Store, until: Instant) -> Result<bool, StoreError> {
    let compacted = store.write(until, |session| {
        if !session.client.query_one(IS_DEAD, &[])?.try_get::<_, bool>(0)? {
            return Ok(false);
        }
        let mut transaction = session.client.transaction()?;
        transaction.batch_execute(LOCK)?;
        if transaction.query_one(IS_DUMPED, &[])?.try_get(0)? {
            return Ok(false);
        }
        transaction.batch_execute(COMPACT)?;
        transaction.commit()?;
        Ok(true)
    });
    compacted.map(|compacted| compacted.value)
}
