//! What becomes of the attempts of a host that a person said is gone.

use std::time::Instant;

use crate::command_error::{CommandError, runtime};
use crate::engine::retry::random;
use crate::executions::store::attempt_end::{Recorded, record_forgotten};
use crate::hosts::RunningAttempt;
use crate::store::{COMMAND_LIMIT, Store};

/// Writes down that they were abandoned, each in a transaction of its own, as long as their host has not come back: how many.
///
/// # Errors
/// The database failed. Those that are left are found by the next server that looks.
pub fn abandon_forgotten(store: &Store, running: &[RunningAttempt]) -> Result<usize, CommandError> {
    let mut abandoned = 0;
    for RunningAttempt { attempt, .. } in running {
        let recorded = record_forgotten(store, *attempt, random(), Instant::now() + COMMAND_LIMIT)
            .map_err(runtime("cannot write down that what it ran is abandoned"))?;
        abandoned += usize::from(matches!(recorded.value, Recorded::Done(_)));
    }
    Ok(abandoned)
}
