//! A session of the pool, with the statements that were prepared on it: each at its first use, and once more when
//! PostgreSQL has dropped it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{CancelToken, Client, Row, Statement};

use crate::postgres_link::{Limit, NewSession, ends_session};

/// Values of a statement's parameters.
type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The statements that a start tries on a table, so that one which does not fit stops it.
pub struct TableStatements {
    pub table: &'static str,
    pub statements: &'static [&'static str],
}

/// A connection and what was prepared on it.
pub struct Session {
    pub client: Client,
    pub cancel: Arc<CancelToken>,
    /// When it last answered.
    pub answered: Instant,
    pub(super) prepared: HashMap<&'static str, Statement>,
    /// Until when the driver waits for an answer on it.
    pub limit: Limit,
    pub epoch: u64,
    /// The last statement could not be prepared, so it was not carried out.
    pub unprepared: bool,
    /// A statement has failed in a way that leaves nothing to hope for.
    dead: bool,
    /// It owes us an answer, and no thread waits for that any more.
    pub silent: bool,
}

impl Session {
    pub fn new(new_session: NewSession) -> Session {
        let NewSession { client, limit, epoch } = new_session;
        let cancel = Arc::new(client.cancel_token());
        let answered = Instant::now();
        Session {
            client,
            cancel,
            answered,
            prepared: HashMap::new(),
            limit,
            epoch,
            unprepared: false,
            dead: false,
            silent: false,
        }
    }

    /// Prepares all statements on these tables.
    ///
    /// # Errors
    /// The name of a table that does not fit, or on which the session broke, with what PostgreSQL says of it.
    pub fn prepare_all(&mut self, tables: &[TableStatements]) -> Result<(), (&'static str, postgres::Error)> {
        for TableStatements { table, statements } in tables {
            for sql in *statements {
                self.prepare(sql).map_err(|error| (*table, error))?;
            }
        }
        Ok(())
    }

    /// All rows of a statement. The type of a parameter that PostgreSQL cannot tell is said by a cast in the text.
    ///
    /// # Errors
    /// Those of the driver; so for the others.
    pub fn query(&mut self, sql: &'static str, values: Values<'_>) -> Result<Vec<Row>, postgres::Error> {
        self.run(sql, |client, statement| client.query(statement, values))
    }

    /// The only row, if there is one.
    pub fn query_opt(
        &mut self,
        sql: &'static str,
        values: Values<'_>,
    ) -> Result<Option<Row>, postgres::Error> {
        self.run(sql, |client, statement| client.query_opt(statement, values))
    }

    /// The only row, which has to be there.
    pub fn query_one(&mut self, sql: &'static str, values: Values<'_>) -> Result<Row, postgres::Error> {
        self.run(sql, |client, statement| client.query_one(statement, values))
    }

    /// Runs a statement outside of any transaction, so that one which failed has changed nothing and may be run again.
    fn run<T>(
        &mut self,
        sql: &'static str,
        run: impl Fn(&mut Client, &Statement) -> Result<T, postgres::Error>,
    ) -> Result<T, postgres::Error> {
        let statement = self.prepare(sql)?;
        match run(&mut self.client, &statement) {
            Err(error) if is_stale(&error) => {
                self.prepared.remove(sql);
                let statement = self.prepare(sql)?;
                run(&mut self.client, &statement)
            }
            outcome => outcome,
        }
    }

    fn prepare(&mut self, sql: &'static str) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let prepared = self.client.prepare(sql);
        self.unprepared = prepared.is_err();
        let statement = prepared?;
        self.prepared.insert(sql, statement.clone());
        Ok(statement)
    }

    /// Whether this error means that the session is of no use any more, and with it all that are as old.
    pub fn is_dead(&mut self, error: &postgres::Error) -> bool {
        let dead = ends_session(error) || self.client.is_closed();
        self.dead |= dead;
        dead
    }

    /// Whether it must not be handed out again.
    pub fn is_broken(&self) -> bool {
        self.dead || self.silent || self.client.is_closed()
    }

    /// Nothing is known to be wrong with it, but it does not answer in time.
    pub fn give_up(&mut self) {
        self.silent = true;
        self.limit.set(Some(Instant::now()));
    }
}

/// Whether a prepared statement is gone, after DISCARD or DEALLOCATE, or its columns have changed since. PostgreSQL says
/// so before it executes anything.
pub(super) fn is_stale(error: &postgres::Error) -> bool {
    [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::FEATURE_NOT_SUPPORTED]
        .iter()
        .any(|stale| error.code() == Some(stale))
}
