//! Several hosts on one database, and hosts that a person says are gone.

use std::fs;

use super::{Lab, WAITS, find, start};
use crate::support::directory::Directory;
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
