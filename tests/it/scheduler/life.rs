//! What goes by itself: old executions, logs over a tenant's limit, idempotency keys, and packages that nothing uses.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{Lab, WAITS, find, runs, start};
use crate::support::directory::Directory;
use crate::support::program::send_signal;
use crate::support::wait_for;

const ROWS: &str = "SELECT (SELECT count(*) FROM cloacina_executions) || ' ' || (SELECT count(*) FROM cloacina_tasks) || ' ' ||
     (SELECT count(*) FROM cloacina_attempts) || ' ' || (SELECT count(*) FROM cloacina_events) || ' ' ||
     (SELECT count(*) FROM cloacina_log_pieces)";

fn older(lab: &Lab, executions: &[&str], age: &str) {
    for id in executions {
        lab.site.database.execute(&format!(
            "UPDATE cloacina_executions SET completed_at = completed_at - interval '{age}' WHERE id = '{id}';
             UPDATE cloacina_attempts SET ended_at = ended_at - interval '{age}' WHERE execution = '{id}'"
        ));
    }
}

/// Whether each of these executions is there.
fn are_there(lab: &Lab, executions: &[&str]) -> Vec<bool> {
    executions.iter().map(|id| lab.get(&format!("executions/{id}")).status == 200).collect()
}

#[test]
fn executions_go_once_they_are_older_than_their_tenant_keeps_them() {
    let lab = Lab::start(4);
    lab.upload("two", "", &[("a", "echo a", ""), ("b", "echo b; exit 1", "dependencies = [\"a\"]")]);
    lab.upload("long", "", &[("only", WAITS, "")]);
    let ids: Vec<_> = (0..70).map(|_| lab.execute("two", "")).collect();
    for id in &ids {
        lab.ended(id);
    }
    let (old, new) = ids.split_at(60);
    let long = lab.execute("long", "");
    lab.wait_for_task(&long, "only", "Running");
    lab.site.server.patch("/tenants/acme", &lab.site.admin, r#"{"retention":"12h"}"#).expect_status(200);
    older(&lab, &old.iter().map(String::as_str).collect::<Vec<_>>(), "12 hours");
    older(&lab, &new.iter().map(String::as_str).collect::<Vec<_>>(), "11 hours");
    // Whenever it began, it has not ended.
    lab.site.database.execute(&format!(
        "UPDATE cloacina_executions SET created_at = created_at - interval '2 days', started_at = started_at - interval '2 days'
         WHERE id = '{long}'"
    ));
    // Another tenant keeps all that it has.
    lab.site.tenant("keeper");
    lab.site.server.patch("/tenants/keeper", &lab.site.admin, r#"{"retention":null}"#).expect_status(200);
    let key = lab.site.key_of("keeper", "write").key().to_owned();
    lab.upload_of("keeper", &key, "kept", "", &[("only", "true", "")]);
    let path = "/tenants/keeper/workflows/kept/execute?wait=30";
    lab.site.server.post(path, &key, "").expect_status(202);
    lab.site.database.execute(
        "UPDATE cloacina_executions SET completed_at = completed_at - interval '20 years' WHERE workflow = 'kept'",
    );
    // Two servers at once: each looks when it starts.
    let homes = [Directory::new(), Directory::new()];
    let _servers = homes.each_ref().map(|home| start(&lab.site.database, home, 1));
    wait_for("the old ones to go", || {
        let left = "SELECT count(*) FROM cloacina_executions WHERE workflow = 'two'";
        (lab.site.database.value::<i64>(left) == 10).then_some(())
    });
    assert!(are_there(&lab, &new.iter().map(String::as_str).collect::<Vec<_>>()).iter().all(|there| *there));
    let rows = "SELECT (SELECT count(*) FROM cloacina_tasks) || ' ' || (SELECT count(*) FROM cloacina_attempts) || ' '
         || (SELECT count(*) FROM cloacina_events WHERE execution NOT IN (SELECT id FROM cloacina_executions)) || ' '
         || (SELECT count(*) FROM cloacina_log_pieces WHERE attempt NOT IN (SELECT id FROM cloacina_attempts))";
    assert_eq!(lab.site.database.value::<String>(rows), "22 22 0 0");
    assert_eq!(lab.execution(&long)["status"], "Running");
    lab.allow("go");
    assert_eq!(lab.ended(&long)["status"], "Completed");
}

#[test]
fn nothing_of_an_old_execution_is_left() {
    let lab = Lab::start(4);
    lab.upload("one", "", &[("only", "echo x", "retries = { attempts = 2, delay = \"10ms\" }")]);
    let id = lab.execute("one", "");
    lab.ended(&id);
    older(&lab, &[&id], "91 days");
    let lab = lab.restart(4);
    wait_for("all rows to go", || (lab.site.database.value::<String>(ROWS) == "0 0 0 0 0").then_some(()));
    assert_eq!(are_there(&lab, &[&id]), [false]);
}

#[test]
fn an_old_execution_of_which_a_part_is_gone_is_not_found() {
    let lab = Lab::start(1);
    lab.upload("one", "", &[("only", "exit 1", "")]);
    let id = lab.run("one", "")["execution_id"].as_str().unwrap().to_owned();
    older(&lab, &[&id], "91 days");
    // More than goes in one transaction, and the last of it is held.
    lab.site.database.execute(&format!(
        "INSERT INTO cloacina_events (execution, number, event_type)
         SELECT '{id}', number, 'task_created' FROM generate_series(1000, 26000) AS number"
    ));
    let held = lab.site.database.hold("SELECT FROM cloacina_events WHERE number = 26000 FOR UPDATE");
    let lab = lab.restart(1);
    let events = || lab.site.database.value::<i64>("SELECT count(*) FROM cloacina_events");
    wait_for("a part of it to go", || (events() < 20_000).then_some(()));
    assert_eq!(are_there(&lab, &[&id]), [false]);
    lab.post(&format!("executions/{id}/retry"), "").expect_status(404);
    assert!(events() > 0);
    held.release();
    let lab = lab.restart(1);
    wait_for("all rows to go", || (lab.site.database.value::<String>(ROWS) == "0 0 0 0 0").then_some(()));
}

#[test]
fn an_idempotency_key_is_kept_for_a_day_whatever_becomes_of_its_execution() {
    let lab = Lab::start(2);
    lab.upload("one", "", &[("only", "true", "")]);
    let id = lab.run("one", "")["execution_id"].as_str().unwrap().to_owned();
    lab.site.database.execute(&format!(
        "INSERT INTO cloacina_idempotency_keys (tenant, workflow, key, body_sha256, execution, created_at)
         SELECT id, 'one', 'k' || hours, '', '{id}', clock_timestamp() - make_interval(hours => hours)
         FROM cloacina_tenants, generate_series(0, 2600) AS hours WHERE name = 'acme'"
    ));
    older(&lab, &[&id], "91 days");
    let lab = lab.restart(2);
    wait_for("the execution to go", || (!are_there(&lab, &[&id])[0]).then_some(()));
    wait_for("old keys to go", || {
        let left = "SELECT count(*) FROM cloacina_idempotency_keys";
        (lab.site.database.value::<i64>(left) == 24).then_some(())
    });
}

#[test]
fn the_oldest_logs_go_first_where_a_tenant_has_too_many() {
    let lab = Lab::start(4);
    lab.upload("prints", "", &[("only", "head -c 10000 /dev/zero | tr '\\0' x; echo end", "")]);
    lab.upload("long", "", &[("first", "echo first", ""), ("then", WAITS, "dependencies = [\"first\"]")]);
    let long = lab.execute("long", "");
    lab.wait_for_task(&long, "then", "Running");
    let ids: Vec<_> = (0..5).map(|_| lab.execute("prints", "")).collect();
    for id in &ids {
        lab.ended(id);
    }
    for (age, id) in ids.iter().enumerate() {
        older(&lab, &[id], &format!("{} hours", age + 1));
    }
    // Older than all others, of an execution that runs.
    lab.site.database.execute(&format!(
        "UPDATE cloacina_attempts SET ended_at = ended_at - interval '30 days' WHERE execution = '{long}' AND ended_at IS NOT NULL"
    ));
    lab.site.server.patch("/tenants/acme", &lab.site.admin, r#"{"max_log_bytes":25000}"#).expect_status(200);
    let lab = lab.restart(4);
    let kept = "SELECT sum(log_kept_bytes)::bigint FROM cloacina_attempts";
    wait_for("logs to go", || (lab.site.database.value::<i64>(kept) <= 25_000).then_some(()));
    let logs: Vec<_> = ids.iter().map(|id| lab.log(id, "only")).collect();
    let gone = "[10004 bytes of the log are missing here]\n";
    assert_eq!(logs.iter().map(|log| log == gone).collect::<Vec<_>>(), [false, false, true, true, true]);
    assert!(logs[1].ends_with("xend\n"));
    assert_eq!(lab.log(&long, "first"), "first\n");
    let pieces = "SELECT count(*) FROM cloacina_log_pieces JOIN cloacina_attempts ON attempt = id WHERE log_kept_bytes = 0";
    assert_eq!(lab.site.database.value::<i64>(pieces), 0);
    let last = lab.get(&format!("executions/{}/tasks/only/log?tail=5", ids[4])).expect_status(200);
    assert_eq!(last.text(), gone);
    assert_eq!(last.header("X-Log-Next"), Some("10004"));
    let tenant = lab.site.server.get("/tenants/acme", Some(&lab.site.admin)).expect_status(200).json();
    assert_eq!(tenant["log_bytes"], 20_014, "{tenant:#}");
    lab.allow("go");
    lab.ended(&long);

    // Where nothing else is left, those of executions that run.
    lab.site.server.patch("/tenants/acme", &lab.site.admin, r#"{"max_log_bytes":0}"#).expect_status(200);
    let lab = lab.restart(4);
    wait_for("all logs to go", || (lab.site.database.value::<i64>(kept) == 0).then_some(()));
}

/// Packages on the host, each with when it was last used.
fn packages(lab: &Lab) -> Vec<PathBuf> {
    let Ok(tenants) = fs::read_dir(lab.home.join("packages")) else { return Vec::new() };
    let of =
        |tenant: fs::DirEntry| fs::read_dir(tenant.path()).unwrap().map(|package| package.unwrap().path());
    tenants.flatten().flat_map(of).collect()
}

#[test]
fn a_package_is_unpacked_once_for_each_tenant_and_goes_when_it_is_not_used() {
    use std::os::unix::fs::MetadataExt as _;
    let lab = Lab::start(4);
    lab.site.tenant("other");
    let key = lab.site.key_of("other", "write").key().to_owned();
    let tasks = [("only", "true", "")];
    lab.upload("same", "", &tasks);
    lab.upload_of("other", &key, "same", "", &tasks);
    let inodes = |lab: &Lab| -> Vec<u64> {
        let mut inodes: Vec<_> = packages(lab).iter().map(|path| fs::metadata(path).unwrap().ino()).collect();
        inodes.sort_unstable();
        inodes
    };
    lab.run("same", "");
    let first = inodes(&lab);
    assert_eq!(first.len(), 1);
    lab.run("same", "");
    assert_eq!(inodes(&lab), first);
    lab.site.server.post("/tenants/other/workflows/same/execute?wait=30", &key, "").expect_status(202);
    let both = inodes(&lab);
    assert_eq!(both.len(), 2);
    let names: Vec<_> = packages(&lab).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names[0], names[1], "of the same bytes");
    let lab = lab.restart(4);
    lab.run("same", "");
    assert_eq!(inodes(&lab), both);

    lab.upload("long", "", &[("only", WAITS, "")]);
    let long = lab.execute("long", "");
    lab.written("ledger");
    assert_eq!(packages(&lab).len(), 3);
    for package in packages(&lab) {
        let old = SystemTime::now() - Duration::from_secs(25 * 3600);
        fs::File::open(package).unwrap().set_modified(old).unwrap();
    }
    let lab = lab.restart(4);
    wait_for("those to go that nothing uses", || (packages(&lab).len() == 1).then_some(()));
    lab.allow("go");
    assert_eq!(lab.ended(&long)["status"], "Completed");
    lab.run("same", "");
}

#[test]
fn an_attempt_of_another_version_is_abandoned_and_its_directory_kept() {
    let mut lab = Lab::start(4);
    lab.upload("safe", "", &[("again", WAITS, "restart_safe = true")]);
    let id = lab.execute("safe", "");
    let pid = lab.written("ledger").split_whitespace().last().unwrap().to_owned();
    let attempt: String =
        lab.site.database.value("SELECT id::text FROM cloacina_attempts WHERE ended_at IS NULL");
    send_signal("KILL", &lab.site.server.pid().to_string());
    wait_for("the server to be gone", || (!lab.site.server.is_running()).then_some(()));
    let directory = lab.home.join("attempts").join(&attempt);
    let spec = fs::read_to_string(directory.join("spec.json")).unwrap();
    assert!(spec.contains("\"format\":1,"), "{spec}");
    fs::write(directory.join("spec.json"), spec.replace("\"format\":1,", "\"format\":999,")).unwrap();
    // Its supervisor ends without an outcome.
    let supervisor = fs::read_to_string(directory.join("attempt.lock")).unwrap();
    send_signal("KILL", supervisor.trim());
    lab.site.server = start(&lab.site.database, &lab.home, 4);
    wait_for("it to run again", || lab.written("ledger").contains("begin again 2").then_some(()));
    assert!(!runs(&pid));
    lab.site.server.stderr_with("its format is 999, and this version reads 1 alone");
    let kept = lab.home.join("attempts").join(format!("other-format-{attempt}"));
    assert!(fs::read_to_string(kept.join("spec.json")).unwrap().contains("\"format\":999,"));
    lab.allow("go");
    let ended = lab.ended(&id);
    assert_eq!(find(&ended, "again")["attempts"], 2, "{ended:#}");
    assert_eq!(ended["status"], "Completed");
    let lab = lab.restart(4);
    lab.site.server.stderr_with("an attempt's directory of another version is kept");
}
