//! The statements on `cloacina_tenants`.

use std::time::Instant;

use postgres::{Row, Transaction};
use time::OffsetDateTime;

use super::limits::{Paths, Retention};
use super::role::{self, Refusal};
use super::role_lock::alone_with_role;
use super::{Limits, LimitsChange, Password};
use crate::auth::announcement::{notify, write_notifying};
use crate::auth::{FIND_TENANT, Tenant};
use crate::executions::store::removal::has_unfinished;
use crate::paging::Position;
use crate::postgres_link::end_sessions;
use crate::store::{Committed, Store, StoreError, TableStatements};

/// What a start tries on the table.
pub const TABLE: TableStatements =
    TableStatements { table: "cloacina_tenants", statements: &[FIND_TENANT, SHOW, LIST, CHANGE_LIMITS] };

/// A row, without its id, which no answer shows.
#[derive(Debug)]
pub struct TenantRow {
    pub name: String,
    pub username: Option<String>,
    pub created_at: OffsetDateTime,
    pub limits: Limits,
}

/// What a new password for a tenant's role came to.
#[derive(Debug)]
pub enum PasswordChange {
    Made {
        username: String,
    },
    /// It was made without one.
    NoRole,
    /// The tenant was removed meanwhile.
    Removed,
    /// The role or the schema is not there, and something else has its name.
    Exists(String),
    Unable(String),
}

/// What a removal came to.
#[derive(Debug, Default)]
pub struct Removal {
    /// `false`: another request had removed it before.
    pub was_there: bool,
    /// It stays, since executions of it have not ended.
    pub has_unfinished: bool,
    /// Databases of the cluster in which its role still owns something.
    pub other_databases: Vec<String>,
}

/// A page of the listing.
pub struct Page {
    pub tenants: Vec<TenantRow>,
    /// Where the next page begins; `None` for the last one.
    pub next: Option<Position>,
}

macro_rules! columns {
    () => {
        "name, username, created_at, max_running_tasks, max_pending_executions, max_package_bytes, max_log_bytes,
         max_scratch_bytes, retention_seconds, paths::text, id"
    };
}

const SHOW: &str =
    concat!("SELECT ", columns!(), " FROM cloacina_tenants WHERE id = $1 AND removed_at IS NULL");
