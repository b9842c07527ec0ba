//! The statements on packages and workflows; those that keep an upload are in `upload`.

pub mod deletion;
pub mod removal;
pub mod upload;

use std::time::Instant;

use postgres::Row;
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::names::{Version, WorkflowName};
use crate::auth::Tenant;
use crate::paging::Position;
use crate::store::{Committed, Store, StoreError, TableStatements};

/// What a start tries on the table.
pub const TABLE: TableStatements = TableStatements {
    table: "cloacina_packages",
    statements: &[
        LIST_NEWEST,
        LIST_ALL,
        SHOW_NEWEST,
        SHOW_VERSION,
        VERSIONS,
        ARCHIVE,
        COUNT,
        PIECE,
        deletion::LOCK,
        deletion::IS_USED,
        deletion::DELETE,
        PAUSE,
    ],
};

/// Bytes of all pieces but the last.
pub const PIECE_BYTES: usize = 256 * 1024;
/// Versions that the description of a workflow names.
const MOST_VERSIONS: i64 = 1000;

/// A version as listings show it.
#[derive(Debug)]
pub struct Listed {
    pub id: Uuid,
    pub name: String,
    pub version: String,
    pub description: Option<String>,
    pub tasks: Vec<String>,
    pub created_at: OffsetDateTime,
    pub is_paused: bool,
}

/// A version with all that is known of it.
#[derive(Debug)]
pub struct Shown {
    pub listed: Listed,
    pub manifest: String,
    pub sha256: String,
    /// Bytes.
    pub size: i64,
    /// All that there are of the workflow, the highest first.
    pub versions: Vec<String>,
}

