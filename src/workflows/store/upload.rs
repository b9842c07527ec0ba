//! How an upload is kept: all of it in one transaction, on a session of its own, since one of 100 MiB takes seconds.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::Instant;

use postgres::Transaction;
use uuid::Uuid;

use super::{PIECE_BYTES, kept_bytes};
use crate::auth::Tenant;
use crate::store::{Committed, Store, StoreError};
use crate::workflows::manifest::Manifest;
use crate::workflows::multipart::Part;

/// Versions that a tenant may have in all. The rows of deleted ones stay, and count.
pub const MOST_VERSIONS: i64 = 100_000;

/// A package that was found to be right.
pub struct NewPackage<'a> {
    pub tenant: &'a Tenant,
    pub manifest: &'a Manifest,
    pub manifest_text: &'a str,
    /// In hex.
    pub sha256: String,
    pub file: &'a File,
    /// Where in the file it is.
    pub part: Part,
    /// All of it has to be kept by then.
    pub until: Instant,
}

impl NewPackage<'_> {
    /// What is kept of it: the archive, and its manifest once more.
    pub fn bytes(&self) -> u64 {
        self.part.length() + self.manifest_text.len() as u64
    }
}

/// What an upload came to.
#[derive(Debug)]
pub enum Kept {
    Made(Uuid),
    /// The same bytes were uploaded before.
    Known(Uuid),
}

/// Why one was not kept.
#[derive(Debug)]
pub enum Refusal {
    /// Other bytes have that version.
    Exists,
    /// Other bytes had it.
    Existed,
    /// Of the packages of the tenant together, in bytes.
    TooMuch { limit: i64, used: i64 },
    /// The tenant has as many versions as it may have.
    TooMany,
    /// The tenant was removed meanwhile.
    NoTenant,
    /// The file cannot be read.
    File(io::Error),
}

/// Writes a package: all of it, or nothing. Of two that are written at the same moment, as by two servers, the second one
/// finds the first.
///
/// # Errors
/// See `StoreError`.
pub fn keep(store: &Store, package: &NewPackage<'_>) -> Result<Result<Committed<Kept>, Refusal>, StoreError> {
    store.write_apart(package.until, |transaction| {
        // Looked at before all else, without a lock: mostly it tells, and nothing is written for nothing.
        if let Some(outcome) = decide(transaction, package, "")? {
            return Ok(outcome);
        }
        let id = Uuid::new_v4();
        if let Err(error) = write_pieces(transaction, id, package)? {
            return Ok(Err(Refusal::File(error)));
        }
        // Every other upload of the tenant waits from here on, which is not for long.
        if let Some(outcome) = decide(transaction, package, "FOR NO KEY UPDATE")? {
            // Its pieces must not stay.
            if let Ok(Kept::Known(_)) = outcome {
                let pieces = "DELETE FROM cloacina_package_pieces WHERE package = $1";
                transaction.execute(pieces, &[&id])?;
            }
            return Ok(outcome);
        }
        insert(transaction, id, package)?;
        Ok(Ok(Kept::Made(id)))
    })
}

