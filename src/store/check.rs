//! What a start would find in the database, told without changing anything there.

use std::time::Duration;

use postgres::Client;

use super::keys::{self, Statements};
use super::migrations::{self, State};
use super::pool::SESSION_WAIT;
use super::{describe, first_value, is_true, start};
use crate::config::Settings;
use crate::failure::Failure;

/// A line about something that is in order, or what is wrong with it.
pub type Finding = Result<String, Failure>;

/// The columns that a table of an older server has to have.
const ADOPTED: &str = "SELECT id, key_hash, name, permissions, created_at, revoked_at FROM api_keys";
/// What the server does, and where. A sequence has privileges of its own.
const NEEDED: &str = "SELECT string_agg(needed || ' on ' || name, ', ') FROM (VALUES
         ('SELECT', 'api_keys'), ('INSERT', 'api_keys'), ('UPDATE', 'api_keys'), ('SELECT', 'auth_caches'),
         ('INSERT', 'auth_caches'), ('UPDATE', 'auth_caches'), ('DELETE', 'auth_caches'),
         ('USAGE', 'api_key_changes'), ('SELECT', 'api_key_changes')) AS needs (needed, name)
     WHERE NOT CASE name WHEN 'api_key_changes' THEN has_sequence_privilege(name, needed)
                         ELSE has_table_privilege(name, needed) END";
/// Tables that a migration has to change, and that somebody else owns.
const FOREIGN: &str = "SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class
     WHERE oid IN (to_regclass('api_keys'), to_regclass('auth_caches'), to_regclass('refinery_schema_history'))
       AND NOT pg_has_role(relowner, 'USAGE')";

/// Waits for nobody who is still coming up.
pub fn database(settings: &Settings) -> Vec<Finding> {
    let connected = start::dialer(settings, SESSION_WAIT).and_then(|dialer| {
        let client = start::connect(&dialer, Duration::ZERO)?;
        Ok((client, dialer.connector.place.clone()))
    });
    match connected {
        Ok((client, place)) => Look { client, place, findings: Vec::new() }.around(),
        Err(failure) => vec![Err(failure)],
    }
}

struct Look {
    client: Client,
    place: String,
    findings: Vec<Finding>,
}

impl Look {
    fn around(mut self) -> Vec<Finding> {
        if let Err(error) = self.look() {
            self.wrong(&describe(&error));
        }
        self.findings
    }

    fn fine(&mut self, what: &str) {
        self.findings.push(Ok(format!("{} {what}", self.place)));
    }

    fn wrong(&mut self, what: &str) {
        self.findings.push(Err(Failure::Runtime(format!("{}: {what}", self.place))));
    }

    fn look(&mut self) -> Result<(), postgres::Error> {
        let client = &mut self.client;
        let version = first_value(client, "SELECT current_setting('server_version')")?.unwrap_or_default();
        let is_old = is_true(client, "SELECT current_setting('server_version_num')::int < 150000")?;
        if is_true(client, "SELECT current_setting('transaction_read_only') = 'on'")? {
            self.wrong("it takes no writes: it is a standby, or read-only for this user");
        }
        // From here on this session could not change anything if it wanted to, and waits for no lock for long.
        self.client.batch_execute("SET default_transaction_read_only = on; SET statement_timeout = '5s'")?;
        match is_old {
            true => self.wrong(&format!("it is PostgreSQL {version}; 15 or later is needed")),
            false => self.fine(&format!("is PostgreSQL {version}")),
        }
        match migrations::state(&mut self.client) {
            Err(failure) => self.findings.push(Err(failure)),
            Ok(State::Current) => self.look_at_schema()?,
            Ok(State::Behind { from, to }) => self.look_before_migration(from, to)?,
        }
        Ok(())
    }

    fn look_at_schema(&mut self) -> Result<(), postgres::Error> {
        if let Some(missing) = first_value(&mut self.client, NEEDED)? {
            self.wrong(&format!(
                "the user may not do what the server does: {missing}; make it the owner, or grant that"
            ));
            return Ok(());
        }
        match Statements::prepare(&mut self.client) {
            Ok(_) => self.fine("needs no migration: its schema is that of this program"),
            Err(error) => self.wrong(&format!("the table api_keys is not as expected: {}", describe(&error))),
        }
        self.look_for_keys()
    }

    fn look_before_migration(&mut self, from: i32, to: i32) -> Result<(), postgres::Error> {
        if !is_true(&mut self.client, "SELECT has_schema_privilege(current_schema(), 'CREATE')")? {
            let schema = first_value(&mut self.client, "SELECT current_schema()")?.unwrap_or_default();
            self.wrong(&format!(
                "the user may not create tables in schema {schema}; make it the database's owner"
            ));
        }
        if let Some(foreign) = first_value(&mut self.client, FOREIGN)? {
            self.wrong(&format!("the user has to own {foreign} to migrate"));
        }
        let has_table = is_true(&mut self.client, "SELECT to_regclass('api_keys') IS NOT NULL")?;
        match (from, has_table) {
            (0, false) => {
                self.fine("is empty, and its schema is made");
                self.fine("has no key, so a bootstrap key is made");
                return Ok(());
            }
            (0, true) => match self.client.prepare(ADOPTED) {
                Ok(_) => self.fine("has a table api_keys of another server, which is adopted"),
                Err(error) => {
                    self.wrong(&format!("the table api_keys cannot be adopted: {}", describe(&error)));
                    return Ok(());
                }
            },
            _ => self.fine(&format!("is migrated from version {from} to {to}")),
        }
        self.look_for_keys()
    }

    fn look_for_keys(&mut self) -> Result<(), postgres::Error> {
        match keys::is_empty(&mut self.client)? {
            true => self.fine("has no key, so a bootstrap key is made"),
            false => self.fine("has keys, so no bootstrap key is made"),
        }
        Ok(())
    }
}
