//! Queries whose answers come as text, several in one round trip, with nothing prepared.

use postgres::{GenericClient, SimpleQueryMessage, SimpleQueryRow};

/// The rows of all these statements as text, in one round trip.
pub fn rows(
    client: &mut impl GenericClient,
    statements: &str,
) -> Result<Vec<SimpleQueryRow>, postgres::Error> {
    let messages = client.simple_query(statements)?.into_iter();
    let rows = messages.filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}

/// The first column of a query's first row.
pub fn first_value(client: &mut impl GenericClient, query: &str) -> Result<Option<String>, postgres::Error> {
    let rows = rows(client, query)?;
    rows.first().map_or(Ok(None), |row| Ok(row.try_get(0)?.map(str::to_owned)))
}

/// Whether a query of one boolean says so.
pub fn is_true(client: &mut impl GenericClient, query: &str) -> Result<bool, postgres::Error> {
    Ok(first_value(client, query)?.as_deref() == Some("t"))
}
