//! Outputs that are large go to the database in pieces: a session keeps as much memory as the largest message that it has sent.

use uuid::Uuid;

use crate::store::Transaction;

/// A larger one does not go with what else is saved.
pub const MOST_AT_ONCE_BYTES: usize = 64 * 1024;

/// The text so far is a setting of the transaction, which no row and no log is written for.
const ADD: &str = "SELECT length(set_config('cloacina.output',
         CASE WHEN $2 THEN '' ELSE current_setting('cloacina.output') END || $1, true))";
const WRITE: &str = "UPDATE cloacina_tasks SET output = current_setting('cloacina.output')
     WHERE execution = $1 AND number = $2";

/// Writes the output of a task.
pub fn write(
    transaction: &mut Transaction<'_>,
    execution: Uuid,
    task: usize,
    output: &str,
) -> Result<(), postgres::Error> {
    let mut left = output;
    while !left.is_empty() {
        let (piece, rest) = left.split_at(left.floor_char_boundary(MOST_AT_ONCE_BYTES));
        transaction.query_one(ADD, &[&piece, &(left.len() == output.len())])?;
        left = rest;
    }
    transaction.execute(WRITE, &[&execution, &(task as i32)])?;
    Ok(())
}