const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM cloacina_tenants WHERE removed_at IS NULL
     AND (created_at, id) < (COALESCE($1::timestamptz, 'infinity'), COALESCE($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
     ORDER BY created_at DESC, id DESC LIMIT $3"
);
const CHANGE_LIMITS: &str =
    "UPDATE cloacina_tenants SET max_running_tasks = $2, max_pending_executions = $3, max_package_bytes = $4,
            max_log_bytes = $5, max_scratch_bytes = $6, retention_seconds = $7, paths = $8::text::jsonb
     WHERE id = $1";

fn tenant_row(row: &Row) -> Result<TenantRow, postgres::Error> {
    let retention: Option<i64> = row.try_get(8)?;
    let paths: &str = row.try_get(9)?;
    Ok(TenantRow {
        name: row.try_get(0)?,
        username: row.try_get(1)?,
        created_at: row.try_get(2)?,
        limits: Limits {
            max_running_tasks: row.try_get(3)?,
            max_pending_executions: row.try_get(4)?,
            max_package_bytes: row.try_get(5)?,
            max_log_bytes: row.try_get(6)?,
            max_scratch_bytes: row.try_get(7)?,
            retention: retention.map(|seconds| Retention { seconds }),
            // Only this server writes it, after it was checked.
            paths: serde_json::from_str::<Paths>(paths).unwrap_or_default(),
        },
    })
}

/// A tenant's row; `None`: it was removed meanwhile.
///
/// # Errors
/// See `StoreError`; so for all of these.
pub fn show(store: &Store, tenant: &Tenant, until: Instant) -> Result<Option<TenantRow>, StoreError> {
    store
        .read(until, |session| session.query_opt(SHOW, &[&tenant.id()])?.as_ref().map(tenant_row).transpose())
}

/// At most `limit` tenants, newest first.
pub fn list(
    store: &Store,
    after: Option<Position>,
    limit: usize,
    until: Instant,
) -> Result<Page, StoreError> {
    // One more than asked for tells whether there is another page.
    let count = limit as i64 + 1;
    let (created_at, id) = after.map(|after| (after.created_at, after.id)).unzip();
    store.read(until, |session| {
        let mut rows = session.query(LIST, &[&created_at, &id, &count])?;
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let position = |row: &Row| Ok(Position { created_at: row.try_get(2)?, id: row.try_get(10)? });
        let next = rows.last().filter(|_| !is_last).map(position).transpose()?;
        Ok(Page { tenants: rows.iter().map(tenant_row).collect::<Result<_, postgres::Error>>()?, next })
    })
}

/// Changes a tenant's limits, and returns how it is then; `None`: it was removed meanwhile.
pub fn change_limits(
    store: &Store,
    tenant: &Tenant,
    change: &LimitsChange,
    until: Instant,
) -> Result<Option<TenantRow>, StoreError> {
    let changed = store.write(until, |session| {
        let mut transaction = session.client.transaction()?;
        let Some(row) = transaction.query_opt(&format!("{SHOW} FOR UPDATE"), &[&tenant.id()])? else {
            return Ok(None);
        };
        let mut row = tenant_row(&row)?;
        row.limits.change(change);
        let limits = &row.limits;
        let retention = limits.retention.map(|retention| retention.seconds);
        let paths = serde_json::to_string(&limits.paths).unwrap_or_default();
        transaction.execute(
            CHANGE_LIMITS,
            &[
                &tenant.id(),
                &limits.max_running_tasks,
                &limits.max_pending_executions,
                &limits.max_package_bytes,
                &limits.max_log_bytes,
                &limits.max_scratch_bytes,
                &retention,
                &paths,
            ],
        )?;
        transaction.commit()?;
        Ok(Some(row))
    });
    changed.map(|changed| changed.value)
}

/// Gives a tenant's role another password, and makes the role and the schema where they are not there.
pub fn set_password(
    store: &Store,
    tenant: &Tenant,
    password: &Password,
    until: Instant,
) -> Result<Committed<PasswordChange>, StoreError> {
    store.write(until, |session| {
        let Some(row) = session.query_opt(SHOW, &[&tenant.id()])? else { return Ok(PasswordChange::Removed) };
        let Some(username) = tenant_row(&row)?.username else { return Ok(PasswordChange::NoRole) };
        let role = role::find_role(&mut session.client, tenant.id())?;
        alone_with_role(&mut session.client, role.as_deref(), until, |transaction| {
            let mut attempt = transaction.transaction()?;
            let provided = role::provide(&mut attempt, tenant.id(), tenant.name(), &username, password);
            let username = match provided {
                Ok(username) => username,
                Err(Refusal::Exists(text)) => return Ok(PasswordChange::Exists(text)),
                Err(Refusal::Unable(text)) => return Ok(PasswordChange::Unable(text)),
                Err(Refusal::Failed(error)) => return Err(error),
            };
            // Not before that: it could be removed between the two.
            match attempt.query_opt(SHOW, &[&tenant.id()])? {
                None => Ok(PasswordChange::Removed),
                Some(_) => attempt.commit().map(|()| PasswordChange::Made { username }),
            }
        })
    })
}

/// Removes a tenant: when this has returned, its keys are revoked, its role logs in no more, and both names are free.
/// What was its own is dropped later; see `removal`.
///
/// Executions that have not ended keep it from that, unless it is forced; then they are cancelled.
pub fn remove(
    store: &Store,
    tenant: &Tenant,
    is_forced: bool,
    until: Instant,
) -> Result<Committed<Removal>, StoreError> {
    write_notifying(store, until, |session, is_notifying| {
        if session.query_opt(SHOW, &[&tenant.id()])?.is_none() {
            return Ok(Removal::default());
        }
        let role = role::find_role(&mut session.client, tenant.id())?;
        alone_with_role(&mut session.client, role.as_deref(), until, |transaction| {
            remove_in(transaction, tenant, role.as_deref(), is_forced, is_notifying)
        })
    })
}

fn remove_in(
    transaction: &mut Transaction<'_>,
    tenant: &Tenant,
    role: Option<&str>,
    is_forced: bool,
    is_notifying: bool,
) -> Result<Removal, postgres::Error> {
    // A rotation that is under way and has made a key refers to the row: this waits for it, which the update would not.
    transaction.query_opt("SELECT FROM cloacina_tenants WHERE id = $1 FOR UPDATE", &[&tenant.id()])?;
    // Nor is an execution made that it does not see.
    if !is_forced && has_unfinished(transaction, tenant.id())? {
        return Ok(Removal { was_there: true, has_unfinished: true, ..Removal::default() });
    }
    let gone = "UPDATE cloacina_tenants SET removed_at = now() WHERE id = $1 AND removed_at IS NULL";
    let was_there = transaction.execute(gone, &[&tenant.id()])? == 1;
    if !was_there {
        return Ok(Removal::default());
    }
    transaction.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE tenant = $1 AND revoked_at IS NULL",
        &[&tenant.id()],
    )?;
    if is_notifying {
        transaction.batch_execute(concat!("SELECT ", notify!()))?;
    }
    // They could hold on to its row, and would go on with what they may.
    if let Some(role) = role {
        end_sessions(transaction, role)?;
    }
    role::disable(transaction, tenant.id())?;
    let other_databases = role::other_databases(transaction, &role::removed_name(tenant.id()))?;
    Ok(Removal { was_there, has_unfinished: false, other_databases })
}
