//! The row types of our tables. PostgreSQL lets every role use each of them, and a column of such a type in a table of
//! another role keeps a migration from changing our table. A view or function of another role can still name a column, by
//! which that column cannot be dropped or get another type: migrations add.

use postgres::Client;

use super::schema::is_ours;
use crate::postgres_link::{describe, first_value};

/// Statements that close those which are open, where there are any. A restored dump has them open again.
const OPEN: &str = concat!(
    "SELECT string_agg(format('REVOKE USAGE ON TYPE %I.%I FROM PUBLIC', nspname, relname), '; ' ORDER BY relname)
     FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
     WHERE relkind = 'r' AND has_type_privilege('public', reltype, 'USAGE') AND pg_has_role(relowner, 'USAGE') AND ",
    is_ours!()
);

/// Lets no other role use them. Where that fails, the server works as well, and another may be doing the same.
pub fn close(client: &mut Client) {
    let closed = first_value(client, OPEN).and_then(|statements| match statements {
        Some(statements) => client.batch_execute(&statements),
        None => Ok(()),
    });
    if let Err(error) = closed {
        log::debug!("cannot keep other roles from using the types of our tables: {}", describe(&error));
    }
}
