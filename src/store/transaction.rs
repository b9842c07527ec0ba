//! A transaction whose statements are prepared once a session, as those outside of any are.

use std::collections::HashMap;

use postgres::types::ToSql;
use postgres::{Row, RowIter, Statement};

use super::session::{Session, is_stale};

/// A transaction that is under way. Dropped, it is rolled back.
pub struct Transaction<'a> {
    driver: postgres::Transaction<'a>,
    prepared: &'a mut HashMap<&'static str, Statement>,
}

type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Transaction<'_> {
    /// All rows of a statement. The type of a parameter that PostgreSQL cannot tell is said by a cast in the text.
    ///
    /// # Errors
    /// Those of the driver; so for the others.
    pub fn query(&mut self, sql: &'static str, values: Values<'_>) -> Result<Vec<Row>, postgres::Error> {
        let statement = self.prepare(sql)?;
        self.driver.query(&statement, values)
    }

    /// The only row, if there is one.
    pub fn query_opt(
        &mut self,
        sql: &'static str,
        values: Values<'_>,
    ) -> Result<Option<Row>, postgres::Error> {
        let statement = self.prepare(sql)?;
        self.driver.query_opt(&statement, values)
    }

    /// The only row, which has to be there.
    pub fn query_one(&mut self, sql: &'static str, values: Values<'_>) -> Result<Row, postgres::Error> {
        let statement = self.prepare(sql)?;
        self.driver.query_one(&statement, values)
    }

    /// Its rows one after another, where all of them may be too many for memory.
    pub fn query_each(
        &mut self,
        sql: &'static str,
        values: Values<'_>,
    ) -> Result<RowIter<'_>, postgres::Error> {
        let statement = self.prepare(sql)?;
        self.driver.query_raw(&statement, values.iter().copied())
    }

    /// How many rows were changed.
    pub fn execute(&mut self, sql: &'static str, values: Values<'_>) -> Result<u64, postgres::Error> {
        let statement = self.prepare(sql)?;
        self.driver.execute(&statement, values)
    }

    fn prepare(&mut self, sql: &'static str) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.driver.prepare(sql)?;
        self.prepared.insert(sql, statement.clone());
        Ok(statement)
    }
}

impl Session {
    /// Runs a change in a transaction, which is committed unless the change refuses itself. It is run again where a
    /// statement that was prepared before is of no use any more.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn transact<T, R>(
        &mut self,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<Result<T, R>, postgres::Error>,
    ) -> Result<Result<T, R>, postgres::Error> {
        match self.transact_once(&mut work) {
            Err(error) if is_stale(&error) => {
                self.prepared.clear();
                self.transact_once(&mut work)
            }
            outcome => outcome,
        }
    }

    fn transact_once<T, R>(
        &mut self,
        work: &mut impl FnMut(&mut Transaction<'_>) -> Result<Result<T, R>, postgres::Error>,
    ) -> Result<Result<T, R>, postgres::Error> {
        let driver = self.client.transaction()?;
        let mut transaction = Transaction { driver, prepared: &mut self.prepared };
        let outcome = work(&mut transaction)?;
        if outcome.is_ok() {
            transaction.driver.commit()?;
        }
        Ok(outcome)
    }
}
