//! What of packages goes later, in small transactions: the pieces of deleted versions, and all rows of removed tenants.

use std::time::Instant;

use postgres::{GenericClient, Transaction};
use uuid::Uuid;

use crate::store::{Store, StoreError};

/// Packages that one transaction looks at, and pieces that it removes: 16 MiB.
const PACKAGES_AT_ONCE: i64 = 64;
const PIECES_AT_ONCE: i64 = 64;
/// Rows of workflows in one transaction.
const ROWS_AT_ONCE: i64 = 1000;

/// Removes some pieces of versions that are deleted, and then what else of them is large: whether more are left. Several
/// servers may do it at once.
///
/// # Errors
/// See `StoreError`.
pub fn clear_deleted(store: &Store, until: Instant) -> Result<bool, StoreError> {
    let cleared = store.write(until, |session| {
        let mut transaction = session.client.transaction()?;
        let rows = transaction.query(
            "SELECT id FROM cloacina_packages WHERE deleted_at IS NOT NULL AND has_pieces
             LIMIT $1 FOR UPDATE SKIP LOCKED",
            &[&PACKAGES_AT_ONCE],
        )?;
        let packages: Vec<Uuid> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        if packages.is_empty() {
            return Ok(false);
        }
        if remove_pieces(&mut transaction, &packages)? == 0 {
            // What is kept for ever has to be small.
            transaction.execute(
                "UPDATE cloacina_packages SET has_pieces = false, manifest = '', tasks = '{}' WHERE id = ANY($1)",
                &[&packages],
            )?;
            // One row says what bytes a version had.
            transaction.execute(
                "DELETE FROM cloacina_packages AS earlier
                 WHERE (tenant, name, version) IN (SELECT tenant, name, version FROM cloacina_packages WHERE id = ANY($1))
                   AND NOT has_pieces AND EXISTS (
                     SELECT FROM cloacina_packages AS later
                     WHERE (later.tenant, later.name, later.version) = (earlier.tenant, earlier.name, earlier.version)
                       AND (COALESCE(later.deleted_at, 'infinity'), later.id) > (earlier.deleted_at, earlier.id))",
                &[&packages],
            )?;
        }
        transaction.commit()?;
        Ok(true)
    });
    cleared.map(|committed| committed.value)
}

/// Removes some of what a removed tenant had: whether more is left.
///
/// # Errors
/// Those of the driver.
pub fn remove_some(transaction: &mut Transaction<'_>, tenant: Uuid) -> Result<bool, postgres::Error> {
    let rows = transaction.query(
        "SELECT id FROM cloacina_packages WHERE tenant = $1 LIMIT $2",
        &[&tenant, &PACKAGES_AT_ONCE],
    )?;
    let packages: Vec<Uuid> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if !packages.is_empty() {
        if remove_pieces(transaction, &packages)? == 0 {
            transaction.execute("DELETE FROM cloacina_packages WHERE id = ANY($1)", &[&packages])?;
        }
        return Ok(true);
    }
    let workflows = "DELETE FROM cloacina_workflows WHERE tenant = $1
         AND name IN (SELECT name FROM cloacina_workflows WHERE tenant = $1 LIMIT $2)";
    Ok(transaction.execute(workflows, &[&tenant, &ROWS_AT_ONCE])? > 0)
}

fn remove_pieces(client: &mut impl GenericClient, packages: &[Uuid]) -> Result<u64, postgres::Error> {
    client.execute(
        "DELETE FROM cloacina_package_pieces WHERE (package, number) IN (
             SELECT package, number FROM cloacina_package_pieces WHERE package = ANY($1) LIMIT $2)",
        &[&packages, &PIECES_AT_ONCE],
    )
}
