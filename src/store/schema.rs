//! Which schema our tables are in, and whether what has their names there is ours. Changes nothing. The migrations make
//! all tables in one schema, so all are looked at together, in the one query of a start.

use postgres::Client;

use crate::command_error::CommandError;
use crate::postgres_link::{TRUSTED_OWNERS, describe, rows};

/// A condition on a row of `pg_class`: it is a table or a sequence of ours, those of later migrations included.
macro_rules! is_ours {
    () => {
        "relkind IN ('r', 'S')
         AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('api_keys'))
         AND (relname LIKE 'api\\_key%' OR relname LIKE 'cloacina\\_%'
              OR relname IN ('auth_caches', 'refinery_schema_history'))"
    };
}
pub(crate) use is_ours;

/// The schema in which `api_keys` lies, or would be made, and what of it is there.
pub struct Schema {
    /// As SQL writes it.
    pub name: String,
    pub has_history: bool,
    pub has_keys: bool,
    /// Whether `api_keys` has the columns with which later servers tell tenants' keys.
    pub has_tenant_id: bool,
    pub has_is_admin: bool,
}

/// Looks at every table, sequence and index that has one of our names.
///
/// # Errors
/// One of them is another program's, or the user may not do with it what the server does: all that has to be otherwise.
pub fn inspect(client: &mut Client) -> Result<Schema, CommandError> {
    let failed = |error: postgres::Error| CommandError::Runtime(describe(&error));
    let query = format!("WITH RECURSIVE {TRUSTED_OWNERS}, {}", include_str!("schema.sql"));
    let rows = rows(client, &query).map_err(failed)?;
    let column = |index| rows.first().and_then(|row| row.get(index));
    if let Some(problems) = column(0) {
        return Err(CommandError::Runtime(format!(
            "the database cannot be used as it is; nothing was changed: {problems} (if this is another program's, \
             give the server a database or a schema of its own)"
        )));
    }
    let is_there = |index| column(index) == Some("t");
    Ok(Schema {
        name: column(1).unwrap_or_default().to_owned(),
        has_history: is_there(2),
        has_keys: is_there(3),
        has_tenant_id: is_there(4),
        has_is_admin: is_there(5),
    })
}
