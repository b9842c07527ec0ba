//! A tenant's role and schema in PostgreSQL: statements that are part of the transaction which the tenant's row is
//! changed in. The schema is the server's own, so that a tenant can neither rename nor drop it, nor let others in.

use postgres::error::SqlState;
use postgres::{GenericClient, Transaction};
use uuid::Uuid;

use super::{Password, views};
use crate::postgres_link::quote_identifier;
use crate::store::schema::is_ours;

/// Sessions that a tenant's role can have at once.
const MOST_CONNECTIONS: u32 = 10;

/// Why the database would not give a tenant what it needs.
#[derive(Debug)]
pub enum Refusal {
    /// Something of that name is there already.
    Exists(String),
    /// What the server may not do, or what would let the tenant reach the server's own tables, and what helps.
    Unable(String),
    Failed(postgres::Error),
}

impl From<postgres::Error> for Refusal {
    fn from(error: postgres::Error) -> Refusal {
        Refusal::Failed(error)
    }
}

/// Why the server cannot give a tenant a role and a schema, said with what helps. PostgreSQL gives every role what `PUBLIC`
/// has, so what is granted to that would be granted to each tenant.
///
/// # Errors
/// The session broke.
pub fn obstacle(client: &mut impl GenericClient) -> Result<Option<String>, postgres::Error> {
    let row = client.query_one(
        concat!(
            "WITH own AS (
             SELECT pg_class.oid, relkind, relnamespace, relowner, reltype, quote_ident(nspname) AS schema,
                    format('%I.%I', nspname, relname) AS shown
             FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
             WHERE ",
            is_ours!(),
            "
         )
         SELECT (SELECT format('the server''s database role cannot create roles: grant it CREATEROLE '
                               '(ALTER ROLE %I CREATEROLE)', rolname)
                 FROM pg_roles WHERE rolname = current_user AND NOT (rolsuper OR rolcreaterole)),
                (SELECT format('the server''s database role cannot create schemas: grant it CREATE on the database '
                               '(GRANT CREATE ON DATABASE %I TO %I)', current_database(), current_user)
                 WHERE NOT has_database_privilege(current_database(), 'CREATE')),
                (SELECT format('no new role may connect to this database: GRANT CONNECT ON DATABASE %I TO PUBLIC',
                               current_database())
                 WHERE NOT has_database_privilege('public', current_database(), 'CONNECT')
                   AND NOT has_database_privilege(current_database(), 'CONNECT WITH GRANT OPTION')),
                (SELECT format('every role may create objects in the schema %s of the server''s tables: '
                               'REVOKE CREATE ON SCHEMA %1$s FROM PUBLIC', schema)
                 FROM own WHERE has_schema_privilege('public', relnamespace, 'CREATE') LIMIT 1),
                (SELECT format('every role may use the server''s own %s: REVOKE ALL ON %1$s FROM PUBLIC',
                               string_agg(shown, ', ' ORDER BY shown))
                 FROM own WHERE CASE relkind
                     WHEN 'S' THEN has_sequence_privilege('public', oid, 'USAGE, SELECT, UPDATE')
                     ELSE has_table_privilege('public', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                          OR has_any_column_privilege('public', oid, 'SELECT, INSERT, UPDATE, REFERENCES')
                     END HAVING count(*) > 0),
                -- A start closes those of its own tables.
                (SELECT format('every role may use the types of %s: REVOKE USAGE ON TYPE %1$s FROM PUBLIC',
                               string_agg(shown, ', ' ORDER BY shown))
                 FROM own WHERE relkind = 'r' AND NOT pg_has_role(relowner, 'USAGE')
                   AND has_type_privilege('public', reltype, 'USAGE') HAVING count(*) > 0)"
        ),
        &[],
    )?;
    for index in 0..row.len() {
        if let Some(obstacle) = row.try_get(index)? {
            return Ok(Some(obstacle));
        }
    }
    Ok(None)
}

/// Gives a tenant what it lacks of a schema and a role that can log in and do what it likes there, and nothing elsewhere;
/// and a role that is there this password. What the role is called comes back.
///
/// # Errors
/// See `Refusal`; the transaction can only be rolled back then.
pub fn provide(
    transaction: &mut Transaction<'_>,
    id: Uuid,
    schema: &str,
    username: &str,
    password: &Password,
) -> Result<String, Refusal> {
    let (found_schema, found_role) = (find_schema(transaction, id)?, find_role(transaction, id)?);
    let verifier = password.verifier();
    if let (Some(_), Some(role)) = (&found_schema, &found_role) {
        transaction.batch_execute(&format!("ALTER ROLE {} PASSWORD '{verifier}'", quote_identifier(role)))?;
        return Ok(role.clone());
    }
    if let Some(obstacle) = obstacle(transaction)? {
        return Err(Refusal::Unable(obstacle));
    }
    views::make(transaction)?;
    let (mark, role) = (mark(id), found_role.clone().unwrap_or_else(|| username.to_owned()));
    let quoted_schema = quote_identifier(found_schema.as_deref().unwrap_or(schema));
    let quoted_role = quote_identifier(&role);
    if found_schema.is_none() {
        transaction
            .batch_execute(&format!(
                "CREATE SCHEMA {quoted_schema}; COMMENT ON SCHEMA {quoted_schema} IS '{mark}'"
            ))
            .map_err(|error| refusal(error, || format!("schema '{schema}' exists")))?;
    }
    if found_role.is_none() {
        // From 16 on a setting may make us a member of each role that we make, which would make its tables look like ours.
        transaction.batch_execute(
            "SELECT set_config(name, '', true) FROM pg_settings WHERE name = 'createrole_self_grant'",
        )?;
        transaction
            .batch_execute(&format!(
                "CREATE ROLE {quoted_role} LOGIN CONNECTION LIMIT {MOST_CONNECTIONS}; COMMENT ON ROLE {quoted_role} IS '{mark}'"
            ))
            .map_err(|error| refusal(error, || format!("role '{role}' exists")))?;
    }
    let row = transaction.query_one(
        "SELECT quote_ident(current_database()), has_database_privilege($1::text, current_database(), 'CONNECT')",
        &[&role],
    )?;
    let (database, may_connect): (&str, bool) = (row.try_get(0)?, row.try_get(1)?);
    transaction.batch_execute(&format!(
        "ALTER ROLE {quoted_role} PASSWORD '{verifier}';
         GRANT USAGE, CREATE ON SCHEMA {quoted_schema} TO {quoted_role};
         ALTER ROLE {quoted_role} IN DATABASE {database} SET search_path = {quoted_schema}"
    ))?;
    if !may_connect {
        one_at_a_time(transaction)?;
        transaction.batch_execute(&format!("GRANT CONNECT ON DATABASE {database} TO {quoted_role}"))?;
    }
    Ok(role)
}