/// Where the bytes of a version are.
#[derive(Debug, Clone)]
pub struct Archive {
    pub package: Uuid,
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// A page of the listing.
pub struct Page {
    pub packages: Vec<Listed>,
    /// Where the next page begins; `None` for the last one.
    pub next: Option<Position>,
}

/// What a tenant has.
#[derive(Debug, Serialize)]
pub struct Counts {
    pub workflows: i64,
    /// Of all packages together, with the manifests that are kept beside them.
    pub package_bytes: i64,
}

macro_rules! listed {
    () => {
        "package.id, package.name, package.version, package.description, package.tasks, package.created_at,
         workflow.is_paused"
    };
}

/// Of the page, no more than so many ids of tasks, but for the first row's: a workflow may have thousands.
macro_rules! page {
    ($from:literal) => {
        concat!(
            "SELECT * FROM (SELECT *, sum(cardinality(tasks)) OVER (ORDER BY created_at DESC, id DESC) - cardinality(tasks) AS before,
                                   count(*) OVER () AS found
             FROM (SELECT ",
            listed!(),
            " FROM ",
            $from,
            " AND (package.created_at, package.id)
                  < (COALESCE($2::timestamptz, 'infinity'), COALESCE($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
              ORDER BY package.created_at DESC, package.id DESC LIMIT $4) AS page) AS counted
             WHERE before < 20000 ORDER BY created_at DESC, id DESC"
        )
    };
}

const LIST_NEWEST: &str = page!(
    "cloacina_workflows AS workflow CROSS JOIN LATERAL (
         SELECT * FROM cloacina_packages
         WHERE tenant = workflow.tenant AND name = workflow.name AND deleted_at IS NULL
         ORDER BY is_pre_release, precedence DESC LIMIT 1) AS package
     WHERE workflow.tenant = $1"
);
const LIST_ALL: &str = page!(
    "cloacina_packages AS package JOIN cloacina_workflows AS workflow USING (tenant, name)
     WHERE package.tenant = $1 AND package.deleted_at IS NULL"
);

macro_rules! show {
    ($rest:literal) => {
        concat!(
            "SELECT ",
            listed!(),
            ", package.manifest, package.sha256, package.size
             FROM cloacina_packages AS package JOIN cloacina_workflows AS workflow USING (tenant, name)
             WHERE package.tenant = $1 AND package.name = $2 AND package.deleted_at IS NULL ",
            $rest
        )
    };
}

const SHOW_NEWEST: &str = show!("ORDER BY package.is_pre_release, package.precedence DESC LIMIT 1");
const SHOW_VERSION: &str = show!("AND package.version = $3");
const VERSIONS: &str =
    "SELECT version FROM cloacina_packages WHERE tenant = $1 AND name = $2 AND deleted_at IS NULL
     ORDER BY precedence DESC LIMIT $3";
/// What the versions of a tenant take that are not deleted. The length of a manifest is known without reading it.
macro_rules! kept_bytes {
    () => {
        "COALESCE(sum(size + octet_length(manifest)) FILTER (WHERE deleted_at IS NULL), 0)::bigint"
    };
}
use kept_bytes;

const COUNT: &str = concat!(
    "SELECT count(DISTINCT name), ",
    kept_bytes!(),
    " FROM cloacina_packages WHERE tenant = $1 AND deleted_at IS NULL"
);
const ARCHIVE: &str = "SELECT id, sha256, size FROM cloacina_packages
     WHERE tenant = $1 AND name = $2 AND version = $3 AND deleted_at IS NULL";
/// A part of a piece, of a version of the tenant that is not deleted.
const PIECE: &str = "SELECT substr(piece.bytes, $4, $5) FROM cloacina_package_pieces AS piece
     JOIN cloacina_packages AS package ON package.id = piece.package
     WHERE package.tenant = $1 AND package.id = $2 AND piece.number = $3 AND package.deleted_at IS NULL";
const PAUSE: &str = "UPDATE cloacina_workflows SET is_paused = $3
     WHERE tenant = $1 AND name = $2 AND EXISTS (
         SELECT FROM cloacina_packages WHERE tenant = $1 AND name = $2 AND deleted_at IS NULL)
     RETURNING is_paused";

fn listed(row: &Row) -> Result<Listed, postgres::Error> {
    Ok(Listed {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        version: row.try_get(2)?,
        description: row.try_get(3)?,
        tasks: row.try_get(4)?,
        created_at: row.try_get(5)?,
        is_paused: row.try_get(6)?,
    })
}

/// At most `limit` versions, newest first: the highest of each workflow, or all of them.
///
/// # Errors
/// See `StoreError`; so for all of these.
pub fn list(
    store: &Store,
    tenant: &Tenant,
    all: bool,
    after: Option<Position>,
    limit: usize,
    until: Instant,
) -> Result<Page, StoreError> {
    // One more than asked for tells whether there is another page.
    let count = limit as i64 + 1;
    let (created_at, id) = after.map(|after| (after.created_at, after.id)).unzip();
    let sql = if all { LIST_ALL } else { LIST_NEWEST };
    store.read(until, |session| {
        let mut rows = session.query(sql, &[&tenant.id(), &created_at, &id, &count])?;
        let found: i64 = rows.first().map_or(Ok(0), |row| row.try_get("found"))?;
        let is_last = rows.len() as i64 == found && rows.len() <= limit;
        rows.truncate(limit);
        let packages = rows.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        let next = packages.last().filter(|_| !is_last);
        let next = next.map(|last| Position { created_at: last.created_at, id: last.id });
        Ok(Page { packages, next })
    })
}

/// A version, or the highest one: of releases, unless there are only pre-releases.
pub fn show(
    store: &Store,
    tenant: &Tenant,
    name: &WorkflowName,
    version: Option<&Version>,
    until: Instant,
) -> Result<Option<Shown>, StoreError> {
    let version = version.map(Version::to_string);
    store.read(until, |session| {
        let row = match &version {
            None => session.query_opt(SHOW_NEWEST, &[&tenant.id(), &name.as_str()])?,
            Some(version) => session.query_opt(SHOW_VERSION, &[&tenant.id(), &name.as_str(), version])?,
        };
        let Some(row) = row else { return Ok(None) };
        let versions = session.query(VERSIONS, &[&tenant.id(), &name.as_str(), &MOST_VERSIONS])?;
        Ok(Some(Shown {
            listed: listed(&row)?,
            manifest: row.try_get(7)?,
            sha256: row.try_get(8)?,
            size: row.try_get(9)?,
            versions: versions.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
        }))
    })
}

/// Where the bytes of a version are.
pub fn archive(
    store: &Store,
    tenant: &Tenant,
    name: &WorkflowName,
    version: &Version,
    until: Instant,
) -> Result<Option<Archive>, StoreError> {
    let version = version.to_string();
    store.read(until, |session| {
        let row = session.query_opt(ARCHIVE, &[&tenant.id(), &name.as_str(), &version])?;
        let archive = |row: Row| {
            let size: i64 = row.try_get(2)?;
            Ok(Archive { package: row.try_get(0)?, sha256: row.try_get(1)?, size: size.unsigned_abs() })
        };
        row.map(archive).transpose()
    })
}

/// Bytes of an archive of the tenant from `at` on, at most `most`; none once it is deleted.
pub fn bytes(
    store: &Store,
    tenant: &Tenant,
    package: Uuid,
    at: u64,
    most: usize,
    until: Instant,
) -> Result<Vec<u8>, StoreError> {
    let (number, from) = (at / PIECE_BYTES as u64, at % PIECE_BYTES as u64);
    store.read(until, |session| {
        let (number, from, most) = (number as i32, from as i32 + 1, most as i32);
        let row = session.query_opt(PIECE, &[&tenant.id(), &package, &number, &from, &most])?;
        row.map_or(Ok(Vec::new()), |row| row.try_get(0))
    })
}

/// What a tenant has.
pub fn count(store: &Store, tenant: &Tenant, until: Instant) -> Result<Counts, StoreError> {
    store.read(until, |session| {
        let row = session.query_one(COUNT, &[&tenant.id()])?;
        Ok(Counts { workflows: row.try_get(0)?, package_bytes: row.try_get(1)? })
    })
}

/// Pauses or resumes a workflow: whether there is one.
pub fn set_paused(
    store: &Store,
    tenant: &Tenant,
    name: &WorkflowName,
    is_paused: bool,
    until: Instant,
) -> Result<Committed<bool>, StoreError> {
    store.write(until, |session| {
        Ok(session.query_opt(PAUSE, &[&tenant.id(), &name.as_str(), &is_paused])?.is_some())
    })
}
