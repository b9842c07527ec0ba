//! What a start would find of keys in the database.

use postgres::Client;

use super::store;
use crate::postgres_link::first_value;
use crate::store::migrations::State;
use crate::store::schema::Schema;

/// A line for each thing, for people.
///
/// # Errors
/// The session broke.
pub fn look(client: &mut Client, schema: &Schema, state: State) -> Result<Vec<String>, postgres::Error> {
    if !schema.has_keys || store::is_empty(client)? {
        return Ok(vec!["has no key, so a bootstrap key is made".to_owned()]);
    }
    let mut found = vec!["has keys, so no bootstrap key is made".to_owned()];
    let tenants = count_tenants(client, schema, state == State::Current)?;
    if tenants > 0 {
        let keys = if tenants == 1 { "key" } else { "keys" };
        let which = match state {
            State::Current => "they",
            State::Behind { .. } => {
                "a start makes tenants of the names in tenant_id; those whose name will not do"
            }
        };
        found.push(format!(
            "has {tenants} {keys} of tenants of another server (with tenant_id, or admin without is_admin): {which} \
             open only /auth/whoami and their own revocation"
        ));
    }
    Ok(found)
}

/// How many keys are tenants', in a table that may not have been migrated yet: then null is no admin.
fn count_tenants(client: &mut Client, schema: &Schema, is_migrated: bool) -> Result<u64, postgres::Error> {
    let tenant = match (schema.has_tenant_id, is_migrated) {
        (true, true) => "tenant IS NULL AND tenant_id IS NOT NULL",
        (true, false) => "tenant_id IS NOT NULL",
        (false, _) => "false",
    };
    let no_admin = match (schema.has_is_admin, is_migrated) {
        (true, true) => "tenant IS NULL AND permissions = 'admin' AND NOT is_admin",
        (true, false) => "permissions = 'admin' AND is_admin IS NOT TRUE",
        (false, _) => "false",
    };
    let query = format!("SELECT count(*) FROM api_keys WHERE {tenant} OR {no_admin}");
    Ok(first_value(client, &query)?.and_then(|count| count.parse().ok()).unwrap_or_default())
}