/// What the comment on a tenant's role and on its schema says, by which they are known: a role of that name may be another
/// program's, where the tenant's was dropped or got another name by hand. A tenant cannot change it.
fn mark(id: Uuid) -> String {
    format!("cloacinactl: of the tenant {id}")
}

/// What a tenant's role is called, if there is one.
///
/// # Errors
/// The session broke.
pub fn find_role(client: &mut impl GenericClient, id: Uuid) -> Result<Option<String>, postgres::Error> {
    let marked = "SELECT rolname::text FROM pg_shdescription JOIN pg_roles ON pg_roles.oid = objoid
                  WHERE classoid = 'pg_authid'::regclass AND description = $1 LIMIT 1";
    find(client, marked, id)
}

/// The same for its schema.
fn find_schema(client: &mut impl GenericClient, id: Uuid) -> Result<Option<String>, postgres::Error> {
    let marked = "SELECT nspname::text FROM pg_description JOIN pg_namespace ON pg_namespace.oid = objoid
                  WHERE classoid = 'pg_namespace'::regclass AND description = $1 LIMIT 1";
    find(client, marked, id)
}

fn find(client: &mut impl GenericClient, marked: &str, id: Uuid) -> Result<Option<String>, postgres::Error> {
    client.query_opt(marked, &[&mark(id)])?.map(|row| row.try_get(0)).transpose()
}

/// A statement's failure: something is there already, also what another session has just committed, or else.
fn refusal(error: postgres::Error, what: impl FnOnce() -> String) -> Refusal {
    let exists = [SqlState::DUPLICATE_SCHEMA, SqlState::DUPLICATE_OBJECT, SqlState::UNIQUE_VIOLATION];
    match error.code().is_some_and(|code| exists.contains(code)) {
        true => Refusal::Exists(what()),
        false => Refusal::Failed(error),
    }
}

/// Until the transaction ends, no other server changes what all tenants share: PostgreSQL refuses the second of two such
/// changes. Nothing else that servers do waits for this lock, and no tenant can take it.
///
/// # Errors
/// The session broke, or its `lock_timeout` is over.
pub fn one_at_a_time(transaction: &mut Transaction<'_>) -> Result<(), postgres::Error> {
    transaction.batch_execute("LOCK TABLE cloacina_tenants IN SHARE UPDATE EXCLUSIVE MODE")
}

/// What the role and the schema of a removed tenant are called until they are dropped.
pub fn removed_name(id: Uuid) -> String {
    format!("cloacina_removed_{}", id.simple())
}

/// Frees the names of a tenant's role and schema, and lets the role log in no more. One that was dropped by hand is
/// left alone.
///
/// # Errors
/// Another session has one of their rows, or the server's role may not.
pub fn disable(transaction: &mut Transaction<'_>, id: Uuid) -> Result<(), postgres::Error> {
    let removed = quote_identifier(&removed_name(id));
    if let Some(role) = find_role(transaction, id)? {
        transaction.batch_execute(&format!(
            "ALTER ROLE {} RENAME TO {removed}; ALTER ROLE {removed} NOLOGIN PASSWORD NULL",
            quote_identifier(&role)
        ))?;
    }
    if let Some(schema) = find_schema(transaction, id)? {
        transaction
            .batch_execute(&format!("ALTER SCHEMA {} RENAME TO {removed}", quote_identifier(&schema)))?;
    }
    Ok(())
}

/// # Errors
/// The session broke.
pub fn has_role(client: &mut impl GenericClient, name: &str) -> Result<bool, postgres::Error> {
    Ok(client.query_opt("SELECT FROM pg_roles WHERE rolname = $1::text", &[&name])?.is_some())
}

/// # Errors
/// The session broke.
pub fn has_schema(client: &mut impl GenericClient, name: &str) -> Result<bool, postgres::Error> {
    Ok(client.query_opt("SELECT FROM pg_namespace WHERE nspname = $1::text", &[&name])?.is_some())
}

/// Other databases of the cluster in which a role owns something or was granted it, so that it cannot be dropped here.
///
/// # Errors
/// The session broke.
pub fn other_databases(client: &mut impl GenericClient, role: &str) -> Result<Vec<String>, postgres::Error> {
    let row = client.query_one(
        "SELECT COALESCE(array_agg(DISTINCT datname::text ORDER BY datname::text), '{}')
         FROM pg_shdepend JOIN pg_database ON pg_database.oid = dbid JOIN pg_roles ON pg_roles.oid = refobjid
         WHERE refclassid = 'pg_authid'::regclass AND rolname = $1::text AND datname <> current_database()",
        &[&role],
    )?;
    row.try_get(0)
}
