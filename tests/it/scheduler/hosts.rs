//! Several hosts on one database, and hosts that a person says are gone.

use std::fs;

use super::{Lab, WAITS, find, runs, start};
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::program::{Process, cloacinactl, send_signal};
use crate::support::wait_for;

fn forget(lab: &Lab, host: &str) {
    let url = lab.site.database.url();
    let home = Directory::new();
    let home = home.path().to_str().unwrap();
    let command = cloacinactl(["--home", home, "hosts", "forget", host, "--database-url", &url]);
    Process::start(command).ended().expect_code(0);
}

fn hosts(lab: &Lab) -> Vec<String> {
    let names: String = lab.site.database.value(
        "SELECT COALESCE(string_agg(name, ' ' ORDER BY created_at), '') FROM cloacina_hosts WHERE forgotten_at IS NULL",
    );
    names.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn two_hosts_share_the_work_and_run_nothing_twice() {
    let lab = Lab::start(2);
    let home = Directory::new();
    let _other = start(&lab.site.database, &home, 2);
    wait_for("both hosts", || (hosts(&lab).len() == 2).then_some(()));
    lab.upload("long", "", &[("a", WAITS, ""), ("b", WAITS, "")]);
    lab.site.tenant("other");
    let ids: Vec<_> = (0..2).map(|_| lab.execute("long", "")).collect();
    // Each leaves one of its slots to other tenants.
    wait_for("two to run", || (lab.written("ledger").lines().count() == 2).then_some(()));
    let used = "SELECT count(DISTINCT host) FROM cloacina_attempts";
    assert_eq!(lab.site.database.value::<i64>(used), 2);
    lab.allow("go");
    ids.iter().for_each(|id| assert_eq!(lab.ended(id)["status"], "Completed"));
    assert_eq!(lab.written("ledger").lines().count(), 8);
}

#[test]
fn a_host_that_was_forgotten_ends_what_it_ran_before_it_claims() {
    let lab = Lab::start(2);
    lab.upload("safe", "", &[("only", WAITS, "restart_safe = true")]);
    let id = lab.execute("safe", "");
    lab.written("ledger");
    let pid = lab.site.server.pid().to_string();
    send_signal("STOP", &pid);
    let name = hosts(&lab).remove(0);
    forget(&lab, &name);
    let home = Directory::new();
    let other = start(&lab.site.database, &home, 2);
    wait_for("it to run again", || lab.written("ledger").contains("begin only 2").then_some(()));
    send_signal("CONT", &pid);
    let first = lab.written("ledger").lines().next().unwrap().split_whitespace().last().unwrap().to_owned();
    wait_for("the first one to be ended", || (!fs::exists(format!("/proc/{first}")).unwrap()).then_some(()));
    lab.allow("go");
    let ended = lab.ended(&id);
    assert_eq!(
        (ended["status"].as_str(), find(&ended, "only")["attempts"].as_u64()),
        (Some("Completed"), Some(2))
    );
    wait_for("both hosts", || (hosts(&lab).len() == 2).then_some(()));
    assert!(!lab.written("ledger").contains("end only 1"));
    drop(other);
}

#[test]
fn one_home_has_one_server_that_runs_tasks() {
    let lab = Lab::start(2);
    wait_for("the host", || (hosts(&lab).len() == 1).then_some(()));
    let second = start(&lab.site.database, &lab.home, 2);
    second.stderr_with("another server");
    assert_eq!(hosts(&lab).len(), 1);
    assert_eq!(second.get("/ready", None).status, 200);
}

/// Kills the server, and starts another one in its place that starts no tasks, once this is done.
fn restart_without_slots(lab: &mut Lab, between: impl Fn(&Lab)) {
    send_signal("KILL", &lab.site.server.pid().to_string());
    wait_for("the server to be gone", || (!lab.site.server.is_running()).then_some(()));
    between(lab);
    lab.site.server = start(&lab.site.database, &lab.home, 0);
}

#[test]
fn a_forgotten_host_that_starts_without_slots_ends_what_it_ran() {
    let mut lab = Lab::start(2);
    lab.upload("long", "", &[("only", WAITS, "")]);
    let id = lab.execute("long", "");
    let task = lab.written("ledger").split_whitespace().last().unwrap().to_owned();
    restart_without_slots(&mut lab, |lab| forget(lab, &hosts(lab).remove(0)));
    wait_for("the task to be ended", || (!runs(&task)).then_some(()));
    assert_eq!(lab.ended(&id)["error"], "task `only` failed: its host was forgotten");
    let body = lab.post("workflows/long/execute", "").expect_status(503).body;
    assert!(String::from_utf8(body).unwrap().contains("no server runs tasks"));
}

#[test]
fn what_follows_a_task_is_not_started_without_slots() {
    let mut lab = Lab::start(2);
    lab.upload(
        "two",
        "",
        &[("first", WAITS, ""), ("then", "echo then >>$shared/ledger", "dependencies = [\"first\"]")],
    );
    let id = lab.execute("two", "");
    lab.written("ledger");
    restart_without_slots(&mut lab, |_| {});
    lab.allow("go");
    let execution = wait_for("the end of the first one to be written", || {
        let execution = lab.execution(&id);
        (find(&execution, "first")["status"] == "Completed").then_some(execution)
    });
    assert_eq!(find(&execution, "then")["status"], "Ready", "{execution:#}");
    assert!(!lab.written("ledger").contains("then"));
}

#[test]
fn an_end_that_counts_no_more_is_written_as_such() {
    let lab = Lab::start(2);
    lab.upload("long", "", &[("only", WAITS, "")]);
    let id = lab.execute("long", "");
    lab.written("ledger");
    // As another version of the program ends what it cannot read.
    lab.site.database.execute("UPDATE cloacina_tasks SET status = 'Failed', completed_at = now()");
    lab.allow("go");
    let left = "SELECT count(*) FROM cloacina_attempts WHERE ended_at IS NULL";
    wait_for("the attempt to have ended", || (lab.site.database.value::<i64>(left) == 0).then_some(()));
    assert_eq!(find(&lab.execution(&id), "only")["status"], "Failed");
}

#[test]
fn what_was_claimed_and_left_no_directory_ends_on_a_server_without_slots() {
    let mut lab = Lab::start(2);
    lab.upload("long", "", &[("only", WAITS, "")]);
    let id = lab.execute("long", "");
    let started = "SELECT count(*) FROM cloacina_attempts WHERE started_at IS NOT NULL";
    wait_for("its start to be written", || (lab.site.database.value::<i64>(started) == 1).then_some(()));
    restart_without_slots(&mut lab, |lab| {
        lab.allow("go");
        wait_for("the task to end", || (lab.written("ledger").lines().count() == 2).then_some(()));
        let directory = lab.home.join("attempts");
        // Its supervisor may still write there.
        wait_for("nothing more to be written", || {
            fs::remove_dir_all(&directory).ok().filter(|()| !directory.exists())
        });
    });
    assert_eq!(lab.ended(&id)["error"], "task `only` failed: what became of it was lost");
}

#[test]
fn a_host_whose_attempts_cannot_be_seen_says_why_and_tries_again() {
    let (database, home) = (Database::new(), Directory::new());
    // Which is no directory.
    fs::write(home.join("attempts"), "").unwrap();
    let server = start(&database, &home, 2);
    let lab = Lab::of(database, server, home);
    lab.upload("one", "", &[("only", "true", "")]);
    let refused = wait_for("the host to say why", || {
        let response = lab.site.server.post("/tenants/acme/workflows/one/execute", &lab.site.admin, "");
        assert_eq!(response.status, 503);
        Some(String::from_utf8(response.body).unwrap()).filter(|body| body.contains("cannot make"))
    });
    assert!(refused.contains("make a directory for tasks"), "{refused}");
    // What it runs is not known.
    assert_eq!(lab.site.database.value::<i64>("SELECT timeline FROM cloacina_hosts"), 0);
    fs::remove_file(lab.home.join("attempts")).unwrap();
    assert_eq!(lab.run("one", "")["status"], "Completed");
}

#[test]
fn executions_from_before_a_failover_wait_for_hosts_that_may_run_them() {
    let lab = Lab::start(2);
    lab.upload("one", "", &[("only", "true", "")]);
    wait_for("the host", || (hosts(&lab).len() == 1).then_some(()));
    // One without slots counts while it runs something.
    lab.site.database.execute(
        "INSERT INTO cloacina_hosts (id, name, slots, session, timeline)
         VALUES (gen_random_uuid(), 'other', 0, gen_random_uuid(), 0);
         INSERT INTO cloacina_attempts (id, tenant, execution, task, number, host, boot)
         SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 0, 1, id, gen_random_uuid()
         FROM cloacina_hosts WHERE name = 'other';
         UPDATE cloacina_workflows SET is_paused = true",
    );
    let id = lab.execute("one", "");
    lab.site.database.execute("UPDATE cloacina_queue SET timeline = timeline - 1");
    // The server looks at the hosts again.
    lab.post("workflows/one/resume", "").expect_status(200);
    let later = lab.run("one", "");
    assert_eq!(later["status"], "Completed");
    assert_eq!(lab.execution(&id)["status"], "Pending");
    lab.site
        .database
        .execute("UPDATE cloacina_attempts SET ended_at = clock_timestamp() WHERE ended_at IS NULL");
    assert_eq!(lab.ended(&id)["status"], "Completed");
}

#[test]
fn a_server_for_whose_host_another_one_speaks_says_so() {
    let lab = Lab::start(2);
    wait_for("its host", || (hosts(&lab).len() == 1).then_some(()));
    // As a server does that starts with a copy of its home, in a container.
    lab.site.database.execute("UPDATE cloacina_hosts SET session = gen_random_uuid()");
    let warning = "another server has the identity of this host";
    wait_for("the warning", || lab.site.server.get("/ready", None).text().contains(warning).then_some(()));
    lab.site.server.log_line(&["another server speaks for this host"]);
}