/// What an upload comes to without being written; `None`: it has to be.
fn decide(
    transaction: &mut Transaction<'_>,
    package: &NewPackage<'_>,
    lock: &str,
) -> Result<Option<Result<Kept, Refusal>>, postgres::Error> {
    let tenant = package.tenant.id();
    let limit =
        format!("SELECT max_package_bytes FROM cloacina_tenants WHERE id = $1 AND removed_at IS NULL {lock}");
    let Some(row) = transaction.query_opt(&limit, &[&tenant])? else {
        return Ok(Some(Err(Refusal::NoTenant)));
    };
    let limit: Option<i64> = row.try_get(0)?;
    let found = transaction.query_opt(
        "SELECT id, sha256, deleted_at IS NOT NULL FROM cloacina_packages
         WHERE tenant = $1 AND name = $2 AND version = $3 ORDER BY deleted_at DESC NULLS FIRST LIMIT 1",
        &[&tenant, &package.manifest.name.as_str(), &package.manifest.version.to_string()],
    )?;
    if let Some(row) = found {
        let (id, sha256, is_deleted): (Uuid, &str, bool) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        match (sha256 == package.sha256, is_deleted) {
            (true, false) => return Ok(Some(Ok(Kept::Known(id)))),
            (true, true) => {}
            (false, false) => return Ok(Some(Err(Refusal::Exists))),
            (false, true) => return Ok(Some(Err(Refusal::Existed))),
        }
    }
    let row = transaction.query_one(
        concat!("SELECT ", kept_bytes!(), ", count(*) FROM cloacina_packages WHERE tenant = $1"),
        &[&tenant],
    )?;
    let (used, versions): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if versions >= MOST_VERSIONS {
        return Ok(Some(Err(Refusal::TooMany)));
    }
    let limit = limit.filter(|limit| used.saturating_add_unsigned(package.bytes()) > *limit);
    Ok(limit.map(|limit| Err(Refusal::TooMuch { limit, used })))
}

/// Memory holds one piece at a time.
fn write_pieces(
    transaction: &mut Transaction<'_>,
    id: Uuid,
    package: &NewPackage<'_>,
) -> Result<io::Result<()>, postgres::Error> {
    let insert = transaction
        .prepare("INSERT INTO cloacina_package_pieces (package, number, bytes) VALUES ($1, $2, $3)")?;
    let mut reader = package.part.reader(package.file, package.until);
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    for number in 0_i32.. {
        piece.clear();
        match reader.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece) {
            Ok(0) => break,
            Ok(_) => transaction.execute(&insert, &[&id, &number, &piece])?,
            Err(error) => return Ok(Err(error)),
        };
    }
    Ok(Ok(()))
}

fn insert(
    transaction: &mut Transaction<'_>,
    id: Uuid,
    package: &NewPackage<'_>,
) -> Result<(), postgres::Error> {
    let manifest = package.manifest;
    let tasks: Vec<&str> = manifest.tasks.iter().map(|task| task.id.as_str()).collect();
    transaction.execute(
        "INSERT INTO cloacina_packages
             (id, tenant, name, version, precedence, is_pre_release, description, manifest, tasks, sha256, size)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        &[
            &id,
            &package.tenant.id(),
            &manifest.name.as_str(),
            &manifest.version.to_string(),
            &manifest.version.precedence(),
            &manifest.version.is_pre_release(),
            &manifest.description,
            &package.manifest_text,
            &tasks,
            &package.sha256,
            &(package.part.length() as i64),
        ],
    )?;
    transaction.execute(
        "INSERT INTO cloacina_workflows (tenant, name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        &[&package.tenant.id(), &manifest.name.as_str()],
    )?;
    forget_deleted(transaction, package)
}

/// The row of a deletion says what bytes a version had; now this one does. The first statement waits for who removes the
/// pieces, and does not see this row yet. One that still has pieces is found by the next who removes some.
fn forget_deleted(
    transaction: &mut Transaction<'_>,
    package: &NewPackage<'_>,
) -> Result<(), postgres::Error> {
    let (tenant, name) = (package.tenant.id(), package.manifest.name.as_str());
    let version = package.manifest.version.to_string();
    transaction.execute(
        "SELECT FROM cloacina_packages
         WHERE tenant = $1 AND name = $2 AND version = $3 AND deleted_at IS NOT NULL FOR UPDATE",
        &[&tenant, &name, &version],
    )?;
    transaction.execute(
        "DELETE FROM cloacina_packages
         WHERE tenant = $1 AND name = $2 AND version = $3 AND deleted_at IS NOT NULL AND NOT has_pieces",
        &[&tenant, &name, &version],
    )?;
    Ok(())
}
