//! A database that answers late, or never: what it has been told counts all the same.

use std::fs;

use super::{Lab, WAITS, find, start, start_on, starting};
use crate::support::cluster::Cluster;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::program::send_signal;
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

#[test]
fn a_failover_that_loses_how_a_task_ended() {
    let primary = Cluster::start();
    let (database, home) = (Database::in_cluster(&primary), Directory::new());
    let wire = Wire::start(database.host_and_port());
    let server = start_on(&database.url_through(wire.port), &home, 4);
    let standby = primary.standby("0");
    let lab = Lab::of(database, server, home);
    lab.upload("short", "", &[("once", WAITS, ""), ("safe", WAITS, "restart_safe = true")]);
    let id = lab.execute("short", "");
    wait_for("both tasks to run", || (lab.written("ledger").lines().count() == 2).then_some(()));
    wait_for("the standby to have its claim", || {
        let has_all =
            "SELECT COALESCE(bool_and(flush_lsn >= pg_current_wal_lsn()), false) FROM pg_stat_replication";
        lab.site.database.value::<bool>(has_all).then_some(())
    });
    standby.stop_immediately();
    lab.allow("go");
    assert_eq!(lab.ended(&id)["status"], "Completed");
    wait_for("its directories to go", || {
        (fs::read_dir(lab.home.join("attempts")).unwrap().count() == 0).then_some(())
    });
    let before = lab.written("ledger");
    primary.stop_immediately();
    standby.restart();
    standby.promote();
    wire.switch(format!("127.0.0.1:{}", standby.port()));
    wire.cut();
    let ended = wait_for("the execution to end once more", || {
        let response = lab.get(&format!("executions/{id}"));
        let execution = (response.status == 200).then(|| response.json())?;
        (execution["status"] == "Failed").then_some(execution)
    });
    let once = find(&ended, "once");
    assert_eq!((once["status"].as_str(), once["attempts"].as_u64()), (Some("Failed"), Some(1)), "{ended:#}");
    let why = once["error"].as_str().unwrap();
    assert!(why.contains("what became of it was lost"), "{why}");
    let safe = find(&ended, "safe");
    assert_eq!(
        (safe["status"].as_str(), safe["attempts"].as_u64()),
        (Some("Completed"), Some(2)),
        "{ended:#}"
    );
    let after = lab.written("ledger");
    assert_eq!(after.matches("begin once").count(), before.matches("begin once").count(), "{after}");
}

#[test]
fn a_server_that_is_stopped_within_a_transaction_stops_no_other() {
    let (database, homes) = (Database::new(), [Directory::new(), Directory::new()]);
    let wire = Wire::start(database.host_and_port());
    // The session of the start works for the rest of the server as well: here it is the only one.
    let first = starting(&database.url_through(wire.port), &homes[0], 2).arguments(["--pool-size", "1"]);
    let lab = Lab::of(database, first.serving(), homes[0].clone());
    lab.upload("short", "", &[("only", "echo ran >>$shared/ledger", "")]);
    let id = wire.hold_when("INSERT INTO cloacina_attempts", || lab.execute("short", ""));
    let pid = lab.site.server.pid().to_string();
    send_signal("STOP", &pid);
    let other = start(&lab.site.database, &homes[1], 2);
    wait_for("PostgreSQL to end the transaction", || {
        let open = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        (lab.site.database.value::<i64>(open) == 0).then_some(())
    });
    wait_for("the other server to run it", || {
        let path = format!("/tenants/acme/executions/{id}");
        let execution = other.get(&path, Some(&lab.key)).expect_status(200).json();
        (execution["status"] == "Completed").then_some(())
    });
    wire.let_all_through();
    send_signal("CONT", &pid);
    assert_eq!(find(&lab.execution(&id), "only")["attempts"], 1);
    assert_eq!(lab.written("ledger"), "ran\n");
}

#[test]
fn beside_a_transaction_that_stays_open_the_queue_stays_small() {
    let (database, home) = (Database::new(), Directory::new());
    let server = start(&database, &home, 2);
    let lab = Lab::of(database, server, home);
    let database = &lab.site.database;
    lab.upload("short", "", &[("only", "echo ran >>$shared/ledger", "")]);
    let later = lab.execute("short", r#"{"run_at":"2999-01-01T00:00:00Z"}"#);
    let held = database.hold("SELECT pg_current_xact_id()");
    // What very many executions leave there.
    database.execute(
        "INSERT INTO cloacina_queue (tenant, workflow, is_start, created_at, execution, task, timeline)
         SELECT gen_random_uuid(), 'other', true, now(), gen_random_uuid(), -1, 1 FROM generate_series(1, 5000);
         DELETE FROM cloacina_queue WHERE workflow = 'other'",
    );
    let size = "SELECT pg_relation_size('cloacina_queue')";
    assert!(database.value::<i64>(size) > 500_000, "the dead rows are there");
    database
        .execute("DO $$ BEGIN FOR n IN 1..10001 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$");
    wait_for("the dead rows to go", || (database.value::<i64>(size) < 50_000).then_some(()));
    let id = lab.execute("short", "");
    assert_eq!(lab.ended(&id)["status"], "Completed");
    let left: i64 = database
        .value(&format!("SELECT count(*) FROM cloacina_queue WHERE execution = '{later}' AND task = -1"));
    assert_eq!(left, 1, "what waits for its time is still there");
    held.release();
}
