//! What a claim has to know of the tenant whose tasks it takes.

use std::path::PathBuf;

use postgres::Row;
use uuid::Uuid;

use crate::store::Transaction;

const TENANT_IN_TURN: &str = "SELECT FROM cloacina_tenants WHERE id = $1 FOR NO KEY UPDATE";
const RUNNING_OF_TENANT: &str =
    "SELECT count(*) FROM cloacina_attempts WHERE tenant = $1 AND ended_at IS NULL";

/// What a tenant's tasks get of a package, and how many of them may start.
pub struct OfTenant {
    pub package: Uuid,
    pub package_sha256: String,
    pub name: String,
    pub free: Option<usize>,
    pub scratch_limit_bytes: Option<u64>,
    pub readable: Vec<PathBuf>,
    pub writable: Vec<PathBuf>,
}

impl OfTenant {
    /// From a row of what locks an execution to claim it.
    pub fn read(transaction: &mut Transaction<'_>, row: &Row) -> Result<OfTenant, postgres::Error> {
        let free = match row.try_get::<_, Option<i64>>(8)? {
            None => None,
            Some(most) => {
                let tenant: Uuid = row.try_get(0)?;
                transaction.query_opt(TENANT_IN_TURN, &[&tenant])?;
                let running: i64 = transaction.query_one(RUNNING_OF_TENANT, &[&tenant])?.try_get(0)?;
                Some(usize::try_from(most - running).unwrap_or(0))
            }
        };
        let scratch: Option<i64> = row.try_get(9)?;
        let paths: serde_json::Value = serde_json::from_str(row.try_get(10)?).unwrap_or_default();
        let of_access = |wanted: &str| {
            let paths = paths.as_object().into_iter().flatten();
            paths.filter(|(_, access)| *access == wanted).map(|(path, _)| PathBuf::from(path)).collect()
        };
        Ok(OfTenant {
            package: row.try_get(11)?,
            package_sha256: row.try_get(12)?,
            name: row.try_get(7)?,
            free,
            scratch_limit_bytes: scratch.map(i64::unsigned_abs),
            readable: of_access("r"),
            writable: of_access("rw"),
        })
    }
}
