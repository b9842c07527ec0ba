//! What a start would find in the database, told without changing anything there.

use std::time::Duration;

use postgres::Client;

use super::migrations::{self, State};
use super::open;
use super::pool::SESSION_WAIT;
use super::schema::Schema;
use super::session::{Session, TableStatements};
use crate::command_error::CommandError;
use crate::config::Settings;
use crate::postgres_link::{describe, first_value, is_true};

/// A line about something that is in order, or what is wrong with it.
pub type Finding = Result<String, CommandError>;

/// What is in our tables, a line each, where they are as they should be or will be after a migration.
pub type LookAtRows = fn(&mut Client, &Schema, State) -> Result<Vec<String>, postgres::Error>;

/// Waits for no database that is still coming up.
pub fn database(settings: &Settings, tables: &[TableStatements], look_at_rows: LookAtRows) -> Vec<Finding> {
    let connected = open::factory(settings, SESSION_WAIT, Duration::ZERO).and_then(|factory| {
        let session = Session::new(open::connect(&factory, Duration::ZERO)?);
        Ok(Look { session, place: factory.connector.place.clone(), findings: Vec::new() })
    });
    match connected {
        Ok(mut look) => {
            if let Err(error) = look.look(tables, look_at_rows) {
                look.wrong(&describe(&error));
            }
            look.findings
        }
        Err(error) => vec![Err(error)],
    }
}

struct Look {
    session: Session,
    place: String,
    findings: Vec<Finding>,
}

impl Look {
    fn fine(&mut self, what: &str) {
        self.findings.push(Ok(format!("{} {what}", self.place)));
    }

    fn wrong(&mut self, what: &str) {
        self.findings.push(Err(CommandError::Runtime(format!("{}: {what}", self.place))));
    }

    fn look(&mut self, tables: &[TableStatements], look_at_rows: LookAtRows) -> Result<(), postgres::Error> {
        let client = &mut self.session.client;
        let version = first_value(client, "SELECT current_setting('server_version')")?.unwrap_or_default();
        let is_old = is_true(client, "SELECT current_setting('server_version_num')::int < 150000")?;
        // From here on this session could not change anything if it wanted to, and waits for no lock for long.
        self.session
            .client
            .batch_execute("SET default_transaction_read_only = on; SET statement_timeout = '5s'")?;
        match is_old {
            true => self.wrong(&format!("it is PostgreSQL {version}; 15 or later is needed")),
            false => self.fine(&format!("is PostgreSQL {version}")),
        }
        // The same look as that of a start, so that both say the same.
        match migrations::state(&mut self.session.client) {
            Err(failure) => self.wrong(&failure.to_string()),
            Ok((state, schema)) => {
                match state {
                    State::Current => self.look_at_tables(tables),
                    State::Behind { from: 0, .. } if schema.has_keys => {
                        self.fine("has a table api_keys of another server, which is adopted");
                    }
                    State::Behind { from: 0, .. } => self.look_at_others(&schema)?,
                    State::Behind { from, to } => {
                        self.fine(&format!("is migrated from version {from} to {to}"));
                    }
                }
                let found = look_at_rows(&mut self.session.client, &schema, state)?;
                found.iter().for_each(|found| self.fine(found));
            }
        }
        Ok(())
    }

    fn look_at_tables(&mut self, tables: &[TableStatements]) {
        match self.session.prepare_all(tables) {
            Ok(()) => self.fine("needs no migration: its schema is that of this program"),
            Err((table, error)) => {
                self.wrong(&format!("the table {table} is not as expected: {}", describe(&error)))
            }
        }
    }

    /// A database without keys of any server: what else is there stays.
    fn look_at_others(&mut self, schema: &Schema) -> Result<(), postgres::Error> {
        let others = first_value(
            &mut self.session.client,
            "SELECT string_agg(format('%s in schema %I', count, nspname), ', ' ORDER BY nspname)
             FROM (SELECT nspname, count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
                   WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname <> 'information_schema' AND nspname !~ '^pg_'
                     AND relname <> 'refinery_schema_history'
                   GROUP BY nspname) AS counted",
        )?;
        let found = match others {
            None => "is empty".to_owned(),
            Some(others) => {
                format!("has no table api_keys, but other tables and views ({others}), which stay")
            }
        };
        self.fine(&format!("{found}; the server's tables are made in schema {}", schema.name));
        Ok(())
    }
}
