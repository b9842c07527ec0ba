//! A database that answers late, or never: what it has been told counts all the same.

use super::{Lab, find, start_on};
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::wait_for;
use crate::support::wire::Wire;

/// How many sessions wait for a lock of this kind.
fn waiting(database: &Database, kind: &str) -> i64 {
    database.value(&format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = '{kind}'"
    ))
}

#[test]
fn a_claim_whose_commit_is_done_after_its_session_broke() {
    let (database, home) = (Database::new(), Directory::new());
    let wire = Wire::start(database.host_and_port());
    let server = start_on(&database.url_through(wire.port), &home, 2);
    let lab = Lab::of(database, server, home);
    let database = &lab.site.database;
    lab.upload("short", "", &[("only", "echo ran >>$shared/ledger", "")]);
    // As a synchronous standby may, this holds up the commit of a claim.
    database.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON cloacina_attempts DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION wait()",
    );
    let held = database.hold("SELECT pg_advisory_xact_lock(1)");
    let id = lab.execute("short", "");
    wait_for("the claim to commit", || (waiting(database, "advisory") == 1).then_some(()));
    wire.cut();
    wait_for("the server to ask what runs here", || (waiting(database, "transactionid") == 1).then_some(()));
    held.release();
    let ended = lab.ended(&id);
    assert_eq!(ended["status"], "Completed", "{ended:#}");
    assert_eq!(find(&ended, "only")["attempts"], 1);
    assert_eq!(lab.written("ledger"), "ran\n");
}
